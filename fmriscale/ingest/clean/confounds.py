"""What the confounds file of a run says: regressors by nilearn's strategies, censoring, motion."""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmriscale.common.quarantine import Rejected
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
"""How the warning begins that tells of the recipe (strategy non_steady_state), not of the run."""

_SCRUB = ("framewise_displacement", "std_dvars")
_STARTS = {"high_pass": "cosine", "ica_aroma": "aroma_"}
_SERIES = {
    "motion": [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"],
    "wm_csf": ["csf", "white_matter"],
    "global_signal": ["global_signal"],
}
_FORMS = {
    "basic": [""],
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
        Mean framewise displacement over all volumes, mm; None where it is n/a in most of them.
    warnings : tuple of str
        What nilearn warned of.
    """

    regressors: "pd.DataFrame | None" = None
    sample_mask: np.ndarray | None = None
    mean_fd: float | None = None
    warnings: tuple[str, ...] = ()


def confounds_mistakes(dataset: DatasetConfig) -> list[str]:
    """Return what of the cleaning cannot be carried out for any run, each beginning with its key."""
    denoise, found = dataset.denoise, []
    if unknown := [s for s in denoise.strategy if s not in STRATEGIES]:
        found.append(f"denoise.strategy '{unknown[0]}' is not offered; choose from {', '.join(STRATEGIES)}")
    if "compcor" in denoise.strategy and "high_pass" not in denoise.strategy:
        found.append(
            "denoise.strategy compcor needs high_pass beside it: the components were found in high-pass "
            "filtered data"
        )
    needs = "strategy" if denoise.strategy else "dummy_volumes: auto"
    if dataset.kind != "fmriprep" and (denoise.strategy or denoise.dummy_volumes == "auto"):
        has = "is denoised already" if dataset.kind == "xcpd" else "has none"
        found.append(
            f"denoise.{needs} needs the confounds of kind fmriprep, kind {dataset.kind} {has}; leave it out"
        )
    return found


def dropped_volumes(confounds: Path | None, denoise: DenoiseConfig, cut: Cut | None = None) -> int:
    """Return how many volumes at the start of a run are dropped."""
    if denoise.dummy_volumes != "auto":
        return denoise.dummy_volumes
    if confounds is None:
        raise Rejected(
            "no_confounds",
            "no desc-confounds_timeseries.tsv beside the run, but denoise.dummy_volumes: auto reads it; "
            "add it or give a number",
        )
    flags = _table(confounds, cut).numbers(lambda name: name.startswith("non_steady_state")).to_numpy()
    return int((flags != 0).any(axis=1).cumprod().sum())


def _table(confounds: Path, cut: Cut | None) -> Table:
    """Read the lines of a run: of a file of several, those of its part."""
    table = load_table(confounds)
    return table if cut is None else table.cut(cut.rows(table.n_rows, confounds.name))


def read_confounds(
    confounds: Path | None, denoise: DenoiseConfig, n_volumes: int, cut: Cut | None = None
) -> Confounds:
    """Read regressors, censoring and motion of an fMRIPrep run."""
    if confounds is None:
        if denoise.strategy:
            raise Rejected(
                "no_confounds",
                "no desc-confounds_timeseries.tsv beside the run; add it or empty denoise.strategy",
            )
        return Confounds()
    dropped, table = dropped_volumes(confounds, denoise, cut), _table(confounds, cut)
    if table.n_rows != n_volumes:
        raise Rejected(
            "confounds_length",
            f"{confounds.name} has {table.n_rows} rows, the image {n_volumes} volumes; "
            "both must come from one preprocessing",
        )
    measures = _SCRUB if "scrub" in denoise.strategy else _SCRUB[:1]
    motion = table.numbers(lambda name: name in measures)
    mean_fd = _mean_fd(motion, dropped)
    if not denoise.strategy:
        return Confounds(mean_fd=mean_fd)
    described = confounds.with_suffix(".json")
    _check_columns(table, described, denoise)
    regressors, sample_mask, warned = _load_one(table, confounds, described, denoise)
    if regressors is not None and not regressors.shape[1]:
        regressors = None
    if regressors is not None:
        _check_regressors(table.file, regressors, dropped)
        regressors = regressors.iloc[dropped:].reset_index(drop=True)
    kept = np.arange(n_volumes) if sample_mask is None else np.asarray(sample_mask)
    if "scrub" in denoise.strategy:
        _check_scrub(table.file, motion, kept[kept > dropped])
    if sample_mask is not None:
        sample_mask = kept[kept >= dropped] - dropped
    return Confounds(regressors, sample_mask, mean_fd, warned)


def _mean_fd(motion: "pd.DataFrame", dropped: int) -> float | None:
    """Return the mean framewise displacement, mm; None where most of it is unknown."""
    if "framewise_displacement" not in motion:
        return None
    displacement = motion["framewise_displacement"].iloc[dropped:]
    return float(displacement.mean()) if 2 * displacement.count() >= len(displacement) > 0 else None


# ---------------------------------------------------------------- what a strategy needs


def _check_columns(table: Table, described: Path, denoise: DenoiseConfig) -> None:
    """Refuse strategies whose columns or .json are missing; nilearn names them at random, or not at all."""
    needs: dict[str, list[str]] = {
        strategy: [series + form for series in members for form in _FORMS[getattr(denoise, strategy)]]
        for strategy, members in _SERIES.items()
    }
    needs["scrub"] = list(_SCRUB)
    for strategy in denoise.strategy:
        wanted = needs.get(strategy, [])
        table.check_torn(lambda name, wanted=wanted: name in wanted)
        missing = [column for column in wanted if column not in table.names]
        if missing:
            raise Rejected(
                "confounds",
                f"{table.file}: strategy {strategy} needs {len(missing)} columns that are not there "
                f"({missing[0]}, ...); choose a smaller set (denoise.{strategy}: basic) or drop the strategy",
            )
        start = _STARTS.get(strategy, "non_steady_state")  # nilearn looks for those whatever the strategy
        table.check_torn(lambda name, start=start: name.startswith(start))
        if strategy in _STARTS and not any(column.startswith(start) for column in table.names):
            raise Rejected(
                "confounds",
                f"{table.file}: strategy {strategy} finds no column {start}*, would do nothing; drop it"
                + (" and set denoise.high_pass: 0.008" if strategy == "high_pass" else ""),
            )
    if "compcor" in denoise.strategy:
        _check_compcor(table, described, denoise)


def _check_compcor(table: Table, described: Path, denoise: DenoiseConfig) -> None:
    """Refuse fewer components of a mask than asked for: nilearn takes those that are there."""
    if not described.is_file():
        raise Rejected(
            "confounds",
            f"{table.file}: strategy compcor reads the .json beside it, which is not there; add it or "
            "drop the strategy",
        )
    table.check_torn(lambda name: "_comp_cor_" in name)
    about = read_json(described)
    components = [name for name in table.names if "_comp_cor_" in name and isinstance(about.get(name), dict)]
    # Of anat_separated, n_compcor are taken of each mask.
    for mask in {"anat_combined": ["combined"], "anat_separated": ["WM", "CSF"]}.get(denoise.compcor, [None]):
        if mask is None:
            found = sum(name.startswith("t_comp_cor_") for name in components)
        else:
            found = sum(not name.startswith("t_") and about[name].get("Mask") == mask for name in components)
        if found < denoise.n_compcor:
            of = denoise.compcor + (f" ({mask})" if denoise.compcor == "anat_separated" else "")
            raise Rejected(
                "confounds",
                f"{table.file}: strategy compcor finds {found} components of {of}, denoise.n_compcor asks "
                f"for {denoise.n_compcor}; "
                + (f"set denoise.n_compcor: {found} or " if found else "")
                + "choose another denoise.compcor, or drop the strategy",
            )


def _check_regressors(file: str, regressors: "pd.DataFrame", dropped: int) -> None:
    """Refuse regressors that hold no number in some volumes, or the same one in all."""
    values = regressors.to_numpy(np.float64)[dropped:]
    finite = np.isfinite(values).all(axis=0)
    if not finite.all():
        place = int(np.argmin(finite))
        what = "n/a in more than the first volume" if np.isnan(values[:, place]).any() else "infinite"
        column = regressors.columns[place]
        raise Rejected("confounds", f"{file}: {column} is {what}; drop the strategy or mend the file")
    still = [str(name) for name, span in zip(regressors, np.ptp(values, axis=0), strict=True) if span == 0]
    if still:
        more = f" and {len(still) - 1} more columns are" if len(still) > 1 else " is"
        raise Rejected(
            "confounds",
            f"{file}: {still[0]}{more} the same in every volume, regressing it would do nothing; mend the "
            "file or drop the strategy",
        )


def _check_scrub(file: str, motion: "pd.DataFrame", kept: np.ndarray) -> None:
    """Refuse to censor by measures that are not known; of the first volume they never are."""
    for name in _SCRUB:
        unknown = int(motion[name].iloc[kept].isna().sum())
        if unknown:
            raise Rejected(
                "confounds",
                f"{file}: strategy scrub needs {name}, which is n/a in {unknown} of {len(motion)} volumes; "
                "mend the file or drop the strategy",
            )


# ---------------------------------------------------------------- nilearn


def _load_one(table: Table, confounds: Path, described: Path, denoise: DenoiseConfig) -> Any:
    """Call load_confounds on exactly this file; return regressors, sample mask and what it warned of.

    nilearn looks for the file by the name of the image and gives up where names are much alike (one run
    with and one without an acq entity); a folder that holds this one alone leaves it no choice.
    """
    from nilearn.interfaces.fmriprep import load_confounds

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for about_code in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", about_code)
        warnings.filterwarnings("ignore", NO_EFFECT)
        stem = Path(folder, "sub-x_desc-confounds_timeseries")
        _give(table, confounds, stem.with_suffix(".tsv"))
        if described.is_file():
            stem.with_suffix(".json").symlink_to(described.absolute())
        try:
            image = Path(folder, "sub-x_desc-preproc_bold.nii.gz")
            regressors, sample_mask = load_confounds(str(image), **_load_arguments(denoise))
        except Exception as error:  # what it says must not depend on where the folder is
            table.numbers(lambda name: True)  # names a column that holds words, of which nilearn says little
            said = " ".join(str(error).replace(folder, "").split())[:300] or type(error).__name__
            raise Rejected(
                "confounds", f"{table.file}: {said}; drop the strategy or mend the file"
            ) from error
    said = (" ".join(str(warning.message).replace(folder, "").split()) for warning in caught)
    return regressors, sample_mask, tuple(dict.fromkeys(said))


def _give(table: Table, confounds: Path, place: Path) -> None:
    """Link a confounds file, or write what it holds where nilearn would not read that."""
    table = table.renamed({MISNAMED: MISNAMED.lower()})
    if table.as_is:
        place.symlink_to(confounds.absolute())
    else:
        place.write_bytes(table.content)


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
