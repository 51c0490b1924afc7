"""The control for pre-training: the volumes of every run in a random order."""

import numpy as np
import pytest
import torch
from factory import write_corpus

from fmriscale.config import DataConfig, PairConfig
from fmriscale.corpus.manifest import parse_segments
from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.persistence import area_under_curve, persistence_score


def loader_of(corpus, seed=0, **settings):
    pairs = PairConfig(negatives={"same_run": 1.0}, min_distance=10)
    config = DataConfig(corpus=str(corpus.folder), pairs=pairs, access="memory", **settings)
    return NTPLoader(corpus, config, "train", seed)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    kept = np.r_[0:20, 22:60, 61:90].tolist()
    spec = {"subjects": 4, "runs": 2, "n_volumes": 90, "sample_mask": kept}
    return write_corpus(tmp_path_factory.mktemp("corpus"), datasets={"toy": spec})


def test_nothing_is_left_of_time_but_the_pairs_are_the_same(corpus):
    recorded, shuffled = loader_of(corpus), loader_of(corpus, volume_order="shuffled")
    a, b = recorded.batch(0, 600), shuffled.batch(0, 600)
    for name in ("label", "kind", "row_left", "row_right", "start_left", "start_right"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    for batch, low, high in ((a, 0.8, 1.0), (b, 0.43, 0.57)):
        area = area_under_curve(persistence_score(batch.left, batch.right), batch.label == 1)
        assert low < area < high
    assert recorded.fingerprint != shuffled.fingerprint
    assert "data.volume_order" not in recorded.state


def test_every_run_keeps_its_uncensored_volumes_each_once(corpus):
    whole = {row: corpus.bold(row) for row in range(len(corpus.runs))}
    seen = {row: set() for row in whole}
    batch = loader_of(corpus, volume_order="shuffled").batch(0, 2000)
    for row, left in zip(batch.row_left, batch.left, strict=True):
        seen[row] |= {volume.tobytes() for volume in left}
    for row, volumes in seen.items():
        kept = np.concatenate([np.arange(*s) for s in parse_segments(corpus.runs.segments.iloc[row])])
        assert len(volumes) > 0.8 * len(kept)
        assert volumes <= {whole[row][t].tobytes() for t in kept}


def test_the_order_depends_on_seed_and_run_alone(corpus):
    def of(seed, rows=None, **settings):
        loader = loader_of(corpus, seed, volume_order="shuffled", **settings)
        copied = loader.groups[0]._runs
        return dict(
            zip(loader.groups[0].rows.tolist(), np.split(copied.owner, len(loader.run_keys)), strict=True)
        )

    whole, other = of(0), of(1)
    some = of(0, holdout_runs=["*sub-01*"])
    assert len(some) == 6
    for row, values in some.items():
        assert np.array_equal(values, whole[row]) and not np.array_equal(values, other[row])


def test_on_the_device_it_is_the_same_order(corpus):
    config = DataConfig(corpus=str(corpus.folder), access="device", volume_order="shuffled")
    device = NTPLoader(corpus, config, "train", 0, device=torch.device("cpu")).batch(5, 40)
    config = DataConfig(corpus=str(corpus.folder), access="memory", volume_order="shuffled")
    memory = NTPLoader(corpus, config, "train", 0).batch(5, 40)
    assert np.array_equal(device.left.numpy(), memory.left) and np.array_equal(
        device.right.numpy(), memory.right
    )


def test_runs_that_are_read_in_place_cannot_be_shuffled():
    with pytest.raises(ValueError, match=r"set data\.access memory"):
        DataConfig(corpus="x", volume_order="shuffled")
