"""Progress on stderr: a bar on a terminal, a line now and then in a log."""

import sys
import time

from tqdm import tqdm

LOG_SECONDS = 30.0  # Time between lines in a log, s


class Progress:
    """Count finished items, of which some were done before."""

    def __init__(self, total: int, unit: str, done: int = 0) -> None:
        self.total, self.unit, self.done, self.rejected = total, unit, done, 0
        self._last = time.monotonic()
        self._bar = tqdm(total=total, initial=done, unit=f" {unit}") if sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int) -> None:
        """Count `count` more items as done."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix(quarantined=self.rejected, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last > LOG_SECONDS:
            self._last = time.monotonic()
            line = f"{self.done} of {self.total} {self.unit}, {self.rejected} quarantined"
            print(line, file=sys.stderr, flush=True)
