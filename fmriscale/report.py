"""`fmriscale report RUN`: what a folder holds, drawn into one self-contained HTML page."""

import argparse
import sys

from fmriscale.errors import EXIT_OK, UserError
from fmriscale.files import expand


def main(args: list[str] | None = None) -> int:
    """Write the report of a run."""
    parser = argparse.ArgumentParser(
        "fmriscale report", description="The curves of a pre-training run.", exit_on_error=False
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="folder that train.py wrote (its `out`)")
    parser.add_argument("--out", metavar="FILE", help="HTML file (RUN/report.html)")
    args = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(args):
        print(parser.format_help())
        return EXIT_OK
    try:
        given, rest = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"{error} (--help lists every option)") from error
    if rest or given.run is None:
        raise UserError(
            f"{' '.join(parser.format_usage().split())}; not understood: {' '.join(rest) or args}"
        )
    folder = expand(given.run)
    if not (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder}: no metrics.jsonl, so no pre-training run; give the folder of its `out`")
    from fmriscale.training.report import write_report  # here: drawing is slow to import

    path = expand(given.out) if given.out else folder / "report.html"
    write_report(folder, path)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
    return EXIT_OK
