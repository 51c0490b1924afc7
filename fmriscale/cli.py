"""The `fmriscale` command: each verb is handed on to the module that does the work."""

import importlib
import sys

from fmriscale.common.console import QUIET, set_quiet
from fmriscale.common.errors import EXIT_OK, EXIT_USAGE, end_process, exit_code_of
from fmriscale.common.suggest import did_you_mean
from fmriscale.common.version import __version__

VERBS = {  # Verb: module whose `main(args) -> exit code` does it, one line of help
    "simulate": ("fmriscale.simulate.build", "write a timbre experiment with known truth"),
    "shard": ("fmriscale.ingest.build", "scans -> a corpus of tar shards (also: fmriscale-shard)"),
    "inspect": ("fmriscale.reports.inspect", "what a corpus holds, as a table or an HTML report"),
    "verify": ("fmriscale.ingest.repair", "find damage in a corpus, and repair it"),
    "plan": ("fmriscale.training.plan", "memory, speed and days of a pre-training run, before it is started"),
    "pretrain": ("fmriscale.train", "corpus -> encoder, in one process (its --help names the launchers)"),
    "embed": ("fmriscale.embed", "the vectors of a corpus, with their keys, as one table"),
    "probe": ("fmriscale.probe", "decode any column from encoders, beside the usual baselines"),
    "finetune": ("fmriscale.finetune", "fresh and pre-trained arms on a same-label task"),
    "report": (
        "fmriscale.reports.command",
        "a study, a probe, or the curves of a pre-training run, as one page",
    ),
    "publish": ("fmriscale.reports.publish", "an encoder with its model card, as a folder or on the Hub"),
    "completion": ("fmriscale.completion", "a script by which bash, zsh or fish completes all of this"),
}
STEPS = {  # Verbs by the step of the work
    "data": ("simulate", "shard", "inspect", "verify"),
    "training": ("plan", "pretrain"),
    "decoding": ("embed", "probe", "finetune"),
    "sharing": ("report", "publish"),
    "shell": ("completion",),
}
FIRST_USE = """\
First use, in two minutes and without any data:
  fmriscale simulate --form corpus --n_subjects 4 --out try/corpus
  fmriscale inspect try/corpus
  fmriscale pretrain --data.corpus try/corpus --out try/run --train.steps 200
  fmriscale report try/run"""


def usage() -> str:
    """Return the help text of the command: its verbs, step by step."""
    lines = [f"fmriscale {__version__}: from fMRI scans to a pre-trained encoder, and to what it decodes", ""]
    lines += ["usage: fmriscale VERB [--config FILE] [--KEY VALUE ...]"]
    lines += [
        "       fmriscale VERB --help     options and examples of a verb; --quiet is one of every verb",
        "",
    ]
    for step, verbs in STEPS.items():
        lines += [step, *(f"  {verb:<10} {VERBS[verb][1]}" for verb in verbs), ""]
    return "\n".join([*lines, FIRST_USE])


def run(args: list[str]) -> int:
    """Run one verb and return its exit code."""
    set_quiet(False)
    if args and args[0] in QUIET:  # before the verb it means the same
        args = [*args[1:], args[0]] if len(args) > 1 else []
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_OK
    if args[0] in ("-V", "--version"):
        print(f"fmriscale {__version__}")
        return EXIT_OK
    verb, rest = args[0], args[1:]
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS) or f"; choose from {', '.join(VERBS)}"
        print(f"fmriscale: error: no verb '{verb}'{hint}", file=sys.stderr)
        return EXIT_USAGE
    return exit_code_of(lambda: importlib.import_module(VERBS[verb][0]).main(rest))


def main() -> None:
    """Entry point of `fmriscale`."""
    code = run(sys.argv[1:])
    if "fmriscale.train" in sys.modules:  # torch may be in it: its way out must not change the code
        end_process(code)
    sys.exit(code)


def shard() -> None:
    """Entry point of `fmriscale-shard`."""
    sys.exit(run(["shard", *sys.argv[1:]]))
