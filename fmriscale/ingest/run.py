"""One run: from its files to the members of a shard, or to a reason for quarantine."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fmriscale.config import DatasetConfig
from fmriscale.corpus.manifest import segments_of
from fmriscale.corpus.writer import EncodedRun, encode_run
from fmriscale.files import sha256_file
from fmriscale.ingest.denoise import Confounds, clean_signals, dropped_volumes, standardise
from fmriscale.ingest.events import read_events
from fmriscale.ingest.quality import (
    Rejected,
    Rejection,
    check_features,
    temporal_snr,
    varying,
)
from fmriscale.ingest.read import read_signals
from fmriscale.ingest.sources import RunSource


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
    signals = read_signals(run, dataset)
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
    dropped = dropped_volumes(run.confounds, denoise)
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
        "events": [] if run.events is None else read_events(run.events, dropped * signals.t_r),
        "source": run.source,
        "source_sha256": _sha256(run.path),
        "quality": {**figures, "missing_features": missing.tolist()},
        "denoise": _applied(dataset, confounds, dropped),
    }
    row = {
        "key": run.key,
        **named,
        "t_r": signals.t_r,
        "space": dataset.features.name,
        "segments": segments_of(sample_mask, n_volumes),
        **figures,
        "source": run.source,
        "source_sha256": record["source_sha256"],
        "array": run.array or "",
    }
    return encode_run(row, record, bold, mean, std)


# ---------------------------------------------------------------- details of the record


@lru_cache(maxsize=4)
def _sha256(path: Path) -> str:
    """Hash a source file; an archive of many runs is hashed once."""
    return sha256_file(path)


def _short(value: Any) -> float | None:
    """Round a figure to six digits; None where it is unknown."""
    return None if value is None or not np.isfinite(value) else float(f"{float(value):.6g}")


def _applied(dataset: DatasetConfig, confounds: Confounds, dropped: int) -> dict[str, Any]:
    """Return what was done to the signals, regressors by name."""
    regressors = [] if confounds.regressors is None else [str(c) for c in confounds.regressors.columns]
    denoise = dataset.denoise
    return {
        "strategy": list(denoise.strategy),
        "regressors": regressors,
        "detrend": denoise.detrend,
        "high_pass": denoise.high_pass,
        "low_pass": denoise.low_pass,
        "dummy_volumes": dropped,
        "standardize": "zscore_sample",
    }
