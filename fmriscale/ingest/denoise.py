"""What the confounds file of a run says: regressors by nilearn's strategies, censoring, motion."""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nilearn.interfaces.fmriprep import load_confounds

from fmriscale.config import DatasetConfig, DenoiseConfig
from fmriscale.errors import UserError
from fmriscale.ingest.quality import Rejected

STRATEGIES = (
    *("motion", "high_pass", "wm_csf", "global_signal", "compcor", "ica_aroma", "scrub"),
    "non_steady_state",
)
"""Strategies of nilearn's load_confounds that need nothing but the confounds file and its .json."""

MISNAMED = "vx-wisestdDVARS"
"""Column of fMRIPrep 1.2 and 1.3 that no strategy reads, but whose capitals nilearn takes for version 1.1."""

_SERIES = {
    "motion": [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"],
    "wm_csf": ["csf", "white_matter"],
    "global_signal": ["global_signal"],
}
_FORMS = {
    "basic": [
        "",
    ],
    "derivatives": ["", "_derivative1"],
    "power2": ["", "_power2"],
    "full": ["", "_derivative1", "_power2", "_derivative1_power2"],
}


@dataclass(frozen=True)
class Confounds:
    """What the confounds file of a run says, dummy volumes dropped.

    Attributes
    ----------
    regressors : DataFrame or None
        [T, C], None where nothing is to be regressed.
    sample_mask : ndarray of int or None
        Kept volumes, None = all.
    mean_fd : float or None
        Mean framewise displacement over all volumes, mm.
    """

    regressors: pd.DataFrame | None = None
    sample_mask: np.ndarray | None = None
    mean_fd: float | None = None


def check_denoise(dataset: DatasetConfig) -> None:
    """Refuse a recipe that cannot be carried out for any run.

    Raises
    ------
    UserError
        An unknown strategy, or strategies where there are no confounds.
    """
    unknown = [s for s in dataset.denoise.strategy if s not in STRATEGIES]
    if unknown:
        raise UserError(
            f"data set '{dataset.name}': denoise.strategy '{unknown[0]}' is not offered; "
            f"choose from {', '.join(STRATEGIES)}"
        )
    if "compcor" in dataset.denoise.strategy and "high_pass" not in dataset.denoise.strategy:
        raise UserError(
            f"data set '{dataset.name}': denoise.strategy compcor needs high_pass beside it: the components "
            "were found in high-pass filtered data"
        )
    needs = "strategy" if dataset.denoise.strategy else "dummy_volumes: auto"
    if dataset.kind != "fmriprep" and (dataset.denoise.strategy or dataset.denoise.dummy_volumes == "auto"):
        raise UserError(
            f"data set '{dataset.name}': denoise.{needs} needs the confounds of kind fmriprep, "
            f"kind {dataset.kind} has none; leave it out"
        )


def dropped_volumes(confounds: Path | None, denoise: DenoiseConfig) -> int:
    """Return how many volumes at the start of a run are dropped.

    Parameters
    ----------
    confounds : Path or None
        The confounds file; read only where `dummy_volumes` is "auto".
    denoise : DenoiseConfig
        Holds `dummy_volumes`.

    Returns
    -------
    int
        The number given, or the unbroken stretch of `non_steady_state_outlier*` volumes at the start.

    Raises
    ------
    Rejected
        "auto" without a readable confounds file.
    """
    if denoise.dummy_volumes != "auto":
        return denoise.dummy_volumes
    if confounds is None:
        raise Rejected(
            "no_confounds",
            "no desc-confounds_timeseries.tsv beside the run, but denoise.dummy_volumes: auto reads it; "
            "add it or give a number",
        )
    _, table = _read_table(confounds, "non_steady_state")
    flags = table.filter(regex="^non_steady_state").to_numpy()
    return int((flags != 0).any(axis=1).cumprod().sum())


def _read_table(confounds: Path, start: str) -> tuple[list[str], pd.DataFrame]:
    """Return the names of all columns of a file; of its numbers those wanted, and the first column."""
    try:
        with confounds.open(encoding="utf-8") as handle:
            names = handle.readline().rstrip("\r\n").split("\t")
        table = pd.read_csv(
            confounds, sep="\t", na_values="n/a", usecols=lambda c: c == names[0] or c.startswith(start)
        )
        return names, table
    except (OSError, ValueError) as error:
        raise Rejected("unreadable", f"{confounds.name}: {error}; copy it again") from error


def read_confounds(confounds: Path | None, denoise: DenoiseConfig, n_volumes: int) -> Confounds:
    """Read regressors, censoring and motion of an fMRIPrep run.

    Parameters
    ----------
    confounds : Path or None
        The confounds file.
    denoise : DenoiseConfig
        Strategies and their parameters.
    n_volumes : int
        Volumes of the image, dummy volumes included.

    Raises
    ------
    Rejected
        No confounds, too few or too many rows, or a column that a strategy needs is missing.
    """
    if confounds is None:
        if denoise.strategy:
            raise Rejected(
                "no_confounds",
                "no desc-confounds_timeseries.tsv beside the run; add it or empty denoise.strategy",
            )
        return Confounds()
    dropped = dropped_volumes(confounds, denoise)
    names, table = _read_table(confounds, "framewise_displacement")
    if len(table) != n_volumes:
        raise Rejected(
            "confounds_length",
            f"{confounds.name} has {len(table)} rows, the image {n_volumes} volumes; "
            "both must come from one preprocessing",
        )
    mean_fd = None
    if "framewise_displacement" in table:
        displacement = table["framewise_displacement"].iloc[dropped:]
        mean_fd = float(displacement.mean()) if displacement.notna().any() else None
    if not denoise.strategy:
        return Confounds(mean_fd=mean_fd)
    _check_columns(confounds, names, denoise)
    regressors, sample_mask = _load_one(confounds, names, denoise)
    regressors = regressors.iloc[dropped:].reset_index(drop=True)
    if (gaps := regressors.isna().any()).any():
        raise Rejected(
            "confounds",
            f"{confounds.name}: {gaps.idxmax()} is n/a in more than the first volume; drop the strategy or "
            "mend the file",
        )
    if sample_mask is not None:
        sample_mask = np.asarray(sample_mask)[np.asarray(sample_mask) >= dropped] - dropped
    return Confounds(regressors if regressors.shape[1] else None, sample_mask, mean_fd)


def _check_columns(confounds: Path, names: list[str], denoise: DenoiseConfig) -> None:
    """Refuse strategies whose columns or .json are missing; nilearn names them at random, or not at all."""
    needs: dict[str, list[str]] = {
        strategy: [series + form for series in members for form in _FORMS[getattr(denoise, strategy)]]
        for strategy, members in _SERIES.items()
    }
    needs["scrub"] = ["framewise_displacement", "std_dvars"]
    for strategy in denoise.strategy:
        missing = [column for column in needs.get(strategy, []) if column not in names]
        if missing:
            raise Rejected(
                "confounds",
                f"{confounds.name}: strategy {strategy} needs {len(missing)} columns that are not there "
                f"({missing[0]}, ...); choose a smaller set (denoise.{strategy}: basic) or drop the strategy",
            )
    for strategy, start in (("high_pass", "cosine"), ("ica_aroma", "aroma_")):
        if strategy in denoise.strategy and not any(column.startswith(start) for column in names):
            raise Rejected(
                "confounds",
                f"{confounds.name}: strategy {strategy} finds no column {start}*, would do nothing; drop it"
                + (" and set denoise.high_pass: 0.008" if strategy == "high_pass" else ""),
            )
    if "compcor" in denoise.strategy and not confounds.with_suffix(".json").is_file():
        raise Rejected(
            "confounds",
            f"{confounds.name}: strategy compcor reads the .json beside it, which is not there; add it or "
            "drop the strategy",
        )


def _load_one(confounds: Path, names: list[str], denoise: DenoiseConfig) -> Any:
    """Call load_confounds on exactly this file.

    nilearn looks for the file by the name of the image and gives up where names are much alike (one run
    with and one without an acq entity); a folder that holds this one alone leaves it no choice.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stem = Path(folder, "sub-x_desc-confounds_timeseries")
        _give(confounds, names, stem.with_suffix(".tsv"))
        if (described := confounds.with_suffix(".json")).is_file():
            stem.with_suffix(".json").symlink_to(described.absolute())
        try:
            image = Path(folder, "sub-x_desc-preproc_bold.nii.gz")
            return load_confounds(str(image), **_load_arguments(denoise))
        except Exception as error:  # what it says must not depend on where the folder is
            raise Rejected(
                "confounds",
                f"{confounds.name}: {str(error).replace(folder, '')}; drop the strategy or mend the file",
            ) from error


def _give(confounds: Path, names: list[str], place: Path) -> None:
    """Link a confounds file, or copy it where nilearn would take it for one of a version it cannot read."""
    if MISNAMED not in names:
        place.symlink_to(confounds.absolute())
        return
    table = pd.read_csv(confounds, sep="\t", dtype=str, keep_default_na=False)
    table.drop(columns=MISNAMED).to_csv(place, sep="\t", index=False)


def _load_arguments(denoise: DenoiseConfig) -> dict[str, Any]:
    """Return the arguments of load_confounds; it takes those of unused strategies in good part."""
    return {
        "strategy": tuple(denoise.strategy),
        "demean": False,  # the mean over no kept volume is not a number; cleaning takes it out anyway
        "motion": denoise.motion,
        "wm_csf": denoise.wm_csf,
        "global_signal": denoise.global_signal,
        "compcor": denoise.compcor,
        "n_compcor": denoise.n_compcor,
        "ica_aroma": "basic",
        "scrub": denoise.scrub,
        "fd_threshold": denoise.fd_threshold,
        "std_dvars_threshold": denoise.std_dvars_threshold,
    }
