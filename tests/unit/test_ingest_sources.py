import json

import numpy as np
import pytest
from scans import brain_like, dataset, write_atlas, write_fmriprep_run, write_image

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.ingest.find.names import make_key
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.read.arrays import read_array
from fmriscale.ingest.read.events import read_events, read_evs
from fmriscale.ingest.read.nifti import open_image
from fmriscale.ingest.read.timing import decide_t_r, read_sidecars, stated_t_r

COLUMNS = FeatureConfig(name="cols", columns=4)


@pytest.fixture
def atlas(tmp_path):
    return write_atlas(tmp_path / "atlas.nii.gz")


def test_fmriprep_runs_and_their_companions(tmp_path, atlas):
    for subject in ("02", "01"):
        for run in (2, 1):
            write_fmriprep_run(tmp_path, subject, run, events="onset\tduration\n1\t2\n")
    runs, rejected, _ = find_runs(dataset(tmp_path, atlas))
    assert [r.key for r in runs] == [
        f"toy_sub-{s}_task-rest_run-{r}" for s in ("01", "02") for r in ("01", "02")
    ]
    assert not rejected
    first = runs[0]
    for companion in (first.confounds, first.brain_mask, first.events, *first.sidecars):
        assert companion is not None and companion.name.startswith("sub-01_task-rest_run-01_")


def test_a_run_in_several_spaces_asks_for_a_choice(tmp_path, atlas):
    for space in ("T1w", "MNI152NLin2009cAsym"):
        write_fmriprep_run(tmp_path, "01", space=space)
    with pytest.raises(UserError, match=r"\{space: MNI152NLin2009cAsym.*\} or \{space: T1w"):
        find_runs(dataset(tmp_path, atlas))
    runs, *_ = find_runs(dataset(tmp_path, atlas, entities={"space": "T1w"}))
    assert len(runs) == 1
    assert runs[0].brain_mask is not None and "space-T1w" in runs[0].brain_mask.name
    with pytest.raises(UserError, match=r"there are task: rest; run: 01; space: MNI152NLin2009cAsym, T1w"):
        find_runs(dataset(tmp_path, atlas, entities={"space": "MNI305"}))


def test_index_entities_match_whatever_their_zeros(tmp_path, atlas):
    write_fmriprep_run(tmp_path, "01", 1)
    write_fmriprep_run(tmp_path, "01", 2)
    runs, *_ = find_runs(dataset(tmp_path, atlas, entities={"run": "1"}))
    assert [r.entities["run"] for r in runs] == ["01"]


def test_repetition_time_is_inherited_and_the_nearest_sidecar_wins(tmp_path, atlas):
    path = write_image(
        tmp_path / "sub-01/ses-a/func/sub-01_ses-a_task-x_bold.nii.gz", brain_like(20), t_r=None
    )
    (tmp_path / "task-x_bold.json").write_text('{"RepetitionTime": 3.0}')
    (tmp_path / "task-y_bold.json").write_text('{"RepetitionTime": 9.0}')
    bids = dataset(tmp_path, atlas, kind="bids")
    assert stated_t_r(read_sidecars(find_runs(bids)[0][0].sidecars)) == 3.0
    (tmp_path / "sub-01/ses-a/sub-01_ses-a_bold.json").write_text('{"RepetitionTime": 2.5}')
    assert stated_t_r(read_sidecars(find_runs(bids)[0][0].sidecars)) == 2.5
    assert open_image(path).t_r is None  # a header without a unit of time says nothing about time


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, 2.0, 2.0), 2.0),
        ((None, None, 1.5), 1.5),
        ((None, 2.0, None), 2.0),
        ((None, 2.0, 2.01), 2.0),
        ((None, 2.0, 1.79), "t_r_conflict"),
        ((2.0, 2.0, 1.79), 2.0),
        ((None, None, None), "no_t_r"),
        ((None, 2000.0, None), "no_t_r"),
        ((None, 0.0, None), "no_t_r"),
    ],
)
def test_repetition_time_is_decided_or_refused(given, expected):
    if isinstance(expected, float):
        assert decide_t_r(*given) == expected
        return
    with pytest.raises(Rejected) as caught:
        decide_t_r(*given)
    assert caught.value.reason == expected


def test_header_units_of_time(tmp_path):
    path = write_image(tmp_path / "bold.nii.gz", brain_like(20), t_r=None)
    import nibabel as nib

    image = nib.Nifti1Image.from_filename(path)
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((3, 3, 3, 720))
    image.to_filename(tmp_path / "ms.nii.gz")
    assert open_image(tmp_path / "ms.nii.gz").t_r == pytest.approx(0.72)


def test_files_without_bids_names(tmp_path, atlas):
    for run in ("001", "002"):
        write_image(tmp_path / f"sub001/BOLD/task001_run{run}/bold.nii.gz", brain_like(20))
    (tmp_path / "sub001/BOLD/task001_run001/ev.tsv").write_text("onset\tduration\n1\t2\n")
    given = dataset(
        tmp_path,
        atlas,
        kind="bids",
        files="sub*/BOLD/*/bold.nii.gz",
        name_pattern=r"sub0(?P<subject>\d+)/BOLD/.*_run0(?P<run>\d+)",
        events="{dir}/ev.tsv",
    )
    runs, rejected, _ = find_runs(given)
    assert [r.key for r in runs] == ["toy_sub-01_run-01"]
    assert [(r.reason, "run002" in r.source) for r in rejected] == [("no_events", True)]


def test_arrays_take_subject_t_r_and_what_is_kept_from_the_participants(tmp_path):
    rng = np.random.default_rng(0)
    runs = {f"A_{i}": rng.normal(size=(20, 4)).astype(np.float16) for i in range(3)}
    np.savez(tmp_path / "site.npz", **runs)  # pyright: ignore[reportArgumentType]
    (tmp_path / "people.tsv").write_text("file\tid\ttr\tsex\nA_0\t7\t1.5\tf\nA_1\t8\tn/a\tm\n")
    given = dataset(
        tmp_path,
        kind="arrays",
        features=COLUMNS,
        files="*.npz",
        participants="people.tsv",
        participants_key="file",
        participants_subject="id",
        participants_t_r="tr",
        participants_columns=["sex"],
    )
    found, rejected, _ = find_runs(given)
    assert [(r.key, r.t_r) for r in found] == [("toy_sub-7", 1.5), ("toy_sub-8", None)]
    assert [r.participant for r in found] == [{"sex": "f"}, {"sex": "m"}]
    assert [(r.source, r.reason) for r in rejected] == [("site.npz:A_2", "no_participant")]
    np.testing.assert_array_equal(read_array(found[0].path, found[0].array), runs["A_0"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "1\t2\n3\t4.5\n"),
        ("a.tsv", "left\tright\n1\t2\n3\t4.5\n"),
        ("a.csv", "1,2\n3,4.5\n"),
        ("a.1D", "#1\t#2\n1  2\n3 4.5\n"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_tables_with_and_without_names(tmp_path, name, text, zipped):
    import gzip

    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    np.testing.assert_array_equal(read_array(path), [[1, 2], [3, 4.5]])


def test_keys_hold_no_dots_and_fit_a_tar_header():
    entities = {"run": "1", "sub": "A.b-1", "desc": "preproc", "acq": "fast", "task": "rest"}
    assert make_key("ds", entities) == "ds_sub-Ab1_task-rest_acq-fast_run-1"
    with pytest.raises(Rejected, match="no_name"):
        make_key("d" * 60, {"sub": "s" * 40})


def test_events_keep_all_columns_and_survive_stray_quotes(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_text(
        'onset\tduration\ttrial_type\tpitch\tcode\t"note"\n'
        '10.0\t2\t"Clarinet\t60\t01\tn/a\n'
        "12.5\tn/a\tTrumpet\tn/a\t02\tx\n"
    )
    assert read_events(path, shift=4.0) == [
        {"onset": 6.0, "duration": 2.0, "trial_type": "Clarinet", "pitch": 60, "code": "01", "note": None},
        {"onset": 8.5, "duration": 0.0, "trial_type": "Trumpet", "pitch": None, "code": "02", "note": "x"},
    ]
    json.dumps(read_events(path), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffonset\tduration\ttrial_type\n1\t15\tjazz'\n", [(1.0, 15.0, "jazz")]),
        ("onset\tduration\ttrial_type\t\t\n1\t2\ta\t\t\n3\t4\tb\n", [(1.0, 2.0, "a"), (3.0, 4.0, "b")]),
        ("onset\tduration\ttrial_type\n1\t2\ta\t\t\n3\t4\n", [(1.0, 2.0, "a"), (3.0, 4.0, None)]),
        ("onset\ttrial_type\r\n1.5\ta\r\n\r\nn/a\tlost\r\n", [(1.5, 0.0, "a")]),
        ("onset\tduration\ttrial_type\n", []),
    ],
    ids=["BOM and quote", "trailing tabs", "uneven rows", "no duration, no onset", "no event"],
)
def test_events_as_labs_write_them(tmp_path, text, expected):
    (tmp_path / "events.tsv").write_bytes(text.encode())
    events = read_events(tmp_path / "events.tsv")
    assert [(e["onset"], e["duration"], e["trial_type"]) for e in events] == expected
    assert all(set(e) == {"onset", "duration", "trial_type"} for e in events)


def test_an_odd_letter_does_not_cost_the_run(tmp_path):
    (tmp_path / "events.tsv").write_bytes("onset\tduration\tword\n1\t2\tK\u00e4se\n".encode("latin-1"))
    assert read_events(tmp_path / "events.tsv")[0]["onset"] == 1.0


def test_evs_of_the_hcp_become_events(tmp_path):
    (tmp_path / "win.txt").write_text("36.2\t28.0\t1\n8 3.5 1\n")
    (tmp_path / "loss.txt").write_text("8.0  28.0  0.5\n\n")
    (tmp_path / "neut.txt").write_text("")
    events = read_evs(tuple(sorted(tmp_path.glob("*.txt"))), shift=2.0)
    assert [(e["onset"], e["duration"], e["trial_type"], e["amplitude"]) for e in events] == [
        (6.0, 28.0, "loss", 0.5),
        (6.0, 3.5, "win", 1.0),
        (34.2, 28.0, "win", 1.0),
    ]
    (tmp_path / "neut.txt").write_text("10.5\n")
    with pytest.raises(Rejected, match=r"bad_events.*EVs/neut.txt"):
        read_evs((tmp_path / "neut.txt",))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "onset duration\n1 2\n",
        "onset\tduration\n1\t1\t2\n",
        "time\tduration\n1\t2\n",
        "onset\tduration\nsoon\t2\n",
    ],
)
def test_events_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "events.tsv").write_text(text)
    with pytest.raises(Rejected, match="bad_events"):
        read_events(tmp_path / "events.tsv")
