"""docs/benchmarks.md from the records, catalogue.yaml and page.md.jinja, and from nothing else.

python benchmarks/page.py [--results FOLDER] [--out FILE]
"""

import argparse
from pathlib import Path
from typing import Any

import jinja2
import record

PAGE = record.ROOT / "docs" / "benchmarks.md"
PLACES = {"%": 1, "points": 1, "AUC": 3, "r": 3}
"""Decimal places by unit; other figures have three digits."""
FIRST = ("AUC", "r")
"""Units that stand before their figure."""


def number(value: float, unit: str = "") -> str:
    """Return as many places as the unit has, or three digits, or all of a whole number."""
    if unit in PLACES:
        return f"{value:.{PLACES[unit]}f}"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{int(float(f'{value:.3g}')):,}"
    return f"{value:.3g}".replace("e-0", "e-")


def with_sign(value: float, unit: str) -> str:
    """Return a number; a difference has its sign."""
    return f"{'+' if unit == 'points' and value >= 0 else ''}{number(value, unit)}"


def with_unit(figure: dict[str, Any]) -> str:
    """Return a figure as it stands on the page."""
    unit, value = figure["unit"], figure["value"]
    if unit == "share":
        return f"{number(100 * value)} %"
    told = figure.get("shown") or with_sign(value, unit)
    if unit in FIRST:
        return f"{unit} {told}"
    return f"{told} {'times' if unit == 'x' else unit}".strip()


def between(figure: dict[str, Any], kind: str) -> str:
    """Return the spread of a figure, and what it is over."""
    ends, n, unit = "", figure.get("of", figure.get("n")), figure["unit"]
    if figure.get("low") is not None and figure["low"] != figure["high"]:
        scale = 100 if unit == "share" else 1
        low, high = (with_sign(scale * figure[end], unit) for end in ("low", "high"))
        ends = f"[{low}, {high}]" if kind == "95 %" else f"{low} to {high} ({kind})"
    told = [ends, f"n = {n}" if isinstance(n, int) else n, figure.get("note")]
    return ", ".join(part for part in told if part)


def told_machine(machine: dict[str, Any]) -> str:
    """Return a machine in one line."""
    if "told" in machine:
        return machine["told"]
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    parts = [
        f"{cores} of {machine['cpu']}",
        "AMX" if machine["amx"] else "no AMX",
        machine["gpu"] or "no GPU",
    ]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    parts += [f"{machine['memory_gib']} GiB", f"Python {machine['python']}", packages]
    return ", ".join(parts) + f"; other work used {100 * machine['others']:.0f} % of the cores"


def told_state(name: str, found: record.Record, root: Path) -> str:
    """Say when a record was measured, and whether its code has changed since."""
    where = f" (commit {found['commit']})" if found.get("commit") else ""
    state = record.state(name, found, root)
    if state == "current":
        return f"Measured on {found['date']}{where}; its code has not changed since."
    if state == "changed":
        places = {
            "/".join(part for part in pattern.split("/")[:2] if "*" not in part) for pattern in code(name)
        }
        folders = ", ".join(f"`{place}`" for place in sorted(places))
        return f"**Measured before the last change of its code** ({folders}), on {found['date']}{where}."
    return f"Written down in {found['source']} on {found['date']}{where}, **not measured since**."


def code(name: str) -> list[str]:
    """Return the patterns of the code that a benchmark is about."""
    return record.catalogue()["benchmarks"][name]["code"]


def shown(name: str, records: dict[str, record.Record]) -> dict[str, str]:
    """Return labels by figure: what the record has, without what a newer record of the whole has as well."""
    entry = record.catalogue()["benchmarks"][name]
    whole = records.get(entry.get("part_of"), {}).get("figures", {})
    found = records.get(name, {}).get("figures", {})
    return {key: label for key, label in entry["figures"].items() if key in found and key not in whole}


def render(records: dict[str, record.Record], root: Path = record.ROOT) -> str:
    """Return the page."""
    contents = record.catalogue()

    def say(name: str, figure: str, what: str = "figure") -> str:
        found = records[name]["figures"][figure]
        return with_unit(found) if what == "figure" else between(found, spread(name, records[name]))

    def spread(name: str, found: record.Record) -> str:
        return found.get("spread") or contents["benchmarks"][name]["spread"]

    def rows(name: str) -> list[tuple[str, str, str]]:
        found = records[name]
        of = [(label, found["figures"][key]) for key, label in shown(name, records).items()]
        return [(label, with_unit(figure), between(figure, spread(name, found))) for label, figure in of]

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    template = environment.from_string((record.HERE / "page.md.jinja").read_text())
    return template.render(
        **contents,
        records=records,
        say=say,
        shown=lambda name: shown(name, records),
        rows=rows,
        told_machine=told_machine,
        told_state=lambda name: told_state(name, records[name], root),
        missing=[name for name in contents["benchmarks"] if name not in records],
    )


def write(results: Path = record.RESULTS, out: Path = PAGE) -> None:
    """Write the page from the records of a folder; those that it lacks are the repository's."""
    from fmriscale.common.files import atomic_write

    atomic_write(out, render(record.read() | record.read(results)))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the records")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    given = parser.parse_args()
    write(given.results, given.out)


if __name__ == "__main__":
    main()
