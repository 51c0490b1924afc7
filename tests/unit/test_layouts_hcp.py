"""Which files of an HCP folder are runs, and what belongs to them."""

import json
from pathlib import Path

import numpy as np
import pytest
from scans import SHAPE, brain_like, dataset, grow, write_atlas, write_image

from fmriscale.common.errors import UserError
from fmriscale.config import FeatureConfig
from fmriscale.corpus.writer import EncodedRun
from fmriscale.ingest.find.hcp import run_entities, subject_entities
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.run import process_run

VOLUMES = FeatureConfig(name="f", labels_img="atlas.nii.gz")
GRAYORDINATES = FeatureConfig(name="f", structures=["all"])


def found(root: Path, features: FeatureConfig = VOLUMES, **settings):
    """The runs of a tree, nothing rejected."""
    runs, rejected, _ = find_runs(dataset(root, features=features, **settings))
    assert not rejected
    return runs


RESULTS = "MNINonLinear/Results"
REST = (
    f"{RESULTS}/rfMRI_REST1_LR/rfMRI_REST1_LR{{,_hp2000_clean,_hp2000_clean_vn,_SBRef}}.nii.gz",
    f"{RESULTS}/rfMRI_REST1_LR/rfMRI_REST1_LR_Atlas{{,_MSMAll,_MSMAll_hp2000_clean}}.dtseries.nii",
    f"{RESULTS}/rfMRI_REST1_LR/rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean_vn.dscalar.nii",
    f"{RESULTS}/rfMRI_REST1_LR/{{brainmask_fs.2.nii.gz,Movement_Regressors.txt,Movement_RelativeRMS.txt}}",
    f"{RESULTS}/rfMRI_REST/rfMRI_REST_Atlas_MSMAll_hp2000_clean.dtseries.nii",
    "MNINonLinear/T1w_restore.nii.gz",
)
TASK = (
    f"{RESULTS}/tfMRI_GAMBLING_RL/tfMRI_GAMBLING_RL.nii.gz",
    f"{RESULTS}/tfMRI_GAMBLING_RL/tfMRI_GAMBLING_RL_Atlas_MSMAll.dtseries.nii",
    f"{RESULTS}/tfMRI_GAMBLING_RL/{{EVs/win.txt,EVs/loss.txt,EVs/Sync.txt,Movement_Regressors.txt}}",
)


def test_hcp_folders(tmp_path):
    for subject in ("100307", "100206"):
        grow(tmp_path / subject, *REST, *TASK)
    clean = found(
        tmp_path, GRAYORDINATES, kind="hcp", entities={"task": "rest", "desc": "MSMAll_hp2000_clean"}
    )
    assert [r.key for r in clean] == [f"toy_sub-{s}_task-rest_dir-LR_run-1" for s in ("100206", "100307")]
    assert clean[0].path.name == "rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii"
    assert clean[0].motion is not None and clean[0].motion.name == "Movement_RelativeRMS.txt"
    assert clean[0].motion in clean[0].inputs() and clean[0].brain_mask is None
    (first, second, *_) = found(tmp_path, kind="hcp", entities={"desc": ""})
    assert [first.path.name, second.path.name] == ["tfMRI_GAMBLING_RL.nii.gz", "rfMRI_REST1_LR.nii.gz"]
    assert [f.name for f in first.evs] == ["loss.txt", "win.txt"] and set(first.evs) <= set(first.inputs())
    assert first.motion is None and not second.evs
    assert second.brain_mask is not None and second.brain_mask.name == "brainmask_fs.2.nii.gz"
    assert first.confounds is None and not first.sidecars


def test_a_subject_of_hcp_that_was_not_fetched_gets_a_line(tmp_path):
    grow(tmp_path / "100307", *TASK)
    (tmp_path / "100206").mkdir()
    runs, rejected, _ = find_runs(dataset(tmp_path, features=VOLUMES, kind="hcp"))
    assert len(runs) == 1 and [(r.source, r.reason) for r in rejected] == [("100206", "no_scans")]


def test_hcp_asks_which_of_the_files_of_a_run(tmp_path):
    grow(tmp_path / "100307", *REST, *TASK)
    with pytest.raises(
        UserError, match=r"\{desc: ''\} or \{desc: MSMAll\} or \{desc: MSMAll_hp2000_clean\}$"
    ):
        found(tmp_path, GRAYORDINATES, kind="hcp")
    with pytest.raises(UserError, match=r"\{desc: ''\} or \{desc: hp2000_clean\}$"):
        found(tmp_path, kind="hcp")
    given = dataset(tmp_path, features=GRAYORDINATES, kind="hcp", entities={"desc": "MSMAll_hp2000_clean"})
    runs, rejected, _ = find_runs(given)
    assert [r.entities["task"] for r in runs] == ["rest"]
    assert [r.reason for r in rejected] == ["not_rendered"]  # the task run was never cleaned


def test_an_hcp_task_run_from_file_to_record(tmp_path):
    folder = grow(tmp_path / "100307" / RESULTS / "tfMRI_GAMBLING_RL")
    write_image(folder / "tfMRI_GAMBLING_RL.nii.gz", brain_like(40))
    write_image(folder / "brainmask_fs.2.nii.gz", np.ones(SHAPE, np.uint8), t_r=None)
    np.savetxt(folder / "Movement_RelativeRMS.txt", np.full(40, 0.25))
    (folder / "EVs").mkdir()
    (folder / "EVs/win.txt").write_text("30 2 1\n10 2 1\n")
    given = dataset(tmp_path, write_atlas(tmp_path / "atlas.nii.gz"), kind="hcp")
    encoded = process_run(find_runs(given)[0][0], given)
    assert isinstance(encoded, EncodedRun)
    assert encoded.row["mean_fd"] == 0.25
    events = json.loads(encoded.members["json"])["events"]
    assert [(e["onset"], e["trial_type"]) for e in events] == [(10.0, "win"), (30.0, "win")]


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("rfMRI_REST1_LR", {"task": "rest", "run": "1", "dir": "LR"}),
        ("tfMRI_GAMBLING_RL", {"task": "gambling", "dir": "RL"}),
        ("tfMRI_MOVIE1_7T_AP", {"task": "movie", "run": "1", "acq": "7T", "dir": "AP"}),
        ("tfMRI_FACENAME_PA", {"task": "facename", "dir": "PA"}),
        ("task-rest_run-01_bold", {"task": "rest", "run": "01"}),
        ("rfMRI_REST", None),
        ("fMRI_CONCAT_ALL", None),
    ],
)
def test_the_runs_of_hcp_by_their_folders(folder, expected):
    assert run_entities(folder) == expected


def test_hcp_runs_of_other_names(tmp_path):
    grow(tmp_path / "S1", f"{RESULTS}/{{MOVIE_A,MOVIE_ALL}}/MOVIE_{{A,ALL}}.nii.gz")
    with pytest.raises(
        UserError, match=r"there are MOVIE_A, MOVIE_ALL, none named like .*: set name_pattern"
    ):
        found(tmp_path, kind="hcp")
    runs, rejected, _ = find_runs(
        dataset(tmp_path, features=VOLUMES, kind="hcp", name_pattern="(?P<task>MOVIE)_(?P<run>[A-D])/")
    )
    assert [r.key for r in runs] == ["toy_sub-S1_task-MOVIE_run-A"]
    assert [(r.reason, Path(r.source).name) for r in rejected] == [("no_name", "MOVIE_ALL.nii.gz")]
    with pytest.raises(UserError, match=r"no run with \*.dtseries.nii .*there are MOVIE_A.*choose features"):
        found(tmp_path, GRAYORDINATES, kind="hcp", name_pattern="(?P<task>MOVIE)")


def test_hcp_at_7_tesla(tmp_path):
    run = f"{RESULTS}/rfMRI_REST1_7T_PA/rfMRI_REST1_7T_PA_Atlas{{_1.6mm,}}_MSMAll_hp2000_clean.dtseries.nii"
    grow(tmp_path / "100610", run)
    with pytest.raises(
        UserError, match=r"\{desc: 1.6mm_MSMAll_hp2000_clean\} or \{desc: MSMAll_hp2000_clean\}$"
    ):
        found(tmp_path, GRAYORDINATES, kind="hcp")


def test_the_visits_of_hcp_aging_are_one_person():
    assert subject_entities("HCA6002236_V1_MR") == {"sub": "HCA6002236", "ses": "V1"}
    assert subject_entities("100307") == {"sub": "100307"}
