"""The order is a pure function of position: permutations, quotas and random numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmriscale.sampling import order


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63))
def test_permute_is_a_permutation(n, seed):
    image = order.permute(np.arange(n), n, order.key_of(seed))
    assert np.array_equal(np.sort(image), np.arange(n))


def test_permute_needs_no_neighbours_and_reaches_far_positions():
    n = 10**12
    index = np.array([0, 1, n - 1])
    one_by_one = [order.permute(index[i : i + 1], n, order.key_of(3))[0] for i in range(3)]
    assert np.array_equal(order.permute(index, n, order.key_of(3)), one_by_one)


def test_permute_leaves_no_correlation_between_neighbours():
    n = 20_000
    image = order.permute(np.arange(n), n, order.key_of(7))
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 4 / np.sqrt(n)
    other = order.permute(np.arange(n), n, order.key_of(8))
    assert np.mean(image == other) < 10 / n


def test_uniform_is_uniform_and_streams_are_independent():
    a = order.uniform(order.key_of(0, 1), np.arange(50_000))
    b = order.uniform(order.key_of(0, 2), np.arange(50_000))
    counts = np.histogram(a, bins=50, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 100  # chi-square, 49 degrees of freedom
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert a.min() >= 0 and a.max() < 1


@settings(max_examples=60, deadline=None)
@given(shares=st.lists(st.floats(0.01, 100), min_size=1, max_size=30), total=st.integers(30, 5000))
def test_quotas_are_exact_and_nearest(shares, total):
    quotas = order.largest_remainder(shares, total)
    exact = np.array(shares) / np.sum(shares) * total
    assert quotas.sum() == total
    assert np.all(np.abs(quotas - exact) < 1)


def test_interleave_spreads_evenly():
    quotas = np.array([700, 200, 100])
    which, occurrence = order.interleave(quotas)
    assert np.array_equal(np.bincount(which), quotas)
    for thing, quota in enumerate(quotas):
        running = np.cumsum(which == thing)
        ideal = np.arange(1, 1001) * quota / 1000
        assert np.abs(running - ideal).max() <= 2
        assert np.array_equal(occurrence[which == thing], np.arange(quota))


@pytest.mark.parametrize("smallest", [0.5, 1e-3, 1e-5])
def test_block_keeps_small_shares(smallest):
    shares = np.array([1 - smallest, smallest])
    block = order.block_size(shares)
    quota = order.largest_remainder(shares, block)[1]
    assert quota >= 1 and abs(quota / block - smallest) <= smallest / 8
