"""Bad runs are quarantined with a remedy while the others land; a bad recipe changes nothing."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from scans import AFFINE, brain_like, confounds, write_atlas, write_fmriprep_run, write_image

from fmriscale import cli
from fmriscale.corpus.reader import Corpus


def recipe(root, **settings):
    """A recipe as a user writes it."""
    given = {
        "name": "toy",
        "kind": "fmriprep",
        "root": str(root / "in"),
        "features": {"name": "slabs", "labels_img": str(root / "atlas.nii.gz")},
        "quality": {"min_volumes": 10, "max_mean_fd": 1.0},
        "denoise": {"strategy": ["motion", "scrub"]},
    }
    return {"datasets": [given | settings], "out": str(root / "corpus"), "jobs": 1}


def shard(root, content):
    (root / "recipe.yaml").write_text(yaml.safe_dump(content))
    return cli.run(["shard", "--config", str(root / "recipe.yaml")])


@pytest.fixture
def scans(tmp_path):
    """Two sound runs and an atlas."""
    write_atlas(tmp_path / "atlas.nii.gz")
    for subject in ("01", "02"):
        write_fmriprep_run(tmp_path / "in", subject)
    return tmp_path


def broken_runs(root):
    """Write one run for every fault; return the reason expected for each subject."""
    write_fmriprep_run(root, "11", t_r=None)
    path = write_fmriprep_run(root, "12")
    path.write_bytes(path.read_bytes()[:-5000])
    path = write_fmriprep_run(root, "13")
    path.write_bytes(b"")
    voxels = brain_like(40).astype(np.float32)
    voxels[..., 7] = np.nan
    write_fmriprep_run(root, "14", voxels=voxels)
    write_fmriprep_run(root, "15", table=confounds(33))
    far = AFFINE.copy()
    far[:3, 3] += 500
    write_fmriprep_run(root, "16", affine=far)
    write_fmriprep_run(root, "17", n_volumes=6)
    write_fmriprep_run(root, "18", table=confounds(40).assign(framewise_displacement=4.0))
    write_fmriprep_run(root, "19", voxels=np.full((8, 9, 7, 40), 100, np.int16))
    sidecar = write_fmriprep_run(root, "20")
    sidecar.with_name(sidecar.name.replace(".nii.gz", ".json")).write_text('{"RepetitionTime": 1.5}')
    path = write_fmriprep_run(root, "21")
    path.write_bytes(b"<html><body>403 Forbidden</body></html>")  # what a failed download leaves
    voxels = brain_like(40)
    voxels[:, :6] = 0
    path = write_fmriprep_run(root, "22", voxels=voxels)
    mask = path.with_name(path.name.replace("desc-preproc_bold", "desc-brain_mask"))
    write_image(mask, (voxels[..., 0] > 0).astype(np.uint8), t_r=None)
    path = write_fmriprep_run(root, "27")
    path.with_name(path.name.replace("desc-preproc_bold", "desc-brain_mask")).unlink()
    path = write_fmriprep_run(root, "23")
    next(path.parent.glob("*_timeseries.tsv")).unlink()
    path = write_fmriprep_run(root, "24")
    (path.parent / "sub-24_task-rest_run-01_events.tsv").write_text("when\tduration\n1\t2\n")
    path = write_fmriprep_run(root, "25")
    path.unlink()
    path.symlink_to("/nowhere/annex/object")
    path = write_fmriprep_run(root, "26")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 :: 50] = b"\0" * len(damaged[len(damaged) // 2 :: 50])
    path.write_bytes(bytes(damaged))
    return {
        **{"11": "no_t_r", "12": "unreadable", "13": "unreadable", "14": "not_finite"},
        **{"15": "confounds_length", "16": "other_space", "17": "too_short", "18": "motion"},
        **{"19": "constant", "20": "t_r_conflict", "21": "unreadable", "22": "low_coverage"},
        **{"23": "no_confounds", "24": "bad_events", "25": "not_fetched", "26": "unreadable"},
        **{"27": "no_mask"},
    }


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_runs_are_quarantined_and_the_others_land(scans, capsys, jobs):
    expected = broken_runs(scans / "in")
    assert shard(scans, recipe(scans) | {"jobs": jobs}) == 3
    out, err = capsys.readouterr()
    quarantine = pd.read_csv(scans / "corpus/quarantine.tsv", sep="\t", dtype=str)
    found = {source.split("/")[0].removeprefix("sub-"): reason for source, reason in
             zip(quarantine.source, quarantine.reason, strict=True)}  # fmt: skip
    assert found == expected
    assert len(quarantine) == len(expected)
    assert list(Corpus.open(scans / "corpus").runs.subject) == ["01", "02"]
    assert quarantine.detail.str.len().between(20, 400).all()
    assert "Traceback" not in out + err
    assert f"{len(expected)} " not in err
    for reason in set(expected.values()):
        assert reason in out


def test_a_repeated_run_is_quarantined_and_the_first_stays(scans, capsys):
    path = scans / "in/sub-02/func"
    for file in sorted(path.glob("*_run-01_*")):
        copy = path / file.name.replace("_run-01_", "_acq-x_run-01_")
        copy.write_bytes(file.read_bytes())
        if copy.name.endswith("bold.nii.gz"):
            write_image(copy, brain_like(40, seed=7))
    assert shard(scans, recipe(scans)) == 0  # acq tells them apart
    nested = [p for p in path.iterdir() if "acq-x" in p.name and p.name.endswith("bold.nii.gz")]
    (path / nested[0].name.replace("run-01", "run-1")).write_bytes(nested[0].read_bytes())
    assert shard(scans, recipe(scans)) == 3
    assert "duplicate_key" in capsys.readouterr().out
    assert len(Corpus.open(scans / "corpus").runs) == 3


def test_arrays_of_the_wrong_shape(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {"sub-1": (40, 5), "sub-2": (5, 40), "sub-3": (40, 4), "sub-4": (40,), "sub-5": (8, 5)}
    for name, shape in arrays.items():
        np.save(tmp_path / f"{name}_ts.npy", rng.normal(size=shape))
    np.save(tmp_path / "sub-6_ts.npy", np.array([{"a": 1}]), allow_pickle=True)
    (tmp_path / "sub-7_ts.npy").write_bytes(b"junk")
    given = {"name": "toy", "kind": "arrays", "root": str(tmp_path), "files": "*.npy", "t_r": 2.0}
    content = {
        "datasets": [given | {"features": {"name": "c", "columns": 5}}],
        "out": str(tmp_path / "corpus"),
        "jobs": 1,
    }
    assert shard(tmp_path, content) == 3
    assert list(Corpus.open(tmp_path / "corpus").runs.subject) == ["1"]
    quarantine = pd.read_csv(tmp_path / "corpus/quarantine.tsv", sep="\t").set_index("source")
    reasons = {source[4]: reason for source, reason in quarantine.reason.items()}  # pyright: ignore
    assert reasons == {
        **{"2": "n_features", "3": "n_features", "4": "unreadable", "5": "too_short"},
        **{"6": "unreadable", "7": "unreadable"},
    }
    capsys.readouterr()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d, _: d.update(denoize={"scrub": 1}), ["denoize"]),
        (lambda d, _: d.update(t_rr=2.0), ["t_rr", "t_r"]),
        (lambda d, _: d.update(kind="nifti"), ["kind", "nifti"]),
        (lambda d, _: d.update(root="/no/such/folder"), ["toy", "/no/such/folder"]),
        (lambda d, _: d.update(entities={"task": "sleep"}), ["task: sleep", "there are task: rest"]),
        (lambda d, _: d.update(files="*.nothing"), ["no .nii.gz/.nii matches"]),
        (lambda d, _: d["features"].update(labels_img="/no/atlas.nii.gz"), ["/no/atlas.nii.gz", "slabs"]),
        (lambda d, _: d["features"].update(columns=3), ["exactly one"]),
        (lambda d, _: d["denoise"].update(strategy=["aroma"]), ["aroma", "motion"]),
        (lambda d, _: d.update(kind="bids"), ["strategy", "bids"]),
        (lambda d, _: d.update(name="Toy-1"), ["Toy-1", "lower-case"]),
        (lambda d, _: d.update(name_pattern="("), ["name_pattern"]),
        (lambda d, _: d.update(participants="people.tsv"), ["people.tsv"]),
        (lambda _, c: c["datasets"].append(c["datasets"][0]), ["toy", "twice"]),
        (lambda _, c: c.update(datasets=[]), ["no data set"]),
        (
            lambda d, c: c["datasets"].append(
                d | {"name": "b", "features": {"name": "slabs", "mask_img": d["features"]["labels_img"]}}
            ),
            ["slabs", "differently"],
        ),
    ],
)
def test_a_wrong_recipe_is_one_line_and_changes_nothing(scans, capsys, change, words):
    content = recipe(scans)
    change(content["datasets"][0], content)
    assert shard(scans, json.loads(json.dumps(content))) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "Traceback" not in err and out == ""
    for word in words:
        assert word in err
    assert not (scans / "corpus").exists()


def test_a_folder_that_is_no_corpus(tmp_path, capsys):
    assert cli.run(["inspect", str(tmp_path)]) == 2
    assert cli.run(["inspect"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 2 and "no corpus.json" in err and "required: CORPUS" in err


def test_inspect_prints_the_closing_table(scans, capsys):
    write_fmriprep_run(scans / "in", "11", t_r=None)
    assert shard(scans, recipe(scans)) == 3
    closing = capsys.readouterr().out
    assert cli.run(["inspect", str(scans / "corpus")]) == 0
    assert capsys.readouterr().out == closing
    assert "toy" in closing and "no_t_r" in closing and "set t_r" in closing
