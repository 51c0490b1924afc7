"""One run: from its files to the members of a shard, or to a reason for quarantine."""

import dataclasses
import time
from typing import Any

import numpy as np

from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import DatasetConfig, DenoiseConfig
from fmriscale.corpus.assemble import encode_run
from fmriscale.corpus.writer import EncodedRun
from fmriscale.ingest.clean.confounds import Confounds, dropped_volumes
from fmriscale.ingest.clean.denoise import Denoiser, store_half, store_large
from fmriscale.ingest.clean.level import censor_off_level
from fmriscale.ingest.clean.quality import (
    blocks,
    check_censored,
    check_features,
    check_length,
    check_stats,
    drop_empty,
    signal_stats,
)
from fmriscale.ingest.clean.resample import Resampler
from fmriscale.ingest.find.fetch import NoRoom, fetched
from fmriscale.ingest.find.sources import RunSource
from fmriscale.ingest.read.arrays import is_large
from fmriscale.ingest.read.cuts import within
from fmriscale.ingest.read.events import read_events, read_evs
from fmriscale.ingest.read.hashes import source_hash
from fmriscale.ingest.signals import read_signals


def timed_run(run: RunSource, dataset: DatasetConfig) -> tuple[EncodedRun | Rejection, float]:
    """Process a run; return the result and the time it took, s."""
    start = time.perf_counter()
    result = process_run(run, dataset)
    if isinstance(result, Rejection) and not run.path.exists() and not run.path.is_symlink():
        detail = "the file was there when the data set was listed, and is gone; put it back"
        result = Rejection(run.dataset, run.source, "vanished", detail)
    return result, time.perf_counter() - start


def process_run(run: RunSource, dataset: DatasetConfig) -> EncodedRun | Rejection:
    """Read, reduce, clean, standardise and encode one run; whatever goes wrong becomes a rejection."""
    try:
        with fetched(run) as here:
            return _process(here, dataset)
    except Rejected as why:
        return Rejection(dataset.name, run.source, why.reason, why.detail)
    except NoRoom:
        raise
    except Exception as error:  # a run that fails in a way nobody thought of must not end the job
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        return Rejection(dataset.name, run.source, "failed", f"{detail}; please report this with the file")


def _process(run: RunSource, dataset: DatasetConfig) -> EncodedRun:
    signals = read_signals(run, dataset)
    denoise, quality, confounds = dataset.denoise, dataset.quality, signals.confounds
    values, covered, course = drop_empty(signals.values, signals.covered)
    kept = np.arange(len(values)) if confounds.sample_mask is None else confounds.sample_mask
    raw = values if len(kept) == len(values) else values[kept]
    kept, far = censor_off_level(raw, kept, quality, course[kept])
    if far:
        raw, confounds = values[kept], dataclasses.replace(confounds, sample_mask=kept)
    check_censored(len(kept), len(values), quality)
    figures = signal_stats(raw, covered, quality.min_coverage, course[kept])
    missing = check_features(covered, figures.varies, quality)
    check_stats(figures, len(kept), quality, signals.is_image)
    grid = Resampler.of(kept, len(values), signals.t_r, denoise.resample_t_r)
    check_length(len(grid.kept), quality, "uncensored volumes")
    bold, std = np.zeros((grid.n_volumes, len(missing)), np.float16), np.zeros(len(missing))
    large = is_large(values)
    clean, store = Denoiser(confounds, denoise, signals.t_r, large), store_large if large else store_half
    for columns in blocks(*values.shape):
        cleaned = grid.resample(clean(values[:, columns]))
        std[columns] = store(cleaned, figures.std[columns], missing[columns], bold, grid.kept, columns)
    if not std.any():
        raise Rejected(
            "filter", "cleaning leaves nothing of any feature; choose fewer regressors or a wider band"
        )
    dropped = dropped_volumes(run.confounds, denoise, run.cut)
    shift = dropped * signals.t_r + (signals.start_time or 0.0)
    end = (dropped + len(values)) * signals.t_r
    events = _events(run, signals.t_r, shift, end)
    encoded = encode_run(
        bold,
        figures.mean,
        std,
        key=run.key,
        dataset=dataset.name,
        entities=run.entities,
        t_r=grid.t_r,
        space=dataset.features.name,
        sample_mask=None if len(grid.kept) == grid.n_volumes else grid.kept.tolist(),
        events=events,
        source=run.source,
        source_sha256=source_hash(run.path, *filter(None, [run.right])),
        quality={
            "coverage": _short(covered.mean()),
            "mean_fd": _short(confounds.mean_fd),
            "tsnr": _short(figures.tsnr) if signals.is_image else None,
            "spike": _short(figures.spike),
            "n_repeated": figures.n_repeated,
            "motion_measure": signals.motion_measure,
            "missing_features": np.flatnonzero(missing).tolist(),
            **({"off_level": far} if far else {}),
        },
        denoise=_applied(denoise, confounds, dropped, signals.t_r),
        further={
            "participant": run.participant,
            "participant_id": run.participant_id or None,
            "affine_from": signals.affine_from,
            "start_time": signals.start_time or None,
            "start_time_unknown": signals.start_time is None or None,
            "n_events_after_end": sum(event["onset"] + shift >= end for event in events) or None,
        },
    )
    return dataclasses.replace(
        encoded, row=encoded.row | {"array": (run.array or "") + (str(run.cut) if run.cut else "")}
    )


# ---------------------------------------------------------------- details of the record


def _events(run: RunSource, t_r: float, shift: float, end: float) -> list[dict[str, Any]]:
    """Return the events of a run, onsets relative to its first kept volume; of a cut file only its own."""
    if run.cut is None:
        return read_events(run.events, shift, end) if run.events else read_evs(run.evs, shift, end)
    is_shared = run.shares_events or bool(run.evs)
    end = run.cut.of * t_r if is_shared else end
    events = read_events(run.events, end=end) if run.events else read_evs(run.evs, end=end)
    return within(events, run.cut, t_r, shift, is_shared)


def _short(value: Any) -> float | None:
    """Round a figure to six digits; None where it is unknown."""
    return None if value is None or not np.isfinite(value) else float(f"{float(value):.6g}")


def _applied(denoise: DenoiseConfig, confounds: Confounds, dropped: int, t_r: float) -> dict[str, Any]:
    """Return what was done to the signals, regressors by name; t_r (s) is that of the scan."""
    regressors = [] if confounds.regressors is None else [str(c) for c in confounds.regressors.columns]
    warned = {"warnings": list(confounds.warnings)} if confounds.warnings else {}
    return warned | {
        "strategy": list(denoise.strategy),
        "regressors": regressors,
        "detrend": denoise.detrend,
        "high_pass": denoise.high_pass,
        "low_pass": denoise.low_pass,
        "dummy_volumes": dropped,
        "resampled_from_t_r": None if denoise.resample_t_r is None else t_r,
        "standardize": "zscore_sample",
    }
