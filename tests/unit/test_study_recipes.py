"""Recipes for data that a user downloads: files named as they come, from the corpus to the pairs."""

import dataclasses
import json
import zlib

import numpy as np
import pytest
from scans import AFFINE, SHAPE, brain_like, confounds, write_image

from fmriscale.config import CorpusConfig, StudyConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.study.data import open_study

N_VOLUMES = 80
GENRES = ["jazz", "classical", "hiphop", "blues"]
SPACE = "space-MNI152NLin6Asym_res-2"


def write_run(derivative, name, space, t_r, events_file, events):
    """A run as fMRIPrep leaves it, and its events where the recipe looks for them."""
    entities = dict(part.split("-") for part in name.split("_"))
    folders = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    folder = derivative.joinpath(*folders, "func")
    seed = zlib.crc32(name.encode())
    image = write_image(
        folder / f"{name}_{space}_desc-preproc_bold.nii.gz", brain_like(N_VOLUMES, seed), t_r=t_r
    )
    image.with_name(f"{name}_{space}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": t_r}))
    write_image(folder / f"{name}_{space}_desc-brain_mask.nii.gz", np.ones(SHAPE, np.uint8), t_r=None)
    table = confounds(N_VOLUMES, seed)
    table.to_csv(folder / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    events_file.parent.mkdir(parents=True, exist_ok=True)
    rows = [list(events[0]), *(event.values() for event in events)]
    events_file.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def genres(data):
    """ds003720: clips of 15 s, the first a dummy; quotes stray in the labels."""
    for subject in range(1, 6):
        for task, number in [("Training", 1), ("Training", 2), ("Training", 3), ("Test", 1)]:
            name = f"sub-{subject:03d}_task-{task}_run-{number:02d}"
            clips = ["'jazz'", *np.roll(GENRES, number), "jazz'"]
            # Who the data belong to may add a column; this one is not of the release.
            voice = [["instrumental", "vocal"][i % 2] for i in range(len(clips))]
            events = [
                {"onset": 15.0 * i, "duration": 15.0, "genre": clip, "voice": voice[i], "track": i, "end": 15}
                for i, clip in enumerate(clips)
            ]
            folder = data / "ds003720" / name.split("_")[0] / "func"
            write_run(data / "ds003720-fmriprep", name, SPACE, 1.5, folder / f"{name}_events.tsv", events)


def studyforrest(data):
    """ds000113, session auditoryperception: clips of 6 s."""
    for subject in range(1, 11):
        for number in (1, 2, 3):
            name = f"sub-{subject:02d}_ses-auditoryperception_task-auditoryperception_run-{number:02d}"
            labels = np.roll(["ambient", "country", "metal", "rocknroll", "symphonic"] * 2, number)
            events = [
                {"onset": 12.0 * i + 4, "duration": 6.0, "trial_type": label, "stim": f"{label}_{i}.wav"}
                for i, label in enumerate(labels)
            ]
            folder = data / f"ds000113/sub-{subject:02d}/ses-auditoryperception/func"
            write_run(data / "ds000113-fmriprep", name, SPACE, 2.0, folder / f"{name}_events.tsv", events)


def timbre(data):
    """The timbre experiment: a task a timbre and condition, run 2 repeats run 1."""
    for subject in range(1, 5):
        for number in (1, 2):
            for task, (condition, label) in {
                "pitchheardXtrumXE": ("heard", "trumpet"),
                "pitchheardXclarXE": ("heard", "clarinet"),
                "pitchimaginedXtrumXE": ("imagined", "trumpet"),
                "pitchimaginedXclarXE": ("imagined", "clarinet"),
            }.items():
                name = f"sub-sid{subject:06d}_task-{task}_run-{number:02d}"
                events = [
                    {"onset": 16.0 + 22 * i, "duration": 4.0, "condition": condition, "timbre": label}
                    for i in range(5)
                ]
                where = data / "timbre/events" / f"{name}_events.tsv"
                space = "space-MNI152NLin2009cAsym"
                write_run(data / "timbre/fmriprep", name, space, 2.0, where, events)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty folder of data but for the ROI: percentages, as the recipes' snippet writes them."""
    percent = np.zeros(SHAPE, np.float32)
    percent[2:5, 2:5, 2:4] = 60
    percent[5, 2:5, 2:4] = 20
    write_image(tmp_path / "data/atlases/stg_left.nii.gz", percent, AFFINE, t_r=None)
    monkeypatch.setenv("FMRISCALE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("write", "shard", "study", "n_runs", "labels", "n_windows"),
    [
        (genres, "corpus_ds003720", "genre_ds003720", 20, sorted(GENRES), 5 * 3 * 5),
        (
            studyforrest,
            "corpus_ds000113",
            "genre_ds000113",
            30,
            ["ambient", "country", "metal", "rocknroll", "symphonic"],
            10 * 3 * 10,
        ),
        (timbre, "corpus_timbre", "timbre", 32, ["clarinet", "trumpet"], 4 * 8 * 5),
        (timbre, "corpus_timbre_paper", "timbre_paper", 32, ["clarinet", "trumpet"], 4 * 8 * 5),
    ],
)
def test_from_the_download_to_the_pairs(
    repository, data, tmp_path, write, shard, study, n_runs, labels, n_windows
):
    write(data)
    recipe = parse(CorpusConfig, ["--config", str(repository / f"configs/{shard}.yaml")])
    _, quarantine = build(dataclasses.replace(recipe, out=str(tmp_path / "corpus"), jobs=1))
    assert quarantine.empty
    corpus = Corpus.open(tmp_path / "corpus")
    assert len(corpus.runs) == n_runs and set(corpus.runs["n_features"]) == {3 * 3 * 2}
    config = parse(StudyConfig, ["--config", str(repository / f"configs/{study}.yaml")])
    everybody, n_folds = ["train", "val", "test"], min(config.n_folds, corpus.runs.subject.nunique())
    config = dataclasses.replace(config, corpus=str(corpus.folder), splits=everybody, n_folds=n_folds)
    opened = open_study(config)
    assert list(opened.windows.labels) == labels
    assert len(opened.windows.label_N) == n_windows
    for fold in opened.folds:
        for pairs in opened.pairs(fold):
            one_run = opened.windows.run_N[pairs.left_P] == opened.windows.run_N[pairs.right_P]
            assert pairs.same_P.mean() == 0.5
            # As published, "same timbre" is "same run"; else no pair is of one run.
            assert (one_run == (pairs.same_P == 1)).all() if study == "timbre_paper" else not one_run.any()


def test_any_column_of_the_events_is_a_label(repository, data, tmp_path):
    genres(data)
    recipe = parse(CorpusConfig, ["--config", str(repository / "configs/corpus_ds003720.yaml")])
    build(dataclasses.replace(recipe, out=str(tmp_path / "corpus"), datasets=recipe.datasets[:1], jobs=1))
    recipe = ["--config", str(repository / "configs/genre_ds003720.yaml"), "--pretrained", "null"]
    given = ["--corpus", str(tmp_path / "corpus"), "--controls", "{}", "--task.label", "voice"]
    config = parse(StudyConfig, [*recipe, *given])
    opened = open_study(config)
    assert list(opened.windows.labels) == ["instrumental", "vocal"]
    record = Corpus.open(config.corpus).record(0)
    heard = [event["voice"] for event in record["events"][1:]]
    of_first = opened.windows.label_N[opened.windows.run_N == 0]
    assert [opened.windows.labels[label] for label in of_first] == heard
    train, test = opened.pairs(opened.folds[0])
    for pairs in (train, test):
        same = opened.windows.label_N[pairs.left_P] == opened.windows.label_N[pairs.right_P]
        np.testing.assert_array_equal(same, pairs.same_P == 1)
