"""Cleaning against nilearn.signal.clean, and against what censoring, constants and copies must not do."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.signal import clean
from scans import T_R, confounds, write_fmriprep_run
from scipy.interpolate import CubicSpline

from fmriscale.common.quarantine import Rejected
from fmriscale.config import DenoiseConfig
from fmriscale.ingest.clean.confounds import Confounds, read_confounds
from fmriscale.ingest.clean.denoise import Denoiser, standardize

T = 80
RNG = np.random.default_rng(0)
SIGNALS = RNG.normal(size=(T, 5)).cumsum(axis=0) + 500
REGRESSORS = pd.DataFrame(RNG.normal(size=(T, 3)).cumsum(axis=0), columns=list("abc"))
BAND: Any = {"high_pass": 0.01, "low_pass": 0.1}


def cleaned_and_standardised(signals, found, denoise):
    raw = signals if found.sample_mask is None else signals[found.sample_mask]
    nothing = np.zeros(signals.shape[1], bool)
    z, std = standardize(Denoiser(found, denoise, T_R)(signals), raw.std(axis=0), nothing)
    return z, raw.mean(axis=0), std


@pytest.mark.parametrize("dummy_volumes", [0, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": ["motion", "wm_csf", "high_pass"]},
        {"strategy": ["motion", "scrub"], "motion": "basic", **BAND},
        {"strategy": ["motion", "scrub"], "motion": "basic"},
        {"strategy": ["wm_csf"], "wm_csf": "full", "detrend": False},
        {"strategy": ["wm_csf", "scrub"], "detrend": False, "high_pass": 0.01},
        {"high_pass": 0.008},
        {"low_pass": 0.1, "detrend": False},
    ],
    ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()),
)
def test_cleaning_is_that_of_nilearn(tmp_path, settings, dummy_volumes):
    denoise = DenoiseConfig(**settings, dummy_volumes=dummy_volumes, scrub=2)
    table = confounds(T)
    table.loc[[20, 21, 40], "framewise_displacement"] = 2.0
    path = write_fmriprep_run(tmp_path, "01", n_volumes=T, table=table, space="MNI152NLin2009cAsym")
    file = path.with_name("sub-01_task-rest_run-01_desc-confounds_timeseries.tsv")
    raw = SIGNALS[dummy_volumes:]
    z, mean, std = cleaned_and_standardised(raw, read_confounds(file, denoise, T), denoise)

    regressors, sample_mask = None, None
    if denoise.strategy:
        keep: Any = {"strategy": denoise.strategy, "motion": denoise.motion, "wm_csf": denoise.wm_csf}
        loaded: Any = load_confounds(
            str(path), **keep, demean=False, scrub=2, fd_threshold=0.5, std_dvars_threshold=1.5
        )
        regressors, sample_mask = loaded[0].iloc[dummy_volumes:], loaded[1]
        sample_mask = (
            sample_mask if sample_mask is None else sample_mask[sample_mask >= dummy_volumes] - dummy_volumes
        )
    kept = np.arange(len(raw)) if sample_mask is None else sample_mask.copy()  # nilearn writes into it
    expected = clean(
        raw,
        detrend=denoise.detrend,
        standardize="zscore_sample",
        confounds=regressors,
        sample_mask=sample_mask,
        high_pass=denoise.high_pass,
        low_pass=denoise.low_pass,
        t_r=T_R,
    )
    assert ("scrub" in denoise.strategy) == (len(expected) < len(raw))
    np.testing.assert_allclose(z, expected, atol=1e-6)
    # mean and std give back the cleaned signal at the level it had
    np.testing.assert_allclose((z * std + mean).mean(axis=0), raw[kept].mean(axis=0))


# ---------------------------------------------------------------- censoring


@pytest.mark.parametrize(
    "censored",
    [
        [20],
        [20, T - 21],
        [20, 21, 22, T - 23, T - 22, T - 21],
        [0, 1],
        [0, T - 1],
        [T - 2, T - 1],
        [0, 30, T - 1],
    ],
    ids=str,
)
@pytest.mark.parametrize("settings", [{}, BAND, {"high_pass": 0.01, "detrend": False}], ids=str)
def test_what_a_censored_volume_held_reaches_no_kept_one(censored, settings):
    kept = np.setdiff1d(np.arange(T), censored)
    spoilt, spoilt_regressors = SIGNALS.copy(), REGRESSORS.copy()
    spoilt[censored] += 1e4
    spoilt_regressors.iloc[censored] -= 1e3
    denoise = DenoiseConfig(**settings)
    calm = Denoiser(Confounds(REGRESSORS, kept), denoise, T_R)(SIGNALS)
    hit = Denoiser(Confounds(spoilt_regressors, kept), denoise, T_R)(spoilt)
    assert len(calm) == len(kept)
    np.testing.assert_array_equal(calm, hit)


def test_nilearn_lets_mirrored_volumes_through_which_is_why_we_fill_them_ourselves():
    # When this fails, nilearn has mended `volumes[~sample_mask]`; say so in the docstring of denoise.py.
    kept = np.setdiff1d(np.arange(T), [20, T - 21])
    spoilt = SIGNALS.copy()
    spoilt[[20, T - 21]] += 1e4
    settings = {"standardize": None, "t_r": T_R, **BAND}
    calm = clean(SIGNALS, sample_mask=kept.copy(), **settings)
    assert np.abs(calm - clean(spoilt, sample_mask=kept.copy(), **settings)).max() > 100
    # What nilearn would give with the two volumes filled in: the same as we do.
    ours = Denoiser(Confounds(None, kept), DenoiseConfig(**BAND), T_R)(spoilt)
    filled = CubicSpline(kept, SIGNALS[kept])(np.arange(T))
    np.testing.assert_allclose(ours, clean(filled, **settings)[kept], atol=1e-9)


def test_a_slow_wave_survives_a_censored_gap():
    time = np.arange(T)
    wave = np.sin(2 * np.pi * 0.03 * T_R * time)[:, None]
    spoilt = wave.copy()
    spoilt[[30, 31, 49]] = 50.0
    kept = np.setdiff1d(time, [30, 31, 49])
    denoise = DenoiseConfig(high_pass=0.008, low_pass=0.1, detrend=False)
    out = Denoiser(Confounds(None, kept), denoise, T_R)(spoilt)
    whole = Denoiser(Confounds(), denoise, T_R)(wave)[kept]
    assert np.abs(out - whole).max() < 0.02


# ---------------------------------------------------------------- invariances and degenerate input


def test_a_feature_comes_out_the_same_alone_or_among_others():
    kept = np.setdiff1d(np.arange(T), [9, 50])
    cleaner = Denoiser(Confounds(REGRESSORS, kept), DenoiseConfig(**BAND), T_R)
    together = cleaner(SIGNALS)
    apart = np.column_stack([cleaner(SIGNALS[:, [v]]) for v in range(SIGNALS.shape[1])])
    np.testing.assert_allclose(together, apart, atol=1e-10)


def test_cleaning_leaves_its_input_alone():
    before = SIGNALS.copy()
    denoise = DenoiseConfig(detrend=False)
    standardize(Denoiser(Confounds(), denoise, T_R)(SIGNALS), SIGNALS.std(axis=0), np.zeros(5, bool))
    np.testing.assert_array_equal(SIGNALS, before)


def test_a_filter_beyond_the_sampling_rate_is_refused():
    with pytest.raises(Rejected, match="needs a t_r below"):
        Denoiser(Confounds(), DenoiseConfig(low_pass=0.3), T_R)


def test_a_run_too_short_to_filter_is_refused():
    with pytest.raises(Rejected, match="too few to filter"):
        Denoiser(Confounds(), DenoiseConfig(**BAND), T_R)(SIGNALS[:12])


def test_missing_features_become_zero():
    missing = np.arange(5) == 3
    z, std = standardize(Denoiser(Confounds(), DenoiseConfig(), T_R)(SIGNALS), SIGNALS.std(axis=0), missing)
    assert (z[:, 3] == 0).all() and std[3] == 0
    np.testing.assert_allclose(z[:, ~missing].std(axis=0, ddof=1), 1)


def test_what_the_confounds_explain_wholly_is_not_blown_up():
    regressors = pd.DataFrame({"a": SIGNALS[:, 0], "b": SIGNALS[:, 1]})
    z, _, _ = cleaned_and_standardised(SIGNALS, Confounds(regressors), DenoiseConfig())
    assert (z[:, :2] == 0).all() and (z[:, 2:].std(axis=0) > 0.9).all()


def test_copied_summed_and_constant_regressors_take_nothing_more_away():
    more = REGRESSORS.assign(
        copy=REGRESSORS.a, total=REGRESSORS.a + REGRESSORS.b, zero=0.0, offset=1e6, small=1e-9 * REGRESSORS.c
    )
    plain = Denoiser(Confounds(REGRESSORS), DenoiseConfig(), T_R)(SIGNALS)
    np.testing.assert_allclose(Denoiser(Confounds(more), DenoiseConfig(), T_R)(SIGNALS), plain, atol=1e-8)
