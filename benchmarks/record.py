"""Records of what was measured: figures, command, machine, date, and a hash of the code they are about.

A record is `results/NAME.json`; catalogue.yaml says what NAME measures and which code it is about.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
PACKAGES = ("numpy", "torch", "deepspeed", "nilearn")
Record = dict[str, Any]


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median of values, and from two values on their lower and upper quartile."""
    found = {"value": float(statistics.median(values))}
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        found |= {"low": float(low), "high": float(high)}
    return found


# ---------------------------------------------------------------- the code that figures are about


@cache
def catalogue() -> dict[str, Any]:
    """Return sections, and benchmarks by name."""
    return yaml.safe_load((HERE / "catalogue.yaml").read_text())


def code_hash(globs: Iterable[str], root: Path = ROOT) -> str:
    """Return a hash of the files that match; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in globs for path in root.glob(pattern) if path.is_file()}):
        digest.update(f"{path.relative_to(root).as_posix()}\0{meaning(path)}\0".encode())
    return digest.hexdigest()[:16]


@cache
def meaning(path: Path) -> str:
    """Return what a file says to a computer."""
    text = path.read_text()
    if path.suffix == ".py":
        return skeleton(ast.parse(text))
    if path.suffix == ".yaml":
        return json.dumps(yaml.safe_load(text), sort_keys=True, default=str)
    return text


def skeleton(node: Any) -> str:
    """Return a syntax tree as text that is the same in every version of Python; docstrings are left out."""
    if isinstance(node, list):
        return f"[{','.join(skeleton(item) for item in node if not is_docstring(item))}]"
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__}:{node.value!r}"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    told = ",".join(f"{name}={skeleton(value)}" for name, value in fields if name != "type_comment")
    return f"{type(node).__name__}({told})"


def is_docstring(node: Any) -> bool:
    """Is it a statement that is nothing but a string?"""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


# ---------------------------------------------------------------- the machine


def machine() -> dict[str, Any]:
    """Return what figures depend on, and nothing that names this machine."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", cpu, re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": cores,
        "memory_gib": round(memory),
        "amx": " amx_tile" in cpu,
        "gpu": gpu(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
    }


def gpu() -> str | None:
    """Return the name of the first GPU."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return listed.stdout.strip().splitlines()[0] if listed.stdout.strip() else None


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------- records


def head() -> str | None:
    """Return the short hash of the commit that is checked out."""
    try:
        told = subprocess.run(
            ["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def make(name: str, figures: dict[str, dict[str, Any]], commands: list[str], others: float) -> Record:
    """Return the record of what was just measured on this machine.

    `others` is the share of all cores that other work used meanwhile, 0 to 1.
    """
    entry = catalogue()["benchmarks"][name]
    return {
        "commands": commands,
        "machine": machine() | {"others": round(others, 2)},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": head(),
        "code": code_hash(entry["code"]),
        "figures": {figure.split(".", 1)[-1]: kept(told) for figure, told in sorted(figures.items())},
    }


def kept(told: dict[str, Any]) -> dict[str, Any]:
    """Return a figure as it is recorded: rounded, without what the record says as a whole."""
    numbers = {
        key: float(f"{told[key]:.6g}") for key in ("value", "low", "high") if told.get(key) is not None
    }
    n = told.get("n") or told.get("median_of")
    return numbers | {"unit": told.get("unit", "")} | ({"n": n} if n else {})


def write(name: str, record: Record, folder: Path = RESULTS) -> Path:
    """Write a record, whole or not at all."""
    from fmriscale.common.files import atomic_write

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    atomic_write(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def read(folder: Path = RESULTS) -> dict[str, Record]:
    """Return the records by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def state(name: str, record: Record, root: Path = ROOT) -> str:
    """Say how old a record is beside its code: `current`, `changed`, or `unknown` where no hash was kept."""
    if not record.get("code"):
        return "unknown"
    now = code_hash(catalogue()["benchmarks"][name]["code"], root)
    return "current" if now == record["code"] else "changed"
