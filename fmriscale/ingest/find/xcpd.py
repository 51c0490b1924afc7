"""What XCP-D writes beside its series: which volumes moved too much, how much the head moved, and the t_r.

    sub-*/[ses-*/]func/<scan>_space-*_{atlas,seg}-*_[den-*_][stat-mean_]timeseries.{tsv,ptseries.nii}
                       <scan>_space-*_[res-*_]desc-denoised_bold.{nii.gz,dtseries.nii}
                       <scan>_outliers.tsv            1 = a volume that moved too much
                       <scan>[_desc-filtered]_motion.tsv
                       <scan> is everything that tells scans apart: subject, session, task, run, ...

From 0.4 on the series are censored: they lack the volumes that moved too much, and are laid out in time again
here. Before that, and in its modes abcd and hbcd, those volumes are there and interpolated. Either way the
sample mask of the run leaves them out.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.find.companions import CONFOUNDS_MAY_LACK, Identity, own_file
from fmriscale.ingest.find.names import Tree, traits
from fmriscale.ingest.read.confounds_table import load_table

_MOTION = "framewise_displacement"


def companions(tree: Tree, path: Path, run: Identity) -> dict[str, Any]:
    """Return the files of a run that lie beside its series."""
    folder = tree.folder(path.parent)
    outliers = own_file(folder, run, "outliers", ".tsv", None, CONFOUNDS_MAY_LACK)
    if outliers is None:
        own = "_".join(f"{k}-{v}" for k, v in run.named.items() if k not in CONFOUNDS_MAY_LACK)
        raise Rejected(
            "no_confounds",
            f"no {own}_outliers.tsv beside the run, which says what volumes are left of it; add it, or, if "
            "nothing was censored, list the data set by kind bids, or by kind arrays and files",
        )
    motion = own_file(folder, run, "motion", ".tsv", None, CONFOUNDS_MAY_LACK)
    motion = motion or own_file(folder, run, "motion", ".tsv", "filtered", CONFOUNDS_MAY_LACK)
    return {
        "outliers": path.parent / outliers,
        "motion": None if motion is None else path.parent / motion,
        "sidecars": _sidecars(tree, path, run),
    }


def _sidecars(tree: Tree, path: Path, run: Identity) -> tuple[Path, ...]:
    """Return the .json of the series, or else of another rendering of the scan: its t_r is the same."""
    folder = tree.folder(path.parent)
    beside = f"{path.name.partition('.')[0]}.json"
    if beside in folder.files:
        return (path.parent / beside,)
    own = traits({k: v for k, v in run.known.items() if k not in CONFOUNDS_MAY_LACK})
    for suffix in ("timeseries", "bold"):
        for other in folder.having(suffix, ".json"):
            scan = traits({k: v for k, v in other.entities.items() if k not in CONFOUNDS_MAY_LACK})
            if scan == own and other.entities.get("stat", "mean") == "mean":
                return (path.parent / other.file,)
    return ()


class Censoring:
    """Which volumes of a scan moved too much.

    Parameters
    ----------
    outliers : Path
        Table with one line a volume.
    n_rows : int
        Volumes of the series.

    Raises
    ------
    Rejected
        The series has neither all volumes nor those that are left.
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
        """Give each volume its place in time; what stands where none is left is censored, and never used."""
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
