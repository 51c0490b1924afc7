"""Plain webdataset pipelines over the corpus of `sampling.py`: decode runs, cut pairs, shuffle, batch.

The first two do our job: every pair is independent of the others, so that a run is decoded for it; half are
positives, the negatives are of the same kinds. The last two do an easier one: pairs share decoded runs, and
both of their sequences are of one run.
"""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, groupby
from typing import Any

import numpy as np
import webdataset

from fmriscale.corpus.reader import NPY_HEADER

BATCH, LENGTH, V, T = 256, 5, 424, 300
TURNS = ("same_run", "same_subject", "same_run", "same_dataset")
"""Kinds of the negatives in turn, by the quotas of `sampling.KINDS`."""


def plain(cut: Callable, among: int, shards: list[str]) -> Iterable[Any]:
    """As its manual has it: webdataset groups the members of a run and decodes them."""
    stages = (webdataset.tarfile_to_samples(), webdataset.decode())
    return pipeline(shards, *stages, cut, among=among)


def tuned(cut: Callable, among: int, shards: list[str]) -> Iterable[Any]:
    """The least that can be read: other members than the signals are skipped, and these are not copied."""
    only_bold = webdataset.tarfile_to_samples(select_files=lambda name: name.endswith(".bold.npy"))
    return pipeline(shards, only_bold, in_place, cut, among=among)


def pipeline(shards: list[str], *stages: Callable, among: int) -> Iterable[Any]:
    ends = webdataset.shuffle(among), webdataset.batched(BATCH, collation_fn=collate)
    return webdataset.DataPipeline(webdataset.ResampledShards(shards), *stages, *ends)


def in_place(samples: Iterable[dict]) -> Iterator[dict]:
    for sample in samples:
        bold = np.frombuffer(sample["bold.npy"], np.float16, offset=NPY_HEADER).reshape(-1, V)
        yield {"__key__": sample["__key__"], "bold.npy": bold}


def collate(pairs: list[tuple]) -> tuple[np.ndarray, ...]:
    left, right, label = zip(*pairs, strict=True)
    return np.stack(left), np.stack(right), np.array(label)


def pair(left: np.ndarray, start: int, right: np.ndarray, begin: int, label: int) -> tuple:
    return left[start : start + LENGTH], right[begin : begin + LENGTH], label


def one_of_each_run(samples: Iterable[dict]) -> Iterator[tuple]:
    """Cut one pair out of each run, positives and negatives in turn.

    A negative of another run takes one that is decoded anyway: the other one of the subject, which lies
    beside it in the shard, or one of another subject among the 50 before it. So a pair costs one decoded run.
    """
    rng, turns, n = random.Random(0), cycle(TURNS), 0
    before: dict[str, deque] = defaultdict(lambda: deque(maxlen=50))
    for subject, its in groupby(samples, lambda sample: sample["__key__"].rpartition("_")[0]):
        runs, others = [sample["bold.npy"] for sample in its], before[subject.partition("_")[0]]
        for i, run in enumerate(runs):
            start = 2 * rng.randrange((T - 2 * LENGTH) // 2 + 1)
            follows, n = start + LENGTH, n + 1
            kind = "positive" if n % 2 else next(turns)
            if kind == "positive":
                yield pair(run, start, run, follows, 1)
            elif kind == "same_subject" and len(runs) > 1:
                yield pair(run, start, runs[i - 1], follows, 0)
            elif kind == "same_dataset" and others:
                yield pair(run, start, rng.choice(others), follows, 0)
            else:  # in the run, 15 volumes or more from where right follows
                place = rng.choice([*range(follows - 14), *range(follows + 15, T - LENGTH + 1)])
                yield pair(run, start, run, place, 0)
        others.extend(runs)


def two_of_each_run(samples: Iterable[dict]) -> Iterator[tuple]:
    """Cut a positive and a negative out of each run: half the decoding."""
    rng = random.Random(0)
    for sample in samples:
        yield from both(sample["bold.npy"], 2 * rng.randrange((T - 2 * LENGTH) // 2 + 1), rng)


def all_of_each_run(samples: Iterable[dict]) -> Iterator[tuple]:
    """Cut a positive and a negative for each window out of each run: hardly any decoding."""
    rng = random.Random(0)
    for sample in samples:
        for start in range(0, T - 2 * LENGTH + 1, 2):
            yield from both(sample["bold.npy"], start, rng)


def both(run: np.ndarray, start: int, rng: random.Random) -> Iterator[tuple]:
    yield pair(run, start, run, start + LENGTH, 1)
    yield pair(run, start, run, rng.randrange(T - LENGTH + 1), 0)


PIPELINES = (
    (
        "webdataset",
        lambda shards: plain(one_of_each_run, 200, shards),
        "the same job, decoded as its manual has it; aim of the speed-up 300",
    ),
    (
        "webdataset_tuned",
        lambda shards: tuned(one_of_each_run, 200, shards),
        "the same job; reads signals only, without a copy",
    ),
    (
        "webdataset_two",
        lambda shards: tuned(two_of_each_run, 200, shards),
        "easier: tuned, and two pairs inside each run that is decoded",
    ),
    (
        "webdataset_all",
        lambda shards: tuned(all_of_each_run, 2000, shards),
        "easier: tuned, and all pairs inside a run, shuffled among 2,000",
    ),
)
"""Name of the figure, how it is made of shards, and what it does."""
