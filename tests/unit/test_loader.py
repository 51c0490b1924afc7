"""Pairs: what follows what, which negatives, and that any slicing of the order gives the same pairs."""

import numpy as np
import pytest
from factory import write_corpus

from fmriscale import CorpusWriter, FeatureSpace
from fmriscale.common.errors import DamageError, UserError
from fmriscale.config import KINDS, DataConfig, PairConfig, SplitConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.loader import NTPLoader, changed_data
from fmriscale.sampling.persistence import area_under_curve
from fmriscale.sampling.window_index import index_windows

ALL_KINDS = {"same_run": 0.4, "same_subject": 0.3, "same_dataset": 0.2, "reversed": 0.1}


def loader_of(corpus, *, split="train", seed=0, **settings):
    pairs = settings.pop("pairs", {})
    config = DataConfig(corpus=str(corpus.folder), pairs=PairConfig(**pairs), **settings)
    return NTPLoader(corpus, config, split, seed)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def all_fields(batch):
    return [getattr(batch, name) for name in batch._fields if name not in ("space", "masks")]


def test_sequences_are_what_their_positions_say(corpus):
    gap, length = 3, 5
    loader = loader_of(corpus, pairs={"gap": gap, "negatives": ALL_KINDS})
    b = loader.batch(0, 2000)
    for i in range(0, 2000, 7):
        left = corpus.bold(b.row_left[i])[b.start_left[i] :][:length]
        right = corpus.bold(b.row_right[i])[b.start_right[i] :][:length]
        if KINDS[b.kind[i] - 1] == "reversed" and b.kind[i] > 0:
            right = right[::-1]
        assert np.array_equal(b.left[i], left) and np.array_equal(b.right[i], right)
    positive = b.label == 1
    assert np.array_equal(b.row_left[positive], b.row_right[positive])
    assert np.all(b.start_right[positive] == b.start_left[positive] + length + gap)
    assert np.array_equal(positive, b.kind == 0)
    assert np.allclose(b.t_r, corpus.runs.t_r.to_numpy()[b.row_left])


def test_kinds_are_what_they_say_and_quotas_exact(corpus):
    loader = loader_of(corpus, datasets=["alpha"], pairs={"negatives": ALL_KINDS, "min_distance": 12})
    b = loader.batch(0, 4800)
    runs = corpus.runs
    subject = (runs.dataset + runs.subject).to_numpy()
    same_run = b.row_left == b.row_right
    same_subject = subject[b.row_left] == subject[b.row_right]
    kind = {name: b.kind == KINDS.index(name) + 1 for name in ALL_KINDS}
    for name, share in ALL_KINDS.items():
        assert kind[name].sum() == round(2400 * share)
    assert np.all(same_run[kind["same_run"]])
    assert np.all(~same_run[kind["same_subject"]] & same_subject[kind["same_subject"]])
    assert np.all(~same_subject[kind["same_dataset"]])
    follows = b.start_left + 5
    assert np.all(np.abs(b.start_right - follows)[kind["same_run"]] >= 12)
    for name in ("same_subject", "same_dataset", "reversed"):
        assert np.all((b.start_right == follows)[kind[name]])


def test_same_run_negatives_never_overlap_left_even_with_a_gap(corpus):
    loader = loader_of(corpus, pairs={"gap": 20, "negatives": {"same_run": 1}, "min_distance": 4})
    b = loader.batch(0, 6000)
    negative = b.label == 0
    distance = (b.start_right - b.start_left)[negative]
    assert np.abs(distance).min() >= 5
    assert np.abs(distance - 25).min() >= 4
    assert distance.min() < -60 and distance.max() > 60  # and what is far is reached


@pytest.mark.parametrize("gap", [0, 20])
def test_no_kind_is_known_by_its_place_in_the_run(corpus, gap):
    loader = loader_of(corpus, datasets=["alpha"], pairs={"gap": gap, "negatives": ALL_KINDS})
    b = loader.batch(0, 40_000)
    for kind in np.unique(b.kind[b.label == 0]):
        positive, negative = b.start_right[b.kind == 0], b.start_right[b.kind == kind]
        auc = area_under_curve(
            np.r_[positive, negative], np.r_[np.ones(len(positive)), np.zeros(len(negative))]
        )
        assert abs(auc - 0.5) < 0.03, (KINDS[kind - 1], auc)


def test_an_epoch_has_every_window_once_on_each_side(corpus):
    loader = loader_of(corpus, datasets=["alpha"])
    b = loader.batch(0, 2 * loader.n_windows)
    for label in (0, 1):
        m = b.label == label
        seen = set(zip(b.row_left[m].tolist(), b.start_left[m].tolist(), strict=True))
        assert len(seen) == m.sum() == loader.n_windows
    again = loader.batch(2 * loader.n_windows, 2 * loader.n_windows)
    assert not np.array_equal(b.start_left, again.start_left)  # a new epoch, a new order


@pytest.mark.parametrize("sizes", [[1, 2, 3, 7, 51], [64], [16, 16, 16, 16]])
def test_any_slicing_gives_the_same_pairs(corpus, sizes):
    whole = loader_of(corpus, pairs={"negatives": ALL_KINDS}).batch(1000, 64)
    fresh = loader_of(corpus, pairs={"negatives": ALL_KINDS})
    first, parts = 1000, []
    for size in sizes:
        parts.append(fresh.batch(first, size))
        first += size
    for field, pieces in zip(all_fields(whole), zip(*map(all_fields, parts), strict=True), strict=True):
        assert np.array_equal(field, np.concatenate(pieces))


def test_seed_changes_the_order_and_the_fingerprint(corpus):
    a, b, again = loader_of(corpus), loader_of(corpus, seed=1), loader_of(corpus)
    assert a.fingerprint == again.fingerprint != b.fingerprint
    assert "data.pairs.partner" not in a.state, "runs from before there were others go on"
    assert not np.array_equal(a.batch(0, 64).start_left, b.batch(0, 64).start_left)


@pytest.mark.parametrize(
    "changed",
    [
        {"standardize": "subject"},
        {"shuffle": "window"},
        {"volume_order": "shuffled", "access": "memory"},
        {"holdout_runs": ["*_run-01"]},
        {"weights": {"alpha": 3.0, "beta": 1.0}},
        *({"pairs": {name: 7}} for name in ("length", "stride", "gap", "min_distance", "first")),
        {"pairs": {"negatives": {"same_run": 1.0}}},
    ],
    ids=str,
)
def test_whatever_changes_what_is_read_changes_the_fingerprint(corpus, changed):
    plain, other = loader_of(corpus), loader_of(corpus, **changed)
    assert other.fingerprint != plain.fingerprint
    assert changed_data(plain.state, other.state), "a resumed run would not say what has changed"


def test_a_run_in_which_one_pair_fits_takes_part(tmp_path):
    corpus = write_corpus(tmp_path, datasets={"alpha": {"n_volumes": lambda s, _: 10 if s == 0 else 40}})
    loader = loader_of(corpus, pairs={"negatives": {"same_dataset": 1.0}})
    assert len(loader.run_keys) == 6
    short = np.flatnonzero(corpus.runs.n_volumes == 10)
    b = loader.batch(0, 400)
    assert set(short) <= set(b.row_left) and not b.start_left[np.isin(b.row_left, short)].any()


@pytest.mark.parametrize(
    "censored", [[77], [30, 31, 77], [77, 80]], ids=["two stretches", "three", "one too short for a window"]
)
def test_pairs_never_touch_censored_volumes(tmp_path, censored):
    kept = [i for i in range(120) if i not in censored]
    corpus = write_corpus(tmp_path, datasets={"alpha": {"sample_mask": kept}})
    loader = loader_of(corpus, pairs={"negatives": ALL_KINDS, "min_distance": 9})
    b = loader.batch(0, 4000)
    for start in (b.start_left, b.start_right):
        volumes = start[:, None] + np.arange(5)
        assert not np.isin(volumes, censored).any()
        assert volumes.max() < 120
    positive = b.label == 1
    between = b.start_left[positive][:, None] + np.arange(10)
    assert not np.isin(between, censored).any()


def test_the_order_does_not_depend_on_the_order_of_the_rows(corpus):
    rows = np.arange(len(corpus.runs))
    plain, other = (
        index_windows(corpus.runs, of, ["alpha", "beta"], PairConfig(), 5) for of in (rows, rows[::-1])
    )
    assert np.array_equal(plain.runs, other.runs) and np.array_equal(plain.run_first, other.run_first)


def test_a_loader_of_two_lengths_tells_its_mixture_and_what_changed(tmp_path):
    spec = {"alpha": {"weight": 3.0}, "beta": {"weight": 1.0, "t_r": 1.0}}
    corpus = write_corpus(tmp_path / "c", datasets=spec)
    loader = loader_of(corpus, pairs={"length": "10 s"})
    assert len(loader.groups) == 2 and loader.describe()["mixture"] == {"alpha": 0.75, "beta": 0.25}
    more = write_corpus(tmp_path / "more", datasets=spec | {"beta": {**spec["beta"], "subjects": 4}})
    told = changed_data(loader.state, loader_of(more, pairs={"length": "10 s"}).state)
    n = loader.state["data sets"]["beta"]["windows"]
    assert f"data set beta had 6 runs and {n} windows, has 8 runs and {n * 4 // 3} windows" in told
    other = write_corpus(tmp_path / "other", datasets=spec, seed=1)
    told = changed_data(loader.state, loader_of(other, pairs={"length": "10 s"}).state)
    assert told == [f"data set {name} has other content" for name in ("alpha", "beta")]


def test_mixture_weights_hold_in_every_block(tmp_path):
    spec = {"alpha": {"weight": 3.0}, "beta": {"weight": 1.0, "subjects": 9}}
    corpus = write_corpus(tmp_path, datasets=spec)
    loader = loader_of(corpus)
    block = loader.groups[0].mixture.quotas.sum()
    b = loader.batch(5 * block, 4 * block)
    assert np.array_equal(np.bincount(b.dataset), [3 * block, block])
    proportional = loader_of(corpus, mixture="proportional")
    b = proportional.batch(0, proportional.groups[0].mixture.quotas.sum())
    assert abs(np.mean(b.dataset == 1) - 0.75) < 0.01


def test_a_data_set_in_which_no_pair_fits_has_no_share(tmp_path):
    spec = {"alpha": {"weight": 1.0}, "beta": {"weight": 3.0, "n_volumes": 8}}
    loader = loader_of(write_corpus(tmp_path, datasets=spec), mixture="weights")
    assert loader.describe()["mixture"] == {"alpha": 1.0, "beta": 0.0}
    assert not loader.batch(0, 200).dataset.any()


def test_splits_and_held_out_runs_do_not_mix(tmp_path):
    spec = {"alpha": {"subjects": 12, "runs": 3}}
    corpus = write_corpus(tmp_path, datasets=spec, split=SplitConfig(val=0.3, test=0.2))
    train = loader_of(corpus, holdout_runs=["*_run-02"])
    held = loader_of(corpus, split="eval", holdout_runs=["*_run-02"])
    assert not set(train.run_keys) & set(held.run_keys)
    split = dict(zip(corpus.runs.key, corpus.runs.split, strict=True))
    assert all(split[key] == "train" and "run-02" not in key for key in train.run_keys)
    assert {key for key in held.run_keys if "run-02" in key} == {k for k in corpus.runs.key if "run-02" in k}
    b = train.batch(0, 1000)
    drawn = set(corpus.runs.key.iloc[np.r_[b.row_left, b.row_right]])
    assert drawn <= set(train.run_keys)


def test_a_kind_that_cannot_be_supplied_is_replaced_and_reported(tmp_path):
    corpus = write_corpus(tmp_path, datasets={"alpha": {"runs": 1, "subjects": 4}})
    loader = loader_of(corpus, pairs={"negatives": {"same_subject": 0.5, "same_dataset": 0.5}})
    b = loader.batch(0, 200)
    assert set(b.kind[b.label == 0]) == {KINDS.index("same_dataset") + 1}
    assert "same_subject" in loader.describe()["notes"][0]
    with pytest.raises(UserError, match="can supply none of the negatives"):
        loader_of(corpus, pairs={"negatives": {"same_subject": 1}})


def test_wrong_names_are_refused_with_the_choices(corpus):
    with pytest.raises(UserError, match=r"no data set gamma.*choose from alpha, beta"):
        loader_of(corpus, datasets=["gamma"])
    with pytest.raises(UserError, match="choose from toy"):
        loader_of(corpus, space="schaefer")
    with pytest.raises(UserError, match="matches no run key"):
        loader_of(corpus, holdout_runs=["*nothing*"])
    with pytest.raises(UserError, match="no run of split 'train' holds a pair"):
        loader_of(corpus, pairs={"length": 90})


def test_a_data_set_of_two_repetition_times_needs_a_length_in_volumes(tmp_path):
    with CorpusWriter(tmp_path / "c", split=SplitConfig(val=0.0, test=0.0)) as corpus:
        for n, t_r in enumerate((2.0, 1.0)):
            signals = np.random.default_rng(n).standard_normal((60, 4))
            corpus.add(signals, t_r, f"{n}", dataset="alpha", task="rest", space=FeatureSpace("toy", 4))
    mixed = Corpus.open(tmp_path / "c")
    with pytest.raises(UserError, match=r"alpha holds runs of different t_r, .* is 10, 20 volumes"):
        loader_of(mixed, pairs={"length": "20 s"})
    assert len(loader_of(mixed, pairs={"length": 10}).run_keys) == 2


def test_reader_names_damage(tmp_path):
    corpus = write_corpus(tmp_path, datasets={"alpha": {}})
    mean, std = corpus.mean_std(1)
    assert mean.shape == std.shape == (12,) and std.dtype == np.float32
    assert corpus.record(1)["run"] == "02"
    shard = tmp_path / corpus.runs.shard[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamageError, match=rf"{shard}: the shard has 20480 bytes instead of 40960"):
        Corpus.open(tmp_path).bold(5)
    shard.write_bytes(whole[2048:] + whole[:2048])
    with pytest.raises(DamageError, match="another member lies there"):
        Corpus.open(tmp_path).bold(1)
    shard.unlink()
    with pytest.raises(DamageError, match="No such file"):
        Corpus.open(tmp_path).bold(0)
    with pytest.raises(UserError, match="not a corpus"):
        Corpus.open(tmp_path / "alpha")
