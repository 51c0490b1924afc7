"""Clean [T, V]: confounds by nilearn's strategies, then nilearn's signal.clean, censoring kept apart."""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.signal import clean

from fmriscale.config import DatasetConfig, DenoiseConfig
from fmriscale.errors import UserError
from fmriscale.ingest.quality import Rejected

STRATEGIES = ("motion", "high_pass", "wm_csf", "global_signal", "compcor", "scrub", "non_steady_state")
"""Strategies of nilearn's load_confounds that need nothing but the confounds file."""


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
    flags = _read_table(confounds, lambda column: column.startswith("non_steady_state")).to_numpy()
    return int((flags != 0).any(axis=1).cumprod().sum())


def _read_table(confounds: Path, wanted: Callable[[str], bool] | None = None) -> pd.DataFrame:
    """Read a confounds file, or its wanted columns."""
    try:
        return pd.read_csv(confounds, sep="\t", na_values="n/a", usecols=wanted)
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
    table, dropped = _read_table(confounds), dropped_volumes(confounds, denoise)
    if len(table) != n_volumes:
        raise Rejected(
            "confounds_length",
            f"{confounds.name} has {len(table)} rows, the image {n_volumes} volumes; "
            "both must come from one preprocessing",
        )
    mean_fd = None
    if "framewise_displacement" in table:
        mean_fd = float(table["framewise_displacement"].iloc[dropped:].mean())
    if not denoise.strategy:
        return Confounds(mean_fd=mean_fd)
    try:
        loaded: Any = _load_one(confounds, denoise)
    except Exception as error:
        raise Rejected(
            "confounds", f"{confounds.name}: {error}; drop the strategy or mend the file"
        ) from error
    regressors, sample_mask = loaded
    regressors = regressors.iloc[dropped:].reset_index(drop=True)
    if sample_mask is not None:
        sample_mask = np.asarray(sample_mask)[np.asarray(sample_mask) >= dropped] - dropped
    return Confounds(regressors if regressors.shape[1] else None, sample_mask, mean_fd)


def _load_one(confounds: Path, denoise: DenoiseConfig) -> Any:
    """Call load_confounds on exactly this file.

    nilearn looks for the file by the name of the image and gives up where names are much alike (one run
    with and one without an acq entity); a folder that holds this one alone leaves it no choice.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in (confounds, confounds.with_suffix(".json")):
            link = Path(folder, f"sub-x_desc-confounds_timeseries{file.suffix}")
            if file.is_file():
                link.symlink_to(file.absolute())
        image = Path(folder, "sub-x_desc-preproc_bold.nii.gz")
        return load_confounds(str(image), **_load_arguments(denoise))


def _load_arguments(denoise: DenoiseConfig) -> dict[str, Any]:
    """Return the arguments of load_confounds; it takes those of unused strategies in good part."""
    return {
        "strategy": tuple(denoise.strategy),
        "motion": denoise.motion,
        "wm_csf": denoise.wm_csf,
        "global_signal": denoise.global_signal,
        "compcor": denoise.compcor,
        "n_compcor": denoise.n_compcor,
        "scrub": denoise.scrub,
        "fd_threshold": denoise.fd_threshold,
        "std_dvars_threshold": denoise.std_dvars_threshold,
    }


def clean_signals(
    signals: np.ndarray, confounds: Confounds, denoise: DenoiseConfig, t_r: float
) -> np.ndarray:
    """Detrend, filter and regress as nilearn.signal.clean does, without standardising.

    Parameters
    ----------
    signals : ndarray [T, V]
        Dummy volumes dropped.
    confounds : Confounds
        Of the same T.
    denoise : DenoiseConfig
        Settings.
    t_r : float
        Repetition time, s.

    Returns
    -------
    ndarray [K, V]
        The kept volumes only (K = T where none is censored).

    Raises
    ------
    Rejected
        A filter that the sampling rate does not allow.
    """
    for cutoff in (denoise.high_pass, denoise.low_pass):
        if cutoff is not None and cutoff >= 0.5 / t_r:
            raise Rejected(
                "filter",
                f"a cut-off of {cutoff:g} Hz needs a t_r below {0.5 / cutoff:g} s, this run has {t_r:g} s; "
                "change denoise.high_pass or low_pass",
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return clean(
                signals,
                detrend=denoise.detrend,
                standardize=None,
                sample_mask=confounds.sample_mask,
                confounds=confounds.regressors,
                low_pass=denoise.low_pass,
                high_pass=denoise.high_pass,
                t_r=t_r,
            )
    except ValueError as error:
        raise Rejected("filter", f"nilearn cannot clean this run: {error}") from error


def standardise(
    raw: np.ndarray, cleaned: np.ndarray, missing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z-score every feature over its kept volumes.

    Parameters
    ----------
    raw, cleaned : ndarray [K, V]
        Kept volumes before and after cleaning.
    missing : ndarray of int
        Features that become 0.

    Returns
    -------
    z : ndarray [K, V]
        Mean 0, sample standard deviation 1; 0 for missing and constant features.
    mean : ndarray [V]
        Of the raw signal, which cleaning removes: `z * std + mean` is the cleaned signal at its own level.
    std : ndarray [V]
        Sample standard deviation of the cleaned signal, 0 where z is 0.
    """
    mean, std = raw.mean(axis=0), cleaned.std(axis=0, ddof=1)
    # What is left of a feature that the confounds explain wholly is rounding, not signal.
    std[std <= 1e-6 * raw.std(axis=0, ddof=1)] = 0.0
    std[missing] = 0.0
    z = (cleaned - cleaned.mean(axis=0)) / np.where(std > 0, std, 1.0)
    z[:, std == 0] = 0.0
    return z, mean, std
