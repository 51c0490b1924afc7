"""SECURITY.md says what tests hold, and no command of ours listens to the world."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("", ".py", ".md", ".sh", ".yaml", ".yml", ".def")


def test_every_claim_names_a_test_that_exists():
    text = (ROOT / "SECURITY.md").read_text()
    file, n_named = "", 0
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", text):
        file = path or file
        if path or name:
            n_named += 1
            source = (ROOT / file).read_text()
            assert not name or re.search(rf"^def {name}\b", source, re.MULTILINE), f"{file}::{name}"
    assert n_named >= 18


def test_no_command_listens_on_every_interface():
    try:
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    everywhere = re.compile(r"0\.0\.0\.0|mkdocs serve(?!.*127\.0\.0\.1)|mlflow (ui|server).*--host|\[::\]")
    ours = ("fmriscale/", "tools/", "slurm/", "docs/", "README.md", "Makefile", "configs/")
    found = [
        (name, line.strip())
        for name in names.stdout.splitlines()
        if name.startswith(ours) and (ROOT / name).suffix in KINDS
        for line in (ROOT / name).read_text(errors="replace").splitlines()
        if everywhere.search(line)
    ]
    assert not found
