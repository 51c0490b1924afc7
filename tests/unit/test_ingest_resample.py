"""Resampling to a common repetition time: what must survive, what must vanish, what is censored."""

import numpy as np
import pytest

from fmriscale.ingest.clean.resample import Resampler


def resampled(series, t_r, new_t_r, kept=None):
    kept = np.arange(len(series)) if kept is None else kept
    grid = Resampler.of(kept, len(series), t_r, new_t_r)
    return grid, grid.resample(series[kept])


@pytest.mark.parametrize(
    ("t_r", "new_t_r"),
    [(0.72, 2.0), (0.8, 2.0), (1.49, 2.2), (2.0, 2.5), (2.0, 0.72), (2.2, 2.0), (1.9987, 2.0)],
)
def test_waves_below_the_lower_nyquist_frequency_survive_and_those_above_vanish(t_r, new_t_r):
    time = np.arange(int(600 / t_r)) * t_r
    nyquist = 0.5 / max(t_r, new_t_r)
    slow = [0.05 * nyquist, 0.4 * nyquist, 0.8 * nyquist]
    fast = [f for f in (1.02 * nyquist, 1.3 * nyquist, 1.9 * nyquist) if f < 0.5 / t_r]
    grid, out = resampled(
        np.stack([np.cos(2 * np.pi * f * time + 0.4) for f in slow + fast], 1), t_r, new_t_r
    )
    new_time = np.arange(grid.n_volumes) * new_t_r
    expected = np.stack([np.cos(2 * np.pi * f * new_time + 0.4) for f in slow], 1)
    away = (
        slice(25, -25) if new_t_r > t_r else slice(25 * int(t_r / new_t_r + 1), -25 * int(t_r / new_t_r + 1))
    )
    assert np.abs(out[away, : len(slow)] - expected[away]).max() < 0.01
    assert np.abs(out[away, len(slow) :]).max(initial=0) < 0.01
    # towards the ends the filter leans on what it makes up: still no worse than a few per cent of a slow wave
    assert np.abs(out[:, 0] - expected[:, 0]).max() < 0.05


def test_level_and_trend_reach_the_ends_unbent():
    time = np.arange(300) * 0.72
    grid, out = resampled(np.stack([np.full(300, 3.0), 0.1 * time - 2], axis=1), 0.72, 2.0)
    new_time = np.arange(grid.n_volumes) * 2.0
    np.testing.assert_allclose(out[:, 0], 3.0, rtol=2e-3)
    np.testing.assert_allclose(out[:, 1], 0.1 * new_time - 2, atol=2e-2)


def test_the_new_volumes_lie_within_the_run_and_start_with_it():
    for n_volumes, t_r, new_t_r in ((100, 2.0, 0.72), (100, 0.72, 2.0), (5, 3.0, 2.0), (101, 0.8, 2.0)):
        grid = Resampler.of(np.arange(n_volumes), n_volumes, t_r, new_t_r)
        assert (grid.n_volumes - 1) * new_t_r <= (n_volumes - 1) * t_r + 1e-6 < grid.n_volumes * new_t_r
        assert grid.kept.tolist() == list(range(grid.n_volumes))


def test_the_same_repetition_time_changes_nothing():
    series = np.random.default_rng(0).normal(size=(30, 2))
    kept = np.array([0, 1, 5, 6, 29])
    for same in (None, 2.0):
        grid, out = resampled(series, 2.0, same, kept)
        assert (grid.n_volumes, grid.t_r) == (30, 2.0) and grid.kept.tolist() == kept.tolist()
        np.testing.assert_array_equal(out, series[kept])


def test_a_new_volume_beside_a_censored_one_is_censored():
    # slower: new volumes every 2 s; the censored one at 8.0 s lies less than 2 s from that of 8 s alone
    kept = np.delete(np.arange(100), 8)
    grid = Resampler.of(kept, 100, 1.0, 2.0)
    assert np.setdiff1d(np.arange(grid.n_volumes), grid.kept).tolist() == [4]
    # at 9 s it lies 1 s from those of 8 s and 10 s
    grid = Resampler.of(np.delete(np.arange(100), 9), 100, 1.0, 2.0)
    assert np.setdiff1d(np.arange(grid.n_volumes), grid.kept).tolist() == [4, 5]
    # faster: all within one old repetition time
    grid = Resampler.of(np.delete(np.arange(10), 4), 10, 2.0, 1.0)
    assert np.setdiff1d(np.arange(grid.n_volumes), grid.kept).tolist() == [7, 8, 9]


@pytest.mark.parametrize("new_t_r", [0.7, 2.0, 3.1])
def test_what_a_censored_volume_held_does_not_get_through(new_t_r):
    series = np.random.default_rng(0).normal(size=(90, 3))
    kept = np.setdiff1d(np.arange(90), [0, 1, 20, 21, 60, 69, 89])
    spoilt = series.copy()
    spoilt[[0, 1, 20, 21, 60, 69, 89]] = 1e6
    np.testing.assert_array_equal(
        resampled(series, 1.4, new_t_r, kept)[1], resampled(spoilt, 1.4, new_t_r, kept)[1]
    )
