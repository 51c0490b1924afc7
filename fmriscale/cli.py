"""The `fmriscale` command: each verb is handed on to the module that does the work."""

import importlib
import sys

from fmriscale.common.errors import EXIT_OK, EXIT_USAGE, exit_code_of
from fmriscale.common.version import __version__

VERBS = {  # Verb: module whose `main(args) -> exit code` does it, one line of help
    "shard": ("fmriscale.ingest.build", "scans -> a corpus of tar shards (also: fmriscale-shard)"),
    "inspect": ("fmriscale.reports.inspect", "what a corpus holds, as a table or an HTML report"),
    "verify": ("fmriscale.ingest.repair", "find damage in a corpus, and repair it"),
    "plan": ("fmriscale.training.plan", "memory, speed and days of a pre-training run, before it is started"),
    "simulate": ("fmriscale.simulate.build", "write a timbre experiment with known truth"),
    "finetune": ("fmriscale.finetune", "fresh and pre-trained arms on a same-label task"),
    "probe": ("fmriscale.probe", "decode any column from frozen encoders, beside the usual baselines"),
    "embed": ("fmriscale.embed", "the vectors of a corpus, with their keys, as one table"),
    "report": ("fmriscale.reports.command", "a study, or the curves of a pre-training run, as one HTML page"),
    "publish": ("fmriscale.reports.publish", "an encoder with its model card, as a folder or on the Hub"),
}


def usage() -> str:
    """Return the help text of the command."""
    lines = [f"fmriscale {__version__}", "", "usage: fmriscale VERB --help", ""]
    lines += [f"  {verb:<10} {text}" for verb, (_, text) in VERBS.items()]
    lines += ["", "Pre-training is started by a launcher: deepspeed fmriscale/train.py --config FILE"]
    return "\n".join(lines)


def run(args: list[str]) -> int:
    """Run one verb and return its exit code."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_OK
    if args[0] in ("-V", "--version"):
        print(f"fmriscale {__version__}")
        return EXIT_OK
    verb, rest = args[0], args[1:]
    if verb not in VERBS:
        print(f"fmriscale: error: no verb '{verb}'; choose from {', '.join(VERBS)}", file=sys.stderr)
        return EXIT_USAGE
    return exit_code_of(lambda: importlib.import_module(VERBS[verb][0]).main(rest))


def main() -> None:
    """Entry point of `fmriscale`."""
    sys.exit(run(sys.argv[1:]))


def shard() -> None:
    """Entry point of `fmriscale-shard`."""
    sys.exit(run(["shard", *sys.argv[1:]]))
