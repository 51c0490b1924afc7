"""Pre-training: Next Thought Prediction on a corpus, from one CPU to many nodes.

    deepspeed fmriscale/train.py --config configs/pretrain_demo.yaml
    deepspeed --num_accelerators 2 fmriscale/train.py --config configs/pretrain_demo.yaml --train.lr 1e-4
    sbatch slurm/pretrain.sh configs/pretrain_base.yaml

Run again, the same command goes on from the newest checkpoint. Exit code 85: stopped on request and
saved, start me again.
"""

import os
import sys
import time

from fmriscale.common.errors import end_process, exit_code_of
from fmriscale.common.files import expand
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.manifest import require_corpus
from fmriscale.corpus.servers import is_url
from fmriscale.training.resilience import StopRequest


def main(args: list[str] | None = None) -> int:
    """Train from a command line; return the exit code."""
    begun, stop = time.time(), StopRequest()
    args = sys.argv[1:] if args is None else args
    if not {"RANK", "SLURM_PROCID"} & set(os.environ):
        # Alone, help and refusals come before torch is imported; ranks agree on theirs when they have met.
        config = parse(PretrainConfig, args, prog="train.py")
        if not (is_url(config.data.corpus) or (expand(config.out) / "encoder").exists()):
            require_corpus(expand(config.data.corpus))
    from fmriscale.training.pretraining import pretrain

    return pretrain(args, begun, stop)


if __name__ == "__main__":
    end_process(exit_code_of(main))
