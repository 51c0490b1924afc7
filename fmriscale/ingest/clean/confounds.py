"""Confounds of a run, by the tables of fMRIPrep and XCP-D: regressors, censoring, motion."""

import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.common.suggest import did_you_mean
from fmriscale.config import DatasetConfig, DenoiseConfig
from fmriscale.ingest.read.confounds_table import Table, load_table
from fmriscale.ingest.read.cuts import Cut
from fmriscale.ingest.read.text import read_json

if TYPE_CHECKING:
    import pandas as pd

STRATEGIES = (
    *("motion", "high_pass", "wm_csf", "global_signal", "compcor", "ica_aroma", "scrub"),
    "non_steady_state",
)
"""Strategies of nilearn's load_confounds that need nothing but the confounds file and its .json."""

MISNAMED = "vx-wisestdDVARS"
"""Column of fMRIPrep 1.2 and 1.3 that no strategy reads, but whose capitals nilearn takes for version 1.1."""

NO_EFFECT = "Non-steady state volumes are always detected"
"""Beginning of the warning that concerns the recipe (strategy non_steady_state), not the run."""

_UNREAD = re.compile(r"[atcw]_comp_cor_\d+|motion_outlier\d+")
"""Columns that only strategy compcor reads, and outliers, which none does: most of a table."""

_FD = "framewise_displacement"
_SCRUB = (_FD, "std_dvars")
_PREFIXES = {"high_pass": "cosine", "ica_aroma": "aroma_"}
_SERIES = {
    "motion": [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"],
    "wm_csf": ["csf", "white_matter"],
    "global_signal": ["global_signal"],
}
_SUFFIXES = {  # Columns that a strategy reads; those of `_SERIES` with the suffixes of its setting
    "basic": [""],
    "derivatives": ["", "_derivative1"],
    "power2": ["", "_power2"],
    "full": ["", "_derivative1", "_power2", "_derivative1_power2"],
}


@dataclass(frozen=True)
class Confounds:
    """Confounds of a run without its dummy volumes."""

    regressors: "pd.DataFrame | None" = None  # [T, C], None = nothing is to be regressed
    sample_mask: np.ndarray | None = None  # kept volumes, None = all
    mean_fd: float | None = None  # mean framewise displacement over all volumes, mm; None = mostly unknown
    warnings: tuple[str, ...] = ()  # of nilearn


def confounds_mistakes(dataset: DatasetConfig) -> list[str]:
    """Return the settings that no run can meet, each beginning with its key."""
    denoise, mistakes = dataset.denoise, []
    if unknown := [s for s in denoise.strategy if s not in STRATEGIES]:
        offered, hint = ", ".join(STRATEGIES), did_you_mean(unknown[0], STRATEGIES)
        mistakes.append(f"denoise.strategy '{unknown[0]}' is not offered; choose from {offered}{hint}")
    if "compcor" in denoise.strategy and "high_pass" not in denoise.strategy:
        why = "the components were found in high-pass filtered data"
        mistakes.append(f"denoise.strategy compcor needs high_pass beside it: {why}")
    if dataset.kind != "fmriprep" and (denoise.strategy or denoise.dummy_volumes == "auto"):
        key = "strategy" if denoise.strategy else "dummy_volumes: auto"
        has = "is denoised already" if dataset.kind == "xcpd" else "has none"
        needs = f"needs the confounds of kind fmriprep, kind {dataset.kind} {has}"
        mistakes.append(f"denoise.{key} {needs}; leave it out")
    return mistakes


def dropped_volumes(confounds: Path | None, denoise: DenoiseConfig, cut: Cut | None = None) -> int:
    """Return how many volumes at the start of a run are dropped."""
    if denoise.dummy_volumes != "auto":
        return denoise.dummy_volumes
    if confounds is None:
        what = "no desc-confounds_timeseries.tsv beside the run, but denoise.dummy_volumes: auto reads it"
        raise Rejected("no_confounds", f"{what}; add it or give a number")
    flags = _load_rows(confounds, cut).numbers(lambda name: name.startswith("non_steady_state")).to_numpy()
    return int((flags != 0).any(axis=1).cumprod().sum())


def _load_rows(confounds: Path, cut: Cut | None) -> Table:
    """Read the lines of a run; of a file of several runs, its own."""
    table = load_table(confounds)
    return table if cut is None else table.cut(cut.rows(table.n_rows, confounds.name))


def read_confounds(
    confounds: Path | None,
    denoise: DenoiseConfig,
    n_volumes: int,
    cut: Cut | None = None,
    dropped: int | None = None,
) -> Confounds:
    """Read regressors, censoring and motion of an fMRIPrep run; n_volumes counts the dummies (`dropped`)."""
    if confounds is None:
        if denoise.strategy:
            what = "no desc-confounds_timeseries.tsv beside the run"
            raise Rejected("no_confounds", f"{what}; add it or empty denoise.strategy")
        return Confounds()
    dropped = dropped_volumes(confounds, denoise, cut) if dropped is None else dropped
    table = _load_rows(confounds, cut)
    check_rows(confounds, table.n_rows, n_volumes)
    table = table if "compcor" in denoise.strategy else table.without(_UNREAD)
    measures = _SCRUB if "scrub" in denoise.strategy else _SCRUB[:1]
    motion = table.numbers(lambda name: name in measures)
    mean_fd = _mean_fd(motion, dropped)
    if not denoise.strategy:
        return Confounds(mean_fd=mean_fd)
    sidecar = confounds.with_suffix(".json")
    _check_columns(table, sidecar, denoise)
    regressors, sample_mask, warned = _load_confounds(table, sidecar, denoise)
    if regressors is not None and not regressors.shape[1]:
        regressors = None
    if regressors is not None:
        _check_regressors(table.file, regressors, dropped)
        regressors = regressors.iloc[dropped:].reset_index(drop=True)
    kept = np.arange(n_volumes) if sample_mask is None else np.asarray(sample_mask)
    for name in _SCRUB if "scrub" in denoise.strategy else ():  # the first volume's are never known
        if unknown := int(motion[name].iloc[kept[kept > dropped]].isna().sum()):
            what = f"strategy scrub needs {name}, which is n/a in {unknown} of {len(motion)} volumes"
            raise Rejected("confounds", f"{table.file}: {what}; correct the file or drop the strategy")
    if sample_mask is not None:
        sample_mask = kept[kept >= dropped] - dropped
    return Confounds(regressors, sample_mask, mean_fd, warned)


def read_mean_fd(motion: Path, n_volumes: int, dropped: int) -> float | None:
    """Return the mean framewise displacement, mm, by XCP-D's table of motion; None where most is unknown."""
    table = load_table(motion)
    check_rows(motion, table.n_rows, n_volumes)
    return _mean_fd(table.numbers(lambda name: name == _FD), dropped)


def check_rows(file: Path, n_rows: int, n_volumes: int) -> None:
    """Reject a table that has not one row per volume."""
    if n_rows != n_volumes:
        what = f"{file.name} has {n_rows} rows, the image {n_volumes} volumes"
        raise Rejected("confounds_length", f"{what}; both must come from one preprocessing")


def _mean_fd(motion: "pd.DataFrame", dropped: int) -> float | None:
    """Return the mean framewise displacement, mm; None where most of it is unknown."""
    if _FD not in motion:
        return None
    displacement = motion[_FD].iloc[dropped:]
    return float(displacement.mean()) if 2 * displacement.count() >= len(displacement) > 0 else None


class Censoring:
    """The volumes that XCP-D censored, by its table of outliers with one line per volume of the scan.

    The series (`n_rows` volumes) lacks them since XCP-D 0.4, but for the modes abcd and hbcd.
    """

    def __init__(self, outliers: Path, n_rows: int) -> None:
        table = load_table(outliers).numbers(lambda name: name == _FD)
        if _FD not in table.columns or bool(table[_FD].isna().any()):
            raise Rejected("confounds", f"{outliers.name}: no column {_FD} of 0 and 1; add the file anew")
        is_outlier = table[_FD].to_numpy() != 0
        self.n_volumes, self.kept = len(is_outlier), np.flatnonzero(~is_outlier)
        if n_rows not in (self.n_volumes, len(self.kept)):
            what = f"{outliers.name} has {self.n_volumes} rows, {len(self.kept)} of them kept"
            remedy = "all must come from one run of XCP-D"
            raise Rejected("confounds_length", f"{what}, the series {n_rows} volumes; {remedy}")
        self._is_whole = n_rows == self.n_volumes

    def lay_out(self, values: np.ndarray) -> np.ndarray:
        """Return a series [T, V] of all volumes; a copy of the one before stands in for a censored one."""
        if self._is_whole:
            return values
        last = np.searchsorted(self.kept, np.arange(self.n_volumes), side="right") - 1
        return values[np.maximum(last, 0)]

    def sample_mask(self, dropped: int) -> np.ndarray | None:
        """Return the kept volumes after those dropped at the start; None = all."""
        if len(self.kept) == self.n_volumes:
            return None
        return self.kept[self.kept >= dropped] - dropped


def _load_confounds(
    table: Table, sidecar: Path, denoise: DenoiseConfig
) -> tuple["pd.DataFrame | None", np.ndarray | None, tuple[str, ...]]:
    """Call nilearn's load_confounds on a copy in a folder of its own: it finds no file of another run."""
    from nilearn.interfaces.fmriprep import load_confounds

    # nilearn ignores the arguments of strategies that are not used.
    settings = ("motion", "wm_csf", "global_signal", "compcor", "n_compcor", "scrub", "fd_threshold")
    arguments: dict[str, Any] = {name: getattr(denoise, name) for name in (*settings, "std_dvars_threshold")}
    arguments |= {"strategy": tuple(denoise.strategy), "ica_aroma": "basic"}
    arguments["demean"] = False  # the mean over no kept volume is NaN; denoising removes the mean anyway
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for about_code in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", about_code)
        warnings.filterwarnings("ignore", NO_EFFECT)
        stem = Path(folder, "sub-x_desc-confounds_timeseries")
        stem.with_suffix(".tsv").write_bytes(table.renamed({MISNAMED: MISNAMED.lower()}).content)
        if sidecar.is_file():
            stem.with_suffix(".json").symlink_to(sidecar.absolute())
        try:
            loaded: Any = load_confounds(f"{folder}/sub-x_desc-preproc_bold.nii.gz", **arguments)
        except Exception as error:
            table.numbers(lambda name: True)  # names a column that holds words, which nilearn does not
            what = _without_folder(error, folder)[:300] or type(error).__name__
            what = f"{table.file}: {what}; drop the strategy or correct the file"
            raise Rejected("confounds", what) from error
    return *loaded, tuple(dict.fromkeys(_without_folder(warning.message, folder) for warning in caught))


def _without_folder(message: object, folder: str) -> str:
    """Return a message in one line that does not depend on where the temporary folder is."""
    return " ".join(str(message).replace(folder, "").split())


def _check_columns(table: Table, sidecar: Path, denoise: DenoiseConfig) -> None:
    """Reject strategies whose columns or .json are missing; nilearn names them at random, or not at all."""
    needs: dict[str, list[str]] = {
        strategy: [name + suffix for name in names for suffix in _SUFFIXES[getattr(denoise, strategy)]]
        for strategy, names in _SERIES.items()
    }
    needs["scrub"] = list(_SCRUB)
    for strategy in denoise.strategy:
        wanted = needs.get(strategy, [])
        table.refuse_conflicts(wanted.__contains__)
        if missing := [column for column in wanted if column not in table.names]:
            what = f"strategy {strategy} needs {len(missing)} columns that are not there ({missing[0]}, ...)"
            remedy = f"choose a smaller set (denoise.{strategy}: basic) or drop the strategy"
            raise Rejected("confounds", f"{table.file}: {what}; {remedy}")
        prefix = _PREFIXES.get(strategy, "non_steady_state")  # nilearn reads those whatever the strategy
        table.refuse_conflicts(lambda name, prefix=prefix: name.startswith(prefix))
        if strategy in _PREFIXES and not any(column.startswith(prefix) for column in table.names):
            remedy = "drop it" + (" and set denoise.high_pass: 0.008" if strategy == "high_pass" else "")
            what = f"strategy {strategy} finds no column {prefix}*, would do nothing"
            raise Rejected("confounds", f"{table.file}: {what}; {remedy}")
    if "compcor" in denoise.strategy:
        _check_compcor(table, sidecar, denoise)


def _check_compcor(table: Table, sidecar: Path, denoise: DenoiseConfig) -> None:
    """Reject fewer components of a mask than asked for: nilearn takes those that are there."""
    if not sidecar.is_file():
        what = "strategy compcor reads the .json beside it, which is not there"
        raise Rejected("confounds", f"{table.file}: {what}; add it or drop the strategy")
    table.refuse_conflicts(lambda name: "_comp_cor_" in name)
    about = read_json(sidecar)
    components = [name for name in table.names if "_comp_cor_" in name and isinstance(about.get(name), dict)]
    # Of anat_separated, n_compcor are taken of each mask.
    for mask in {"anat_combined": ["combined"], "anat_separated": ["WM", "CSF"]}.get(denoise.compcor, [None]):
        if mask is None:
            count = sum(name.startswith("t_comp_cor_") for name in components)
        else:
            count = sum(not name.startswith("t_") and about[name].get("Mask") == mask for name in components)
        if count < denoise.n_compcor:
            of = denoise.compcor + (f" ({mask})" if denoise.compcor == "anat_separated" else "")
            what = f"strategy compcor finds {count} components of {of}, denoise.n_compcor asks for"
            remedy = f"set denoise.n_compcor: {count} or " if count else ""
            remedy += "choose another denoise.compcor, or drop the strategy"
            raise Rejected("confounds", f"{table.file}: {what} {denoise.n_compcor}; {remedy}")


def _check_regressors(file: str, regressors: "pd.DataFrame", dropped: int) -> None:
    """Reject regressors that hold no number in some volumes, or the same one in all."""
    values = regressors.to_numpy(np.float64)[dropped:]
    for name, column in zip(regressors, values.T, strict=True):
        if not np.isfinite(column).all():
            what = "n/a in more than the first volume" if np.isnan(column).any() else "infinite"
            raise Rejected("confounds", f"{file}: {name} is {what}; drop the strategy or correct the file")
    constant = [name for name, span in zip(regressors, np.ptp(values, axis=0), strict=True) if span == 0]
    if constant:
        more = f"{constant[0]} and {len(constant) - 1} more columns are"
        names = more if constant[1:] else f"{constant[0]} is"
        what = f"{names} the same in every volume, regressing it would do nothing"
        raise Rejected("confounds", f"{file}: {what}; correct the file or drop the strategy")
