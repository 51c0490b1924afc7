"""One rank that trains several runs one after the other: starting processes costs more than training.

worker.py RUNS.json: a list of command lines of train.py. Rank 0 writes RUNS.out: the exit code of each, or
the error that a user would see.
"""

import json
import sys
from pathlib import Path

from fmriscale.config import PretrainConfig
from fmriscale.errors import UserError
from fmriscale.files import expand
from fmriscale.recipe import parse
from fmriscale.train import train
from fmriscale.training import cluster
from fmriscale.training.resilience import StopRequest

runs = Path(sys.argv[1])
place = cluster.join()
results: list[int | str] = []
for args in json.loads(runs.read_text()):
    config = parse(PretrainConfig, args)
    try:
        results.append(train(config, expand(config.out), place, StopRequest()))
    except UserError as error:
        results.append(f"{error.exit_code}: {error}")
if place.leads:
    runs.with_suffix(".out").write_text(json.dumps(results))
cluster.leave()
