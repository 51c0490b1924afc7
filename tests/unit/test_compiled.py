"""Compiled functions are kept where nothing else can be written, and in no folder of somebody else."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fmriscale.common.compiled import can_write, private_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no user numbers")


@pytest.fixture
def nowhere(tmp_path) -> Path:
    """A place in which nobody, not even root, can make a folder: below a file."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file/home/.cache"


def test_a_place_that_can_be_written_is_left_to_numba(tmp_path, nowhere):
    assert can_write(tmp_path / "home/.cache") and not can_write(nowhere)
    assert private_folder([nowhere, tmp_path / "home/.cache"], tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_else_a_private_folder_is_made_once(tmp_path, nowhere):
    folder = private_folder([nowhere], tmp_path)
    assert folder and folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert private_folder([nowhere], tmp_path) == folder
    assert private_folder([nowhere], nowhere) is None


@pytest.mark.parametrize("trap", ["open to others", "a link", "a file"])
def test_a_folder_that_somebody_else_may_fill_is_not_taken(tmp_path, nowhere, trap):
    folder = private_folder([nowhere], tmp_path)
    assert folder
    if trap == "open to others":
        folder.chmod(0o770)
    else:
        folder.rmdir()
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to("theirs") if trap == "a link" else folder.write_text("")
    assert private_folder([nowhere], tmp_path) is None


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_not_taken(tmp_path, nowhere):
    folder = private_folder([nowhere], tmp_path)
    assert folder
    os.chown(folder, 12345, 12345)
    assert private_folder([nowhere], tmp_path) is None


WHERE = """
import importlib
import os
import fmriscale.common.compiled, numba
named = os.environ.get("NUMBA_CACHE_DIR", "")
print(numba.config.CACHE_DIR == named, named or "none")
"""


def test_a_home_that_can_be_written_changes_nothing(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    done = subprocess.run(
        [sys.executable, "-c", WHERE], env=env, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["True", "none"], done.stderr


VERSION = """
from typing import NamedTuple
from fmriscale.common.compiled import njit

class {name}(NamedTuple):
    value: int

@njit(cache=True)
def twice(record):
    return {factor} * record.value

found = twice({name}(21))
"""


def test_what_an_older_version_compiled_is_not_in_the_way(tmp_path, monkeypatch):
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # both have one size and one time
    monkeypatch.syspath_prepend(tmp_path)
    for name, factor in (("Old", 2), ("New", 3)):
        (tmp_path / "versioned.py").write_text(VERSION.format(name=name, factor=factor))
        sys.modules.pop("versioned", None)
        importlib.invalidate_caches()
        assert importlib.import_module("versioned").found == factor * 21
    assert list((tmp_path / "kept").rglob("*.nbi"))
