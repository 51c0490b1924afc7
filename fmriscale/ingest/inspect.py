"""`fmriscale inspect CORPUS`: what a corpus holds, as a table or, with --report, as an HTML page."""

import argparse
import sys
from typing import NoReturn

from fmriscale.corpus.inspect import read_quarantine, table
from fmriscale.corpus.reader import Corpus
from fmriscale.errors import EXIT_OK, UserError
from fmriscale.files import expand


class _Parser(argparse.ArgumentParser):
    """Mistakes on the command line are mistakes like any other."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how it is used."""
        raise UserError(f"{message}; {' '.join(self.format_usage().split())}")


def main(args: list[str] | None = None) -> int:
    """Print the table of a corpus or write its report."""
    parser = _Parser("fmriscale inspect", description="What a corpus holds.")
    parser.add_argument("corpus", metavar="CORPUS", help="the folder that fmriscale-shard wrote")
    parser.add_argument("--report", metavar="FILE", help="draw the corpus into one self-contained HTML file")
    args = sys.argv[1:] if args is None else args
    if {"-h", "--help"} & set(args):
        print(parser.format_help())
        return EXIT_OK
    given = parser.parse_args(args)
    corpus = Corpus.open(given.corpus)
    if given.report is None:
        print(table(corpus.manifest, read_quarantine(corpus.folder)))
        return EXIT_OK
    from fmriscale.ingest.report.page import write_report  # here: drawing is slow to import

    path = expand(given.report)
    write_report(corpus, path)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return EXIT_OK
