"""Reach ranks that wait in a collective for a rank that failed.

A collective ends by itself only after a long timeout. So each rank has a thread that watches the store at
which the ranks met: a rank that fails writes its reason there, and the others end.
"""

import contextlib
import datetime
import faulthandler
import json
import os
import sys
import tempfile
import threading
import time

import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from fmriscale.common.errors import EXIT_FAULT

POLL_S = 1.0
"""Seconds between two looks at the store."""
GRACE_S = 10.0
"""Seconds that a rank has to end by itself after another one aborted."""
PATIENCE_S = 30.0
"""Seconds that a rank with an error waits for the others at the same point before it aborts."""


class AbortChannel:
    """One rank's connection to the store; timeout is the longest wait for ranks at the same point."""

    def __init__(self, rank: int, world_size: int, timeout: datetime.timedelta) -> None:
        self.rank, self.world_size = rank, world_size
        self._store = _connect(timeout)
        self._round, self._aborted, self._closed = 0, False, threading.Event()
        # A store serves one caller at a time, and the main thread may wait in it: the thread has its own.
        self._thread = threading.Thread(target=self._watch, args=(_connect(timeout),), daemon=True)
        self._thread.start()

    def gather_notes(self, note: str) -> dict[int, str]:
        """Wait until all ranks are here; return the notes that are not empty by rank."""
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
            arrived = self._store.add(f"{name}/here", 0)
            raise TimeoutError(f"{arrived} of {self.world_size} ranks came") from error
        if not self._store.add(f"{name}/notes", 0):
            return {}
        ranks = (rank for rank in range(self.world_size) if self._store.check([f"{name}/{rank}"]))
        return {rank: self._store.get(f"{name}/{rank}").decode() for rank in ranks}

    def abort(self, reason: str, code: int) -> None:
        """Tell all ranks that this one ends, and wait until they have read it."""
        self._aborted = True
        self._write_stacks(code)
        with contextlib.suppress(dist.DistError):  # rank 0 is gone, and the store with it
            self._store.set("abort", json.dumps([self.rank, reason, code]))
            self._wait_for_all("read", 5 * POLL_S)

    def close(self) -> None:
        """Stop watching; rank 0, which may host the store, waits a moment until the others have stopped.

        After an abort the thread stays, because disconnecting may hang.
        """
        if self._aborted:
            return
        self._closed.set()
        self._thread.join()
        with contextlib.suppress(dist.DistError):
            self._store.add("closed", 1)
            if self.rank == 0:
                self._wait_for_all("closed", GRACE_S)

    def _wait_for_all(self, counter: str, seconds: float) -> None:
        """Wait until every rank has counted itself, or the time is over."""
        end = time.monotonic() + seconds
        while self._store.add(counter, 0) < self.world_size and time.monotonic() < end:
            time.sleep(0.02)

    def _watch(self, store: PrefixStore) -> None:
        """Wait for an abort, or for the end of rank 0, which hosts the store; end this process after it."""
        grace, code = PATIENCE_S, EXIT_FAULT
        while not self._closed.wait(POLL_S):
            try:
                if not store.check(["abort"]):
                    continue
                rank, reason, code = json.loads(store.get("abort"))
                store.add("read", 1)
                grace, cause = GRACE_S, f"rank {rank} failed ({reason})"
            except dist.DistError:
                if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                    return  # the launcher hosted the store, and is gone: the ranks save before they end
                rank, cause = 0, "rank 0 is gone"
            if rank != self.rank:
                print(f"rank {self.rank} ends: {cause}", file=sys.stderr, flush=True)
            if not self._closed.wait(grace):
                self._write_stacks(code)
                os._exit(code)
            return

    def _write_stacks(self, code: int) -> None:
        """Write the stacks of all threads after a fault, in one write: ranks of a machine share a log."""
        if code != EXIT_FAULT:
            return
        with contextlib.suppress(OSError), tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            os.write(2, f"rank {self.rank} of {self.world_size}:\n".encode() + file.read())


def _connect(timeout: datetime.timedelta) -> PrefixStore:
    """Connect to the store at which the ranks met; torchrun keeps one store over all restarts."""
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(f"fmriscale/{restart}", TCPStore(address, port, timeout=timeout))
