"""Nothing vanishes and nothing is borrowed: what each file of a tree becomes, told from names alone."""

import re

import pytest
import yaml
from scans import corpus, dataset, found, grow, reasons, write_atlas, write_fmriprep_run

from fmriscale.common.errors import UserError
from fmriscale.config import DenoiseConfig, FeatureConfig, QualityConfig
from fmriscale.corpus.manifest import read_manifest
from fmriscale.ingest.build import build, main
from fmriscale.ingest.plan import make_plan

SURFACES = FeatureConfig(name="f", labels_gii=["lh.label.gii", "rh.label.gii"])
MOTION = DenoiseConfig(strategy=["motion"])
FINE = "sub-02/func/sub-02_task-rest"


# ---------------------------------------------------------------- another run's files

PREPROC = "space-MNI_desc-preproc_bold.nii.gz"
BORROWERS = [
    ("task-rest", "task-rest_acq-mb"),
    ("task-rest", "task-rest_dir-PA"),
    ("task-rest", "task-rest_run-2"),
    ("task-rest", "task-rest_chunk-1"),
    ("task-rest", "task-rest_ce-gd"),
    ("task-rest", "task-rest_lab-x"),
    ("task-rest_run-01", "task-rest_run-02"),
    ("task-rest_acq-mb", "task-rest"),
    ("task-rest_acq-mb", "task-rest_acq-mb2"),
    ("task-rest", "task-restless"),
    ("", "task-rest"),
]


@pytest.mark.parametrize(("owner", "run"), BORROWERS)
def test_confounds_and_masks_of_another_run_are_never_taken(tmp_path, owner, run):
    stem = f"sub-01/func/sub-01_{owner}".rstrip("_")
    grow(tmp_path, f"{stem}_desc-confounds_timeseries.tsv", f"{stem}_space-MNI_desc-brain_mask.nii.gz")
    grow(tmp_path, f"sub-01/func/sub-01_{run}_{PREPROC}")
    runs, rejected = found(tmp_path, denoise=MOTION)
    assert not runs and [r.reason for r in rejected] == ["no_confounds"]
    assert f"({stem[12:]}_desc-confounds_timeseries.tsv is another run's: it " in rejected[0].detail
    assert f"no sub-01_{run}_desc-confounds_timeseries.tsv" in rejected[0].detail
    runs, rejected = found(tmp_path)
    assert not runs and [r.reason for r in rejected] == ["no_mask"]
    assert f"{stem[12:]}_space-MNI_desc-brain_mask.nii.gz is another run's" in rejected[0].detail
    own = f"sub-01/func/sub-01_{run}"
    grow(tmp_path, f"{own}_desc-confounds_timeseries.tsv", f"{own}_space-MNI_desc-brain_mask.nii.gz")
    (mended,) = found(tmp_path, denoise=MOTION)[0]
    assert (
        mended.confounds is not None and mended.confounds.name == f"{own[12:]}_desc-confounds_timeseries.tsv"
    )
    assert mended.brain_mask is not None and mended.brain_mask.name.startswith(f"{own[12:]}_space-MNI_desc")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"denoise": MOTION}, "no_confounds"),
        ({"denoise": DenoiseConfig(dummy_volumes="auto")}, "no_confounds"),
        ({"quality": QualityConfig(max_mean_fd=0.5)}, "no_confounds"),
        ({}, None),
    ],
)
def test_confounds_are_missed_only_where_the_recipe_needs_them(tmp_path, given, reason):
    grow(tmp_path, f"{FINE}_desc-confounds_timeseries.tsv", f"{FINE}_{{acq-mb_,}}{PREPROC}")
    runs, rejected = found(tmp_path, **given)
    assert [r.confounds is None for r in runs] == [False] if reason else [True, False]
    assert [r.reason for r in rejected] == [reason] * bool(reason)


@pytest.mark.parametrize(
    "lacking", ["space-MNI_res-2_desc-preproc", "echo-1_desc-preproc", "part-mag_desc-preproc"]
)
def test_what_confounds_cannot_have_may_be_absent(tmp_path, lacking):
    grow(tmp_path, f"{FINE}_desc-confounds_regressors.tsv", f"{FINE}_{lacking}_bold.nii.gz")
    (run,) = found(tmp_path, denoise=MOTION)[0]
    assert run.confounds is not None


@pytest.mark.parametrize(("mask", "bold"), [("1", "01"), ("01", "1"), ("001", "01")])
def test_an_index_is_the_same_whatever_its_zeros(tmp_path, mask, bold):
    grow(tmp_path, f"{FINE}_run-{mask}_space-MNI_desc-brain_mask.nii.gz", f"{FINE}_run-{bold}_{PREPROC}")
    (run,) = found(tmp_path)[0]
    assert run.brain_mask is not None


def test_two_tables_that_fit_alike_are_told(tmp_path):
    grow(tmp_path, f"{FINE}_run-{{1,001}}_desc-confounds_timeseries.tsv", f"{FINE}_run-01_{PREPROC}")
    runs, rejected = found(tmp_path)
    assert not runs and "run-001_desc-confounds_timeseries.tsv and " in rejected[0].detail
    grow(tmp_path, f"{FINE}_run-01_desc-confounds_timeseries.tsv")
    (run,) = found(tmp_path)[0]
    assert run.confounds is not None and "_run-01_" in run.confounds.name


@pytest.mark.parametrize("mask", ["space-T1w_desc-brain", "space-MNI_res-2_desc-brain", "desc-brain"])
def test_a_mask_of_another_rendering_is_none(tmp_path, mask):
    grow(tmp_path, f"{FINE}_{mask}_mask.nii.gz", f"{FINE}_{PREPROC}")
    assert [r.reason for r in found(tmp_path)[1]] == ["no_mask"]


def test_a_run_without_mask_where_others_have_theirs(tmp_path):
    grow(tmp_path, f"{FINE}_space-MNI_desc-brain_mask.nii.gz", f"{FINE}_{PREPROC}")
    grow(tmp_path, f"sub-01/func/sub-01_task-rest_{PREPROC}")
    runs, rejected = found(tmp_path)
    assert [r.entities["sub"] for r in runs] == ["02"] and [r.reason for r in rejected] == ["no_mask"]
    assert (
        "where others have theirs (sub-02_task-rest_space-MNI_desc-brain_mask.nii.gz)" in rejected[0].detail
    )


def test_where_no_run_has_a_mask_none_is_missed(tmp_path):
    grow(tmp_path, f"{FINE}_{PREPROC}", f"sub-01/func/sub-01_task-rest_{PREPROC}")
    assert len(found(tmp_path)[0]) == 2


def test_events_are_inherited_but_never_by_lot(tmp_path):
    grow(
        tmp_path,
        "sub-01/func/sub-01_task-a_run-1_bold.nii.gz",
        "sub-01/func/sub-01_{task-a,run-1}_events.tsv",
    )
    runs, rejected = found(tmp_path, kind="bids")
    assert not runs and [r.reason for r in rejected] == ["bad_events"]
    assert "sub-01_run-1_events.tsv and sub-01_task-a_events.tsv" in rejected[0].detail
    grow(tmp_path, "sub-01/func/sub-01_task-a_run-01_events.tsv")
    (run,) = found(tmp_path, kind="bids")[0]
    assert run.events is not None and run.events.name == "sub-01_task-a_run-01_events.tsv"


def test_events_called_as_another_run_are_told(tmp_path):
    grow(tmp_path, f"{FINE}_{{acq-mb_,}}bold.nii.gz", f"{FINE}_events.tsv")
    atlas = write_atlas(tmp_path / "atlas.nii.gz")
    plan = make_plan(corpus(tmp_path / "out", dataset(tmp_path, atlas, kind="bids")))
    assert len(plan.notes) == 1 and "_acq-mb_bold.nii.gz takes sub-02_task-rest_events.tsv" in plan.notes[0]


def test_events_of_no_scan_get_a_line(tmp_path):
    grow(
        tmp_path, f"{FINE}_bold.nii.gz", "task-{rest,gone}_events.tsv", "sub-02/func/sub-02_task-x_events.tsv"
    )
    grow(tmp_path, "sub-02/func/sub-02_task-other_{bold.dtseries.nii,events.tsv}")
    assert reasons(tmp_path, kind="bids") == {
        "task-gone_events.tsv": "unused_events",
        "sub-02_task-x_events.tsv": "unused_events",
    }
    assert reasons(tmp_path, kind="bids", entities={"task": "rest"}) == reasons(tmp_path, kind="bids")


# ---------------------------------------------------------------- names that cannot be taken apart

MISNAMED = {
    "sub-01_task-rest_acq-2.5mm_bold.nii.gz": "a dot stands in the label acq-2.5mm",
    "sub-01_task-1.5T_bold.nii.gz": "a dot stands in the label task-1.5T",
    "sub-01_task-reward_rest_bold.nii.gz": "an underscore stands in the label task-reward_rest",
    "sub-01_task-rest_acq-a_b_run-1_bold.nii.gz": "an underscore stands in the label acq-a_b",
    "sub-01_rest_bold.nii.gz": "an underscore stands in the label sub-01_rest",
    "sub-01_bold.nii.gz": "no task in its name",
    "sub-01_run-1_bold.nii.gz": "no task in its name",
    "sub-01_task-_bold.nii.gz": "task- has no label",
    "sub-01_task-rest_run-1_run-2_bold.nii.gz": "it has run- twice",
    "sub-01_task-rest _bold.nii.gz": "a blank stands in 'task-rest'",
    "sub-01_task-rest_bold (copy).nii.gz": "a blank stands in 'bold (copy)'",
    "sub-01_task-rest_bold.mc.nii.gz": "a dot stands in 'bold.mc'",
    "sub-01_task-rest_BOLD.nii.gz": "'BOLD' is no suffix of time series",
    "sub-01_task-rest.nii.gz": "'' is no suffix of time series",
    "sub-01_task-rest_bold.NII.GZ": "its extension must be .nii.gz",
    "lh.sub-01_task-rest_bold.nii.gz": "'lh.' stands before its name",
    "old_sub-01_task-rest_bold.nii.gz": "'old' before its first entity is none",
    "rest.nii.gz": "'rest' is no suffix of time series",
    "REST 1.nii.gz": "a blank stands in",
}


@pytest.mark.parametrize(("file", "words"), MISNAMED.items())
def test_a_scan_with_an_odd_name_stands_in_quarantine(tmp_path, file, words):
    grow(tmp_path, f"{FINE}_bold.nii.gz", f"sub-01/func/{file}")
    runs, rejected = found(tmp_path, kind="bids")
    assert [r.entities["sub"] for r in runs] == ["02"]
    assert [(r.source, r.reason) for r in rejected] == [(f"sub-01/func/{file}", "no_name")]
    assert words in rejected[0].detail and "rename it" in rejected[0].detail


@pytest.mark.parametrize(("file", "words"), MISNAMED.items())
def test_where_every_scan_is_named_oddly_the_refusal_says_how(tmp_path, file, words):
    grow(tmp_path, f"sub-01/func/{file}")
    with pytest.raises(UserError, match=re.escape(words)) as refusal:
        found(tmp_path, kind="bids")
    assert file in str(refusal.value) and "there are *_bold" not in str(refusal.value)


def test_what_is_no_series_is_no_scan(tmp_path):
    for suffix in ("sbref", "boldref", "cbv", "mask", "T2starmap", "newmap"):
        grow(
            tmp_path,
            f"{FINE}_desc-x_{suffix}.nii.gz",
            f"sub-02/func/sub-02_task-rest_acq-1.5_{suffix}.nii.gz",
        )
    grow(
        tmp_path,
        f"{FINE}_bold.{{nii.gz,json,dtseries.nii}}",
        f"{FINE}_events.tsv",
        "sub-02/func/.hid_bold.nii.gz",
    )
    assert list(reasons(tmp_path, kind="bids")) == ["sub-02_task-rest_acq-1.5_newmap.nii.gz"]


def test_folders_with_dots_are_folders(tmp_path):
    grow(tmp_path, f"{FINE}_bold.nii.gz", "sub-01.2/func/sub-01.2_task-rest_bold.nii.gz")
    grow(tmp_path, "sub-03/ses-1.5T/func/sub-03_ses-1.5T_task-rest_bold.nii.gz")
    (tmp_path / "sub-04.x").symlink_to(grow(tmp_path / "store", "func/sub-04.x_task-rest_bold.nii.gz"))
    assert set(reasons(tmp_path, kind="bids").values()) == {"no_name"}
    assert len(reasons(tmp_path, kind="bids")) == 3


def test_surfaces_with_hemispheres_before_their_names(tmp_path):
    grow(tmp_path, "sub-01/func/{lh,rh}.sub-01_task-rest_space-fsnative_bold.func.gii")
    grow(tmp_path, f"{FINE}_hemi-{{L,R}}_space-fsnative_bold.func.gii")
    runs, rejected = found(tmp_path, SURFACES)
    assert len(runs) == 1 and [r.reason for r in rejected] == ["no_name"] * 2
    for r in rejected:  # followed as it is told
        name = r.detail.partition("rename it to ")[2]
        (tmp_path / r.source).rename(tmp_path / "sub-01/func" / name)
    assert [len(part) for part in found(tmp_path, SURFACES)] == [2, 0]


@pytest.mark.parametrize(
    "file",
    [
        f
        for f, words in MISNAMED.items()
        if ("label" in words and "no label" not in words) or "no task" in words
    ],
)
@pytest.mark.parametrize("kind", ["bids", "fmriprep"])
def test_the_remedy_works_as_it_is_told(tmp_path, file, kind):
    """The recipe of the message reads the odd scan with its own companions, and the others as before."""
    end = "space-MNI_desc-preproc_bold" if kind == "fmriprep" else "bold"
    odd = file.replace("bold.nii.gz", end)
    for stem in (f"sub-01/func/{odd}", f"{FINE}_run-1_{end}"):
        bare = stem.removesuffix(f"_{end}")
        grow(
            tmp_path, f"{stem}.{{nii.gz,json}}", f"{bare}_events.tsv", f"{bare}_desc-confounds_timeseries.tsv"
        )
        if kind == "fmriprep":
            grow(tmp_path, f"{bare}_space-MNI_desc-brain_mask.nii.gz")
    runs, rejected = found(tmp_path, kind=kind)
    before = [r.key for r in runs]
    assert before == ["toy_sub-02_task-rest_run-1"] and [r.reason for r in rejected] == ["no_name"]
    told = re.findall(r"(files|name_pattern): '([^']+)'", rejected[0].detail)
    runs, rejected = found(tmp_path, kind=kind, **dict(told))
    assert not rejected and [r.key for r in runs if "sub-02" in r.key] == before
    (run,) = (r for r in runs if r.entities["sub"] == "01")
    assert run.entities["task"] in ("rest", "reward_rest", "1.5T", "bold")
    companions = [run.events, *run.sidecars, *([run.confounds, run.brain_mask] if kind == "fmriprep" else [])]
    assert all(c is not None and c.name.startswith(odd.removesuffix(f"_{end}")) for c in companions)


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    "file",
    [
        "sub-01/sub-01_task-rest_bold.nii.gz",
        "sub-01/ses-1/sub-01_ses-1_task-rest_bold.nii.gz",
        "sub-01/fmri/sub-01_task-rest_bold.nii.gz",
        "sub-01/anat/sub-01_task-rest_bold.nii.gz",
        "sub-01/ses-1/Func/sub-01_ses-1_task-rest_bold.nii.gz",
        "sub-02/ses2/func/sub-02_task-rest_bold.nii.gz",
        "sub-01/Ses1/func/sub-01_task-rest_bold.nii.gz",
        "sub-01_task-rest_bold.nii.gz",
        "subject01/func/sub-01_task-rest_bold.nii.gz",
        "Sub-01/ses-1/func/sub-01_task-rest_bold.nii.gz",
    ],
)
def test_scans_outside_func_are_named(tmp_path, file):
    grow(tmp_path, file)
    with pytest.raises(UserError, match=r"outside sub-\*/\[ses-\*/\]func"):
        found(tmp_path, kind="bids")
    grow(tmp_path, f"{FINE}_bold.nii.gz")
    runs, rejected = found(tmp_path, kind="bids")
    assert len(runs) == 1 and [(r.source, r.reason) for r in rejected] == [(file, "misplaced")]


def test_subjects_without_scans_get_one_line_each(tmp_path):
    grow(
        tmp_path,
        f"{FINE}_bold.nii.gz",
        "sub-02/ses-9/anat/sub-02_T1w.nii.gz",
        "sub-04/func/sub-04_events.tsv",
    )
    grow(
        tmp_path,
        "sub-03/{anat,dwi}/sub-03_x.nii.gz",
        "sub-05/func/sub-05_task-a_bold.dtseries.nii",
        "code/x.py",
    )
    (tmp_path / "sub-01").mkdir()
    rejected = found(tmp_path, kind="bids")[1]
    lines = {r.source: r.detail for r in rejected if r.reason == "no_scans"}
    assert "empty: fetch it (datalad get)" in lines.pop("sub-01")
    assert "there is anat, dwi" in lines.pop("sub-03")
    assert "there is *_bold.dtseries.nii" in lines.pop("sub-05")
    assert list(lines) == ["sub-04"]
    assert "sub-02" in found(tmp_path, kind="bids", entities={"sub": "02"})[0][0].key
    assert not [r for r in found(tmp_path, kind="bids", entities={"sub": "02"})[1] if r.reason == "no_scans"]


def test_a_clone_that_was_not_fetched_says_so(tmp_path):
    (tmp_path / "sub-01").mkdir()
    with pytest.raises(UserError, match=r"subjects are empty: fetch them \(datalad get\)"):
        found(tmp_path, kind="bids")


# ---------------------------------------------------------------- from files to a corpus


def test_a_build_accounts_for_every_file(tmp_path, capsys):
    root, atlas = tmp_path / "data", write_atlas(tmp_path / "atlas.nii.gz")
    for run in (1, 2):
        write_fmriprep_run(root, "01", run, space="MNI")
    write_fmriprep_run(root, "02", 1, space="MNI", n_volumes=5)
    grow(
        root,
        "sub-03/func/sub-03_task-a_b_bold.nii.gz",
        "sub-01/func/sub-01_task-rest_run-01_echo-1_bold.nii.gz",
    )
    (root / "participants.tsv").write_text("participant_id\n1\n2\n3\n")
    recipe = {
        "out": str(tmp_path / "out"),
        "jobs": 1,
        "datasets": [
            {
                "name": "toy",
                "kind": "fmriprep",
                "root": str(root),
                "participants": "participants.tsv",
                "features": {"name": "slabs", "labels_img": str(atlas)},
                "quality": {"min_volumes": 10},
            }
        ],
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    line = "toy: 5 listed = 3 in runs + 1 quarantined + 1 other renderings or echoes of them"
    assert main(["--config", str(tmp_path / "r.yaml"), "--plan"]) == 0
    shown = capsys.readouterr().out
    assert line in shown and "1 is taken for 01; 2 is taken for 02" in shown and "no_name" in shown
    assert main(["--config", str(tmp_path / "r.yaml")]) == 3
    assert "1 is taken for 01" in capsys.readouterr().err
    _, runs = read_manifest(tmp_path / "out")
    assert list(runs.person) == ["toy/01", "toy/01"]


def test_a_run_without_companions_has_the_values_of_none(tmp_path):
    """A run never sees the mask of another: with it, half of each parcel would be gone."""
    root, atlas = tmp_path / "data", write_atlas(tmp_path / "atlas.nii.gz")
    write_fmriprep_run(root, "01", 1)
    folder = root / "sub-01/func"
    (folder / "sub-01_task-rest_run-01_desc-brain_mask.nii.gz").rename(
        folder / "sub-01_task-rest_desc-brain_mask.nii.gz"
    )
    _, quarantine = build(corpus(tmp_path / "out", dataset(root, atlas)))
    assert list(quarantine.reason) == ["no_mask"]
