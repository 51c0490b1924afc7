"""One run: from its files to the members of a shard, or to a reason for quarantine."""

import dataclasses
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fmriscale.config import DatasetConfig
from fmriscale.corpus.manifest import segments_of
from fmriscale.corpus.writer import EncodedRun, encode_run
from fmriscale.files import sha256_file
from fmriscale.ingest.arrays import read_array
from fmriscale.ingest.denoise import Confounds, clean_signals, read_confounds, standardise
from fmriscale.ingest.events import read_events
from fmriscale.ingest.features import load_features, read_brain_mask, reduce_image
from fmriscale.ingest.quality import (
    Rejected,
    Rejection,
    check_features,
    check_length,
    check_motion,
    temporal_snr,
    varying,
)
from fmriscale.ingest.sources import RunSource
from fmriscale.ingest.volumes import open_image

MAX_T_R = 30.0
"""A repetition time above this, s, is milliseconds taken for seconds."""


@dataclasses.dataclass(frozen=True)
class _Signals:
    """A run as read, dummy volumes dropped."""

    values: np.ndarray
    """[T, V] float64."""
    covered: np.ndarray
    """[V] share of each feature's voxels that hold data."""
    t_r: float
    confounds: Confounds
    is_image: bool


def process_run(run: RunSource, dataset: DatasetConfig) -> EncodedRun | Rejection:
    """Read, reduce, clean, standardise and encode one run; whatever goes wrong becomes a rejection."""
    try:
        return _process(run, dataset)
    except Rejected as why:
        return Rejection(dataset.name, run.source, why.reason, why.detail)
    except Exception as error:  # a run that fails in a way nobody thought of must not end the job
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        return Rejection(dataset.name, run.source, "failed", f"{detail}; please report this with the file")


def _process(run: RunSource, dataset: DatasetConfig) -> EncodedRun:
    signals = _read_array(run, dataset) if dataset.kind == "arrays" else _read_image(run, dataset)
    denoise, quality, confounds = dataset.denoise, dataset.quality, signals.confounds
    n_volumes, n_features = signals.values.shape
    kept = np.arange(n_volumes) if confounds.sample_mask is None else confounds.sample_mask
    if not np.isfinite(signals.values).all():
        bad = int((~np.isfinite(signals.values)).any(axis=1).sum())
        raise Rejected(
            "not_finite", f"{bad} of {n_volumes} volumes hold NaN or infinite values; mend or drop the run"
        )
    raw = signals.values[kept]
    missing = check_features(signals.covered, varying(raw), quality)
    cleaned = clean_signals(signals.values, confounds, denoise, signals.t_r)
    z, mean, std = standardise(raw, cleaned, missing)
    bold = np.zeros((n_volumes, n_features), np.float16)
    bold[kept] = z
    present = np.setdiff1d(np.arange(n_features), missing)
    figures = {
        "coverage": _short(signals.covered.mean()),
        "mean_fd": _short(confounds.mean_fd),
        "tsnr": _short(temporal_snr(raw[:, present])) if signals.is_image else None,
        "n_censored": n_volumes - len(kept),
    }
    sample_mask = None if len(kept) == n_volumes else kept.tolist()
    shift = denoise.dummy_volumes * signals.t_r
    entities = run.entities
    named = {
        "dataset": dataset.name,
        "subject": entities["sub"],
        "session": entities.get("ses", ""),
        "task": entities.get("task", ""),
        "run": entities.get("run", ""),
    }
    record = {
        **named,
        "entities": entities,
        "t_r": signals.t_r,
        "n_volumes": n_volumes,
        "space": dataset.features.name,
        "sample_mask": sample_mask,
        "events": [] if run.events is None else read_events(run.events, shift),
        "source": run.source,
        "source_sha256": _sha256(run.path),
        "quality": {**figures, "missing_features": missing.tolist()},
        "denoise": _applied(dataset, confounds),
    }
    row = {
        "key": run.key,
        **named,
        "t_r": signals.t_r,
        "space": dataset.features.name,
        "segments": segments_of(sample_mask, n_volumes),
        **figures,
        "source": run.source,
    }
    return encode_run(row, record, bold, mean, std)


def _read_image(run: RunSource, dataset: DatasetConfig) -> _Signals:
    """Read an image; what can be told from headers and tables is told before the voxels are read."""
    dropped = dataset.denoise.dummy_volumes
    image = open_image(run.path)
    t_r = decide_t_r(dataset.t_r, sidecar_t_r(run.sidecars), image.t_r)
    check_length(image.n_volumes - dropped, dataset.quality)
    confounds = Confounds()
    if dataset.kind == "fmriprep":
        confounds = read_confounds(run.confounds, dataset.denoise, image.n_volumes)
    check_motion(confounds.mean_fd, dataset.quality)
    if confounds.sample_mask is not None:
        check_length(len(confounds.sample_mask), dataset.quality, "uncensored volumes")
    features = load_features(dataset.features)
    if features.index is None:
        raise Rejected("n_features", "an image needs features with labels_img or mask_img, not columns")
    _check_space(run, dataset)
    brain = read_brain_mask(run.brain_mask, image) if run.brain_mask else None
    values, covered = reduce_image(image, features, brain, dataset.quality.min_coverage)
    return _Signals(values[dropped:], covered, t_r, confounds, is_image=True)


def _read_array(run: RunSource, dataset: DatasetConfig) -> _Signals:
    """Read an array [T, V]; a column that is zero throughout is a feature without data."""
    t_r = decide_t_r(dataset.t_r, run.t_r, None)
    values = read_array(run.path, run.array)[dataset.denoise.dummy_volumes :]
    check_length(len(values), dataset.quality)
    expected = load_features(dataset.features).space.n_features
    if values.shape[1] != expected:
        raise Rejected(
            "n_features",
            f"{values.shape[1]} columns, features '{dataset.features.name}' have {expected}"
            + ("; is the array transposed?" if values.shape[0] == expected else ""),
        )
    covered = (values != 0).any(axis=0).astype(np.float64)
    return _Signals(values, covered, t_r, Confounds(), is_image=False)


def _check_space(run: RunSource, dataset: DatasetConfig) -> None:
    """Where both file names say their space, they must say the same."""
    atlas = Path(dataset.features.labels_img or dataset.features.mask_img or "").name
    named = dict(p.split("-", 1) for p in atlas.split(".")[0].split("_") if "-" in p)
    theirs, ours = named.get("tpl") or named.get("space"), run.entities.get("space")
    if theirs and ours and theirs != ours:
        raise Rejected(
            "other_space",
            f"the run is in space {ours}, {atlas} in {theirs}; choose entities: {{space: {theirs}}} "
            f"or an atlas in {ours}",
        )


# ---------------------------------------------------------------- repetition time


def sidecar_t_r(sidecars: tuple[Path, ...]) -> float | None:
    """Return RepetitionTime, s, of the most specific JSON file that states it."""
    t_r = None
    for path in sidecars:
        try:
            stated = json.loads(path.read_text()).get("RepetitionTime")
        except (OSError, ValueError, AttributeError) as error:
            raise Rejected("unreadable", f"{path.name}: not readable as JSON ({error}); mend it") from error
        t_r = t_r if stated is None else stated
    if t_r is not None and not isinstance(t_r, int | float):
        raise Rejected("no_t_r", f"RepetitionTime '{t_r}' is not a number; mend the sidecar or set t_r")
    return t_r


def decide_t_r(recipe: float | None, stated: float | None, header: float | None) -> float:
    """Return the repetition time of a run, s.

    Parameters
    ----------
    recipe : float or None
        `t_r` of the data set; settles every doubt.
    stated : float or None
        From the sidecar or the participants table.
    header : float or None
        From the image header.

    Raises
    ------
    Rejected
        Nobody states it, two contradict each other by more than 1 %, or it is implausible.
    """
    t_r = next((float(v) for v in (recipe, stated, header) if v is not None), None)
    if t_r is None:
        raise Rejected("no_t_r", "no sidecar, header or table states the repetition time; set t_r")
    if recipe is None and stated and header and abs(stated - header) > 0.01 * max(abs(stated), header):
        raise Rejected(
            "t_r_conflict", f"the sidecar says {stated:g} s, the image header {header:g} s; set t_r"
        )
    if not 0 < t_r <= MAX_T_R:
        raise Rejected("no_t_r", f"a repetition time of {t_r:g} s is implausible; set t_r in seconds")
    return round(t_r, 6)


# ---------------------------------------------------------------- details of the record


@lru_cache(maxsize=4)
def _sha256(path: Path) -> str:
    """Hash a source file; an archive of many runs is hashed once."""
    return sha256_file(path)


def _short(value: Any) -> float | None:
    """Round a figure to six digits; None where it is unknown."""
    return None if value is None or not np.isfinite(value) else float(f"{float(value):.6g}")


def _applied(dataset: DatasetConfig, confounds: Confounds) -> dict[str, Any]:
    """Return what was done to the signals, regressors by name."""
    regressors = [] if confounds.regressors is None else [str(c) for c in confounds.regressors.columns]
    denoise = dataset.denoise
    return {
        "strategy": list(denoise.strategy),
        "regressors": regressors,
        "detrend": denoise.detrend,
        "high_pass": denoise.high_pass,
        "low_pass": denoise.low_pass,
        "dummy_volumes": denoise.dummy_volumes,
        "standardize": "zscore_sample",
    }
