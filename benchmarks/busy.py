"""Who else was at work on this machine while something was timed."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil


class Others:
    """How much of the machine other processes used since this was made."""

    def __init__(self, ours: Sequence[subprocess.Popen] = ()) -> None:
        self.processes = [psutil.Process(process.pid) for process in ours]
        self.begun, self.ours = self._machine(), self._own()

    def share(self) -> float:
        """Return their share of all cores, 0 to 1; 0 where the system does not tell."""
        busy, idle = (now - then for now, then in zip(self._machine(), self.begun, strict=True))
        return max(0.0, busy - (self._own() - self.ours)) / (busy + idle) if busy + idle else 0.0

    def _own(self) -> float:
        times = os.times()
        running = sum(sum(process.cpu_times()[:2]) for process in self.processes)
        return times.user + times.system + times.children_user + times.children_system + running

    @staticmethod
    def _machine() -> tuple[float, float]:
        """Seconds of all cores: at work, and idle."""
        path = Path("/proc/stat")
        if not path.exists():
            return 0.0, 0.0
        ticks = [int(n) / os.sysconf("SC_CLK_TCK") for n in path.read_text().split("\n")[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        return sum(ticks) - idle, idle
