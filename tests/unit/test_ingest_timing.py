"""Repetition time, the moment of the first volume, and events that cannot be those of the run."""

import json

import numpy as np
import pytest
from scans import T_R, brain_like, corpus, dataset, write_atlas, write_fmriprep_run, write_image

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import CorpusConfig, DenoiseConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.writer import EncodedRun
from fmriscale.ingest.build import build
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.plan import make_plan
from fmriscale.ingest.read.events import read_events, read_evs
from fmriscale.ingest.read.timing import decide_t_r, read_sidecars, recipe_t_r, start_time, stated_t_r
from fmriscale.ingest.run import process_run

REGULAR = (2.0 * np.arange(40)).tolist()
SPARSE = (REGULAR[:10] + (20 + 8.0 * np.arange(30)).tolist()).copy()


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        ({}, None),
        ({"RepetitionTime": 2.0}, 2.0),
        ({"VolumeTiming": REGULAR}, 2.0),
        ({"VolumeTiming": [t + 5 for t in REGULAR]}, 2.0),
        ({"VolumeTiming": [round(0.7215 * n, 2) for n in range(40)]}, 0.7215),
        ({"VolumeTiming": REGULAR, "RepetitionTime": 2.0}, 2.0),
        ({"VolumeTiming": [0.0], "RepetitionTime": 2.0}, 2.0),
        ({"VolumeTiming": SPARSE}, r"no_t_r.*VolumeTiming is irregular \(gaps of 2 to 8 s\)"),
        ({"VolumeTiming": SPARSE, "RepetitionTime": 2.0}, "no_t_r.*VolumeTiming is irregular"),
        ({"VolumeTiming": REGULAR[::-1]}, "no_t_r.*irregular"),
        ({"VolumeTiming": [0.0] * 40}, "no_t_r.*irregular"),
        ({"VolumeTiming": [*REGULAR[:20], *REGULAR[21:], 80.0]}, "no_t_r.*irregular"),
        ({"VolumeTiming": REGULAR, "RepetitionTime": 3.0}, "t_r_conflict.*RepetitionTime says 3 s.*2 s"),
        ({"VolumeTiming": REGULAR[:30]}, "no_t_r.*VolumeTiming lists 30 volumes, the run has 40"),
        ({"VolumeTiming": 2.0}, "no_t_r.*VolumeTiming is no list of numbers"),
        ({"VolumeTiming": ["0", "2"]}, "no_t_r.*VolumeTiming is no list of numbers"),
        ({"RepetitionTime": "2.0"}, "no_t_r.*'2.0' is not a number"),
        ({"RepetitionTime": True}, "no_t_r.*not a number"),
        ({"RepetitionTime": [2.0]}, "no_t_r.*not a number"),
    ],
)
def test_what_sidecars_state(sidecar, expected):
    if not isinstance(expected, str):
        assert stated_t_r(sidecar, 40) == (expected and pytest.approx(expected, abs=1e-3))
        return
    with pytest.raises(Rejected, match=expected):
        stated_t_r(sidecar, 40)
    if "irregular" not in expected and "list of" not in expected:
        assert stated_t_r(sidecar, 40, settled=True) is None, "t_r of the recipe settles it"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("sidecar", 2.0, 1.0), 2.0),
        (("sidecar", 2.0, None), 2.0),
        (("sidecar", None, 2.0), "no_t_r.*no sidecar states RepetitionTime"),
        (("sidecar", 2000.0, 2.0), r"no_t_r.*2000 s is implausible \(milliseconds\?\)"),
        ((None, 2.0, 1.0), "t_r_conflict.*sidecar says 2 s, the image header 1 s; set t_r, or t_r: sidecar"),
        ((None, 2000.0, 2.0), r"t_r_conflict.*sidecar says 2000 s \(milliseconds\?\).*2 s; set t_r'"),
        ((None, 2000.0, None), r"no_t_r.*2000 s is implausible \(milliseconds\?\); set t_r in seconds"),
        ((None, 720.0, 0.72), r"\(milliseconds\?\)"),
        ((None, None, 0.002), r"no_t_r.*0.002 s is implausible \(seconds, declared as milliseconds\?\)"),
        ((1.5, 2000.0, 1.0), 1.5),
    ],
)
def test_conflicts_name_a_remedy_that_works(given, expected):
    if isinstance(expected, float):
        assert decide_t_r(*given) == expected
        return
    with pytest.raises(Rejected, match=expected):
        decide_t_r(*given)


def test_sidecars_add_up_and_are_read_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('{"RepetitionTime": 2.0, "StartTime": 1.0}')
    (tmp_path / "b.json").write_text('\ufeff{"RepetitionTime": 2.5, "StartTime": null}')
    assert read_sidecars((tmp_path / "a.json", tmp_path / "b.json")) == {
        "RepetitionTime": 2.5,
        "StartTime": 1,
    }
    for text in ("[1]", "{", ""):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(Rejected, match=r"unreadable.*c.json"):
            read_sidecars((tmp_path / "c.json",))


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        ({}, 0.0),
        ({"StartTime": 0.98}, 0.98),
        ({"StartTime": 0, "SliceTimingCorrected": True}, 0.0),
        ({"SliceTimingCorrected": False}, 0.0),
        ({"SliceTimingCorrected": True}, None),
        ({"StartTime": 980}, r"980 \(milliseconds\?\)"),
        ({"StartTime": "0.98"}, "no time in seconds"),
    ],
)
def test_moment_of_the_first_volume(sidecar, expected):
    if isinstance(expected, str):
        with pytest.raises(Rejected, match=expected):
            start_time(sidecar, 80.0)
    else:
        assert start_time(sidecar, 80.0) == expected


EVENTS = "onset\tduration\ttrial_type\n4.0\t1\ta\n10.0\t1\tb\n79.0\t1\tc\n"


def process(root, sidecar, events=EVENTS, **settings):
    path = write_fmriprep_run(root, "01", events=events)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))
    given = dataset(root, write_atlas(root / "atlas.nii.gz"), **settings)
    return process_run(find_runs(given)[0][0], given)


def record_of(run):
    assert isinstance(run, EncodedRun), run
    return json.loads(run.members["json"])


def test_the_reference_of_slice_timing_is_taken_off_onsets(tmp_path):
    plain = record_of(process(tmp_path / "a", {"RepetitionTime": T_R, "StartTime": 0.0}))
    assert "start_time" not in plain and [e["onset"] for e in plain["events"]] == [4.0, 10.0, 79.0]
    middle = record_of(process(tmp_path / "b", {"RepetitionTime": T_R, "StartTime": 0.975}))
    assert middle["start_time"] == 0.975
    assert [e["onset"] for e in middle["events"]] == [3.025, 9.025, 78.025]
    dropping = DenoiseConfig(dummy_volumes=3)
    fewer = record_of(process(tmp_path / "c", {"StartTime": 0.975}, denoise=dropping))
    assert [e["onset"] for e in fewer["events"]] == [-2.975, 3.025, 72.025]
    unknown = record_of(process(tmp_path / "d", {"SliceTimingCorrected": True}))
    assert unknown["start_time_unknown"] is True and unknown["events"] == plain["events"]


def test_irregular_volumes_are_no_run_whatever_header_and_recipe_say(tmp_path):
    for name, t_r in (("none", None), ("number", 2.0), ("sidecar", "sidecar")):
        found = process(tmp_path / name, {"VolumeTiming": SPARSE}, t_r=t_r)
        assert isinstance(found, Rejection) and found.reason == "no_t_r" and "VolumeTiming" in found.detail


def events(tmp_path, *rows):
    path = tmp_path / "events.tsv"
    path.write_text("onset\tduration\n" + "".join(f"{onset}\t{duration}\n" for onset, duration in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [(4000, 500), (30000, 500), (100000, 500)],
            r"3 of 3 events start beyond .*120 s.*\(milliseconds\?\)",
        ),
        ([(0, 1), (4000, 500), (8000, 500)], r"2 of 3 events start beyond .*\(milliseconds\?\)"),
        ([(40000, 5), (800000, 5)], r"\(tenths of milliseconds\?\)"),
        ([(1500, 5), (1530, 5), (1600, 5)], r"\(times of day, or from another run's start\?\)"),
        ([(500000, 5), (900000, 5)], r"start beyond the end of the run"),
        ([(200, 1)], "1 of 1 events"),
        ([(4, 500), (30, 500), (100, 500)], r"3 of 3 events last longer than the run .*\(milliseconds\?\)"),
        ([(4, -1)], "a duration of -1 s at 4 s"),
        ([("NaN", 1)], "'NaN' in line 2 is no time"),
        ([(4, "NaN")], "'NaN' in line 2 is no time"),
        ([("1,5", 1)], "'1,5' in line 2 .*decimal point"),
        ([("inf", 1)], "'inf' in line 2"),
    ],
)
def test_events_that_cannot_be_of_this_run_are_refused(tmp_path, rows, words):
    with pytest.raises(Rejected, match=f"bad_events.*{words}"):
        read_events(events(tmp_path, *rows), end=120.0)


@pytest.mark.parametrize(
    "rows",
    [
        [(-10, 2), (4, 2)],
        [(30, 2), (4, 2), (10, 2)],
        [(4, 2), (30, 2), (119, 2), (125, 2)],
        [(0, 600)],
        [(119.9, 30)],
        [],
    ],
    ids=["before the run", "unsorted", "a few after the end", "one long block", "over the end", "none"],
)
def test_events_that_may_be_are_kept(tmp_path, rows):
    found = read_events(events(tmp_path, *rows), end=120.0)
    assert [(e["onset"], e["duration"]) for e in found] == rows


def test_events_after_the_end_are_counted(tmp_path):
    late = EVENTS + "80.0\t1\td\n95.0\t1\te\n"
    assert record_of(process(tmp_path / "a", {}, events=late))["n_events_after_end"] == 2
    assert "n_events_after_end" not in record_of(process(tmp_path / "b", {}))
    found = process(tmp_path / "c", {}, events=EVENTS.replace("4.0", "4000").replace("10.0", "10000"))
    assert isinstance(found, Rejection) and found.reason == "bad_events"


def test_evs_in_milliseconds_and_what_is_not_finite(tmp_path):
    for text, words in (
        ("4000 500 1\n8000 500 1\n", "milliseconds"),
        ("4 -1 1\n", "-1 s"),
        ("nan 1 1\n", "fin"),
    ):
        (tmp_path / "win.txt").write_text(text)
        with pytest.raises(Rejected, match=f"bad_events.*{words}"):
            read_evs((tmp_path / "win.txt",), end=120.0)


def test_t_r_by_task_and_by_sidecar(tmp_path):
    assert recipe_t_r({"rest": 2.0}, "rest") == 2.0 and recipe_t_r({"rest": 2.0}, "movie") is None
    atlas = write_atlas(tmp_path / "atlas.nii.gz")
    root = tmp_path / "data"
    for task, t_r in (("rest", 2.0), ("movie", 1.0)):
        path = write_image(
            root / f"sub-01/func/sub-01_task-{task}_bold.nii.gz", brain_like(40, len(task)), t_r=1.0
        )
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": t_r}))

    def found(t_r):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        _, quarantine = build(corpus(out, dataset(root, atlas, kind="bids", t_r=t_r)))
        return Corpus.open(out).runs.set_index("task").t_r.to_dict(), quarantine.reason.tolist()

    assert found(None) == ({"movie": 1.0}, ["t_r_conflict"])
    assert found("sidecar") == ({"movie": 1.0, "rest": 2.0}, [])
    assert found({"rest": 2.5}) == ({"movie": 1.0, "rest": 2.5}, [])
    with pytest.raises(UserError, match="t_r names task 'moive', which no run has; there is movie, rest"):
        make_plan(corpus(tmp_path / "x", dataset(root, atlas, kind="bids", t_r={"moive": 1.0})))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2", 2.0), ("sidecar", "sidecar"), ("{rest: 2, movie: 1.0}", {"rest": 2, "movie": 1})],
)
def test_recipes_say_t_r_in_three_ways(tmp_path, text, expected):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "datasets:\n- name: a\n  kind: bids\n  root: .\n  features: {name: b, columns: 3}\n"
        f"  t_r: {text}\nout: x\n"
    )
    assert parse(CorpusConfig, ["--config", str(recipe)], prog="x").datasets[0].t_r == expected
    recipe.write_text(recipe.read_text().replace(text, "2000"))
    with pytest.raises(UserError, match="2000 s is implausible"):
        parse(CorpusConfig, ["--config", str(recipe)], prog="x")
