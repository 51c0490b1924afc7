"""The order is a pure function of position: permutations, quotas, random numbers, and any slicing."""

import hashlib

import numpy as np
import pytest
import reference_order as reference
from factory import write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from fmriscale.common import randomness
from fmriscale.config import DataConfig, PairConfig
from fmriscale.sampling import mixture
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training.schedule import plan_batch

KINDS = {"same_run": 0.35, "same_subject": 0.25, "same_dataset": 0.2, "other_dataset": 0.1, "reversed": 0.1}


def image_of(n, key):
    return np.array([randomness.permute(i, n, np.uint64(key)) for i in range(n)])


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**62))
def test_permute_is_a_permutation_and_the_one_of_the_reference(n, seed):
    key = randomness.fold(0, seed)
    assert int(key) == reference.key_of(seed)
    image = image_of(n, key)
    assert np.array_equal(np.sort(image), np.arange(n))
    some = range(0, n, 1 + n // 20)
    assert [reference.permute(i, n, int(key)) for i in some] == image[list(some)].tolist()


def test_permute_reaches_any_place_of_a_huge_set():
    n = 10**15
    there = [randomness.permute(i, n, np.uint64(3)) for i in (0, 1, n // 2, n - 1)]
    assert there == [reference.permute(i, n, 3) for i in (0, 1, n // 2, n - 1)]


def test_permute_leaves_no_correlation_between_neighbours():
    n = 20_000
    image = image_of(n, 7)
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 4 / np.sqrt(n)
    assert np.mean(image == image_of(n, 8)) < 10 / n


def test_uniform_is_uniform_and_streams_are_independent():
    a, b = (np.array([randomness.uniform(randomness.fold(0, s), i) for i in range(50_000)]) for s in (1, 2))
    assert a[:9].tolist() == [reference.uniform(reference.key_of(1), i) for i in range(9)]
    counts = np.histogram(a, bins=50, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 100  # chi-square, 49 degrees of freedom
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert a.min() >= 0 and a.max() < 1


@settings(max_examples=60, deadline=None)
@given(shares=st.lists(st.floats(0.01, 100), min_size=1, max_size=30), total=st.integers(30, 5000))
def test_quotas_are_exact_and_nearest(shares, total):
    quotas = mixture.largest_remainder(shares, total)
    exact = np.array(shares) / np.sum(shares) * total
    assert quotas.sum() == total
    assert np.all(np.abs(quotas - exact) < 1)


def test_interleave_spreads_evenly():
    quotas = np.array([700, 200, 100])
    which, occurrence = mixture.interleave(quotas)
    assert np.array_equal(np.bincount(which), quotas)
    for thing, quota in enumerate(quotas):
        running = np.cumsum(which == thing)
        ideal = np.arange(1, 1001) * quota / 1000
        assert np.abs(running - ideal).max() <= 2
        assert np.array_equal(occurrence[which == thing], np.arange(quota))


@pytest.mark.parametrize("smallest", [0.5, 1e-3, 1e-5])
def test_block_keeps_small_shares(smallest):
    shares = np.array([1 - smallest, smallest])
    block = mixture.block_size(shares)
    quota = mixture.largest_remainder(shares, block)[1]
    assert quota >= 1 and abs(quota / block - smallest) <= smallest / 8


# ---------------------------------------------------------------- the whole order


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two data sets in one space; three in two spaces."""
    kept = [i for i in range(110) if i not in (17, 18, 60, 95)]
    one = {
        "alpha": {"subjects": 4, "weight": 3.0},
        "beta": {"n_volumes": 110, "sample_mask": kept, "weight": 1.0},
    }
    two = {
        **one,
        "gamma": {"space": "other", "n_features": 7, "weight": 4.0, "t_r": 1.0, "n_volumes": 95, "shards": 3},
    }
    folder = tmp_path_factory.mktemp("corpora")
    return {n: write_corpus(folder / n, datasets=sets) for n, sets in (("one", one), ("two", two))}


def loader_of(corpus, group=1, seed=0, pairs=None, **data):
    pairs = PairConfig(**{"negatives": KINDS, **(pairs or {})})
    return NTPLoader(corpus, DataConfig(corpus=str(corpus.folder), pairs=pairs, **data), "train", seed, group)


def fields(batches):
    """The pairs of batches, one after the other, without their data; and a checksum of these."""
    names = ("row_left", "start_left", "row_right", "start_right", "kind", "dataset", "t_r", "label")
    rows = [np.stack([getattr(b, name) for name in names], axis=1) for b in batches]
    sums = [
        b.left.sum(axis=(1, 2), dtype=np.float64) - b.right.sum(axis=(1, 2), dtype=np.float64)
        for b in batches
    ]
    return np.concatenate(rows), np.concatenate(sums)


@pytest.mark.parametrize(
    ("seed", "pairs"), [(0, {}), (5, {"gap": 4, "stride": 3, "min_distance": 9}), (1, {"stride": 14})]
)
def test_the_compiled_order_is_the_one_of_the_reference(corpora, seed, pairs):
    loader = loader_of(corpora["one"], seed=seed, pairs=pairs)
    group, settings_of_pairs = loader.groups[0], loader.data.pairs
    runs = reference.records(corpora["one"], settings_of_pairs)
    turns = [x.tolist() for x in (group.mixture.quotas, group.mixture.which, group.mixture.occurrence)]
    positions = [*range(300), *range(10**7, 10**7 + 100)]
    expected = [
        reference.draw(runs, group.datasets, *turns, group.mixture.kinds.tolist(), settings_of_pairs, seed, p)
        for p in positions
    ]
    found = [loader.batch(0, 300), loader.batch(10**7, 100)]
    for name, values in zip(
        ("row_left", "start_left", "row_right", "start_right", "kind"),
        reference.as_rows(runs, expected),
        strict=True,
    ):
        assert np.array_equal(np.concatenate([getattr(b, name) for b in found]), values), name


@pytest.mark.parametrize(
    ("shuffle", "expected"), [("exact", "91d956c1c5a3a525"), ("window", "0179cf420a47fc59")]
)
def test_pairs_of_all_kinds_are_those_of_version_3(corpora, shuffle, expected):
    pairs = {"negatives": {**KINDS, "anywhere": 0.2}, "gap": 2, "min_distance": 9}
    loader = loader_of(corpora["two"], 96, 7, pairs, shuffle=shuffle, shuffle_shards=2)
    digest = hashlib.sha256()
    for first in (0, 96 * 5, 96 * 10**6):
        batch = loader.batch(first, 96)
        for name in ("row_left", "start_left", "row_right", "start_right"):
            digest.update(getattr(batch, name).astype("<i4").tobytes())
    assert digest.hexdigest()[:16] == expected


@settings(max_examples=25, deadline=None)
@given(
    which=st.sampled_from(["one", "two"]),
    shuffle=st.sampled_from(["exact", "window"]),
    first_step=st.integers(0, 10**6),
    stops=st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=3, max_size=3),
    accumulation=st.sampled_from([1, 2, 4]),
)
def test_ranks_accumulation_and_resuming_only_slice_the_order(
    corpora, which, shuffle, first_step, stops, accumulation
):
    # Three lives of a run of four steps each, on any number of ranks: one order, whoever reads it.
    G, steps = 96, 4
    settings_of_data = {"shuffle": shuffle, "shuffle_shards": 2}
    whole_loader = loader_of(corpora[which], G, **settings_of_data)
    whole = [whole_loader.batch((first_step + s) * G, G) for s in range(3 * steps)]
    step = first_step
    for life, world in enumerate(stops):
        loader = loader_of(corpora[which], G, **settings_of_data)
        plan = plan_batch(G, G // (world * accumulation), world)
        assert plan.gradient_accumulation_steps == accumulation
        for s in range(steps):
            parts = [
                loader.batch(plan.position(step + 1, a, r), plan.micro_batch_size)  # steps are counted from 1
                for a in range(plan.gradient_accumulation_steps)
                for r in range(world)
            ]
            assert len({b.space for b in parts}) == 1 == len({b.left.shape[1:] for b in parts})
            reference_rows, reference_sums = fields([whole[life * steps + s]])
            rows, sums = fields(parts)
            # Ranks are disjoint and together they are the global batch.
            order_of = np.lexsort(rows.T), np.lexsort(reference_rows.T)
            assert np.array_equal(rows[order_of[0]], reference_rows[order_of[1]])
            assert np.allclose(np.sort(sums), np.sort(reference_sums))
            step += 1


@pytest.mark.parametrize("shuffle", ["exact", "window"])
def test_what_was_seen_of_each_data_set_is_exact_at_any_time(corpora, shuffle):
    G = 32
    loader = loader_of(corpora["two"], G, shuffle=shuffle)
    seen = np.zeros(3)
    for step in range(1, 641):
        b = loader.batch((step - 1) * G, G)
        seen += np.bincount(b.dataset, minlength=3)
        assert np.bincount(b.label).tolist() == [G / 2, G / 2] or abs(b.label.sum() - G / 2) <= 2
        ideal = np.array([3, 1, 4]) / 8 * step * G
        assert np.abs(seen - ideal).max() <= 2 * G  # never more than a step or two away
    assert seen.tolist() == [640 * G * share for share in (3 / 8, 1 / 8, 4 / 8)]


@pytest.mark.parametrize("shuffle", ["exact", "window"])
def test_neighbours_of_the_order_are_not_related(corpora, shuffle):
    loader = loader_of(corpora["one"], shuffle=shuffle, shuffle_shards=4, datasets=["alpha"])
    starts, runs = [], []
    for epoch in range(20):
        b = loader.batch(2 * loader.n_windows * epoch, 2 * loader.n_windows)
        starts.append(b.start_left[b.label == 1]), runs.append(b.row_left[b.label == 1])
    starts, runs = np.concatenate(starts), np.concatenate(runs)
    bound = 4 / np.sqrt(len(starts))
    assert abs(np.corrcoef(starts[1:], starts[:-1])[0, 1]) < bound
    assert abs(np.corrcoef(runs[1:], runs[:-1])[0, 1]) < bound
