"""The corpus on the accelerator: all runs as one tensor, and sequences gathered there."""

import numpy as np
import torch

from fmriscale.common.errors import UserError
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.gather import Standard, copy_runs
from fmriscale.sampling.tables import REVERSED, Draw


class DeviceRuns:
    """Sequences out of a copy of all runs on a device.

    Parameters
    ----------
    corpus : Corpus
        Read once.
    rows : int array [R]
        Rows of the runs.
    length, n_features : int
        L and V.
    standard : Standard, optional
        Applied to the runs before they are sent.
    device : torch.device
        Where they go.
    shuffled : int, optional
        Seed of a random order of each run's volumes.

    Raises
    ------
    UserError
        They do not fit the memory of the device.
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: np.ndarray,
        length: int,
        n_features: int,
        standard: Standard | None,
        device: torch.device,
        shuffled: int | None = None,
    ) -> None:
        volumes, self._first = copy_runs(corpus, rows, n_features, standard, shuffled)
        try:
            self.volumes = torch.from_numpy(volumes).to(device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{corpus}: data.access: device needs {volumes.nbytes / 2**30:.1f} GiB, "
                f"which {device} has not free; use data.access: memory or mmap"
            ) from error
        self._steps = np.arange(length)

    def gather(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        """Return left and right, float16 [B, L, V], on the device."""
        turned = np.where((draw.kind == REVERSED)[:, None], self._steps[::-1], self._steps)
        left_BL = (self._first[draw.run_left] + draw.start_left)[:, None] + self._steps
        right_BL = (self._first[draw.run_right] + draw.start_right)[:, None] + turned
        both = torch.from_numpy(np.stack((left_BL, right_BL)))
        if self.volumes.device.type == "cuda":
            both = both.pin_memory()
        left, right = self.volumes[both.to(self.volumes.device, non_blocking=True)]
        return left, right
