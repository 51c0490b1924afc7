"""The lines of a run's metrics.jsonl."""

from pathlib import Path
from typing import Any

from fmriscale.common.errors import DamageError
from fmriscale.common.trust import parse_json

STEP = {"step", "loss", "finite", "seen", "pairs_per_s"}  # What the line of a step has at least

Lines = list[dict[str, Any]]


def read_metrics(path: Path) -> tuple[Lines, Lines]:
    """Return the lines of steps and those of evaluations, in the order of steps."""
    texts = path.read_text(errors="replace").splitlines()
    steps, evals = [], []
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text)
        except ValueError as error:
            if number == len(texts):  # being written
                break
            raise DamageError(f"{path}: line {number} is not JSON ({error}); remove it") from error
        if isinstance(line, dict) and "event" in line:
            evals += [line] if line["event"] == "eval" else []
        elif isinstance(line, dict) and line.keys() >= STEP:
            steps.append(line)
        else:
            raise DamageError(f"{path}: line {number} is no step that train.py wrote; remove it")
    return steps, evals
