"""Which sequences make a pair: the published design, seconds, places of kinds, modes of access, damage."""

import itertools

import numpy as np
import pytest
import torch
import yaml
from factory import write_corpus

from fmriscale.common.errors import DamageError, UserError
from fmriscale.config import KINDS, DataConfig, PairConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.loader import NTPLoader

HALF = ["*_run-05", "*_run-06", "*_run-07", "*_run-08"]


def loader_of(corpus, split="train", seed=0, group=1, device=None, **settings):
    pairs = PairConfig(**settings.pop("pairs", {}))
    return NTPLoader(corpus, DataConfig(corpus="", pairs=pairs, **settings), split, seed, group, device)


def epoch(loader):
    return loader.batch(0, 2 * loader.n_windows)


# ---------------------------------------------------------------- as published


@pytest.fixture(scope="module")
def timbre(tmp_path_factory):
    """The timbre design: 17 people, 8 runs of 233 volumes."""
    design = {"timbre": {"subjects": 17, "runs": 8, "n_volumes": 233}}
    return write_corpus(tmp_path_factory.mktemp("timbre"), datasets=design, n_features=2)


@pytest.fixture(scope="module")
def published(repository):
    """The pairs of the recipe."""
    return yaml.safe_load((repository / "configs/pretrain_paper.yaml").read_text())["data"]["pairs"]


def same_run_share(n_runs, n_volumes, length=5, first=3, stride=2):
    """What share of the published negatives lies in the run of left, counted one by one."""
    starts = np.arange(first, n_volumes - length + 1)
    shares = []
    for left in range(first, n_volumes - 2 * length + 1, stride):
        near = np.sum((starts >= left - length) & (starts <= left + 3 * length - 1))
        shares.append((len(starts) - near) / (n_runs * len(starts) - near))
    return float(np.mean(shares))


def test_the_published_design_gives_the_published_numbers_of_pairs(timbre, published):
    train = loader_of(timbre, pairs=published, holdout_runs=HALF)
    held_out = loader_of(timbre, "eval", pairs=published, holdout_runs=HALF)
    for loader in (train, held_out):
        assert loader.n_windows == 111 * 4 * 17 == 7548
        b = epoch(loader)
        assert len(b.label) == 15_096 and b.label.sum() == 7548
        lefts = sorted(
            zip(b.row_left[b.label == 0].tolist(), b.start_left[b.label == 0].tolist(), strict=True)
        )
        assert len(set(lefts)) == 7548 and {s for _, s in lefts} == set(range(3, 224, 2))
    runs = [set(group.rows.tolist()) for loader in (train, held_out) for group in loader.groups]
    assert not runs[0] & runs[1]


def test_published_negatives_are_told_by_their_run(timbre, published):
    loader = loader_of(timbre, pairs=published)
    assert 2 * loader.n_windows == 30_192
    b = epoch(loader)
    negative = b.label == 0
    subject = timbre.runs.subject.to_numpy()
    assert np.array_equal(subject[b.row_left], subject[b.row_right])
    same_run = b.row_left == b.row_right
    offset = (b.start_right - b.start_left)[negative & same_run]
    assert not np.isin(offset, np.arange(-5, 15)).any()
    assert np.isin([-6, 15], offset).all()  # and what is just outside is drawn
    assert b.start_right[negative].min() == 3 and b.start_right[negative].max() == 228
    expected = same_run_share(8, 233)
    share = same_run[negative].mean()
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected / negative.sum()))
    detector = (same_run == (b.label == 1)).mean()  # says "follows" whenever both are of one run
    assert detector == pytest.approx(0.942, abs=0.003)
    # Every other start is as likely as any: 8 runs of 226 starts but for those near left.
    counts = np.histogram(b.start_right[negative & ~same_run], bins=np.arange(3, 230))[0]
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 226 + 5 * np.sqrt(2 * 226)


# ---------------------------------------------------------------- seconds


def test_durations_in_seconds_are_volumes_of_each_data_set(tmp_path):
    spec = {"fast": {"t_r": 0.8, "n_volumes": 300, "weight": 1.0}, "slow": {"t_r": 2.5, "weight": 1.0}}
    corpus = write_corpus(tmp_path, datasets=spec, n_features=3)
    seconds = {"length": "10 s", "stride": "5 s", "gap": "7.5 s", "min_distance": "30 s", "first": "5s"}
    loader = loader_of(corpus, pairs={**seconds, "negatives": {"same_run": 1}}, group=64)
    assert {(p.length, *p.datasets) for p in loader.groups} == {(13, "fast"), (4, "slow")}
    for step in range(8):
        b = loader.batch(step * 64, 64)
        t_r = b.t_r[0]
        length, stride, gap, far, first = {0.8: (13, 6, 9, 38, 6), 2.5: (4, 2, 3, 12, 2)}[
            round(float(t_r), 1)
        ]
        assert np.ptp(b.t_r) == 0 and b.left.shape == (64, length, 3)
        follows = b.start_left + length + gap
        assert np.array_equal(b.start_right[b.label == 1], follows[b.label == 1])
        assert np.abs(b.start_right - follows)[b.label == 0].min() >= far
        assert b.start_left.min() >= first and not ((b.start_left - first) % stride).any()


def test_seconds_that_give_two_lengths_in_a_data_set_are_refused(tmp_path):
    corpus = write_corpus(tmp_path, datasets={"alpha": {}})
    corpus.runs.loc[0, "t_r"] = 0.8
    with pytest.raises(
        UserError, match=r"data set alpha .* 10 s is 5, 13 volumes; give pairs\.length in volumes"
    ):
        loader_of(corpus, pairs={"length": "10 s"})
    for wrong in ("10", "10 min", "-1 s"):
        with pytest.raises(ValueError, match="neither a number of volumes nor a duration"):
            PairConfig(gap=wrong)


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("shuffle", ["exact", "window"])
def test_right_sequences_of_negatives_are_those_of_positives_as_often(tmp_path, shuffle):
    # Runs of very different lengths, some censored: the hard case for "every place is as frequent".
    spec = {
        "alpha": {"subjects": 8, "runs": 3, "n_volumes": lambda s, r: 60 + 20 * ((s + 2 * r) % 5)},
        "beta": {"subjects": 6, "runs": 2, "n_volumes": lambda s, r: 90 + 25 * (s % 2)},
    }
    corpus = write_corpus(tmp_path, datasets=spec, n_features=2)
    for kind in ("same_run", "same_subject", "same_dataset"):
        settings = {"negatives": {kind: 0.95, "reversed": 0.05}, "min_distance": 9}
        loader = loader_of(corpus, pairs=settings, mixture="proportional", shuffle=shuffle, shuffle_shards=1)
        b = loader.batch(0, 40 * loader.n_windows)
        drawn = b.kind == KINDS.index(kind) + 1
        positive = b.label == 1
        places = set(zip(b.row_right[positive].tolist(), b.start_right[positive].tolist(), strict=True))
        assert set(zip(b.row_right[drawn].tolist(), b.start_right[drawn].tolist(), strict=True)) <= places
        if kind == "same_run":  # each place exactly as often, within chance
            for run in np.unique(b.row_right):
                counts = np.bincount(b.start_right[drawn & (b.row_right == run)])[5::2]
                assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < len(counts) + 6 * np.sqrt(
                    2 * len(counts)
                )
        else:  # the place of left's own positive, in another run
            assert np.array_equal(b.start_right[drawn], b.start_left[drawn] + 5)


def test_what_a_data_set_cannot_supply_is_shared_out_and_told(tmp_path):
    spec = {"single": {"runs": 1, "subjects": 6}, "double": {"runs": 2, "subjects": 3}}
    corpus = write_corpus(tmp_path, datasets=spec, n_features=2)
    quotas = {"same_run": 0.4, "same_subject": 0.4, "same_dataset": 0.2}
    loader = loader_of(corpus, pairs={"negatives": quotas}, mixture="proportional")
    b = loader.batch(0, 4 * 240 * 2)
    told = loader.describe()
    assert told["notes"] == [
        "same_subject: not possible for windows of single 100.0%; other declared kinds take their place"
    ]
    kinds = {
        d: np.bincount(b.kind[(b.dataset == i) & (b.label == 0)], minlength=4)[1:4]
        for i, d in enumerate(loader.datasets)
    }
    assert (kinds["double"] / kinds["double"].sum()).tolist() == pytest.approx([0.4, 0.4, 0.2], abs=0.01)
    assert (kinds["single"] / kinds["single"].sum()).tolist() == pytest.approx([2 / 3, 0, 1 / 3], abs=0.01)


def test_other_data_sets_give_other_people(tmp_path):
    # The same people in two data sets: nobody is their own stranger.
    corpus = write_corpus(
        tmp_path, datasets={"alpha": {}, "beta": {}, "gamma": {"subjects": 1}}, n_features=2
    )
    corpus.runs["person"] = corpus.runs.subject
    loader = loader_of(corpus, pairs={"negatives": {"other_dataset": 1}})
    b = epoch(loader)
    negative = b.label == 0
    for column, expected in (("dataset", False), ("person", False)):
        values = corpus.runs[column].to_numpy()
        assert (values[b.row_left] == values[b.row_right])[negative].any() == expected


# ---------------------------------------------------------------- mixtures and spaces


def test_mixtures(tmp_path):
    spec = {"small": {"subjects": 1, "weight": 1.0}, "large": {"subjects": 16}}
    corpus = write_corpus(tmp_path, datasets=spec, n_features=2)

    def share(**settings):
        return loader_of(corpus, **settings).describe()["mixture"]["small"]

    assert share(mixture="proportional") == pytest.approx(1 / 17, abs=0.01)
    assert share(mixture="temperature") == pytest.approx(1 / 5, abs=0.01)
    assert share(mixture="temperature", temperature=0.0) == 0.5
    assert share(weights={"small": 3, "large": 1}) == 0.75
    assert share() == pytest.approx(1 / 17, abs=0.01)  # no weight: as many for a window as the others give
    assert loader_of(corpus, weights={"small": 0, "large": 1}).batch(0, 500).dataset.tolist() == [0] * 500
    with pytest.raises(UserError, match=r"data\.weights names smal, .*choose from large, small"):
        loader_of(corpus, weights={"smal": 1})
    with pytest.raises(ValueError, match=r"data\.mixture is temperature"):
        loader_of(corpus, weights={"small": 1}, mixture="temperature")


def test_each_global_batch_is_of_one_space_and_named(tmp_path):
    spec = {"a": {"weight": 2.0}, "b": {"space": "wide", "n_features": 20, "weight": 1.0}}
    corpus = write_corpus(tmp_path, datasets=spec)
    loader = loader_of(corpus, group=32)
    batches = [loader.batch(32 * step, 32) for step in range(300)]
    assert all(b.left.shape[2] == corpus.spaces[b.space].n_features for b in batches)
    assert sum(b.space == "wide" for b in batches) == 100
    assert all((b.dataset == (b.space == "wide")).all() for b in batches)
    with pytest.raises(ValueError, match="not in one global batch of 32"):
        loader.batch(16, 32)
    assert loader_of(corpus, space=["wide"]).datasets == ["b"] == loader_of(corpus, space="wide").datasets


# ---------------------------------------------------------------- access and standardisation


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    scale = {"scale": lambda s, r: (500 + 100 * s + 30 * r, 5 + s + 3 * r)}
    return write_corpus(tmp_path_factory.mktemp("scaled"), datasets={"alpha": {**scale, "shards": 2}})


@pytest.mark.parametrize("standardize", ["run", "subject", "none"])
def test_every_way_of_access_gives_the_same_pairs_to_the_bit(scaled, standardize):
    pairs = {"negatives": {"same_run": 0.5, "reversed": 0.5}}
    cpu = torch.device("cpu")
    by_access = {
        access: loader_of(scaled, access=access, standardize=standardize, pairs=pairs, device=cpu).batch(
            7, 400
        )
        for access in ("mmap", "memory", "device")
    }
    assert isinstance(by_access["device"].left, torch.Tensor)
    for name in by_access["mmap"]._fields:
        one, *others = (np.asarray(getattr(b, name)) for b in by_access.values())
        assert all(np.array_equal(one, other) and one.dtype == other.dtype for other in others), name


def test_standardisation_over_a_subject_is_that_of_the_runs_put_together(scaled):
    b = loader_of(scaled, standardize="subject").batch(0, 200)
    raw = loader_of(scaled, standardize="none").batch(0, 200)
    subject = scaled.runs.subject.to_numpy()
    undone = {}
    for row in range(len(scaled.runs)):
        mean, std = scaled.mean_std(row)
        undone[row] = scaled.bold(row).astype(np.float64) * std + mean
    for i in range(0, 200, 23):
        run, start = b.row_left[i], b.start_left[i]
        whole = np.concatenate([x for row, x in undone.items() if subject[row] == subject[run]])
        expected = (undone[run][start : start + 5] - whole.mean(0)) / whole.std(0, ddof=1)
        assert np.allclose(b.left[i], expected, atol=0.02)  # float16, and runs that are not quite of mean 0
        assert np.allclose(raw.left[i], undone[run][start : start + 5], rtol=1e-3)


def test_values_that_float16_cannot_hold_are_refused(tmp_path):
    corpus = write_corpus(tmp_path, datasets={"alpha": {"scale": lambda s, r: (90_000, 100)}})
    with pytest.raises(UserError, match="do not fit float16; use run or subject"):
        loader_of(corpus, standardize="none").batch(0, 10)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("access", ["mmap", "memory", "device"])
def test_damage_is_named_before_the_first_step(tmp_path, access):
    corpus = write_corpus(tmp_path, datasets={"alpha": {"shards": 2}})
    shard = tmp_path / corpus.runs["shard"].iloc[-1]
    whole = shard.read_bytes()
    row = corpus.runs.iloc[-1]

    def opened():
        return loader_of(Corpus.open(tmp_path), access=access, verify=True, device=torch.device("cpu"))

    flipped = bytearray(whole)
    flipped[int(row.offset) + 777] ^= 1
    for content, said in (
        (bytes(flipped), f"run {row.key} at byte {row.offset}: its values have another sha256"),
        (whole[:-512], f"the shard has {len(whole) - 512} bytes instead of {len(whole)}"),
        (None, "No such file"),
    ):
        shard.unlink(missing_ok=True)
        if content is not None:
            shard.write_bytes(content)
        with pytest.raises(DamageError, match=said) as error:
            opened()
        assert str(shard) in str(error.value)
    shard.write_bytes(whole)
    assert opened().batch(0, 10).left.shape == (10, 5, 12)


# ---------------------------------------------------------------- the windowed shuffle


@pytest.mark.parametrize("segments", ["0:41", "30:20", "-5:40"])
def test_stretches_beyond_a_run_are_damage(tmp_path, segments):
    corpus = write_corpus(tmp_path)
    first = corpus.runs.index[corpus.runs["split"] == "train"][0]
    corpus.runs.loc[first, ["segments", "n_volumes"]] = segments, 40
    with pytest.raises(DamageError, match=rf"of 40 volumes has segments {segments}"):
        loader_of(corpus)


def test_the_windowed_shuffle_keeps_to_its_shards_and_sees_every_window_once(tmp_path):
    shards, window = 20, 4
    spec = {"alpha": {"subjects": 40, "runs": 2, "shards": shards, "n_volumes": lambda s, r: 40 + s}}
    corpus = write_corpus(tmp_path, datasets=spec, n_features=1)
    kinds = {"negatives": {"same_run": 0.5, "same_dataset": 0.5}, "min_distance": 6}
    loader = loader_of(corpus, shuffle="window", shuffle_shards=window, pairs=kinds)
    n, shard = 2 * loader.n_windows, corpus.runs["shard"].factorize()[0]
    orders = []
    for e in range(3):
        b = loader.batch(e * n, n)
        for label in (0, 1):
            m = b.label == label
            assert len(set(zip(b.row_left[m].tolist(), b.start_left[m].tolist(), strict=True))) == n // 2
        left, right = shard[b.row_left], shard[b.row_right]
        orders.append(tuple(dict.fromkeys(left.tolist())))
        block = n // shards
        for first in range(0, n - block, block // 2):
            # A stretch as long as a block meets two blocks: their shards, and a hard-to-place negative's own.
            near = slice(first, first + block)
            assert len(set(left[near])) <= window + 2
            assert np.mean(np.isin(right[near], left[near])) > 0.97
    assert len(set(orders)) == 3  # another order of shards in every pass
    # From anywhere, in any order: what a pass remembers does not matter.
    fresh = loader_of(corpus, shuffle="window", shuffle_shards=window, pairs=kinds)
    for first, count in itertools.product((5 * n + 3, 17, n - 5), (1, 40)):
        a, b = loader.batch(first, count), fresh.batch(first, count)
        assert np.array_equal(a.start_left, b.start_left) and np.array_equal(a.row_right, b.row_right)


def test_memory_of_a_batch_is_used_again_only_when_nobody_holds_it(scaled):
    loader = loader_of(scaled)
    held = [loader.batch(0, 8).left[2:4], torch.from_numpy(loader.batch(8, 8).right)[:, 1]]
    kept = [np.array(values) for values in held]
    owners = {id(loader.batch(16 * i, 8).left.base) for i in range(2, 40)}
    assert all(np.array_equal(values, copy) for values, copy in zip(held, kept, strict=True))
    assert len(owners) == 1
