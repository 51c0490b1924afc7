"""Which files of a tree are runs: fMRIPrep of several years, raw BIDS, HCP folders, odd trees.

Finding opens no image, so the trees are made of empty files.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scans import dataset, grow

from fmriscale.common.errors import UserError
from fmriscale.config import FeatureConfig
from fmriscale.ingest.find.names import entity_set
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.find.tree import Folder, Tree

VOLUMES = FeatureConfig(name="f", labels_img="atlas.nii.gz")
GRAYORDINATES = FeatureConfig(name="f", structures=["all"])
PARCELS = FeatureConfig(name="f", parcels="parcels.ptseries.nii")
SURFACES = FeatureConfig(name="f", labels_gii=["lh.label.gii", "rh.label.gii"])
COLUMNS = FeatureConfig(name="f", columns=4)


def found(root: Path, features: FeatureConfig = VOLUMES, **settings):
    """The runs of a tree, nothing rejected."""
    runs, rejected, _ = find_runs(dataset(root, features=features, **settings))
    assert not rejected
    return runs


FUNC = "sub-01/func/sub-01_task-tones_run-01"
MODERN = (
    f"{FUNC}_desc-confounds_timeseries.{{tsv,json}}",
    f"{FUNC}_space-MNI152NLin6Asym_res-2_desc-preproc_bold.{{nii.gz,json}}",
    f"{FUNC}_space-MNI152NLin6Asym_res-2_{{desc-brain_mask,boldref}}.nii.gz",
    f"{FUNC}_space-T1w_desc-preproc_bold.{{nii.gz,json}}",
    f"{FUNC}_space-fsLR_den-91k_bold.{{dtseries.nii,json}}",
    f"{FUNC}_hemi-{{L,R}}_space-{{fsaverage5,fsnative}}_bold.{{func.gii,json}}",
    f"{FUNC}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
    "sub-01/anat/sub-01_space-fsLR_den-91k_thickness.dscalar.nii",
    "sub-01/figures/sub-01_task-tones_run-01_desc-carpetplot_bold.svg",
    "sub-01.html",
)
EARLIER = (
    f"{FUNC}_desc-confounds_regressors.{{tsv,json}}",
    f"{FUNC}_space-MNI152NLin6Asym_desc-{{preproc,smoothAROMAnonaggr}}_bold.{{nii.gz,json}}",
    f"{FUNC}_space-MNI152NLin6Asym_desc-brain_mask.nii.gz",
    f"{FUNC}_space-T1w_desc-preproc_bold.{{nii.gz,json}}",
    f"{FUNC}_space-fsLR_den-91k_bold.{{dtseries.nii,dtseries.json,json}}",
    f"{FUNC}_space-{{fsaverage5,fsnative}}_hemi-{{L,R}}.func.gii",
    f"{FUNC}_AROMAnoiseICs.csv",
)


@pytest.mark.parametrize(("tree", "suffix"), [(MODERN, "timeseries"), (EARLIER, "regressors")])
def test_fmriprep_of_several_years(tmp_path, tree, suffix):
    root = grow(tmp_path / "fmriprep-23.2.1", *tree)
    (volume,) = found(root, entities={"space": "MNI152NLin6Asym"})
    (gray,) = found(root, GRAYORDINATES)
    (surface,) = found(root, SURFACES, entities={"space": "fsaverage5"})
    assert [r.form for r in (volume, gray, surface)] == ["nifti", "cifti", "gifti"]
    assert volume.brain_mask is not None and "space-MNI152NLin6Asym" in volume.brain_mask.name
    assert gray.brain_mask is None and gray.path.name.endswith("den-91k_bold.dtseries.nii")
    assert gray.sidecars[-1].name.endswith("_space-fsLR_den-91k_bold.json")
    assert surface.right is not None and surface.right in surface.inputs()
    assert surface.path.name.replace("hemi-L", "hemi-R") == surface.right.name
    for run in (volume, gray, surface):
        assert run.key == "toy_sub-01_task-tones_run-01"
        assert run.confounds is not None and run.confounds.name.endswith(f"desc-confounds_{suffix}.tsv")


def test_one_surface_of_several_is_chosen_by_the_recipe(tmp_path):
    with pytest.raises(UserError, match=r"\{space: fsaverage5\} or \{space: fsnative\}$"):
        found(grow(tmp_path, *MODERN), SURFACES)


def test_a_lone_hemisphere_is_no_run(tmp_path):
    left = f"{FUNC}_hemi-{{L,R}}_space-fsaverage5_bold.func.gii"
    grow(tmp_path, left, "sub-02/func/sub-02_task-tones_hemi-R_space-fsaverage5_bold.func.gii")
    runs, rejected, _ = find_runs(dataset(tmp_path, features=SURFACES))
    assert [r.key for r in runs] == ["toy_sub-01_task-tones_run-01"]
    assert [(r.reason, r.source[:6]) for r in rejected] == [("no_hemisphere", "sub-02")]
    assert "add sub-02_task-tones_hemi-L_space-fsaverage5_bold.func.gii" in rejected[0].detail


def test_the_space_of_the_scanner_is_chosen_by_its_absence(tmp_path):
    grow(
        tmp_path, f"{FUNC}_desc-preproc_bold.nii.gz", f"{FUNC}_space-MNI_{{res-2_,}}desc-preproc_bold.nii.gz"
    )
    with pytest.raises(
        UserError, match=r"\{space: '', res: ''\} or \{space: MNI, res: ''\} or \{space: MNI, "
    ):
        found(tmp_path)
    assert found(tmp_path, entities={"space": ""})[0].path.name == f"{FUNC}_desc-preproc_bold.nii.gz"[12:]
    assert "res-2" in found(tmp_path, entities={"res": 2})[0].path.name


def test_the_combination_of_echoes_wins(tmp_path):
    echoes = f"{FUNC}_echo-{{1,2,3}}_desc-preproc_bold.{{nii.gz,json}}"
    grow(tmp_path, f"{FUNC}_desc-confounds_timeseries.tsv", echoes)
    with pytest.raises(UserError, match=r"choose with entities: \{echo: 1\} or \{echo: 2\} or \{echo: 3\}"):
        found(tmp_path)
    grow(tmp_path, f"{FUNC}_space-MNI_desc-preproc_bold.nii.gz")
    (combined,) = found(tmp_path)
    (second,) = found(tmp_path, entities={"echo": 2})
    assert "space-MNI" in combined.path.name
    assert second.key == "toy_sub-01_task-tones_run-01_echo-2"
    assert second.confounds == combined.confounds != None  # noqa: E711


def test_phase_images_are_no_signal(tmp_path):
    grow(tmp_path, f"{FUNC}_part-{{mag,phase}}_bold.nii.gz", f"{FUNC}_{{sbref,events}}.nii.gz")
    assert [r.entities["part"] for r in found(tmp_path, kind="bids")] == ["mag"]
    assert [r.entities["part"] for r in found(tmp_path, kind="bids", entities={"part": "phase"})] == ["phase"]


NAMES = st.dictionaries(
    st.sampled_from(["sub", "ses", "task", "run", "desc"]), st.sampled_from(["1", "01", "2", "a"]), max_size=5
)


@hypothesis.settings(deadline=None)
@given(st.lists(NAMES, max_size=12), NAMES)
def test_inheritance_is_by_subset_of_entities(files, wanted):
    names = {"_".join([*(f"{k}-{v}" for k, v in f.items()), "bold.json"]): f for f in files}
    folder = Folder([], sorted(names), set())
    applying = folder.applying_to(entity_set(wanted), "bold", ".json")
    assert set(applying) == {n for n, f in names.items() if entity_set(f) <= entity_set(wanted)}
    counts = [len(names[n]) for n in applying]
    assert counts == sorted(counts)  # the one with most entities is the last


def test_two_reconstructions_are_one_scan(tmp_path):
    grow(tmp_path, f"{FUNC}_bold.nii.gz", f"{FUNC.replace('_run', '_rec-moco_run')}_bold.nii.gz")
    with pytest.raises(UserError, match=r"\{rec: ''\} or \{rec: moco\}$"):
        found(tmp_path, kind="bids")
    assert len(found(tmp_path, kind="bids", entities={"rec": ""})) == 1


def test_a_run_that_was_not_rendered_does_not_vanish(tmp_path):
    grow(tmp_path, *MODERN, "sub-02/func/sub-02_task-tones_space-T1w_desc-preproc_bold.nii.gz")
    runs, rejected, _ = find_runs(dataset(tmp_path, features=VOLUMES, entities={"space": "MNI152NLin6Asym"}))
    assert [r.entities["sub"] for r in runs] == ["01"]
    assert [(r.reason, r.source[:6]) for r in rejected] == [("not_rendered", "sub-02")]
    assert "{space: T1w, desc: preproc}" in rejected[0].detail
    assert len(found(tmp_path, entities={"space": "MNI152NLin6Asym", "sub": "01"})) == 1


def test_people_of_another_cohort_are_passed_over(tmp_path):
    for subject, cohort in (("01", 1), ("02", 2)):
        grow(
            tmp_path,
            f"sub-{subject}/func/sub-{subject}_task-a_space-MNIInfant_cohort-{cohort}_desc-preproc_bold.nii.gz",
        )
    assert len(found(tmp_path)) == 2
    assert [r.entities["sub"] for r in found(tmp_path, entities={"cohort": 2})] == ["02"]


def test_parcellated_series_of_xcp_d(tmp_path):
    grow(tmp_path, f"{FUNC}_space-fsLR_seg-{{Gordon,4S456Parcels}}_stat-mean_timeseries.ptseries.nii")
    with pytest.raises(UserError, match=r"\{seg: 4S456Parcels\} or \{seg: Gordon\}"):
        found(tmp_path, PARCELS)
    (run,) = found(tmp_path, PARCELS, entities={"seg": "Gordon"})
    assert run.form == "cifti" and run.key == "toy_sub-01_task-tones_run-01"


def test_odd_trees(tmp_path):
    grow(
        tmp_path,
        "sub-01/func/sub-01_task-a_desc-preproc_bold.nii.gz",
        "sub-01/func/.sub-01_task-a_run-9_desc-preproc_bold.nii.gz",
        "sub-01/func/._sub-01_task-a_desc-preproc_bold.nii.gz",
        "sub-01/func/sub-01_task-a_desc-preproc_bold (copy).nii.gz",
        "sub-01/func/notes.txt",
        "sub-01/ses-b/func/sub-01_ses-b_task-a_desc-preproc_bold.nii.gz",
        "sub-01/.git/func/sub-01_task-b_desc-preproc_bold.nii.gz",
        "sub-01.old/func/sub-01_task-c_desc-preproc_bold.nii.gz",
        "sub-02_task-a_desc-preproc_bold.nii.gz",
        "sub-03",
    )
    (tmp_path / "sub-04").symlink_to(tmp_path / "sub-01")
    (tmp_path / "sub-01/func/sub-01").symlink_to(tmp_path / "sub-01")
    runs = find_runs(dataset(tmp_path, features=VOLUMES))[0]
    assert [r.source for r in runs] == [
        "sub-01/func/sub-01_task-a_desc-preproc_bold.nii.gz",
        "sub-01/ses-b/func/sub-01_ses-b_task-a_desc-preproc_bold.nii.gz",
    ]


def test_annexed_files_that_were_not_fetched(tmp_path):
    grow(
        tmp_path,
        ".git/annex/objects/1",
        *(f"sub-0{s}/func/sub-0{s}_task-a_desc-confounds_timeseries.tsv" for s in (1, 3)),
    )
    for subject, target in ((1, "objects/1"), (2, "objects/2"), (3, "objects/1")):
        name = tmp_path / f"sub-0{subject}/func/sub-0{subject}_task-a_desc-preproc_bold.nii.gz"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.symlink_to(tmp_path / ".git/annex" / target)
    table = tmp_path / "sub-03/func/sub-03_task-a_desc-confounds_timeseries.tsv"
    table.unlink()
    table.symlink_to("nowhere")
    runs, rejected, _ = find_runs(dataset(tmp_path, features=VOLUMES))
    assert [r.entities["sub"] for r in runs] == ["01"]
    assert [(r.reason, r.detail.split()[0]) for r in rejected] == [
        ("not_fetched", "sub-02_task-a_desc-preproc_bold.nii.gz"),
        ("not_fetched", "sub-03_task-a_desc-confounds_timeseries.tsv"),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    grow(tmp_path, "sub-{01,02}/func/sub-01_task-a_desc-preproc_bold.nii.gz")
    (tmp_path / "sub-02/func").chmod(0)
    runs, rejected, _ = find_runs(dataset(tmp_path, features=VOLUMES))
    (tmp_path / "sub-02/func").chmod(0o755)
    assert len(runs) == 1 and [(r.source, r.reason) for r in rejected] == [("sub-02/func", "unreadable")]


def test_data_sets_of_one_tree_share_its_listing(tmp_path):
    grow(tmp_path / "a", *MODERN)
    tree = Tree()
    assert len(find_runs(dataset(tmp_path / "a", features=GRAYORDINATES), tree)[0]) == 1
    shutil.rmtree(tmp_path / "a/sub-01")
    assert (
        len(find_runs(dataset(tmp_path / "a", features=SURFACES, entities={"space": "fsnative"}), tree)[0])
        == 1
    )


# ---------------------------------------------------------------- events


def test_events_of_the_raw_data_set_by_inheritance(tmp_path):
    raw, derived = tmp_path / "raw", tmp_path / "raw/derivatives/fmriprep"
    for subject in ("01", "02", "03"):
        for task in ("loc", "rest"):
            grow(
                derived,
                f"sub-{subject}/ses-1/func/sub-{subject}_ses-1_task-{task}_run-1_desc-preproc_bold.nii.gz",
            )
    grow(raw, "task-loc_events.tsv", "sub-02/sub-02_task-loc_events.tsv", "sub-02/ses-1/func/x")
    grow(raw, "sub-03/ses-1/func/sub-03_ses-1_task-loc_{run-01_,run-02_,}events.tsv")
    runs = found(derived, events="{root}/../..")
    assert [r.events.name if r.events else None for r in runs] == [
        "task-loc_events.tsv",
        None,
        "sub-02_task-loc_events.tsv",
        None,
        "sub-03_ses-1_task-loc_run-01_events.tsv",
        None,
    ]
    assert [r.events for r in found(derived)] == [None] * 6


# ---------------------------------------------------------------- arrays and globs


def test_an_archive_is_a_run_an_array_unless_one_is_named(tmp_path):
    np.savez(tmp_path / "sub-01_task-rest.npz", ts=np.zeros((9, 4)), run_2=np.zeros((9, 4)))
    given: dict[str, Any] = {"kind": "arrays", "files": "*", "name_pattern": r"(run_(?P<run>\d+))?$"}
    runs, rejected, _ = find_runs(dataset(tmp_path, features=COLUMNS, **given))
    assert not rejected
    assert [(r.key, r.array, r.form) for r in runs] == [
        ("toy_sub-01_task-rest", "ts", "array"),
        ("toy_sub-01_task-rest_run-2", "run_2", "array"),
    ]
    (one,) = found(tmp_path, COLUMNS, variable="ts", **given)
    assert (one.key, one.array, one.source) == ("toy_sub-01_task-rest", "ts", "sub-01_task-rest.npz")


def test_globs_leave_hidden_files_and_find_the_sidecar_of_any_name(tmp_path):
    grow(
        tmp_path, "p1/Rest Scan.{nii.gz,json}", "p1/._Rest Scan.nii.gz", ".git/annex/objects/x/MD5E-s1.nii.gz"
    )
    given: dict[str, Any] = {"kind": "bids", "files": "**/*.nii.gz", "name_pattern": r"p(?P<subject>\d)/"}
    (run,) = found(tmp_path, **given)
    assert [s.name for s in run.sidecars] == ["Rest Scan.json"]


def test_entities_read_by_a_pattern_are_filtered_as_well(tmp_path):
    grow(tmp_path, "s1/{rest,movie}_{1,2}/bold.nii.gz", "s1/other/bold.nii.gz")
    given = {"kind": "bids", "files": "*/*/bold.nii.gz", "entities": {"task": "rest"}}
    pattern = r"s(?P<subject>\d)/(?P<task>[a-z]+)_(?P<run>\d)"
    runs, rejected, _ = find_runs(dataset(tmp_path, features=VOLUMES, name_pattern=pattern, **given))
    assert [r.key for r in runs] == ["toy_sub-1_task-rest_run-1", "toy_sub-1_task-rest_run-2"]
    assert [(r.source, r.reason) for r in rejected] == [("s1/other/bold.nii.gz", "no_name")]


# ---------------------------------------------------------------- real data


@pytest.mark.realdata
def test_real_trees(tmp_path, data_root):
    haxby = found(data_root / "haxby_fmriprep_layout")
    assert [r.entities["run"] for r in haxby] == [f"{n:02d}" for n in range(1, 13)]
    (raw,) = found(data_root / "studyforrest_objloc_bids", kind="bids")
    for run in (*haxby, raw):
        assert run.events is not None and len(run.sidecars) == 1
    assert all(r.confounds is not None and r.brain_mask is not None for r in haxby)
    sample = data_root / "fmriprep_confounds_samples/ds000031_ses002"
    if not sample.is_dir():
        return
    root, stem = tmp_path / "fmriprep", "sub-01_ses-002_task-rest_run-001"
    grow(root, f"sub-01/ses-002/func/{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz")
    for file in sample.iterdir():
        (root / "sub-01/ses-002/func" / file.name).symlink_to(file)
    (genuine,) = found(root)
    assert genuine.key == "toy_sub-01_ses-002_task-rest_run-001"
    assert genuine.confounds is not None and genuine.brain_mask is not None
    assert genuine.confounds.resolve().parent == genuine.brain_mask.resolve().parent == sample.resolve()
