"""Which runs are refused and why; and one run from its files to the members of a shard."""

import dataclasses
import io
import json

import numpy as np
import pytest
from scans import T_R, brain_like, confounds, dataset, write_atlas, write_fmriprep_run

from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import DenoiseConfig, QualityConfig
from fmriscale.corpus.manifest import parse_segments
from fmriscale.ingest.clean.quality import check_stats, drop_empty, signal_stats
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.run import process_run

RNG = np.random.default_rng(0)
LIMITS = QualityConfig(min_volumes=10)


def figures(signals):
    return signal_stats(signals, np.ones(signals.shape[1]), 0.5, signals.mean(axis=1))


def process(root, n_volumes=60, denoise=None, quality=LIMITS, **scan):
    write_fmriprep_run(root, "01", n_volumes=n_volumes, **scan)
    study = dataset(
        root, write_atlas(root / "atlas.nii.gz"), denoise=denoise or DenoiseConfig(), quality=quality
    )
    (run,), *_ = find_runs(study)
    return process_run(run, study)


def spoiled(volumes, value, n_volumes=60):
    voxels = brain_like(n_volumes, 101)
    voxels[..., volumes] = value(voxels)[..., volumes]
    return voxels


def test_figures_are_what_they_say():
    signals = 100 + RNG.normal(size=(400, 50))
    signals[:, 7] = 3.0
    signals[200] = signals[199]
    found = figures(signals)
    assert found.varies.sum() == 49 and not found.varies[7]
    assert found.tsnr == pytest.approx(100, rel=0.1)
    assert found.n_repeated == 1 and found.spike is not None and 2 < found.spike < 6
    np.testing.assert_allclose(found.std, signals.std(axis=0))
    signals[10] += 3.0  # twenty standard deviations of the mean over 50 features
    hit = figures(signals).spike
    assert hit is not None and 15 < hit < 30


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
def test_what_varies_does_not_depend_on_the_unit(scale):
    assert figures(scale * (100 + RNG.normal(size=(50, 3)))).varies.all()
    assert not figures(np.full((50, 3), scale)).varies.any()


def test_columns_without_any_number_are_missing_and_others_with_gaps_are_refused():
    signals, covered = RNG.normal(size=(20, 4)), np.ones(4)
    signals[:, 2] = np.nan
    mended, covered, _ = drop_empty(signals, covered)
    assert (mended[:, 2] == 0).all() and covered.tolist() == [1, 1, 0, 1]
    signals[5, 0] = np.inf
    with pytest.raises(Rejected, match="1 of 20 volumes"):
        drop_empty(signals, covered)


def test_absurd_values_are_refused():
    with pytest.raises(Rejected, match="scale factors"):
        check_stats(figures(1e20 * (1 + RNG.normal(size=(50, 3)))), 50, LIMITS, is_image=False)


FAULTS = {
    "padded with zeros by a third": (slice(40, 60), lambda v: 0 * v, "level"),
    "one empty volume": ([30], lambda v: 0 * v, "level"),
    "one volume ten times as bright": ([5], lambda v: 10 * v, "level"),
    "a frozen scan": (slice(20, 30), lambda v: v[..., [20] * v.shape[-1]], "repeated"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_scanners_are_refused_unless_censored(tmp_path, fault):
    volumes, value, reason = FAULTS[fault]
    result = process(tmp_path, voxels=spoiled(volumes, value))
    assert isinstance(result, Rejection)
    assert result.reason == reason and ("raise quality" in result.detail)
    table = confounds(60)
    table.loc[np.arange(60)[volumes], "framewise_displacement"] = 2.0
    censored = process(
        tmp_path,
        voxels=spoiled(volumes, value),
        table=table,
        denoise=DenoiseConfig(strategy=["scrub"], scrub=0),
    )
    assert not isinstance(censored, Rejection)


@pytest.mark.parametrize(
    ("volumes", "factor", "reason"), [(slice(50, 60), 0, "repeated"), ([30], 0, "spike"), ([5], 10, "spike")]
)
def test_without_a_limit_of_the_level_jumps_and_repetition_are_refused(tmp_path, volumes, factor, reason):
    quality = dataclasses.replace(LIMITS, max_level_change=None)
    result = process(tmp_path, voxels=spoiled(volumes, lambda v: factor * v), quality=quality)
    assert isinstance(result, Rejection)
    assert result.reason == reason and ("raise quality" in result.detail)


@pytest.mark.parametrize(
    ("limits", "reason"), [({"min_tsnr": 1000.0}, "low_tsnr"), ({"max_censored": 0.05}, "censored")]
)
def test_limits_of_the_recipe_are_held(tmp_path, limits, reason):
    table = confounds(60)
    table.loc[10:15, "framewise_displacement"] = 2.0
    quality = QualityConfig(min_volumes=10, **limits)
    result = process(tmp_path, table=table, quality=quality, denoise=DenoiseConfig(strategy=["scrub"]))
    assert isinstance(result, Rejection) and result.reason == reason
    relaxed = process(tmp_path, table=table, denoise=DenoiseConfig(strategy=["scrub"]))
    assert not isinstance(relaxed, Rejection)
    assert {"tsnr", "mean_fd", "coverage", "n_censored"} <= relaxed.row.keys()
    assert {"spike", "n_repeated"} <= json.loads(relaxed.members["json"])["quality"].keys()


def test_a_resampled_run_carries_its_grid(tmp_path):
    table = confounds(60)
    table.loc[20, "framewise_displacement"] = 2.0  # 40 s after the start, 36 s once two volumes are dropped
    events = "onset\tduration\ttrial_type\n6.0\t2.0\tface\n"
    denoise = DenoiseConfig(strategy=["scrub"], scrub=0, dummy_volumes=2, resample_t_r=3.0)
    result = process(tmp_path, table=table, events=events, denoise=denoise)
    assert not isinstance(result, Rejection)
    record, bold = json.loads(result.members["json"]), np.load(io.BytesIO(result.members["bold.npy"]))
    assert (record["t_r"], result.row["t_r"], record["denoise"]["resampled_from_t_r"]) == (3.0, 3.0, T_R)
    assert record["n_volumes"] == result.row["n_volumes"] == len(bold) == 39  # 57 steps of 2 s are 38 of 3 s
    assert record["events"][0]["onset"] == 2.0  # seconds stay seconds
    assert np.setdiff1d(np.arange(39), record["sample_mask"]).tolist() == [12]
    assert parse_segments(result.row["segments"]) == [(0, 12), (13, 39)] and result.row["n_censored"] == 1
    kept = bold[record["sample_mask"]].astype(float)
    np.testing.assert_allclose([kept.mean(0), kept.std(0, ddof=1)], [[0] * 6, [1] * 6], atol=2e-3)
    assert (bold[12] == 0).all()


def test_a_run_gives_the_same_bytes_alone_or_after_another(tmp_path):
    denoise = DenoiseConfig(
        strategy=["motion", "wm_csf", "high_pass", "scrub"], low_pass=0.1, resample_t_r=1.5
    )
    for subject in ("01", "02"):
        write_fmriprep_run(tmp_path, subject, n_volumes=80)
    study = dataset(tmp_path, write_atlas(tmp_path / "atlas.nii.gz"), denoise=denoise, quality=LIMITS)
    runs, *_ = find_runs(study)
    alone = process_run(runs[1], study)
    process_run(runs[0], study)
    again = process_run(runs[1], study)
    assert not isinstance(alone, Rejection) and not isinstance(again, Rejection)
    assert alone.members == again.members
