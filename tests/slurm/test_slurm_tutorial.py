"""The tutorial of Slurm runs from its own text on a real Slurm, on fewer nodes."""

import shutil
import sys
from pathlib import Path

import pytest
from tutorial import run_page

pytestmark = pytest.mark.slurm

SMALLER = {
    "--nodes 16 --gpus-per-node 8 --exclusive --mem=0": "--nodes 2",
    "x 16 ranks": "x 2 ranks",
    "--array=0-15": "--array=0-1",
}
"""What the page says of a cluster, and what is run here; `fmriscale plan` keeps its sixteen nodes."""


@pytest.mark.timeout(1200)
def test_the_tutorial_runs_from_its_own_text(slurm_cluster, repository: Path, tmp_path: Path):
    text = (repository / "docs/tutorials/slurm_job.md").read_text()
    for said, run in SMALLER.items():
        assert said in text
        text = text.replace(said, run)
    page = tmp_path / "slurm_job.md"
    page.write_text(text)
    checkout = tmp_path / "work"
    checkout.mkdir()
    shutil.copytree(repository / "slurm", checkout / "slurm", ignore=shutil.ignore_patterns("env.sh"))
    (checkout / "fmriscale").symlink_to(repository / "fmriscale")
    env = slurm_cluster.env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    env["PATH"] = f"{Path(sys.executable).parent}:{slurm_cluster.path}"
    run_page(page, tmp_path, env)
