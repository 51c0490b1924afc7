"""`fmriscale inspect CORPUS`: what a corpus holds, as a table or, with --report, as an HTML page."""

from fmriscale.common.errors import EXIT_OK
from fmriscale.common.files import expand
from fmriscale.config.command_line import CommandLine
from fmriscale.corpus.inspect import read_quarantine, table
from fmriscale.corpus.reader import Corpus


def parser_of_verb() -> CommandLine:
    """Return the options of the verb."""
    parser = CommandLine("fmriscale inspect", description="What a corpus holds.")
    parser.add_argument("corpus", metavar="CORPUS", help="the folder that fmriscale-shard wrote")
    parser.add_argument("--report", metavar="FILE", help="draw the corpus into one self-contained HTML file")
    return parser


def main(args: list[str] | None = None) -> int:
    """Print the table of a corpus or write its report."""
    given = parser_of_verb().parse_args(args)
    corpus = Corpus.open(given.corpus)
    if given.report is None:
        print(table(corpus.manifest, read_quarantine(corpus.folder)))
        return EXIT_OK
    from fmriscale.reports.corpus import write_page  # here: drawing is slow to import

    write_page(corpus, path := expand(given.report))
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return EXIT_OK
