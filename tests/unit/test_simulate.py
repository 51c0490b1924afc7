import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds

from fmriscale.cli import run
from fmriscale.config import SimulateConfig
from fmriscale.files import expand
from fmriscale.simulate import design, signal

SMALL = ["--n_subjects", "2", "--n_runs", "4", "--n_volumes", "60", "--shape", "[8,9,7]"]
SMALL += ["--n_roi_voxels", "12"]


@pytest.fixture(scope="module")
def derivative(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "derivative"
    assert run(["simulate", "--out", str(out), *SMALL]) == 0
    return out


def test_the_design_is_the_real_one():
    for subject in range(4):
        cells = [design.cell_of(subject, run) for run in range(8)]
        assert cells[:4] == cells[4:]
        assert sorted(cells[:4]) == sorted(design.CELLS)
    table = design.events(1, 2, 233, 2.0, seed=0)
    targets, probes = table[table.condition != "probe"], table[table.condition == "probe"]
    assert len(targets) == len(probes) == 21
    assert targets.onset.tolist() == [16.0 + 22 * i for i in range(21)]
    assert set(targets.trial_type) == {"imagined_clarinet"}
    assert targets.pitch.nunique() == 21
    assert table.pitch.between(52, 89).all()
    assert design.key_of(1) == "E" and design.key_of(2) == "F"


@pytest.mark.realdata
def test_the_design_agrees_with_the_published_events():
    path = expand("$FMRISCALE_DATA/timbre_design/events.tsv")
    if not path.exists():
        pytest.skip("the published events are not here; set FMRISCALE_DATA")
    real = pd.read_csv(path, sep="\t")
    real = real[(real.subject == "sub-01") & (real.run == "run-01")].reset_index(drop=True)
    ours = design.events(0, 0, 233, 2.0, seed=0)
    same = ["onset", "duration", "trial_type", "condition", "timbre", "key"]
    pd.testing.assert_frame_equal(ours[same], real[same])
    assert set(ours.pitch[::2]) == set(real.pitch[::2])


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
        (["--shape", "[8,8]"], "three sizes"),
        (["--individual", "2"], "share"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(tmp_path, capsys, option, message):
    assert run(["simulate", "--out", str(tmp_path / "x"), *SMALL, *option]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_the_signal_is_where_and_what_it_is_said_to_be():
    settings = {"out": "", "n_volumes": 233, "shape": [10, 10, 9], "n_roi_voxels": 20}
    strong = SimulateConfig(**settings, timbre=3.0, sound=0.0, pitch=0.0, run_offset=0.0)
    silent = SimulateConfig(**settings, timbre=0.0, sound=0.0, pitch=0.0, run_offset=0.0)
    place = signal.anatomy(strong)
    events = design.events(0, 0, 233, 2.0, strong.seed)
    difference = signal.run(strong, place, 0, 0, events)[0] - signal.run(silent, place, 0, 0, events)[0]
    roi = place.roi[place.brain]
    assert np.abs(difference[:, ~roi]).max() == 0
    template = signal.patterns(strong, 0).timbre["trumpet"]
    peak = difference[(16 + 6) // 2, roi]
    assert np.corrcoef(peak, template)[0, 1] > 0.99
    # The strength is in units of the noise: 3 standard deviations at the peak of a heard tone.
    assert np.abs(peak / template / signal.NOISE_SD - 3).max() < 1.0
