import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from nilearn.interfaces.fmriprep import load_confounds

from fmriscale.cli import run
from fmriscale.config import SimulateConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.simulate import build, design, signal
from fmriscale.simulate.anatomy import BrainTexture, RegionTexture, make_anatomy

SMALL = ["--n_subjects", "2", "--n_runs", "4", "--n_volumes", "60", "--shape", "[8,9,7]"]
SMALL += ["--n_roi_voxels", "12"]


@pytest.fixture(scope="module")
def derivative(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "derivative"
    assert run(["simulate", "--out", str(out), *SMALL]) == 0
    return out


def test_the_generated_design_is_like_the_real_one():
    for subject in range(4):
        cells = [design.cell_of(subject, run) for run in range(8)]
        assert cells[:4] == cells[4:]
        assert sorted(cells[:4]) == sorted(design.CELLS)
    table = design.generated(1, 2, 233, 2.0, seed=0)
    targets, probes = table[table.condition != "probe"], table[table.condition == "probe"]
    assert len(targets) == len(probes) == 21
    assert targets.onset.tolist() == [16.0 + 22 * i for i in range(21)]
    assert set(targets.trial_type) == {"imagined_clarinet"}
    assert targets.pitch.nunique() == 21
    assert table.pitch.between(52, 89).all()
    assert design.key_of(1) == "E" and design.key_of(2) == "F"


@pytest.fixture
def real_events(data_root):
    path = data_root / "timbre_design" / "events.tsv"
    if not path.exists():
        pytest.skip("the published events are not here; set FMRISCALE_DATA")
    return path


@pytest.mark.realdata
def test_the_generated_design_agrees_with_the_published_events(real_events):
    real = pd.read_csv(real_events, sep="\t")
    real = real[(real.subject == "sub-01") & (real.run == "run-01")].reset_index(drop=True)
    ours = design.generated(0, 0, 233, 2.0, seed=0)
    same = ["onset", "duration", "trial_type", "condition", "timbre", "key"]
    pd.testing.assert_frame_equal(ours[same], real[same])
    assert set(ours.pitch[::2]) == set(real.pitch[::2])


@pytest.mark.realdata
def test_the_real_design_is_written_event_by_event(real_events, tmp_path):
    config = SimulateConfig(
        out="", form="corpus", events=str(real_events), n_subjects=17, shape=[8, 9, 7], n_roi_voxels=8
    )
    build.simulate(config, tmp_path / "corpus")
    corpus = Corpus.open(tmp_path / "corpus")
    assert len(corpus.runs) == 17 * 8 and set(corpus.runs.n_volumes) == {233}
    written = [
        {"subject": f"sub-{run.subject}", "run": f"run-{run.run}", **event}
        for index, run in corpus.runs.sort_values(["subject", "run"]).iterrows()
        for event in corpus.record(index)["events"]
    ]
    real = pd.read_csv(real_events, sep="\t")
    pd.testing.assert_frame_equal(pd.DataFrame(written)[list(real)], real)
    # Every run is one condition and one timbre, and either half has each of the four once.
    targets = pd.DataFrame(written).query("condition != 'probe'")
    assert (targets.groupby(["subject", "run"]).trial_type.nunique() == 1).all()
    halves = targets.assign(half=targets.run > "run-04").groupby(["subject", "half"])
    assert (halves.trial_type.nunique() == 4).all() and len(targets) == 17 * 168


def write_events(path, **changed):
    table = design.generated(0, 0, 60, 2.0, seed=0).assign(subject="sub-01", run="run-01", **changed)
    table.to_csv(path, sep="\t", index=False)
    return path


@pytest.mark.parametrize(
    ("changed", "option", "message"),
    [
        ({}, ["--n_subjects", "2"], "has no sub-02 run-01 (it has 1 subjects)"),
        ({}, ["--first_subject", "2"], "has no sub-02 run-01"),
        ({}, ["--n_volumes", "40"], "raise n_volumes"),
        ({"pitch": "high"}, [], "as numbers"),
        ({"timbre": "oboe"}, [], "timbre oboe is not known"),
    ],
)
def test_a_table_of_events_that_does_not_fit_is_refused(tmp_path, capsys, changed, option, message):
    path = write_events(tmp_path / "events.tsv", **changed)
    one = ["--n_subjects", "1", "--n_runs", "1"]
    assert run(["simulate", "--out", str(tmp_path / "x"), *SMALL, *one, "--events", str(path), *option]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.tsv"]


def test_events_without_a_column_or_a_file_are_refused(tmp_path, capsys):
    (tmp_path / "events.tsv").write_text("subject\trun\tonset\nsub-01\trun-01\t3\n")
    for name, message in (("events.tsv", "no column condition"), ("none.tsv", "No such file")):
        options = ["--out", str(tmp_path / "x"), *SMALL, "--events", str(tmp_path / name)]
        assert run(["simulate", *options]) == 2
        assert message in capsys.readouterr().err


def test_nilearn_reads_it_as_an_fmriprep_derivative(derivative):
    files = sorted(derivative.glob("sub-01/func/*_desc-preproc_bold.nii.gz"))
    assert len(files) == 4
    strategy = ("motion", "wm_csf", "global_signal", "high_pass", "scrub")
    confounds, masks = load_confounds([str(f) for f in files], strategy=strategy)
    assert all(len(c) == 60 and np.isfinite(c.to_numpy()).all() for c in confounds)
    assert all(m is None or len(m) > 30 for m in masks)
    image = nib.load(files[0])
    assert image.shape == (8, 9, 7, 60)
    assert image.header.get_zooms()[3] == 2.0
    sidecar = json.loads(files[0].with_suffix("").with_suffix(".json").read_text())
    assert sidecar["RepetitionTime"] == 2.0 and sidecar["TaskName"] == "heard"
    roi = nib.load(derivative / "roi_mask.nii.gz")
    assert int(np.asarray(roi.dataobj).sum()) == 12
    assert np.allclose(roi.affine, image.affine)


def test_same_settings_give_the_same_bytes(derivative, tmp_path):
    assert run(["simulate", "--out", str(tmp_path / "again"), *SMALL]) == 0
    files = [p.relative_to(derivative) for p in derivative.rglob("*") if p.is_file()]
    assert len(files) > 40
    assert all((derivative / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)


def test_finished_work_is_reused_and_other_work_is_never_overwritten(derivative, capsys):
    before = (derivative / "simulation.json").stat().st_mtime_ns
    assert run(["simulate", "--out", str(derivative), *SMALL]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(["simulate", "--out", str(derivative), *SMALL, "--timbre", "0"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert (derivative / "simulation.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--n_volumes", "10"], "too short"),
        (["--n_roi_voxels", "5000"], "grey voxels"),
        (["--n_roi_voxels", "0"], "n_roi_voxels is 0; it must be at least 1"),
        (["--voxel_mm", "-2"], "above 0 mm"),
        (["--seed", "-1"], "seed is -1"),
        (["--events", "nothere.tsv"], "nothere.tsv"),
        (["--shape", "[8,8]"], "three sizes"),
        (["--individual", "2"], "share"),
        (["--autoregression", "1"], "0 to below 1"),
        (["--smoothness", "-1"], "0 or more"),
        (["--first_subject", "0"], "at least 1"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(tmp_path, capsys, option, message):
    assert run(["simulate", "--out", str(tmp_path / "x"), *SMALL, *option]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def quiet(**changed):
    none = dict.fromkeys(("timbre", "sound", "pitch", "run_offset", "drift", "physiology", "motion"), 0.0)
    return SimulateConfig(out="", shape=[8, 9, 7], n_roi_voxels=40, **(none | changed))


def test_the_signal_is_where_and_what_it_is_said_to_be():
    strong, silent = quiet(timbre=3.0), quiet()
    anatomy = make_anatomy(strong)
    texture = BrainTexture(anatomy)
    events = design.generated(0, 0, 233, 2.0, strong.seed)
    difference = (
        signal.run(strong, texture, 0, 0, events)[0] - signal.run(silent, texture, 0, 0, events)[0]
    ) / signal.NOISE_SD
    assert np.abs(difference[:, ~texture.roi_V]).max() == 0
    template = signal.patterns(strong, 0).timbre["trumpet"]
    peak = difference[(16 + 6) // 2, texture.roi_V]
    assert np.corrcoef(peak, template)[0, 1] > 0.99
    # The strength is in units of the noise: 3 standard deviations at the peak of a heard tone.
    assert np.abs(peak / template - 3).max() < 1.0


@pytest.mark.parametrize("texture", [BrainTexture, RegionTexture])
def test_strengths_are_in_their_units(texture):
    """Measured over voxels and runs, in the brain and in the ROI alone."""
    config = quiet(autoregression=0.4, n_volumes=400)
    events = design.generated(0, 0, 60, 2.0, 0)

    def runs(config, n=8):
        voxels = texture(make_anatomy(config))
        made = [signal.run(config, voxels, 0, number, events)[0] for number in range(n)]
        return np.stack(made).astype(float) / signal.NOISE_SD

    noise = runs(config)
    noise -= noise.mean(axis=(0, 1))
    assert noise.var() == pytest.approx(1, rel=0.05)
    assert (noise[:, 1:] * noise[:, :-1]).mean() == pytest.approx(0.4, abs=0.03)
    means = (runs(quiet(run_offset=2.0), 40) - runs(quiet(), 40)).mean(axis=1)
    assert means.std(axis=0).mean() == pytest.approx(2, rel=0.15)
    assert np.ptp(runs(quiet(run_offset=2.0), 1) - runs(quiet(), 1), axis=1).max() < 0.01
    # A drift: a line of slope 0.3, two ends apart 0.6, and two thirds of it as a wave: variance 1/3 + 2/9.
    drifted = (runs(quiet(drift=0.6), 40) - runs(quiet(), 40)).var(axis=1).mean()
    assert drifted == pytest.approx(0.36 * (1 / 3 + 2 / 9), rel=0.3)
    assert np.abs(signal.motion(np.random.default_rng(0), 500, 0.0)).max() == 0


def test_the_roi_alone_has_the_distribution_that_it_has_in_the_brain():
    anatomy = make_anatomy(SimulateConfig(out="", shape=[9, 10, 8], n_roi_voxels=30))
    brain, region = BrainTexture(anatomy), RegionTexture(anatomy)
    for smoothness in (0.0, 11.0, 28.0):
        of_brain = brain.draw(np.random.default_rng(1), 6000, smoothness)
        of_region = region.draw(np.random.default_rng(2), 6000, smoothness)
        difference = np.cov(of_brain[:, brain.roi_V].T) - np.cov(of_region.T)
        assert np.abs(difference).max() < 6 / np.sqrt(6000)
        assert of_brain.var(axis=0) == pytest.approx(1, abs=0.12)
    # A Gaussian kernel of FWHM f makes the correlation exp(-(d / f)^2 2 ln 2) at distance d.
    neighbours = np.argwhere(anatomy.roi)
    of_region = region.draw(np.random.default_rng(3), 6000, 11.0)
    distance = np.linalg.norm(neighbours - neighbours[0], axis=1) * 6.0
    correlation = np.corrcoef(of_region.T)[0]
    assert np.abs(correlation - np.exp(-((distance / 11.0) ** 2) * 2 * np.log(2))).max() < 0.1


def test_subjects_share_as_much_of_their_patterns_as_is_said():
    for individual, expected in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        config = SimulateConfig(out="", n_roi_voxels=400, individual=individual)
        a, b = (signal.patterns(config, subject).timbre["trumpet"] for subject in (0, 5))
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(expected, abs=0.12)


def test_a_corpus_is_what_sharding_the_derivative_gives_but_for_its_noise(derivative, tmp_path):
    assert run(["simulate", "--out", str(tmp_path / "direct"), *SMALL, "--form", "corpus"]) == 0
    recipe = {
        "out": str(tmp_path / "sharded"),
        "jobs": 1,
        "datasets": [
            {
                "name": "simulated",
                "kind": "fmriprep",
                "root": str(derivative),
                "features": {"name": "roi", "mask_img": str(derivative / "roi_mask.nii.gz")},
                "denoise": {"strategy": ["motion", "high_pass"]},
            }
        ],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["shard", "--config", str(tmp_path / "recipe.yaml")]) == 0
    assert run(["verify", str(tmp_path / "direct")]) == 0
    direct, sharded = Corpus.open(tmp_path / "direct"), Corpus.open(tmp_path / "sharded")
    assert direct.space("roi").sha256 == sharded.space("roi").sha256
    same = ["key", "person", "subject", "task", "run", "t_r", "n_volumes", "n_features", "segments"]
    pd.testing.assert_frame_equal(direct.runs[same], sharded.runs[same])
    for index in direct.runs.index:
        ours, theirs = direct.record(index), sharded.record(index)
        assert ours["events"] == theirs["events"]
        assert sorted(ours["denoise"]["regressors"]) == sorted(theirs["denoise"]["regressors"])
        x = direct.bold(index).astype(float)
        assert x.mean(axis=0) == pytest.approx(0, abs=1e-3) and x.std(axis=0, ddof=1) == pytest.approx(
            1, abs=1e-3
        )


def test_a_corpus_is_the_same_twice_and_people_are_their_numbers(tmp_path):
    def written(out, *options):
        assert run(["simulate", "--out", str(tmp_path / out), *SMALL, "--form", "corpus", *options]) == 0
        return Corpus.open(tmp_path / out)

    first, again = written("a"), written("b")
    assert first.fingerprint == again.fingerprint
    second = written("c", "--first_subject", "2", "--n_subjects", "1")
    assert set(second.runs.sha256) == set(first.runs[first.runs.subject == "02"].sha256)
    assert not set(written("d", "--seed", "1").runs.sha256) & set(first.runs.sha256)


def test_a_corpus_as_measured_keeps_its_drifts_and_has_the_splits_asked_for(tmp_path):
    drifts = ["--drift", "5", "--form", "corpus"]
    everybody = ["--split.val", "0", "--split.test", "0"]
    for name, options in (("cleaned", []), ("measured", ["--clean", "false", *everybody])):
        assert run(["simulate", "--out", str(tmp_path / name), *SMALL, *drifts, *options]) == 0
    cleaned, measured = Corpus.open(tmp_path / "cleaned"), Corpus.open(tmp_path / "measured")
    assert set(measured.runs.split) == {"train"}
    line = np.linspace(-1, 1, 60)
    for corpus, low, high in ((cleaned, 0, 0.01), (measured, 0.3, 1)):
        trend = np.abs(np.corrcoef(line, corpus.bold(0).astype(float).T)[0, 1:]).mean()
        assert low <= trend <= high
    record = measured.record(0)["denoise"]
    assert record["strategy"] == record["regressors"] == [] and not record["detrend"]
