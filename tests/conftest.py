"""Fixtures of all tests: the repository, the real data, and how files are shared out over workers."""

import os
import sys
from pathlib import Path

# Set before a test imports torch or numpy: ranks share the cores, and more threads would compete for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without byte code on disk, each of hundreds of processes would compile torch and DeepSpeed anew, for 15 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
from xdist.scheduler import LoadFileScheduling

sys.dont_write_bytecode = False  # the variable was read when this process began

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of the real data; skip if there is none. Use it with `@pytest.mark.realdata`."""
    if not (path := os.environ.get("FMRISCALE_DATA")):
        pytest.skip("FMRISCALE_DATA is not set: export it to the folder of the real data")
    folder = REPOSITORY / path
    if not folder.is_dir():
        pytest.skip(f"FMRISCALE_DATA: {folder} is no folder")
    return folder


FIRST = (
    "tests/slurm/",
    "tests/distributed/",
    "tests/unit/test_benchmarks.py",
    "tests/unit/test_tutorials.py",
)
"""The longest. What begins last would run alone in the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


class _Files(LoadFileScheduling):
    """Gives whole files to workers, so that no fixture is made twice.

    The tests of Slurm run on one worker, because they share a cluster. So do the tests that start ranks:
    two of them at a time would overload the cores.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        folder = str(Path(file).parent)
        return folder if folder in ("tests/slurm", "tests/distributed") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> _Files:
    """Give files to the workers in the order of collection: the slowest begin first."""
    config.option.loadscopereorder = False
    return _Files(config, log)
