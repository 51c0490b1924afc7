"""Write the generated pages of docs/: settings, command line, and troubleshooting by message.

python tools/reference          writes the pages that differ, and names them
python tools/reference --check  writes nothing; exit code 1 if a page is not what the code says
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(args: list[str]) -> int:
    """Write or check the pages."""
    if args not in ([], ["--check"]):
        print(__doc__)
        return 0 if args in (["-h"], ["--help"]) else 2
    sys.path.insert(0, str(ROOT))
    from render import stale

    found = list(stale())
    for path, text in found:
        print(f"{'stale' if args else 'written'}: {path.relative_to(ROOT)}")
        if not args:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if found and args:
        print("write them anew: python tools/reference")
    return 1 if found and args else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
