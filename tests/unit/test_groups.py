"""Groups of people on one clock: window w of everybody is the same moment of the stimulus."""

import json

import numpy as np
import pytest
from factory import write_corpus
from stimuli import stimulus_time, write_films

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig, PairConfig, SplitConfig
from fmriscale.corpus.manifest import fingerprint_of
from fmriscale.corpus.verify import check_manifest
from fmriscale.sampling.groups import GroupLoader


def loader_of(corpus, n_people=16, n_windows=4, split="train", seed=0, **settings):
    data = DataConfig(corpus=str(corpus.folder), pairs=PairConfig(**settings.pop("pairs", {})), **settings)
    return GroupLoader(corpus, data, split, seed, n_people, n_windows)  # pyright: ignore


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two films; people start at other times, one has holes, one saw a film twice, one only rested."""
    runs = [{"subject": f"{s:02d}", "stimulus": "up", "onset": 2.0 * s, "run": "1"} for s in range(6)]
    runs += [{"subject": "00", "stimulus": "up", "onset": -10.0, "run": "2"}]
    runs += [{"subject": "06", "stimulus": "up", "mask": [*range(40), *range(60, 100)]}]
    runs += [{"subject": f"{s:02d}", "stimulus": "jaws", "n": 60} for s in range(3)]
    runs += [{"subject": "07"}, {"subject": "08", "stimulus": "alone"}]
    return write_films(tmp_path_factory.mktemp("films") / "c", runs)


def test_windows_of_all_people_are_one_moment_and_lie_end_to_end(films):
    loader = loader_of(films)
    seen = set()
    for step in range(60):
        batch = loader.batch(step)
        assert batch.bold.shape == loader.peek(step) and batch.bold.dtype == np.float16
        n_people, n_windows, length, _ = batch.bold.shape
        time_PW = stimulus_time(films, batch.row[:, None], batch.start)
        assert np.allclose(time_PW, time_PW[0]) and np.allclose(np.diff(time_PW), length * 2.0)
        assert np.array_equal(np.diff(batch.start), np.full((n_people, n_windows - 1), length))
        runs = films.runs.iloc[batch.row]
        assert runs.person.is_unique and set(runs.stimulus) == {batch.stimulus} and n_people >= 2
        assert np.allclose(batch.t_r, 2.0)
        steps_PWL = time_PW[..., None] + 2.0 * np.arange(length)
        assert np.allclose(batch.bold[..., 0], steps_PWL / 8, atol=0.02)  # float16
        for p, row in enumerate(batch.row):
            assert np.array_equal(batch.bold[p, 1], films.bold(int(row))[batch.start[p, 1] :][:length])
        seen.add(batch.stimulus)
    assert seen == {"up", "jaws"} == set(loader.describe())


def test_no_window_touches_what_is_censored(films):
    loader = loader_of(films, n_windows=3, datasets=["film"])
    holes = {row for row, mask in enumerate(films.runs.segments) if "," in mask}
    n = 0
    for step in range(200):
        batch = loader.batch(step)
        for p in np.flatnonzero(np.isin(batch.row, list(holes))):
            assert batch.start[p, -1] + 5 <= 40 or batch.start[p, 0] >= 60
            n += 1
    assert n > 10


def test_other_repetition_times_meet_within_half_a_volume(tmp_path):
    t_r = [2.0, 1.5, 0.8, 2.0, 1.5, 0.8]
    runs = [
        {"subject": f"{s}", "stimulus": "up", "t_r": t, "n": 150, "onset": 3.3 * s} for s, t in enumerate(t_r)
    ]
    corpus = write_films(tmp_path / "c", [run | {"dataset": f"d{i % 3}"} for i, run in enumerate(runs)])
    loader = loader_of(corpus, pairs={"length": 6}, n_windows=3)
    shapes = set()
    for step in range(50):
        batch = loader.batch(step)
        time_PW = stimulus_time(corpus, batch.row[:, None], batch.start)
        t_r_P = corpus.runs.t_r.to_numpy()[batch.row]
        middle_W = time_PW[np.argmax(t_r_P)]
        assert (np.abs(time_PW - middle_W) <= (t_r_P + t_r_P.max())[:, None] / 2 + 1e-6).all()
        assert np.diff(time_PW).min() > 6 * 2.0 - 1.5 and np.allclose(batch.t_r, t_r_P)
        shapes.add(batch.bold.shape[0])
    assert max(shapes) == 6


def test_a_step_is_a_pure_function_and_ranks_share_its_people(films):
    one, other = loader_of(films), loader_of(films)
    for step in (0, 7, 10**9):
        whole = one.batch(step)
        parts = [other.batch(step, rank, 2) for rank in (1, 0)][::-1]
        assert np.array_equal(np.concatenate([part.bold for part in parts]), whole.bold)
        assert np.array_equal(np.concatenate([part.start for part in parts]), whole.start)
    assert one.fingerprint == other.fingerprint == loader_of(films, access="memory").fingerprint
    assert one.fingerprint != loader_of(films, seed=1).fingerprint
    json.dumps(one.state)


def test_each_person_and_stimulus_comes_as_often_as_it_should(films):
    loader = loader_of(films, n_people=3, n_windows=2)
    counts, stimuli = np.zeros(len(films.runs)), []
    for step in range(1200):
        batch = loader.batch(step)
        counts[batch.row] += 1
        stimuli.append(batch.stimulus)
    windows = {name: described["windows"] for name, described in loader.describe().items()}
    share = windows["up"] / sum(windows.values())
    assert abs(np.mean(np.array(stimuli) == "up") - share) < 0.01
    of_person = [
        counts[(films.runs.person == f"film/{s:02d}") & (films.runs.stimulus == "up")].sum() for s in range(6)
    ]
    assert np.std(of_person) / np.mean(of_person) < 0.1


def test_shifted_clock_moves_everybody_by_an_amount_of_their_own(films):
    loader = loader_of(films, stimulus_clock="shifted", datasets=["film"])
    spread = []
    for step in range(40):
        batch = loader.batch(step)
        time_PW = stimulus_time(films, batch.row[:, None], batch.start)
        spread.append(np.abs(time_PW - time_PW[0]).max())
        assert (batch.start >= 0).all()
        assert (batch.start + 5 <= films.runs.n_volumes.to_numpy()[batch.row][:, None]).all()
    assert min(spread) > 0
    for batch in (loader.batch(3), loader_of(films, stimulus_clock="shifted").batch(3)):
        apart = np.diff(batch.start)
        assert ((apart == 5) | (apart < 0)).all()  # end to end, but where the run begins again
    assert loader.fingerprint != loader_of(films).fingerprint


def test_mixture_weights_are_those_of_the_data_sets(tmp_path):
    runs = [
        {"subject": f"{s}", "stimulus": name, "dataset": name} for s in range(3) for name in ("up", "jaws")
    ]
    corpus = write_films(tmp_path / "c", [*runs, {"subject": "9", "dataset": "rest"}])
    loader = loader_of(corpus, weights={"up": 3.0, "jaws": 1.0, "rest": 5.0})
    assert {name: of["share"] for name, of in loader.describe().items()} == {"up": 0.75, "jaws": 0.25}
    stimuli = [loader.batch(step).stimulus for step in range(400)]
    assert stimuli.count("up") == 300 and loader.datasets == ["jaws", "up"]


def test_an_epoch_of_groups_shows_everybody_every_window_about_once(tmp_path):
    corpus = write_films(tmp_path / "c", [{"subject": f"{s}", "stimulus": "up"} for s in range(7)])
    # 20 windows of 5 volumes in groups of 4, and 7 people in groups of 3.
    assert loader_of(corpus, n_people=3, n_windows=4).n_groups == 5 * 3
    assert loader_of(corpus, n_people=16, n_windows=4).n_groups == 5


def test_a_stretch_is_as_long_as_half_of_the_people_cover_it(tmp_path):
    """Four people, two of whom leave early: the other two are half, and one is not."""
    stay = [{"subject": f"{s}", "stimulus": "up"} for s in range(2)]
    leave = [{"subject": f"{s}", "stimulus": "up", "n": 12} for s in (2, 3)]
    assert loader_of(write_films(tmp_path / "half", stay + leave), n_windows=4).peek(0)[1] == 4
    leave.append({"subject": "4", "stimulus": "up", "n": 12})
    assert loader_of(write_films(tmp_path / "fewer", stay + leave), n_windows=4).peek(0)[1] == 2


def test_what_groups_are_drawn_from_is_part_of_their_state(tmp_path, films):
    runs = [{"subject": f"{s}", "stimulus": "up", "dataset": f"d{s % 2}"} for s in range(4)]
    plain = loader_of(write_films(tmp_path / "a", runs))
    assert {name: of["runs"] for name, of in plain.state["data sets"].items()} == {"d0": 2, "d1": 2}
    moved = loader_of(write_films(tmp_path / "b", [*runs[:3], runs[3] | {"onset": 2.0}]))
    assert moved.state["data sets"]["d0"] == plain.state["data sets"]["d0"]
    assert moved.state["data sets"]["d1"] != plain.state["data sets"]["d1"]
    assert moved.fingerprint != plain.fingerprint


def test_held_out_people_are_evaluated_and_not_drawn_in_training(tmp_path):
    runs = [{"subject": f"{s:02d}", "stimulus": "up"} for s in range(40)]
    corpus = write_films(tmp_path / "c", runs, SplitConfig(val=0.3, test=0.2))
    split = corpus.runs.set_index("key").split
    for name, wanted in (("train", "train"), ("eval", "val")):
        loader = loader_of(corpus, split=name)
        assert set(split[loader.run_keys]) == {wanted} and loader.n_groups > 1
        assert {split.iloc[row] for step in range(20) for row in loader.batch(step).row} == {wanted}


def test_corpora_without_shared_stimuli_are_refused_in_one_sentence(tmp_path, films):
    with pytest.raises(UserError, match="who share a stimulus; give stimulus"):
        loader_of(write_corpus(tmp_path / "plain"))
    alone = write_films(
        tmp_path / "alone", [{"subject": "1", "stimulus": "a"}, {"subject": "2", "stimulus": "b"}]
    )
    with pytest.raises(UserError, match="two people of split 'train'"):
        loader_of(alone)
    far = [{"subject": "1", "stimulus": "a"}, {"subject": "2", "stimulus": "a", "onset": -5000.0}]
    with pytest.raises(UserError, match="no window of a stimulus is covered by 2 people"):
        loader_of(write_films(tmp_path / "far", far))
    late = [{"subject": "1", "stimulus": "a", "onset": 200.0}]
    with pytest.raises(UserError, match="stimulus_onset of 200 s, but the run is 200 s long"):
        write_films(tmp_path / "late", late)


def test_manifest_keeps_stimuli_only_where_there_are_some(films, tmp_path):
    runs = films.runs
    assert runs.stimulus.tolist().count("up") == 8 and runs.stimulus_onset.dtype == np.float64
    assert check_manifest(films.folder)[2] == []
    assert "stimulus" not in write_corpus(tmp_path / "plain").runs
    moved = runs.assign(stimulus_onset=runs.stimulus_onset + 1)
    assert fingerprint_of(films.manifest, moved) != films.fingerprint
