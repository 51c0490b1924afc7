"""Measure and write it down: results/NAME.json, then docs/benchmarks.md.

    python benchmarks/run.py                      # ingest, sampling, training
    python benchmarks/run.py --only NAME ... [--args='--repeat 9']
    python benchmarks/run.py --page               # the page alone, from what is there
    python benchmarks/run.py --quick              # a toy size, into a temporary folder
    python benchmarks/run.py --list

Every benchmark is recorded as soon as it is done, so one can be run today and the next tomorrow.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import page
import record
import study_figures
from busy import Others

DEFAULT = ["ingest", "sampling", "training"]
BUSY = 0.1
"""Share of the cores that others may use before a warning."""


def main() -> None:
    """Run what was asked for; the page is written at the end, also if a benchmark failed."""
    entries: dict[str, Any] = record.catalogue()["benchmarks"]
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help=f"names; left out: {' '.join(DEFAULT)}")
    parser.add_argument("--args", default="", help="further options for the program of --only")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page alone")
    parser.add_argument("--quick", action="store_true", help="a toy size, into a temporary folder")
    parser.add_argument("--list", action="store_true", help="the names, and how long each takes")
    given = parser.parse_args()
    if unknown := set(given.only) - set(entries):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(entries)}")
    if hand := [name for name in given.only if "by_hand" in entries[name]]:
        steps = "\n".join(f"  {line}" for name in hand for line in entries[name]["steps"].splitlines())
        parser.error(
            f"no program collects the figures of {', '.join(hand)}; write the record by hand after\n{steps}"
        )
    if given.list:
        for name, entry in entries.items():
            print(
                f"{name:20}{'by hand' if 'by_hand' in entry else entry['minutes']:>8} min   {entry['title']}"
            )
        return
    if given.quick:
        with tempfile.TemporaryDirectory(prefix="fmriscale-") as folder:
            failed = run_all(given, Path(folder))
            page.write(Path(folder), Path(folder) / "benchmarks.md")
    else:
        failed = [] if given.page else run_all(given, record.RESULTS)
        page.write()
        print(f"bench: {page.PAGE.relative_to(record.ROOT)} is written")
    if failed:
        sys.exit(f"bench: failed: {', '.join(failed)}; the record of each is as it was")


def run_all(given: argparse.Namespace, results: Path) -> list[str]:
    """Measure one benchmark after the other; return the names of those that failed."""
    failed = []
    for name in given.only or DEFAULT:
        print(f"== {name}", flush=True)
        others = Others()
        try:
            figures, commands = measured(name, given.args, given.quick)
        except subprocess.CalledProcessError as fault:
            print(f"bench: {name}: ended with exit code {fault.returncode}", file=sys.stderr)
            failed.append(name)
            continue
        share = others.share()
        if share > BUSY and not given.quick:
            print(f"bench: {name}: other work used {share:.0%} of the cores; measure again when it is quiet")
        print(f"bench: {record.write(name, record.make(name, figures, commands, share), results).name}")
    return failed


def measured(name: str, more: str, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Run the steps of a benchmark in the repository; return figures, and the commands as they are told."""
    entry = record.catalogue()["benchmarks"][name]
    steps = [step for step in entry["steps"].splitlines() if step]
    steps[-1] = " ".join(filter(None, [steps[-1], more, "--quick" if quick else ""]))
    with tempfile.TemporaryDirectory(prefix="fmriscale-") as folder:
        told = Path(folder) / "figures.json"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(record.ROOT)}
        for number, step in enumerate(steps):
            is_last = number == len(steps) - 1 and "summary" not in entry
            command = f"{step} --json {shlex.quote(str(told))}" if is_last else step
            subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command], cwd=record.ROOT, env=environment, check=True
            )
        if "summary" in entry:
            summary = json.loads((record.ROOT / entry["summary"]).read_text())
            return study_figures.figures_of(summary), steps
        return json.loads(told.read_text()), steps


if __name__ == "__main__":
    main()
