import numpy as np
import pytest
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.signal import clean
from scans import T_R, confounds, write_fmriprep_run

from fmriscale.config import DenoiseConfig
from fmriscale.ingest.denoise import Confounds, clean_signals, dropped_volumes, read_confounds, standardise
from fmriscale.ingest.names import confounds_file, parse_name
from fmriscale.ingest.quality import Rejected

SIGNALS = np.random.default_rng(0).normal(size=(60, 5)).cumsum(axis=0) + 500


def read(path, denoise, n_volumes=60):
    parsed = parse_name(path.name)
    assert parsed is not None
    return read_confounds(confounds_file(path, parsed.entities), denoise, n_volumes)


@pytest.mark.parametrize("dummy_volumes", [0, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": ["motion", "wm_csf", "high_pass"]},
        {"strategy": ["motion", "scrub"], "motion": "basic", "high_pass": 0.01, "low_pass": 0.1},
        {"strategy": ["wm_csf"], "wm_csf": "full", "detrend": False},
        {"high_pass": 0.008},
    ],
    ids=["cosines", "scrubbed and filtered", "no detrending", "filter alone"],
)
def test_cleaning_is_that_of_nilearn(tmp_path, settings, dummy_volumes):
    denoise = DenoiseConfig(**settings, dummy_volumes=dummy_volumes, scrub=2)
    table = confounds(60)
    table.loc[[20, 21, 40], "framewise_displacement"] = 2.0
    path = write_fmriprep_run(tmp_path, "01", n_volumes=60, table=table, space="MNI152NLin2009cAsym")
    found = read(path, denoise)
    raw = SIGNALS[dummy_volumes:]
    z, mean, std = standardise(
        raw if found.sample_mask is None else raw[found.sample_mask],
        clean_signals(raw, found, denoise, T_R),
        np.array([], int),
    )

    regressors, sample_mask = None, None
    if denoise.strategy:
        keep = {"motion": denoise.motion, "wm_csf": denoise.wm_csf, "scrub": 2, "fd_threshold": 0.5}
        regressors, sample_mask = load_confounds(
            str(path), denoise.strategy, demean=False, std_dvars_threshold=1.5, **keep
        )
        regressors = regressors.iloc[dummy_volumes:]
        sample_mask = (
            sample_mask if sample_mask is None else sample_mask[sample_mask >= dummy_volumes] - dummy_volumes
        )
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
    kept = np.arange(len(raw)) if sample_mask is None else sample_mask
    np.testing.assert_allclose((z * std + mean).mean(axis=0), raw[kept].mean(axis=0))


def test_mean_fd_leaves_out_dummy_volumes(tmp_path):
    table = confounds(60)
    table.loc[:3, "framewise_displacement"] = 50.0
    path = write_fmriprep_run(tmp_path, "01", n_volumes=60, table=table)
    found = read(path, DenoiseConfig(dummy_volumes=4))
    assert found.regressors is None
    assert found.mean_fd == pytest.approx(table.framewise_displacement[4:].mean())


def test_non_steady_volumes_are_censored(tmp_path):
    table = confounds(60)
    table["non_steady_state_outlier00"] = np.eye(60)[0]
    table["non_steady_state_outlier01"] = np.eye(60)[1]
    path = write_fmriprep_run(tmp_path, "01", n_volumes=60, table=table)
    mask = read(path, DenoiseConfig(strategy=["motion"])).sample_mask
    assert mask is not None
    assert mask.tolist() == list(range(2, 60))


def test_auto_drops_the_unbroken_stretch_of_non_steady_volumes(tmp_path):
    table = confounds(60)
    auto = DenoiseConfig(dummy_volumes="auto")
    file = tmp_path / "desc-confounds_timeseries.tsv"
    for flagged, dropped in (((), 0), ((0, 1, 2), 3), ((0, 1, 5), 2), ((4,), 0)):
        for k, volume in enumerate(flagged):
            table[f"non_steady_state_outlier{k:02d}"] = np.eye(60)[volume]
        table.to_csv(file, sep="\t", index=False, na_rep="n/a")
        assert dropped_volumes(file, auto) == dropped
        table = confounds(60)
    assert dropped_volumes(None, DenoiseConfig(dummy_volumes=7)) == 7
    with pytest.raises(Rejected, match="dummy_volumes: auto"):
        dropped_volumes(None, auto)


@pytest.mark.parametrize(
    ("spoil", "strategy", "reason"),
    [
        (lambda t: t.iloc[:-3], [], "confounds_length"),
        (lambda t: t.drop(columns="csf"), ["wm_csf"], "confounds"),
        (lambda t: t, ["compcor"], "confounds"),
    ],
)
def test_confounds_that_do_not_fit_are_refused(tmp_path, spoil, strategy, reason):
    path = write_fmriprep_run(tmp_path, "01", n_volumes=60, table=spoil(confounds(60)))
    with pytest.raises(Rejected) as caught:
        read(path, DenoiseConfig(strategy=strategy))
    assert caught.value.reason == reason


def test_a_filter_beyond_the_sampling_rate_is_refused():
    with pytest.raises(Rejected, match="needs a t_r below"):
        clean_signals(SIGNALS, Confounds(), DenoiseConfig(low_pass=0.3), T_R)


def test_constant_and_missing_features_become_zero():
    raw = SIGNALS.copy()
    raw[:, 1] = 7.0
    z, mean, std = standardise(raw, clean_signals(raw, Confounds(), DenoiseConfig(), T_R), np.array([3]))
    assert (z[:, [1, 3]] == 0).all() and (std[[1, 3]] == 0).all()
    assert mean[1] == 7.0
    np.testing.assert_allclose(z[:, [0, 2, 4]].std(axis=0, ddof=1), 1)


def test_what_the_confounds_explain_wholly_is_not_blown_up():
    import pandas as pd

    regressors = pd.DataFrame({"a": SIGNALS[:, 0], "b": SIGNALS[:, 1]})
    cleaned = clean_signals(SIGNALS, Confounds(regressors), DenoiseConfig(), T_R)
    z, _, _ = standardise(SIGNALS, cleaned, np.array([], int))
    assert (z[:, :2] == 0).all() and (z[:, 2:].std(axis=0) > 0.9).all()
