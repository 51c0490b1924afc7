"""A board in the store at which the ranks met: it reaches those that wait in an exchange for one that left.

Exchanges have no other end than their timeout, and that is long. Here a rank writes why it ends, and a thread
of every other rank reads it.
"""

import contextlib
import datetime
import json
import os
import sys
import threading
import time
import traceback

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from fmriscale.common.errors import EXIT_FAULT

LOOK_S = 1.0
"""Seconds between looks at the board."""
GRACE_S = 10.0
"""After an alarm a rank has so long to end by itself."""
PATIENCE_S = 30.0
"""A rank that cannot go on waits so long for others to come to the same point; then it sounds the alarm."""


class Board:
    """The board of one rank.

    Parameters
    ----------
    rank, world_size : int
        This rank, and the number of ranks.
    patience : timedelta
        Longest wait for others that have not come to the same point.
    """

    def __init__(self, rank: int, world_size: int, patience: datetime.timedelta) -> None:
        self.rank, self.world_size = rank, world_size
        self._store = _connect(patience)
        self._round = 0
        self._alarmed, self._over = False, threading.Event()
        # A store serves one caller at a time, and the main thread may wait in it: the thread has its own.
        self._thread = threading.Thread(target=self._look_out, args=(_connect(patience),), daemon=True)
        self._thread.start()

    def meet(self, note: str) -> dict[int, str]:
        """Wait until all ranks are here, and return the notes of those that have one; '' = none."""
        self._round += 1
        name = f"round{self._round}"
        if note:
            self._store.set(f"{name}/{self.rank}", note)
            self._store.add(f"{name}/notes", 1)
        if self._store.add(f"{name}/here", 1) == self.world_size:
            self._store.set(f"{name}/all", "here")
        try:
            if note:
                self._store.wait([f"{name}/all"], datetime.timedelta(seconds=PATIENCE_S))
            else:
                self._store.wait([f"{name}/all"])
        except dist.DistStoreError as error:
            raise TimeoutError(
                f"{self._store.add(f'{name}/here', 0)} of {self.world_size} ranks came"
            ) from error
        if not self._store.add(f"{name}/notes", 0):
            return {}
        ranks = (rank for rank in range(self.world_size) if self._store.check([f"{name}/{rank}"]))
        return {rank: self._store.get(f"{name}/{rank}").decode() for rank in ranks}

    def alarm(self, reason: str, code: int) -> None:
        """Tell all ranks that this one ends, and wait until they know."""
        self._alarmed = True
        self._write_stacks(code)
        with contextlib.suppress(dist.DistError):  # rank 0 is gone, and the store with it
            self._store.set("alarm", json.dumps([self.rank, reason, code]))
            self._await("seen", 5 * LOOK_S)

    def close(self) -> None:
        """Look no longer; rank 0, which may keep the store, waits a moment for the others to be done with it.

        After an alarm the thread stays, in case that taking leave hangs.
        """
        if self._alarmed:
            return
        self._over.set()
        self._thread.join()
        with contextlib.suppress(dist.DistError):
            self._store.add("gone", 1)
            if self.rank == 0:
                self._await("gone", GRACE_S)

    def _await(self, name: str, seconds: float) -> None:
        """Wait until every rank has counted itself, or no longer than this."""
        end = time.monotonic() + seconds
        while self._store.add(name, 0) < self.world_size and time.monotonic() < end:
            time.sleep(0.02)

    def _look_out(self, store: PrefixStore) -> None:
        """Wait for an alarm, or the end of rank 0, which keeps the store; this rank must end then too."""
        grace, code = PATIENCE_S, EXIT_FAULT
        while not self._over.wait(LOOK_S):
            try:
                if not store.check(["alarm"]):
                    continue
                rank, reason, code = json.loads(store.get("alarm"))
                store.add("seen", 1)
                grace, why = GRACE_S, f"rank {rank} failed ({reason})"
            except dist.DistError:
                if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                    return  # the launcher kept the store, and is gone: the ranks save before they end
                rank, why = 0, "rank 0 is gone"
            if rank != self.rank:
                print(f"rank {self.rank} ends: {why}", file=sys.stderr, flush=True)
            if not self._over.wait(grace):
                self._write_stacks(code)
                os._exit(code)
            return

    def _write_stacks(self, code: int) -> None:
        """Write the stacks of all threads, where a fault is what ends this rank and no user's mistake.

        In one piece: the ranks of a machine often write into one log, and at the same moment.
        """
        if code != EXIT_FAULT:
            return
        lines = [f"rank {self.rank} of {self.world_size}, where its threads stand:"]
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            lines.append(f"Thread {names.get(ident, ident)} (most recent call first):")
            calls = traceback.walk_stack(frame)  # no lines of source: their disk may be what hangs
            lines += [f'  File "{f.f_code.co_filename}", line {n} in {f.f_code.co_name}' for f, n in calls]
        with contextlib.suppress(OSError):
            os.write(2, ("\n".join(lines) + "\n").encode())


def _connect(patience: datetime.timedelta) -> PrefixStore:
    """Connect to the store at which the ranks met; torchrun keeps it for all lives of the ranks."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"fmriscale/{life}", TCPStore(address, port, timeout=patience))
