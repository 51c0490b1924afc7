"""`fmriscale report FOLDER`: what a folder holds, as one HTML page, or replayed into other tools."""

from pathlib import Path

from fmriscale.common.errors import EXIT_OK, UserError
from fmriscale.common.files import expand
from fmriscale.common.suggest import did_you_mean_path
from fmriscale.config.command_line import CommandLine


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    about = "A study, a probe, or the curves of a pre-training run."
    parser = CommandLine("fmriscale report", description=about)
    parser.add_argument("folder", metavar="FOLDER", help="what finetune, probe or train.py wrote (its `out`)")
    parser.add_argument("--out", metavar="FILE", help="HTML file (FOLDER/report.html)")
    to = "replay metrics.jsonl into event files of TensorBoard (--to tensorboard DIR), or for Weights & "
    to += "Biases (--to wandb [PROJECT])"
    parser.add_argument("--to", metavar=("TOOL", "PLACE"), nargs="+", help=to)
    return parser


def main(args: list[str] | None = None) -> int:
    """Write the report of a study, a probe, or a pre-training run."""
    given = parser_of_verb().parse_args(args)
    folder = expand(given.folder)
    if given.to:
        print(_replay(folder, given.to, given.out))
        return EXIT_OK
    path = expand(given.out) if given.out else folder / "report.html"
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give --out the name of a file, e.g. {path / 'report.html'}")
    # Imported here: drawing is slow to import.
    if (folder / "summary.json").exists() and (folder / "fits").exists():
        from fmriscale.reports.probe import write_page
    elif (folder / "summary.json").exists():
        from fmriscale.reports.study import write_page
    elif (folder / "metrics.jsonl").exists():
        from fmriscale.reports.training import write_page
    elif (folder / "cells").exists() or (folder / "fits").exists():
        what = "study" if (folder / "cells").exists() else "probe"
        raise UserError(f"{folder}: no summary.json, so a {what} that is not finished; finish it first")
    else:
        what = "neither summary.json (a study or probe) nor metrics.jsonl (a pre-training run)"
        hint = did_you_mean_path(folder) or "; give the folder of its `out`"
        raise UserError(f"{folder}: {what}{hint}")
    write_page(folder, path)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
    return EXIT_OK


def _replay(folder: Path, to: list[str], out: str | None) -> str:
    """Replay a pre-training run; refuse what is none."""
    from fmriscale.reports.replay import replay

    if out is not None:
        raise UserError("--to draws no page: leave out --out, or call the verb twice")
    if (folder / "summary.json").exists() or (folder / "cells").exists() or (folder / "fits").exists():
        what = "its figures are in results.tsv and in MLflow; --to takes a pre-training run"
        raise UserError(f"{folder}: a study or a probe; {what}")
    if not (folder / "metrics.jsonl").exists():
        hint = did_you_mean_path(folder) or "; give the folder of a pre-training run (its `out`)"
        raise UserError(f"{folder}: no metrics.jsonl{hint}")
    return replay(folder, *to)
