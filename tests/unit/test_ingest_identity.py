"""Who a run is of: name and folder, participants table, names that keys cannot hold."""

import re
from pathlib import Path

import pytest
from scans import corpus, dataset, found, grow, reasons, write_atlas

from fmriscale.common.errors import UserError
from fmriscale.config import FeatureConfig
from fmriscale.ingest.plan import make_plan

SURFACES = FeatureConfig(name="f", labels_gii=["lh.label.gii", "rh.label.gii"])
FINE = "sub-02/func/sub-02_task-rest"


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("sub-03/func/sub-02_task-rest_run-9_bold.nii.gz", r"sub-(?P<subject>[^_/]+)[^/]*/"),
        ("sub-3/func/sub-03_task-rest_bold.nii.gz", r"sub-(?P<subject>[^_/]+)[^/]*/"),
        ("sub-03.old/func/sub-03_task-rest_bold.nii.gz", r"sub-(?P<subject>[^_/]+)[^/]*/"),
        ("sub-03/ses-2/func/sub-03_ses-1_task-rest_bold.nii.gz", r"ses-(?P<session>[^_/]+)[^/]*/"),
    ],
)
def test_a_name_that_contradicts_its_folder(tmp_path, file, remedy):
    grow(tmp_path, file)
    with pytest.raises(UserError, match="the folder says "):
        found(tmp_path, kind="bids")
    runs, rejected = found(tmp_path, kind="bids", name_pattern=remedy)
    assert len(runs) == 1 and not rejected
    grow(tmp_path, f"{FINE}_bold.nii.gz")
    assert reasons(tmp_path, kind="bids") == {Path(file).name: "name_conflict"}
    assert reasons(tmp_path, kind="bids", files="**/*_bold.nii.gz") == {Path(file).name: "name_conflict"}


@pytest.mark.parametrize(
    ("subjects", "ids", "matched"),
    [
        (("0001", "0002"), ("1", "2"), {"0001": "1", "0002": "2"}),
        (("0001",), ("1.0",), {"0001": "1.0"}),
        (("01",), ("sub-1",), {"01": "sub-1"}),
        (("AB",), ("ab",), {"AB": "ab"}),
        (("01", "001"), ("1",), {}),
        (("01",), ("1", "1.0"), {}),
        (("01", "1"), ("1", "2"), {"1": ""}),
        (("01",), ("01", "1"), {"01": ""}),
        (("10",), ("1",), {}),
    ],
)
def test_ids_that_lost_their_zeros_are_matched_where_that_is_unique(tmp_path, subjects, ids, matched):
    for subject in subjects:
        grow(tmp_path, f"sub-{subject}/func/sub-{subject}_task-rest_bold.nii.gz")
    table = "".join(f"{n}\t{20 + k}\n" for k, n in enumerate(ids))
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage\n{table}")
    given = {"participants": "participants.tsv", "participants_columns": ["age"], "kind": "bids"}
    runs, rejected = found(tmp_path, **given)
    assert {r.entities["sub"]: r.participant_id for r in runs} == matched
    for run in runs:
        assert run.participant == {"age": str(20 + ids.index(run.participant_id or run.entities["sub"]))}
    for r in rejected:
        assert r.reason == "no_participant" and f"which has {', '.join(ids)}; " in r.detail
    atlas = write_atlas(tmp_path / "atlas.nii.gz")
    notes = make_plan(corpus(tmp_path / "out", dataset(tmp_path, atlas, **given))).notes
    assert len(notes) == any(matched.values())
    assert all(f"{written} is taken for {own}" in notes[0] for own, written in matched.items() if written)


@pytest.mark.parametrize("pair", [("01a-b", "01ab"), ("a+b", "ab"), ("é1", "1"), ("AB", "ab"), ("é", "ö")])
def test_people_whose_names_differ_stay_two(tmp_path, pair):
    for subject in pair:
        grow(tmp_path, f"sub-{subject}/func/sub-{subject}_task-rest_bold.nii.gz")
    runs, rejected = found(tmp_path, kind="bids")
    keys = {r.entities["sub"]: r.key for r in runs}
    assert not rejected and set(keys) == set(pair) and len(set(keys.values())) == 2
    for subject, key in keys.items():
        assert re.fullmatch(r"toy_sub-[A-Za-z0-9]+_task-rest", key)
        if subject.isascii() and subject.isalnum():
            assert key == f"toy_sub-{subject}_task-rest"  # as it is without the other


def test_what_has_one_key_is_told_apart_as_the_message_says(tmp_path):
    grow(tmp_path, f"{FINE}_lab-{{x,y}}_bold.nii.gz", "sub-01/ses-{a,b}/func/sub-01_task-rest_bold.nii.gz")
    grow(tmp_path, f"{FINE}_run-{{1,01}}_bold.nii.gz", "sub-03/func/sub-03_task-rest_bold.{nii,nii.gz}")
    runs, rejected = found(tmp_path, kind="bids")
    assert len(runs) == 4 and [r.reason for r in rejected] == ["duplicate_key"] * 4
    remedies = {r.source: re.findall("name_pattern: '(.*)'", r.detail) for r in rejected}
    ((session,), (lab,), no_zeros, both_kinds) = (
        remedies[s]
        for s in (
            "sub-01/ses-b/func/sub-01_task-rest_bold.nii.gz",
            f"{FINE}_lab-y_bold.nii.gz",
            f"{FINE}_run-1_bold.nii.gz",
            "sub-03/func/sub-03_task-rest_bold.nii.gz",
        )
    )
    assert no_zeros == both_kinds == []
    assert {r.key for r in found(tmp_path, kind="bids", name_pattern=lab)[0]} >= {
        "toy_sub-02_task-rest_acq-x",
        "toy_sub-02_task-rest_acq-y",
    }
    runs = found(tmp_path, kind="bids", name_pattern=session, files="sub-01/**/*.nii.gz")[0]
    assert [r.key for r in runs] == ["toy_sub-01_ses-a_task-rest", "toy_sub-01_ses-b_task-rest"]


def test_two_files_of_one_hemisphere_do_not_vanish(tmp_path):
    grow(tmp_path, f"{FINE}_hemi-{{L,R}}.func.gii", f"{FINE}_hemi-L_bold.func.gii")
    runs, rejected = found(tmp_path, SURFACES)
    assert len(runs) == 1 and [r.reason for r in rejected] == ["duplicate_key"]
