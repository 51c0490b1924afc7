"""Pairs across people: right is what follows in another person's run, or another moment of it."""

import json

import numpy as np
import pytest
from factory import write_corpus
from stimuli import stimulus_time, write_films

from fmriscale.common.errors import UserError
from fmriscale.config import KIND_NAMES, DataConfig, PairConfig
from fmriscale.config.settings import BrokenRules
from fmriscale.sampling.loader import NTPLoader

ACROSS, POSITIVE_ACROSS = KIND_NAMES.index("other_person"), KIND_NAMES.index("positive_other_person")
ALL = {"other_person": 1.0}


def loader_of(corpus, negatives=ALL, seed=0, group=1, pairs=None, **settings):
    pairs = PairConfig(negatives=negatives, partner="other_person", **(pairs or {}))
    return NTPLoader(
        corpus, DataConfig(corpus=str(corpus.folder), pairs=pairs, **settings), "train", seed, group
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Six people start at other times; one has a hole; one saw the film twice."""
    runs = [{"subject": f"{s:02d}", "stimulus": "up", "onset": 2.0 * s, "run": "1"} for s in range(6)]
    runs += [{"subject": "00", "stimulus": "up", "onset": -10.0, "run": "2"}]
    runs += [{"subject": "06", "stimulus": "up", "mask": [*range(40), *range(60, 100)]}]
    return write_films(tmp_path_factory.mktemp("films") / "c", runs)


@pytest.fixture(scope="module")
def batch(films):
    return loader_of(films, pairs={"gap": 2}).batch(0, 4000)


def times(corpus, b):
    return stimulus_time(corpus, b.row_left, b.start_left), stimulus_time(corpus, b.row_right, b.start_right)


def test_right_is_the_following_moment_in_another_persons_run_or_another_one(films, batch):
    left, right = times(films, batch)
    follows = batch.kind == POSITIVE_ACROSS
    assert np.array_equal(follows, batch.label == 1) and follows.sum() == 2000
    assert set(batch.kind[~follows]) == {ACROSS}
    assert np.allclose(right[follows], left[follows] + (5 + 2) * 2.0)
    assert np.abs(right - left - 14.0)[~follows].min() >= 15 * 2.0
    person = films.runs.person.to_numpy()
    assert (person[batch.row_left] != person[batch.row_right]).all()
    for i in range(0, 4000, 97):
        run = films.bold(batch.row_right[i])
        assert np.array_equal(batch.right[i], run[batch.start_right[i] :][:5])
    for side in ("left", "right"):
        start, is_hole = getattr(batch, f"start_{side}"), films.runs.segments.str.contains(",").to_numpy()
        start = start[is_hole[getattr(batch, f"run_{side}")]]
        assert len(start) and ((start + 5 <= 40) | (start >= 60)).all() and start.max() + 5 <= 100


def test_neither_people_nor_moments_tell_the_answer(films):
    b = loader_of(films).batch(0, 30_000)
    person = films.runs.person.to_numpy()
    _, right = times(films, b)
    for values in (person[b.row_right], person[b.row_left], (right // 16).astype(int), b.start_left // 8):
        found = [np.unique(values[b.label == label], return_counts=True) for label in (0, 1)]
        assert np.array_equal(found[0][0], found[1][0])
        many = found[0][1] + found[1][1] > 300
        assert (np.abs(found[0][1] - found[1][1]) / found[1][1])[many].max() < 0.2
    lefts = np.unique(person[b.row_left], return_counts=True)[1]
    rights = np.unique(person[b.row_right], return_counts=True)[1]
    # Each person is as often on the right, whether they have one run or two.
    assert rights.max() / rights.min() < 1.5 and len(lefts) == len(rights) == 7


def test_other_repetition_times_meet_at_the_nearest_volume(tmp_path):
    t_r = [2.0, 1.5, 0.8, 2.0, 1.5, 0.8]
    runs = [{"subject": f"{s}", "stimulus": "up", "t_r": t, "n": 150} for s, t in enumerate(t_r)]
    runs = [run | {"dataset": f"d{i % 3}", "onset": 3.3 * i} for i, run in enumerate(runs)]
    corpus = write_films(tmp_path / "c", runs)
    b = loader_of(corpus).batch(0, 3000)
    left, right = times(corpus, b)
    t_r_left, t_r_right = (corpus.runs.t_r.to_numpy()[run] for run in (b.row_left, b.row_right))
    off = np.abs(right - left - 5 * t_r_left)
    follows = b.label == 1
    assert (off[follows] <= t_r_right[follows] / 2 + 1e-6).all() and off[follows].max() > 0.3
    assert (off[~follows] >= 15 * t_r_left[~follows] - t_r_right[~follows]).all()
    assert len({*zip(t_r_left.tolist(), t_r_right.tolist(), strict=True)}) == 9


def test_quotas_hold_for_positives_and_negatives_and_other_runs_stay_with_their_person(tmp_path):
    runs = [{"subject": f"{s}", "stimulus": "up"} for s in range(3)]
    alike = write_films(tmp_path / "alike", runs)
    b = loader_of(alike, {"other_person": 0.75, "same_run": 0.25}).batch(0, 4800)
    counts = {name: int((b.kind == code).sum()) for code, name in enumerate(KIND_NAMES)}
    assert counts["positive_other_person"] == counts["other_person"] == 1800
    assert counts["positive"] == counts["same_run"] == 600
    runs = [{"subject": f"{s}", "stimulus": "up", "dataset": "film"} for s in range(3)]
    runs += [{"subject": f"{s}", "dataset": "rest"} for s in range(3)]
    both = write_films(tmp_path / "c", runs)
    loader = loader_of(both, {"other_person": 0.75, "same_run": 0.25}, weights={"film": 1.0, "rest": 3.0})
    b = loader.batch(0, 4096)
    rest = b.dataset == loader.datasets.index("rest")
    assert rest.sum() == 3072 and set(b.kind[rest]) == {0, KIND_NAMES.index("same_run")}
    assert (b.kind[~rest] >= ACROSS).sum() == 768 and "not possible for windows of rest" in loader.describe()[
        "notes"
    ][0]


def test_where_nobody_else_was_the_window_moves_or_another_kind_takes_its_place(tmp_path):
    """One person saw the first half alone."""
    runs = [{"subject": "1", "stimulus": "up", "n": 200}, {"subject": "2", "stimulus": "up", "onset": -200.0}]
    corpus = write_films(tmp_path / "c", runs)
    b = loader_of(corpus).batch(0, 2000)
    assert (b.kind >= ACROSS).all()
    left, right = times(corpus, b)
    assert left.min() >= 200 - 10 and right.min() >= 200
    b = loader_of(corpus, {"other_person": 0.8, "same_run": 0.2}).batch(0, 2000)
    left, _ = times(corpus, b)
    assert {KIND_NAMES[k] for k in b.kind[left < 190]} == {"positive", "same_run"}
    assert (b.kind[left >= 190] >= ACROSS).mean() == pytest.approx(0.8, abs=0.05)


def test_pairs_are_a_function_of_position_alone(films):
    whole, parts = loader_of(films, seed=3), loader_of(films, seed=3, access="memory")
    one = whole.batch(10**6, 96)
    two = [parts.batch(10**6 + first, 32) for first in (64, 0, 32)]
    for name in ("left", "right", "kind", "label", "row_right", "start_right"):
        assert np.array_equal(np.concatenate([getattr(two[i], name) for i in (1, 2, 0)]), getattr(one, name))
    assert whole.fingerprint == parts.fingerprint != loader_of(films, seed=4).fingerprint
    json.dumps(whole.state)


def test_the_shifted_clock_moves_everybody_by_an_amount_of_their_own(films):
    recorded, shifted = loader_of(films), loader_of(films, stimulus_clock="shifted")
    left, right = times(films, shifted.batch(0, 4000))
    label = shifted.batch(0, 4000).label
    off = (right - left - 10.0)[label == 1]
    assert np.mean(np.abs(off) < 10) < 0.15 and len(np.unique(off)) > 20
    b = shifted.batch(0, 4000)
    for one, other in ((0, 2), (3, 5)):  # two runs are apart by one amount, but where either begins again
        offs = off[(b.row_left == one)[label == 1] & (b.row_right == other)[label == 1]]
        assert 1 <= len(np.unique(offs)) <= 4
    assert recorded.fingerprint != shifted.fingerprint
    plain = DataConfig(corpus=""), DataConfig(corpus="", stimulus_clock="shifted")
    states = [NTPLoader(films, data, "train", 0).state for data in plain]
    assert states[0] == states[1] and "data.pairs.partner" not in states[0]  # pairs of one person as before


def test_the_clock_is_part_of_the_state_where_it_matters(films):
    plain, shifted = (loader_of(films, stimulus_clock=clock) for clock in ("recorded", "shifted"))
    assert "data.stimulus_clock" not in plain.state and plain.state["data.pairs.partner"] == "other_person"
    assert shifted.state["data.stimulus_clock"] == "shifted"


def test_settings_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(BrokenRules, match="partner is same_person: set it to other_person"):
        PairConfig(negatives=ALL)
    with pytest.raises(BrokenRules, match="needs a quota of other_person"):
        PairConfig(partner="other_person")
    with pytest.raises(BrokenRules, match="window reads some shards at a time"):
        DataConfig(corpus="c", shuffle="window", pairs=PairConfig(negatives=ALL, partner="other_person"))
    with pytest.raises(UserError, match="can supply none of the negatives: other_person"):
        loader_of(write_corpus(tmp_path / "plain"))
