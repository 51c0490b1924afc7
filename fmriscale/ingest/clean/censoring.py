"""Which volumes of a scan XCP-D censored, and how much the head moved.

From XCP-D 0.4 on the series lack the volumes that moved too much, and are laid out in time again here. Before
that, and in its modes abcd and hbcd, those volumes are there and interpolated. Either way the sample mask of
the run leaves them out.
"""

from pathlib import Path

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.confounds_table import load_table

_MOTION = "framewise_displacement"


class Censoring:
    """Which volumes of a scan moved too much, by the table of outliers, which has a line for each.

    `Rejected` where the series has neither all volumes nor those that are left.
    """

    def __init__(self, outliers: Path, n_rows: int) -> None:
        table = load_table(outliers).numbers(lambda name: name == _MOTION)
        if _MOTION not in table.columns or bool(table[_MOTION].isna().any()):
            raise Rejected("confounds", f"{outliers.name}: no column {_MOTION} of 0 and 1; add the file anew")
        moved = table[_MOTION].to_numpy() != 0
        self.n_volumes, self.kept = len(moved), np.flatnonzero(~moved)
        if n_rows not in (len(moved), len(self.kept)):
            raise Rejected(
                "confounds_length",
                f"{outliers.name} has {len(moved)} rows, {len(self.kept)} of them kept, the series {n_rows} "
                "volumes; all must come from one run of XCP-D",
            )
        self._is_whole = n_rows == len(moved)

    def lay_out(self, values: np.ndarray) -> np.ndarray:
        """Put each volume at its place in time; a copy of the one before stands in for a censored one."""
        if self._is_whole:
            return values
        last = np.searchsorted(self.kept, np.arange(self.n_volumes), side="right") - 1
        return values[np.maximum(last, 0)]

    def sample_mask(self, dropped: int) -> np.ndarray | None:
        """Return the kept volumes after those dropped at the start; None = all."""
        if len(self.kept) == self.n_volumes:
            return None
        return self.kept[self.kept >= dropped] - dropped


def mean_motion(motion: Path | None, n_volumes: int, dropped: int) -> float | None:
    """Return the mean framewise displacement over all volumes, mm; None where most of it is unknown."""
    if motion is None:
        return None
    table = load_table(motion)
    if table.n_rows != n_volumes:
        raise Rejected(
            "confounds_length",
            f"{motion.name} has {table.n_rows} rows, the scan {n_volumes} volumes; all must come from one "
            "run of XCP-D",
        )
    values = table.numbers(lambda name: name == _MOTION)
    if _MOTION not in values:
        return None
    displacement = values[_MOTION].iloc[dropped:]
    return float(displacement.mean()) if 2 * displacement.count() >= len(displacement) > 0 else None
