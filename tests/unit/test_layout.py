"""The house in files: sizes, names, imports, and words that have no place in it."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LONGEST = 420


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository; skips where git, or the checkout, is not there."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_no_module_is_too_long_to_read_in_one_sitting():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in tracked("*.py")}
    assert not {name: n for name, n in lengths.items() if n > LONGEST}


def test_no_file_names_one_machine():
    # Written in pieces, so that this file passes too.
    words = ["/wo" + "rk/", "shared" + "/data"]
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [(relative(path), word) for word in words if word in text]
    assert not found


def test_data_cannot_run_code():
    # No unpickling, no unsafe YAML, no shell, no eval: what is read is data.
    forbidden = re.compile(
        r"^\s*(?:import|from)\s+(?:pickle|dill|cloudpickle|joblib)\b|allow_pickle=True|weights_only=False"
        r"|yaml\.(?:load|unsafe_load|full_load)\(|shell=True|os\.system\(|os\.popen\(|(?<![.\w])eval\(",
        re.MULTILINE,
    )
    sources = tracked("fmriscale/*.py", "tools/doctor", "tools/golden_losses")
    assert sources and not [relative(p) for p in sources if forbidden.search(p.read_text())]


@pytest.mark.parametrize(
    "module", ["fmriscale", "fmriscale.cli", "fmriscale.config", "fmriscale.corpus.reader"]
)
def test_imports_stay_light(module: str):
    heavy = "torch|deepspeed|mlflow|nilearn|matplotlib|sklearn"
    code = f"import sys, {module}; print([m for m in '{heavy}'.split('|') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_importing_fmriscale_itself_pulls_nothing_at_all():
    code = "import sys; a = set(sys.modules); import fmriscale; print(sorted(set(sys.modules) - a))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['fmriscale']"


def test_the_version_is_the_one_that_is_installed():
    import fmriscale

    assert importlib.metadata.version("fmriscale") == fmriscale.__version__
