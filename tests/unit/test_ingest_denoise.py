import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds
from scans import confounds, write_fmriprep_run

from fmriscale.common.quarantine import Rejected
from fmriscale.config import DatasetConfig, DenoiseConfig, FeatureConfig
from fmriscale.ingest.clean.confounds import STRATEGIES, confounds_mistakes, dropped_volumes, read_confounds


def read(path, denoise, n_volumes=60):
    file = path.with_name(path.name.replace("preproc_bold.nii.gz", "confounds_timeseries.tsv"))
    return read_confounds(file, denoise, n_volumes)


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
        (lambda t: t, ["high_pass", "compcor"], "confounds"),
        (lambda t: t.drop(columns=["cosine00", "cosine01"]), ["high_pass"], "confounds"),
        (lambda t: t.drop(columns="std_dvars"), ["scrub"], "confounds"),
        (lambda t: t.assign(csf=t.csf.where(t.index != 30)), ["wm_csf"], "confounds"),
    ],
)
def test_confounds_that_do_not_fit_are_refused(tmp_path, spoil, strategy, reason):
    path = write_fmriprep_run(tmp_path, "01", n_volumes=60, table=spoil(confounds(60)))
    with pytest.raises(Rejected) as caught:
        read(path, DenoiseConfig(strategy=strategy))
    assert caught.value.reason == reason


# ---------------------------------------------------------------- genuine files of three vintages

SAMPLES = "fmriprep_confounds_samples"
V14 = f"{SAMPLES}/test_desc-confounds_regressors.tsv"
V21 = f"{SAMPLES}/test-v21_desc-confounds_timeseries.tsv"
PLAIN = f"{SAMPLES}/no_nonsteady_desc-confounds_regressors.tsv"
V12 = f"{SAMPLES}/ds000031_ses002/sub-01_ses-002_task-rest_run-001_desc-confounds_timeseries.tsv"

WORKS = {
    # strategy: regressors of each file; text = why it is refused
    V14: {"motion": 24, "high_pass": 4, "wm_csf": 2, "global_signal": 1, "compcor": 10, "ica_aroma": 13},
    V21: {
        "motion": 24,
        "high_pass": 1,
        "wm_csf": 2,
        "global_signal": 1,
        "compcor": "5 components",
        "ica_aroma": "aroma_",
    },
    PLAIN: {
        "motion": 24,
        "high_pass": 4,
        "wm_csf": 2,
        "global_signal": 1,
        "compcor": ".json",
        "ica_aroma": 13,
    },
    V12: {
        "motion": "trans_x_derivative1",
        "high_pass": 7,
        "wm_csf": "(csf, ...)",
        "global_signal": 1,
        "compcor": ".json",
        "ica_aroma": "aroma_",
    },
}


@pytest.mark.realdata
@pytest.mark.parametrize("file", WORKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_works_or_is_refused_by_name_on_every_vintage(data_root, file, strategy):
    path = data_root / file
    table = pd.read_csv(path, sep="\t")
    strategies = ["high_pass", "compcor"] if strategy == "compcor" else [strategy]
    denoise = DenoiseConfig(strategy=strategies)
    expected = WORKS[file].get(strategy, 0)
    if isinstance(expected, str):
        with pytest.raises(Rejected) as caught:
            read_confounds(path, denoise, len(table))
        assert caught.value.reason == "confounds" and expected in caught.value.detail
        assert "/" not in caught.value.detail.replace(data_root.as_posix(), "")
        return
    found = read_confounds(path, denoise, len(table))
    names = [] if found.regressors is None else list(found.regressors.columns)
    assert len(names) == expected
    assert names == sorted(names)
    assert found.regressors is not None or not names
    for name in names:  # the numbers of the file, but for the n/a of the first volume
        np.testing.assert_array_equal(found.regressors[name][1:], table[name][1:])  # pyright: ignore


@pytest.mark.realdata
@pytest.mark.parametrize(("file", "n_flagged"), [(V14, 1), (V21, 3), (PLAIN, 0), (V12, 0)])
def test_auto_dummy_volumes_on_every_vintage(data_root, file, n_flagged):
    path, auto = data_root / file, DenoiseConfig(strategy=["global_signal"], dummy_volumes="auto")
    n_volumes = len(pd.read_csv(path, sep="\t"))
    assert dropped_volumes(path, auto) == n_flagged
    found = read_confounds(path, auto, n_volumes)
    assert found.regressors is not None and len(found.regressors) == n_volumes - n_flagged
    assert found.sample_mask is None or found.sample_mask.tolist() == list(range(n_volumes - n_flagged))


@pytest.mark.realdata
def test_basic_motion_of_fmriprep_12_is_read_past_its_odd_column(data_root):
    denoise = DenoiseConfig(strategy=["motion", "scrub"], motion="basic", scrub=0, fd_threshold=0.1)
    table = pd.read_csv(data_root / V12, sep="\t")
    with pytest.raises(ValueError, match="camel case"):
        load_confounds(str(data_root / V12).replace("confounds_timeseries.tsv", "preproc_bold.nii.gz"))
    found = read_confounds(data_root / V12, denoise, len(table))
    assert found.regressors is not None and found.sample_mask is not None
    still = (table.framewise_displacement.fillna(0) <= 0.1) & (table.std_dvars.fillna(0) <= 1.5)
    assert found.sample_mask.tolist() == np.flatnonzero(still).tolist()


# ---------------------------------------------------------------- recipes and determinism


def test_what_is_refused_reads_the_same_whatever_the_hash_seed(tmp_path):
    table = confounds(60).drop(columns=["trans_x_power2", "rot_y_derivative1"])
    path = write_fmriprep_run(tmp_path, "01", n_volumes=60, table=table)
    file = path.with_name(path.name.replace("preproc_bold.nii.gz", "confounds_timeseries.tsv"))
    code = (
        "import json, sys, pathlib; from fmriscale.config import DenoiseConfig;"
        "from fmriscale.ingest.clean.confounds import read_confounds;"
        "from fmriscale.common.quarantine import Rejected\n"
        f"path = pathlib.Path({str(file)!r})\n"
        "try: read_confounds(path, DenoiseConfig(strategy=['motion']), 60)\n"
        "except Rejected as why: detail = why.detail\n"
        "kept = read_confounds(path, DenoiseConfig(strategy=['wm_csf', 'high_pass'], wm_csf='full'), 60)\n"
        "print(json.dumps([detail, list(kept.regressors.columns)]))"
    )
    said = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        said.add(done.stdout)
    assert len(said) == 1
    detail, columns = json.loads(said.pop())
    assert "needs 2 columns" in detail and "choose a smaller set" in detail and len(columns) == 10


@pytest.mark.parametrize(
    ("kind", "denoise", "words"),
    [
        ("fmriprep", {"strategy": ["tedana"]}, "not offered"),
        ("fmriprep", {"strategy": ["compcor"]}, "needs high_pass"),
        ("bids", {"strategy": ["motion"]}, "needs the confounds"),
        ("bids", {"dummy_volumes": "auto"}, "needs the confounds"),
    ],
)
def test_recipes_that_no_run_can_meet_are_refused(tmp_path, kind, denoise, words):
    features = FeatureConfig(name="a", columns=3)
    recipe = DatasetConfig(
        name="x", kind=kind, root=str(tmp_path), features=features, denoise=DenoiseConfig(**denoise)
    )
    (mistake,) = confounds_mistakes(recipe)
    assert words in mistake


@pytest.mark.parametrize(
    "settings",
    [
        {"high_pass": 0.2, "low_pass": 0.1},
        {"dummy_volumes": -1},
        {"resample_t_r": 0.0},
        {"low_pass": -0.1},
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings):
    with pytest.raises(ValueError, match="denoise"):
        DenoiseConfig(**settings)
