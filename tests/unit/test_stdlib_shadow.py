"""`deepspeed fmriscale/train.py` puts fmriscale/ first on sys.path: what lies there hides other modules."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path


def test_no_module_has_the_name_of_another(repository: Path):
    ours = {p.stem for p in (repository / "fmriscale").iterdir() if p.suffix == ".py" or p.is_dir()}
    ours -= {"__init__", "__pycache__"}
    assert {"train", "config", "training"} <= ours
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(requires("torch") or []), *(requires("deepspeed") or [])]
    wanted = {re.split(r"[^\w.-]", name)[0].lower() for name in named}
    modules = {
        module for module, dists in packages_distributions().items() if wanted & {d.lower() for d in dists}
    }
    assert {"torch", "deepspeed", "yaml"} <= modules
    assert not ours & (set(sys.stdlib_module_names) | modules)


def test_train_can_be_imported_with_the_package_folder_first_on_the_path(repository: Path):
    code = "import sys, runpy; sys.path[0] = 'fmriscale'; runpy.run_path('fmriscale/train.py', run_name='x')"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
