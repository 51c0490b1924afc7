"""`fmriscale plan --config X`: what a run needs and how long it takes, before anything is started.

Assumed, not known: the GPU reaches --mfu of its dense 16-bit peak (half of that in float32), but is never
faster than its kernels are launched, which is what bounds small models; and CUDA, NCCL and fragmentation take
8 % of its memory. A rate that was measured in a short run and is given as --pairs-per-s is worth more. With
--cpu the speed of this machine's matrix product is measured, and what a step costs beside is estimated (see
cpu_rate.py). Counted, and checked against allocations of real steps: parameters, gradients, optimiser states,
DeepSpeed's buffers, and activations.
"""

import argparse
import math
import sys

from fmriscale.common.errors import EXIT_OK, EXIT_USAGE, UserError
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import parse
from fmriscale.model.flops import GPUS


def main(args: list[str] | None = None) -> int:
    """Print the plan; exit code 2 where the configuration does not fit."""
    parser = argparse.ArgumentParser(
        "fmriscale plan",
        description="Memory by ZeRO stage, speed, days and checkpoint size of a pre-training run.",
        epilog="All other options override the recipe, as for train.py:",
        add_help=False,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes (1)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of a node (1)")
    parser.add_argument("--gpu", choices=sorted(GPUS), default="H100", help="model of the GPU (H100)")
    parser.add_argument("--gpu-gb", type=float, help="memory of a GPU, GiB (that of the model)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is reached (0.4)")
    parser.add_argument("--pairs-per-s", type=float, help="measured rate of one GPU, instead of --mfu")
    parser.add_argument(
        "--cpu", action="store_true", help="on CPUs such as this machine's: --gpus ranks a node"
    )
    args = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(args):
        print(parser.format_help())
    try:
        place, rest = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"{error} (--help lists every option)") from error
    given = (place.nodes, place.gpus, place.mfu, place.gpu_gb, place.pairs_per_s)
    if not all(0 < number < math.inf for number in given if number is not None):
        raise UserError("--nodes, --gpus, --gpu-gb, --mfu and --pairs-per-s must be above 0, and finite")
    if place.mfu > 1:
        raise UserError(f"--mfu is {place.mfu:g}; it is a share of the peak, at most 1 (0.4 = 40 %)")
    config = parse(PretrainConfig, rest, prog="fmriscale plan")
    # Imported here: help and refusals need no torch.
    import psutil

    from fmriscale.training.cpu_rate import product_flops
    from fmriscale.training.prediction import GIB, LAUNCH, Plan

    memory = psutil.virtual_memory().total / place.gpus if place.cpu else GPUS[place.gpu][0] * GIB
    memory = place.gpu_gb * GIB if place.gpu_gb else memory
    plan = Plan.of(config, place.nodes * place.gpus, memory, "cpu" if place.cpu else "gpu")
    if place.pairs_per_s:
        rate, source = place.pairs_per_s, f"measured: {place.pairs_per_s:,.0f} on one {plan.unit}"
    elif place.cpu:
        product = product_flops(place.gpus)
        rate = plan.pairs_per_s_on_cpu(product)
        source = f"estimated: a rank's matrix product does {product / 1e9:,.0f} GFLOP/s here"
    else:
        rate = plan.pairs_per_s(GPUS[place.gpu][1] * 1e12 * place.mfu)
        source = (
            f"assumed: {place.mfu:.0%} of the {GPUS[place.gpu][1]} dense 16-bit TFLOP/s of {place.gpu}, "
            f"{LAUNCH * 1e6:.0f} us a kernel at least"
        )
    print("\n".join([plan.title(place.nodes), "", *plan.table(), "", *plan.facts(rate, source, place.gpus)]))
    if plan.total(config.train.zero_stage, config.train.activation_checkpointing) <= plan.usable:
        return EXIT_OK
    print(f"\nIt does not fit. {plan.remedy()}")
    return EXIT_USAGE
