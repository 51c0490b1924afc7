"""What a recipe says of stimuli comes to the manifest, on the clock of the volumes that are kept."""

from dataclasses import replace

import numpy as np
import pytest
from scans import corpus, dataset, write_atlas, write_fmriprep_run

from fmriscale.common.errors import UserError
from fmriscale.config import CorpusConfig, DenoiseConfig, FeatureConfig, QualityConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.verify import check_manifest
from fmriscale.ingest.build import build
from fmriscale.ingest.find.checks import setting_mistakes
from fmriscale.ingest.find.sources import find_runs

QUALITY = QualityConfig(min_volumes=5)


def arrays(root, **settings):
    """Two people with two runs each; the table has the film of each run and when it began."""
    root.mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    lines = ["file\tid\tfilm\tonset"]
    for s, onset in (("01", "4.5"), ("02", "-900")):
        for r, film in (("1", "up"), ("2", "n/a")):
            np.save(root / f"sub-{s}_task-movie_run-{r}.npy", noise.normal(size=(40, 3)))
            lines.append(f"sub-{s}_task-movie_run-{r}\tsub-{s}\t{film}\t{onset}")
    (root / "runs.tsv").write_text("\n".join(lines) + "\n")
    given = {"kind": "arrays", "files": "*.npy", "t_r": 2.0, "participants": "runs.tsv"}
    given |= {"participants_key": "file", "participants_subject": "id"}
    given |= {
        "participants_columns": ["film", "onset"],
        "name_pattern": r"task-(?P<task>\w+)_run-(?P<run>\d)",
    }
    return dataset(
        root, features=FeatureConfig(name="three", columns=3), quality=QUALITY, **(given | settings)
    )


def clock(folder):
    runs = Corpus.open(folder).runs
    return dict(zip(runs.key, zip(runs.stimulus, runs.stimulus_onset, strict=True), strict=True))


def test_names_and_onsets_are_text_or_templates(tmp_path):
    build(corpus(tmp_path / "c", arrays(tmp_path / "in", stimulus="{film}", stimulus_onset="{onset}")))
    assert clock(tmp_path / "c") == {
        "toy_sub-01_task-movie_run-1": ("up", 4.5),
        "toy_sub-01_task-movie_run-2": ("", 0.0),  # n/a
        "toy_sub-02_task-movie_run-1": ("up", -900.0),
        "toy_sub-02_task-movie_run-2": ("", 0.0),
    }
    assert check_manifest(tmp_path / "c")[2] == []
    runs, *_ = find_runs(arrays(tmp_path / "in", stimulus="{task}_{run} of {subject}", stimulus_onset="-2.5"))
    assert (runs[0].stimulus, runs[0].stimulus_onset) == ("movie_1 of 01", -2.5)


def test_dropped_volumes_start_time_and_resampling_keep_the_clock(tmp_path):
    """Five dummy volumes of 2 s are dropped, slices were corrected to 1 s: the film begins 11 s earlier."""
    atlas = write_atlas(tmp_path / "atlas.nii.gz")
    path = write_fmriprep_run(tmp_path / "in", "01")
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    sidecar.write_text('{"RepetitionTime": 2.0, "StartTime": 1.0, "SliceTimingCorrected": true}')
    denoise = DenoiseConfig(dummy_volumes=5, resample_t_r=1.0)
    given = dataset(
        tmp_path / "in", atlas, denoise=denoise, quality=QUALITY, stimulus="up", stimulus_onset=25.0
    )
    build(corpus(tmp_path / "c", given))
    assert list(clock(tmp_path / "c").values()) == [("up", 14.0)]
    assert Corpus.open(tmp_path / "c").runs.t_r[0] == 1.0


def test_another_name_or_onset_writes_the_manifest_alone(tmp_path):
    shard = tmp_path / "c/toy/toy-000000.tar"
    given = arrays(tmp_path / "in")
    build(corpus(tmp_path / "c", given))
    plain, content = Corpus.open(tmp_path / "c"), shard.read_bytes()
    assert "stimulus" not in plain.runs
    build(corpus(tmp_path / "c", replace(given, stimulus="up")))
    first, time = Corpus.open(tmp_path / "c"), shard.stat().st_mtime_ns
    assert shard.read_bytes() == content and first.fingerprint != plain.fingerprint
    build(corpus(tmp_path / "c", replace(given, stimulus="up", stimulus_onset=3.0)))
    moved = Corpus.open(tmp_path / "c")
    assert shard.stat().st_mtime_ns == time and set(moved.runs.stimulus_onset) == {3.0}
    assert moved.fingerprint != first.fingerprint
    build(corpus(tmp_path / "c", given))
    assert Corpus.open(tmp_path / "c").fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"stimulus": "{movie}"}, r"stimulus: no run has {movie}; use .*participants_columns"),
        ({"stimulus": "up", "stimulus_onset": "{start}"}, "stimulus_onset: no run has {start}"),
        ({"stimulus": "up", "stimulus_onset": "soon"}, "'soon' is no number; give seconds"),
        ({"stimulus_onset": 3.0}, "stimulus_onset: there is no stimulus; name it"),
        ({"stimulus": "{film"}, "stimulus: '{film' is no template"),
    ],
)
def test_mistakes_of_the_recipe_are_told_before_anything_is_read(tmp_path, settings, wanted):
    with pytest.raises(UserError, match=wanted.replace("{", r"\{").replace("}", r"\}")):
        find_runs(arrays(tmp_path / "in", **settings))
    assert len(setting_mistakes(arrays(tmp_path / "in", **settings))) == 1


def test_runs_that_cannot_be_placed_are_quarantined_and_milliseconds_refused(tmp_path):
    given = arrays(tmp_path / "in", stimulus="{task}", stimulus_onset="{film}")
    _, rejected, _ = find_runs(given)
    assert {r.reason for r in rejected} == {"no_stimulus"} and "is no number" in rejected[0].detail
    late = arrays(tmp_path / "in", stimulus="up", stimulus_onset=4500)
    with pytest.raises(UserError, match=r"of 80 s has stimulus_onset 4500 s, and 3 more; give seconds"):
        build(corpus(tmp_path / "c", late))


@pytest.mark.realdata
def test_films_and_a_story_of_one_recipe_lie_on_their_clocks(data_root, tmp_path):
    if not (data_root / "qtab_partlycloudy_shen293").is_dir():
        pytest.skip("no films under FMRISCALE_DATA")
    recipe = ["--config", "configs/corpus_films.yaml", "--out", str(tmp_path), "--jobs", "1"]
    build(parse(CorpusConfig, recipe, prog="fmriscale-shard"))
    films = Corpus.open(tmp_path)
    people = films.runs.groupby("stimulus").person.nunique()
    assert people.to_dict() == {f"forrest_gump_{r}": 15 for r in range(1, 9)} | {
        "partly_cloudy": 289,
        "pie_man": 65,
    }
    assert set(films.spaces) == {"shen2013_267", "shen293"}
    for name in ("forrest_gump_1", "partly_cloudy"):
        rows = np.flatnonzero(films.runs.stimulus == name)[:15]
        bold_RTV = np.stack([films.bold(row) for row in rows]).astype(np.float64)
        one, rest = bold_RTV[0], bold_RTV[1:].mean(axis=0)
        alike = np.mean([np.corrcoef(one[:, v], rest[:, v])[0, 1] for v in range(100, 160)])
        moved = np.mean([np.corrcoef(one[20:, v], rest[:-20, v])[0, 1] for v in range(100, 160)])
        assert alike > moved + 0.1  # people are together on the clock
