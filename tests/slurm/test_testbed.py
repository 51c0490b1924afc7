"""The testbed itself: what the other Slurm tests rely on."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm


def test_a_two_node_job_gets_two_hosts_that_can_name_each_other(slurm_cluster, tmp_path: Path):
    script = tmp_path / "hello.sbatch"
    script.write_text(
        "#!/bin/bash\n"
        "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)\n"
        "srun bash -c 'echo $(hostname) rank $SLURM_PROCID of $SLURM_NTASKS $(getent hosts $MASTER_ADDR)'\n"
    )
    job = slurm_cluster.sbatch("--nodes=2", "--ntasks-per-node=1", "--output=hello.out", script, cwd=tmp_path)
    assert slurm_cluster.wait(job)["JobState"] == "COMPLETED"
    lines = sorted(" ".join(line.split()) for line in (tmp_path / "hello.out").read_text().splitlines())
    assert lines == ["node01 rank 0 of 2 10.77.0.1 node01", "node02 rank 1 of 2 10.77.0.1 node01"]


def test_a_failing_job_is_failed_with_its_exit_code(slurm_cluster, tmp_path: Path):
    job = slurm_cluster.sbatch("--output=x.out", "--wrap", "exit 7", cwd=tmp_path)
    fields = slurm_cluster.wait(job)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "7:0")
