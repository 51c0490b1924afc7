"""The whole truth about a GPU machine in one command: is it right, and how fast is it?

    python benchmarks/gpu.py --out runs/gpu [--minutes 7.5] [--only PART ...]
    python benchmarks/gpu.py --out runs/gpu --device cpu --quick    # does the program run? what CI does

Parts come in the order of what they are worth. Each has a process of its own, and is left out where the time
that is left is too short for it. Its figures are on disk as soon as they are there: OUT/gpu.json, and
OUT/gpu.txt, a table. A figure has a limit where one is known, and is ok or FAILED by it; the exit code is 1
if any failed.

What the parts do is in gpu_checks.py (right?) and gpu_speed.py (fast?). `pytest -m gpu` runs the first ones.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
IEEE = {"NVIDIA_TF32_OVERRIDE": "0"}
"""Without TF32: what is compared with float32 on a CPU must be float32."""


@dataclass(frozen=True)
class Part:
    """A part: the program that does it, about how long it takes on a GPU (s), and its environment."""

    program: str
    seconds: float
    environment: dict[str, str]


PARTS = {
    "facts": Part("gpu_checks.py", 15, {}),
    "parity": Part("gpu_checks.py", 50, IEEE),
    "single_pass": Part("gpu_checks.py", 20, {}),
    "stages": Part("gpu_checks.py", 60, IEEE),
    "resume": Part("gpu_checks.py", 40, {}),
    "batches": Part("gpu_checks.py", 25, {}),
    "faults": Part("gpu_checks.py", 30, {}),
    "curve": Part("gpu_checks.py", 40, {}),
    "base_compiled": Part("gpu_speed.py", 45, {}),
    "large_compiled": Part("gpu_speed.py", 60, {}),
    "paper": Part("gpu_speed.py", 25, {}),
    "trace": Part("gpu_speed.py", 30, {}),
    "1b_compiled": Part("gpu_speed.py", 90, {}),
    "base": Part("gpu_speed.py", 30, {}),
}
"""In the order of their worth."""


def main() -> int:
    """Run the parts for which there is time; return the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json, gpu.txt and logs")
    parser.add_argument("--minutes", type=float, default=7.5, help="time for all of it (7.5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a toy size")
    parser.add_argument("--json", type=Path, help="write the figures that are numbers to this file too")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    end, record = time.monotonic() + 60 * given.minutes, Record(given.out)
    chosen = given.only or list(PARTS)
    groups = [[name] for name in chosen]
    if given.quick:  # one process for all parts of a program: most of the time would be that of imports
        programs = dict.fromkeys(PARTS[name].program for name in chosen)
        groups = [[name for name in chosen if PARTS[name].program == program] for program in programs]
    for names in groups:
        left, needed = end - time.monotonic(), sum(PARTS[name].seconds for name in names)
        if left < needed and not given.quick:
            record.note(f"{names[0]}: left out, {left:.0f} s are left and it takes about {needed:.0f}")
            continue
        run(names, record, given.out, left, given.device, given.quick)
    record.print()
    if given.json:
        numbers = {name: f for name, f in record.figures.items() if not isinstance(f["value"], str)}
        given.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return 1 if record.failed else 0


def run(names: list[str], record: "Record", out: Path, seconds: float, device: str, quick: bool) -> None:
    """Run parts of one program in a process of their own, and record each figure as it comes."""
    part, started, name = PARTS[names[0]], time.monotonic(), names[0]
    command = [sys.executable, str(HERE / part.program), *names, "--device", device]
    environment = {**os.environ, **part.environment, "PYTHONUNBUFFERED": "1"}
    if device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    print(f"{name} ...", flush=True)
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *(["--quick"] if quick else []), "--out", str(out.resolve())],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        )
        assert process.stdout is not None
        try:
            for line in lines_of(process, None if quick else time.monotonic() + seconds):
                record.add(f"gpu.{line.pop('part')}.{line.pop('name')}", **line)
        except TimeoutError:
            process.kill()
            record.note(f"{name}: stopped, the time was up")
            return
    seconds = time.monotonic() - started
    if process.wait():
        record.add(f"gpu.{name}.ended_well", value=0.0, limit=">= 1", unit="")
        last = (out / f"{name}.log").read_text().strip().splitlines()[-1:]
        record.note(f"{name}: ended with {process.returncode} after {seconds:.0f} s: {' '.join(last)[:300]}")
    else:
        record.note(f"{', '.join(names)}: {seconds:.0f} s")


def lines_of(process: "subprocess.Popen[str]", end: float | None) -> Iterator[dict[str, Any]]:
    """Yield what a part prints, a figure a line; raise TimeoutError where it takes too long."""
    import threading

    timer = threading.Timer(max(1.0, end - time.monotonic()), process.kill) if end else None
    if timer:
        timer.start()
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("{"):
            yield json.loads(text)
    if timer:
        timer.cancel()
        if not timer.is_alive() and process.wait() == -9:
            raise TimeoutError


class Record:
    """The figures so far, on disk at any time."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.figures: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.failed = 0

    def add(self, name: str, value: Any, unit: str = "", limit: str = "") -> None:
        """Add a figure and write everything."""
        passed = within(value, limit)
        self.failed += passed is False
        self.figures[name] = {"value": value, "unit": unit, "limit": limit, "passed": passed}
        print(self._line(name), flush=True)
        self._write()

    def note(self, text: str) -> None:
        """Add a line about a part."""
        print(f"  {text}", flush=True)
        self.notes.append(text)
        self._write()

    def print(self) -> None:
        """Print the table."""
        print("\n" + self._table())

    def _line(self, name: str) -> str:
        figure = self.figures[name]
        value = figure["value"]
        text = value if isinstance(value, str) else f"{value:,.4g} {figure['unit']}".strip()
        verdict = {None: "", True: "ok", False: "FAILED"}[figure["passed"]]
        return f"{name:<44} {text:<32} {figure['limit']:<12} {verdict}".rstrip()

    def _table(self) -> str:
        lines = [*map(self._line, self.figures), *self.notes]
        return "\n".join([*lines, f"{len(self.figures)} figures, {self.failed} failed"])

    def _write(self) -> None:
        content = json.dumps({"figures": self.figures, "notes": self.notes}, indent=1) + "\n"
        for name, text in (("gpu.json", content), ("gpu.txt", self._table() + "\n")):
            temporary = self.out / f".{name}.tmp"
            temporary.write_text(text)
            temporary.replace(self.out / name)


def within(value: Any, limit: str) -> bool | None:
    """Return whether a value keeps a limit such as `<= 0.01` or `0.9-1.05`; None where there is none."""
    if not limit or isinstance(value, str):
        return None
    if limit.startswith((">=", "<=")):
        bound = float(limit[2:])
        return value >= bound if limit.startswith(">=") else value <= bound
    low, high = map(float, limit.split("-"))
    return low <= value <= high


if __name__ == "__main__":
    sys.exit(main())
