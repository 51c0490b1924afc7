"""A real Slurm for the test session: three nodes in namespaces of this machine (tools/slurm_testbed)."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

TESTBED = Path(__file__).parents[2] / "tools/slurm_testbed"
FINAL = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")


@dataclass(frozen=True)
class SlurmCluster:
    """The testbed. In `env`, its sbatch, srun, squeue, scontrol, slurm-node, ... come first in PATH."""

    root: Path
    env: dict[str, str]

    @property
    def path(self) -> str:
        return self.env["PATH"]

    def run(self, *command: str | Path, cwd: Path | None = None, **env: str) -> str:
        """Run a command with the cluster's tools in PATH and return its stdout; fail if it fails."""
        done = subprocess.run(
            [str(c) for c in command],
            cwd=cwd,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def sbatch(self, *args: str | Path, cwd: Path | None = None, **env: str) -> str:
        """Submit and return the job id."""
        return self.run("sbatch", "--parsable", *args, cwd=cwd, **env).strip().split(";")[0]

    def job(self, job_id: str) -> dict[str, str]:
        """Return the fields of `scontrol show job` (the first task of an array)."""
        text = self.run("scontrol", "--oneliner", "show", "job", job_id).splitlines()[0]
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait(self, job_id: str, states: str | tuple[str, ...] = FINAL, timeout: float = 60) -> dict:
        """Wait until a job is in one of the states and return its fields; fail after `timeout` seconds."""
        states = (states,) if isinstance(states, str) else states
        end = time.monotonic() + timeout
        while (fields := self.job(job_id))["JobState"] not in states:
            if time.monotonic() > end or fields["JobState"] in FINAL:
                pytest.fail(f"job {job_id} did not become {states} within {timeout} s: {fields}")
            time.sleep(0.2)
        return fields

    def node(self, action: str, name: str, *command: str) -> str:
        """Do to a node what a person could do: poweroff, boot, kill-slurmd, unplug, plug, ..."""
        return self.run("slurm-node", action, name, *command)

    def finish_job(self, array: str, timeout: float = 60.0) -> str:
        """Wait until a task has submitted the job that finishes an array's work, and return its id."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            names = self.run("squeue", "--noheader", f"--name=finish-{array}", "--states=all", "--format=%i")
            if names.split():
                [job] = names.split()  # exactly one, even if tasks were requeued
                return job
            time.sleep(0.2)
        pytest.fail("nobody submitted the job that finishes")

    @staticmethod
    def ranks(run: Path) -> dict[int, str]:
        """Return the processes of a training, on all nodes: process id and name of the node."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (path / "cmdline").read_bytes().split(b"\0")
                if b"fmriscale/train.py" not in words[1:2] or str(run).encode() not in words:
                    continue
                pairs = (e.partition(b"=") for e in (path / "environ").read_bytes().split(b"\0"))
                found[int(path.name)] = {k: v for k, _, v in pairs}[b"SLURMD_NODENAME"].decode()
        return found

    @contextlib.contextmanager
    def held(self, run: Path) -> Iterator[None]:
        """Hold the ranks of a training still."""
        ranks = self.ranks(run)
        assert ranks, "no rank is there"
        _signal(ranks, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(ranks, signal.SIGCONT)

    def kill_ranks(self, run: Path, node: str) -> None:
        """Kill the ranks of a training that are on a node."""
        ranks = [pid for pid, place in self.ranks(run).items() if place == node]
        assert ranks, "no rank is there"
        _signal(ranks, signal.SIGKILL)

    @contextlib.contextmanager
    def slowed(self, run: Path, share: float = 0.2) -> Iterator[None]:
        """Let a training make steps for a share of the time alone: it is to wait, not to take a core."""
        over, record = threading.Event(), run / "metrics.jsonl"

        def steps(pid: int) -> bool:
            with contextlib.suppress(OSError, psutil.Error):
                return record.stat().st_mtime > psutil.Process(pid).create_time()
            return False

        def pulse() -> None:
            while not over.wait(share):
                _signal(ranks := list(filter(steps, self.ranks(run))), signal.SIGSTOP)
                over.wait(1 - share)
                _signal(ranks, signal.SIGCONT)

        thread = threading.Thread(target=pulse, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def freeze(self, command: str, folder: Path, task: int) -> str:
        """Stop the process of an array's task with SIGSTOP; return the name of its node."""
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (path / "cmdline").read_bytes()
                if command.encode() not in line or str(folder).encode() not in line:
                    continue
                pairs = (e.split(b"=", 1) for e in (path / "environ").read_bytes().split(b"\0") if e)
                environment = dict(pairs)
                if environment.get(b"SLURM_ARRAY_TASK_ID") == str(task).encode():
                    os.kill(int(path.name), signal.SIGSTOP)
                    return environment[b"SLURMD_NODENAME"].decode()
        pytest.fail("the task is not there (did it end before it could be stopped?)")

    def restart_controller(self) -> None:
        """Stop slurmctld as an upgrade does, and start it again."""
        pid = int((self.root / "run/slurmctld.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 30
        while _alive(pid):
            assert time.monotonic() < end, "slurmctld does not stop"
            time.sleep(0.1)
        self.mend()

    def mend(self) -> None:
        """Bring every node back into service."""
        self.run(TESTBED, "up")


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those processes that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _alive(pid: int) -> bool:
    """Say whether a process runs; a process that has ended may stay listed for a while."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Start the testbed for the session; skip with the reason if it cannot be started."""
    shared = os.environ.get("SLT_ROOT")  # whoever set it starts and stops the testbed
    root = Path(shared or f"/run/slt-{os.getpid()}")
    env = {**os.environ, "SLT_ROOT": str(root), "PATH": f"{root}/bin:{os.environ['PATH']}"}
    env = {k: v for k, v in env.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    up = subprocess.run([TESTBED, "up"], env=env, capture_output=True, text=True, timeout=600)
    try:
        if up.returncode:
            reason = (up.stderr.strip() or up.stdout.strip()).splitlines()[-1]
            pytest.skip(f"the Slurm testbed does not come up: {reason}")
        yield SlurmCluster(root, env)
    finally:
        if not shared:
            subprocess.run([TESTBED, "down", "--purge"], env=env, capture_output=True, timeout=240)
