"""Volumes that are not of the run never take its scale."""

import dataclasses
import io
import json

import numpy as np
import pytest
from scans import brain_like, confounds, dataset, write_atlas, write_fmriprep_run

from fmriscale.common.quarantine import Rejection
from fmriscale.config import DenoiseConfig, QualityConfig
from fmriscale.ingest.clean.quality import off_level_volumes
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.run import process_run

T = 60
LIMITS = QualityConfig(min_volumes=10, max_spike=None)
NOISE = np.random.default_rng(5)


def lively(n_volumes=T):
    """Voxels round 8000 whose global signal goes up and down by 2 %."""
    course = 1 + 0.02 * np.random.default_rng(1).normal(size=n_volumes)
    return 8 * brain_like(n_volumes, 101) * course


def process(root, voxels, **settings):
    table = settings.pop("table", confounds(T, 3))
    write_fmriprep_run(root, "01", voxels=voxels.astype(np.int16), table=table)
    study = dataset(root, write_atlas(root / "atlas.nii.gz"), **({"quality": LIMITS} | settings))
    (run,), *_ = find_runs(study)
    return process_run(run, study)


def part_of(volume, share):
    """A volume of which the first share of slices alone was written."""
    return np.where(np.arange(volume.shape[2])[:, None] < share * volume.shape[2], volume, 0)


FOREIGN = {
    "noise at the end": ([57, 58, 59], lambda v: 0.02 * v * NOISE.rayleigh(size=v.shape)),
    "noise at the start": ([0, 1], lambda v: 0.02 * v * NOISE.rayleigh(size=v.shape)),
    "padding at the end": (range(46, 60), lambda v: 0 * v),
    "padding at the start": (range(5), lambda v: 0 * v),
    "padding at both ends": ([0, 58, 59], lambda v: 0 * v),
    "dummy scans": ([0, 1], lambda v: 1.4 * v),
    "a dummy scan three times as bright": ([0], lambda v: 3 * v),
    "a third of a last volume": ([59], lambda v: part_of(v, 0.4)),
    "a last volume without its last slices": ([59], lambda v: part_of(v, 0.55)),
    "another scale": ([58, 59], lambda v: 0.5 * v),
}


@pytest.mark.parametrize("denoise", [{}, {"strategy": ["motion"], "high_pass": 0.01}, {"detrend": False}])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_volumes_at_the_ends_are_censored_and_named(tmp_path, kind, denoise):
    volumes, change = FOREIGN[kind]
    volumes = list(volumes)
    voxels = lively()
    voxels[..., volumes] = change(voxels[..., volumes])
    result = process(tmp_path, voxels, denoise=DenoiseConfig(**denoise))
    assert not isinstance(result, Rejection)
    record, bold = json.loads(result.members["json"]), np.load(io.BytesIO(result.members["bold.npy"]))
    kept = np.setdiff1d(np.arange(T), volumes)
    assert record["sample_mask"] == kept.tolist() and record["quality"]["off_level"] == volumes
    assert result.row["n_censored"] == len(volumes)
    inner = bold[kept].astype(float)
    np.testing.assert_allclose([inner.mean(0), inner.std(0, ddof=1)], [[0] * 6, [1] * 6], atol=2e-3)
    assert (bold[volumes] == 0).all()
    # What the foreign volumes hold has no part in the others.
    voxels[..., volumes] = 0
    again = process(tmp_path, voxels, denoise=DenoiseConfig(**denoise))
    assert not isinstance(again, Rejection) and again.members["bold.npy"] == result.members["bold.npy"]


@pytest.mark.parametrize(
    ("volumes", "factor", "words"),
    [
        ([30], 0.0, "1 of 60 volumes (30, counted from 0)"),
        ([10, 59], 0.02, "in the middle"),
        ([20], 3.0, "max_level_change (0.2)"),
        (range(40, 60), 0.0, "20 of 60 volumes (40, 41, 42, 43, 44, 45, 46, 47, ..."),
        (range(35, 60), 0.02, "too many to tell which are the run"),
        (range(25, 60), 0.02, "too many to tell which are the run"),
    ],
)
def test_elsewhere_or_too_many_they_send_the_run_to_quarantine(tmp_path, volumes, factor, words):
    voxels = lively()
    voxels[..., list(volumes)] *= factor
    result = process(tmp_path, voxels)
    assert isinstance(result, Rejection) and result.reason == "level"
    assert words in result.detail and len(result.detail) < 400


def test_those_that_the_confounds_censor_are_no_matter(tmp_path):
    voxels, table = lively(), confounds(T, 3)
    voxels[..., 30] = 0
    table.loc[30, "framewise_displacement"] = 2.0
    result = process(tmp_path, voxels, table=table, denoise=DenoiseConfig(strategy=["scrub"], scrub=0))
    assert not isinstance(result, Rejection)
    assert "off_level" not in json.loads(result.members["json"])["quality"]


def test_a_limit_of_the_recipe(tmp_path):
    voxels = lively()
    voxels[..., :2] *= 1.4
    open_limit = process(tmp_path, voxels, quality=dataclasses.replace(LIMITS, max_level_change=0.6))
    no_limit = process(tmp_path, voxels, quality=dataclasses.replace(LIMITS, max_level_change=None))
    for result in (open_limit, no_limit):
        assert not isinstance(result, Rejection) and result.row["n_censored"] == 0
    with pytest.raises(ValueError, match="max_level_change must be 0 or more"):
        QualityConfig(max_level_change=-1)


def off_level(run):
    return off_level_volumes(run, 0.2, run.mean(axis=1))


def signals(level, n_features=40, spread=1.0):
    rng = np.random.default_rng(2)
    return level + spread * rng.normal(size=(T, n_features)) + spread * rng.normal(size=(T, 1))


@pytest.mark.parametrize(
    "run",
    [
        signals(0.0),
        signals(0.0) - signals(0.0).mean(axis=0),
        signals(0.0, n_features=1),
        signals(0.0, 40) * np.geomspace(1e-3, 1e3, 40),
        np.abs(signals(0.0)),  # an envelope
        np.zeros((T, 5)),
        np.where(np.arange(40) < 38, 0, signals(0.0)),
        signals(0.3),
    ],
    ids=["centred", "z-scored", "one", "scales", "envelope", "zeros", "few", "offset"],
)
def test_signals_without_a_level_are_not_touched(run):
    run[-1] *= 1e-3
    assert not off_level(run).any()


@pytest.mark.parametrize("factor", [1.0, 1e-6, -1.0, 1e6])
@pytest.mark.parametrize("n_features", [1, 3, 1200])
def test_a_level_has_no_unit_and_no_sign(factor, n_features):
    run = factor * signals(100.0, n_features)
    assert not off_level(run).any()
    run[-2:] *= 0.02
    assert np.flatnonzero(off_level(run)).tolist() == [T - 2, T - 1]


def test_a_volume_of_which_some_features_are_empty():
    run = signals(1000.0, 100)
    run[-1, :15] = 0  # the mean over features is 15 % lower: within the limit
    run[20, :5] = 0  # a few, as motion at the edge of the field of view has it
    assert np.flatnonzero(off_level(run)).tolist() == [T - 1]


def test_what_a_lively_run_does_by_itself_is_its_own():
    course = 100 + 12 * np.random.default_rng(3).normal(size=(T, 1))  # beyond 20 % now and then
    run = course + np.random.default_rng(4).normal(size=(T, 30))
    assert (np.abs(course / 100 - 1) > 0.2).any() and not off_level(run).any()
    run[-1] = 2
    assert np.flatnonzero(off_level(run)).tolist() == [T - 1]
