"""Properties of any tree of files: none vanishes, and each run has its own companions or none."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import VOLUMES, dataset, grow

from fmriscale.common.errors import UserError
from fmriscale.ingest.find.names import parse_name, split_name
from fmriscale.ingest.find.sources import RunSource, find_runs

PREPROC = "space-MNI_desc-preproc_bold.nii.gz"


PEOPLE = [("sub-1/func", "sub-1"), ("sub-1/ses-a/func", "sub-1_ses-a"), ("sub-01/func", "sub-01")]
PEOPLE += [("sub-a-b/func", "sub-a-b"), ("sub-ab/func", "sub-ab")]
STRANGERS = [("sub-1/func", "sub-2"), ("sub-1/ses-b/func", "sub-1_ses-a"), ("sub-a.b/func", "sub-a.b")]
STRANGERS += [("sub-1", "sub-1"), ("x/func", "sub-1"), ("sub-1/func", "lh.sub-1"), ("sub-1/func", "")]
TASKS = [*["task-a"] * 8, "task-b", "task-a_b", "task-1.5", ""]
MORE = ["", "", "acq-x", "run-1", "run-2", "acq-x_run-1", "foo-1"] * 3
MORE += ["run-01", "acq-a_b", "acq-2.5", "lost"]
ENDS = ["desc-preproc_bold.nii.gz"] * 4 + ["space-m_desc-preproc_bold.nii.gz", "echo-1_bold.nii.gz"]
ENDS += [
    "bold.nii.gz",
    "boldref.nii.gz",
    "part-phase_bold.nii.gz",
    "BOLD.nii",
    "bold (copy).nii.gz",
    "bold.json",
]
ENDS += [
    "desc-confounds_timeseries.tsv",
    "events.tsv",
    "space-m_desc-brain_mask.nii.gz",
    "desc-brain_mask.nii.gz",
]
STEMS = st.tuples(
    st.sampled_from([*PEOPLE[:2] * 6, *PEOPLE, *STRANGERS]), st.sampled_from(TASKS), st.sampled_from(MORE)
).map(lambda s: f"{s[0][0]}/" + "".join(f"{part}_" for part in (s[0][1], *s[1:]) if part))
FILES = st.dictionaries(STEMS, st.sets(st.sampled_from(ENDS), min_size=1, max_size=4), max_size=6).map(
    lambda trees: {stem + end for stem, ends in trees.items() for end in ends}
)
SOUND = "sub-9/func/sub-9_task-a_space-m_desc-preproc_bold.nii.gz"
WANTED: list[dict[str, str | int]] = [{}, {"task": "a"}, {"space": "m"}, {"echo": ""}]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(FILES, st.sampled_from(["bids", "fmriprep"]), st.sampled_from(WANTED))
def test_no_file_vanishes_and_none_is_borrowed(tmp_path_factory, files, kind, wanted):
    root = grow(tmp_path_factory.mktemp("tree"), SOUND, *files)
    try:
        there = find_runs(dataset(root, features=VOLUMES, kind=kind, entities=wanted))
    except UserError as refusal:
        assert "are one run; choose with entities" in str(refusal)
        return
    scans = {f for f in (SOUND, *files) if "bold" in f.lower() and ".nii" in f and "boldref" not in f}
    told = {r.source for r in there.rejections}
    assert there.counts.listed == len(scans)
    assert there.counts.in_runs == len(there.runs) >= 1
    assert there.counts.quarantined == len(told & scans)
    left = scans - told - {r.source for r in there.runs}
    assert len(left) == there.counts.unwanted + there.counts.other
    assert all(parse_name(f.rpartition("/")[2]) for f in left)
    assert len({r.key for r in there.runs}) == len(there.runs)
    assert len({(r.entities["sub"], r.source.split("/")[0]) for r in there.runs}) == len(
        {r.entities["sub"] for r in there.runs}
    )
    for run in there.runs:
        _check_companions(run)


KIN_PARTS = (["", "acq-x"], ["", "dir-AP"], ["", "run-1", "run-2"], ["", "lab-q"])
KIN = st.sets(st.tuples(*map(st.sampled_from, KIN_PARTS)), max_size=5).map(
    lambda names: {"_".join(part for part in ("sub-1_task-a", *name) if part) for name in names}
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(KIN, KIN, KIN, KIN)
def test_each_run_has_its_own_files_or_none(tmp_path_factory, runs, tables, masks, events):
    root = tmp_path_factory.mktemp("tree")
    func = "sub-1/func"
    grow(root, SOUND, *(f"{func}/{run}_{PREPROC}" for run in runs))
    grow(root, *(f"{func}/{run}_desc-confounds_timeseries.tsv" for run in tables))
    grow(root, *(f"{func}/{run}_space-MNI_desc-brain_mask.nii.gz" for run in masks))
    grow(root, *(f"{func}/{run}_events.tsv" for run in events))
    there = find_runs(dataset(root, features=VOLUMES))
    reasons = {r.source.rpartition("/")[2].removesuffix(f"_{PREPROC}"): r.reason for r in there.rejections}
    for lacking in runs - masks if masks else ():
        assert reasons[lacking] in ("no_mask", "bad_events", "duplicate_key")
    for run in there.runs[:-1]:  # the last one is the sound run of another subject
        stem = run.path.name.removesuffix(f"_{PREPROC}")
        own = [(run.confounds, tables, "desc-confounds_timeseries.tsv")]
        own += [(run.brain_mask, masks, "space-MNI_desc-brain_mask.nii.gz")]
        for file, there_are, end in own:
            assert (file.name if file else None) == (f"{stem}_{end}" if stem in there_are else None)
        if stem in events:
            assert run.events is not None and run.events.name == f"{stem}_events.tsv"
        _check_companions(run)


def _check_companions(run: RunSource) -> None:
    mine = _values(run.path)
    for own, may_lack in ((run.confounds, {"space", "echo", "desc"}), (run.brain_mask, {"echo", "desc"})):
        if own is not None:
            theirs = _values(own)
            differing = {k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k)}
            assert differing <= may_lack and not (differing & theirs.keys() - {"desc"})
    for inherited in (run.events, *run.sidecars):
        if inherited is not None:
            assert _values(inherited).items() <= mine.items()


def _values(path: Path) -> dict[str, str]:
    name = parse_name(path.name)
    assert name is not None
    return {k: v.lstrip("0") if k in ("run", "echo") else v for k, v in name.entities.items()}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["sub", "task", "run", "acq"]), st.from_regex("[a-z0-9-]+", fullmatch=True)
    )
)
def test_a_name_of_bids_is_taken_apart_in_one_way(entities):
    name = "_".join([*(f"{k}-{v}" for k, v in entities.items()), "bold"]) + ".nii.gz"
    assert (
        parse_name(name) == split_name(name, ".nii.gz") and split_name(name, ".nii.gz").entities == entities
    )
    assert np.all([v in name for v in entities.values()])
