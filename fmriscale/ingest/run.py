"""One run: from its files to the members of a shard, or to a reason for quarantine."""

import dataclasses
import time
from typing import Any

import numpy as np

from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import DatasetConfig, DenoiseConfig, QualityConfig
from fmriscale.corpus.assemble import RunRecord
from fmriscale.corpus.writer import EncodedRun
from fmriscale.ingest.clean.denoise import Denoiser, standardize_into
from fmriscale.ingest.clean.quality import (
    SignalStats,
    blocks,
    censor_off_level,
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
from fmriscale.ingest.signals import Signals, read_signals


def timed_run(run: RunSource, dataset: DatasetConfig) -> tuple[EncodedRun | Rejection, float]:
    """Process a run; return the result and the time it took, s."""
    start = time.perf_counter()
    result = process_run(run, dataset)
    if isinstance(result, Rejection) and not run.path.exists() and not run.path.is_symlink():
        detail = "the file was there when the data set was listed, and is gone; put it back"
        result = Rejection(run.dataset, run.source, "vanished", detail)
    return result, time.perf_counter() - start


def process_run(run: RunSource, dataset: DatasetConfig) -> EncodedRun | Rejection:
    """Read, check, clean and encode one run; whatever goes wrong becomes a rejection."""
    try:
        with fetched(run) as local:
            checked = _check(read_signals(local, dataset), dataset.quality)
            return _encode(local, dataset, checked, _clean(checked, dataset))
    except Rejected as why:
        return Rejection(dataset.name, run.source, why.reason, why.detail)
    except NoRoom:
        raise
    except Exception as error:  # a run that fails in a way nobody thought of must not end the job
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        return Rejection(dataset.name, run.source, "failed", f"{detail}; please report this with the file")


@dataclasses.dataclass(frozen=True)
class _Checked:
    """Signals of a run that passed all checks, before they are cleaned."""

    signals: Signals
    kept: np.ndarray  # volumes that are not censored
    far: list[int]  # volumes that were censored because they are far from the level of the run
    stats: SignalStats
    missing: np.ndarray  # [V] of bool


@dataclasses.dataclass(frozen=True)
class _Cleaned:
    """Cleaned signals of a run."""

    bold: np.ndarray  # [T, V] float16, z-scored over the kept volumes; 0 in others and in missing features
    std: np.ndarray  # [V] before z-scoring; 0 in missing features
    resampler: Resampler


def _check(signals: Signals, quality: QualityConfig) -> _Checked:
    """Check signals as read, and censor volumes that are far from the level of the run."""
    values, covered, global_signal = drop_empty(signals.values, signals.covered)
    confounds, kept = signals.confounds, np.arange(len(values))
    if confounds.sample_mask is not None:
        kept = confounds.sample_mask
    uncensored = values if len(kept) == len(values) else values[kept]
    kept, far = censor_off_level(uncensored, kept, quality, global_signal[kept])
    if far:
        uncensored, confounds = values[kept], dataclasses.replace(confounds, sample_mask=kept)
    check_censored(len(kept), len(values), quality)
    stats = signal_stats(uncensored, covered, quality.min_coverage, global_signal[kept])
    missing = check_features(covered, stats.varies, quality)
    check_stats(stats, len(kept), quality, signals.is_image)
    signals = dataclasses.replace(signals, values=values, covered=covered, confounds=confounds)
    return _Checked(signals, kept, far, stats, missing)


def _clean(run: _Checked, dataset: DatasetConfig) -> _Cleaned:
    """Clean, resample and z-score signals, a block of features at a time."""
    signals, values, denoise = run.signals, run.signals.values, dataset.denoise
    resampler = Resampler.of(run.kept, len(values), signals.t_r, denoise.resample_t_r)
    check_length(len(resampler.kept), dataset.quality, "uncensored volumes")
    bold, std = np.zeros((resampler.n_volumes, len(run.missing)), np.float16), np.zeros(len(run.missing))
    large = is_large(values)
    denoiser = Denoiser(signals.confounds, denoise, signals.t_r, large)
    for columns in blocks(*values.shape):
        cleaned = resampler.resample(denoiser(values[:, columns]))
        raw_std, missing = run.stats.std[columns], run.missing[columns]
        std[columns] = standardize_into(bold, resampler.kept, columns, cleaned, raw_std, missing, large)
    if not std.any():
        detail = "cleaning leaves nothing of any feature; choose fewer regressors or a wider band"
        raise Rejected("filter", detail)
    return _Cleaned(bold, std, resampler)


def _encode(run: RunSource, dataset: DatasetConfig, checked: _Checked, cleaned: _Cleaned) -> EncodedRun:
    """Turn a run into members of its shard and its line of runs.tsv."""
    signals, stats, resampler = checked.signals, checked.stats, cleaned.resampler
    shift = signals.dropped * signals.t_r + (signals.start_time or 0.0)
    end = (signals.dropped + len(signals.values)) * signals.t_r
    events = _events(run, signals.t_r, shift, end)
    encoded = RunRecord(
        cleaned.bold,
        stats.mean,
        cleaned.std,
        key=run.key,
        dataset=dataset.name,
        entities=run.entities,
        t_r=resampler.t_r,
        space=dataset.features.name,
        sample_mask=None if len(resampler.kept) == resampler.n_volumes else resampler.kept.tolist(),
        events=events,
        source=run.source,
        source_sha256=source_hash(run.path, *filter(None, [run.right])),
        quality={
            "coverage": _short(signals.covered.mean()),
            "mean_fd": _short(signals.confounds.mean_fd),
            "tsnr": _short(stats.tsnr) if signals.is_image else None,
            "spike": _short(stats.spike),
            "n_repeated": stats.n_repeated,
            "motion_measure": signals.motion_measure,
            "missing_features": np.flatnonzero(checked.missing).tolist(),
            **({"off_level": checked.far} if checked.far else {}),
        },
        denoise=_denoise_record(dataset.denoise, signals),
        further={
            "participant": run.participant,
            "participant_id": run.participant_id or None,
            "affine_from": signals.affine_from,
            "start_time": signals.start_time or None,
            "start_time_unknown": signals.start_time is None or None,
            "n_events_after_end": sum(event["onset"] + shift >= end for event in events) or None,
        },
    ).encode()
    array = (run.array or "") + (str(run.cut) if run.cut else "")
    first = {"first_volume": shift} if dataset.stimulus is not None else {}
    return dataclasses.replace(encoded, row=encoded.row | {"array": array} | first)


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


def _denoise_record(denoise: DenoiseConfig, signals: Signals) -> dict[str, Any]:
    """Return what was done to the signals, regressors by name."""
    confounds = signals.confounds
    regressors = [] if confounds.regressors is None else [str(c) for c in confounds.regressors.columns]
    return {
        **({"warnings": list(confounds.warnings)} if confounds.warnings else {}),
        "strategy": list(denoise.strategy),
        "regressors": regressors,
        "detrend": denoise.detrend,
        "high_pass": denoise.high_pass,
        "low_pass": denoise.low_pass,
        "dummy_volumes": signals.dropped,
        "resampled_from_t_r": None if denoise.resample_t_r is None else signals.t_r,
        "standardize": "zscore_sample",
    }
