"""What every test may rely on: no network, one thread a process, real data where there are any."""

import os
from pathlib import Path

# Before torch or numpy are imported by a test: ranks share the cores, and threads would fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from xdist.scheduler import LoadFileScheduling

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data; skips where there is none. Use with `@pytest.mark.realdata`."""
    if not (path := os.environ.get("FMRISCALE_DATA")):
        pytest.skip("FMRISCALE_DATA is not set: export it to the folder of the real data")
    folder = REPOSITORY / path
    if not folder.is_dir():
        pytest.skip(f"FMRISCALE_DATA: {folder} is no folder")
    return folder


class _Files(LoadFileScheduling):
    """Deals whole files, so that no fixture is made twice.

    The tests of Slurm go together, for they share a cluster; so do those that start ranks, which would
    crowd the cores if two of them ran at once.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        folder = str(Path(file).parent)
        return folder if folder in ("tests/slurm", "tests/distributed") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log) -> _Files:
    """Deal files to the workers in the order of `testpaths`: what takes longest begins first."""
    config.option.loadscopereorder = False
    return _Files(config, log)
