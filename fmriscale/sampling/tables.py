"""What the compiled order works on, as plain arrays: windows, mixture, and the pairs it draws."""

from typing import NamedTuple

import numpy as np

POSITIVE, SAME_RUN, SAME_SUBJECT, SAME_DATASET, OTHER_DATASET, REVERSED, ANYWHERE = range(7)
"""Codes of kinds: 0, and the place of a negative's kind in `config.KINDS` plus one."""
KIND_BLOCK = 240
"""Negatives of a data set in which the quotas of kinds are exact."""


RUN = np.dtype(
    [
        *((name, np.int32) for name in ("stride", "gap", "near", "subject", "person", "dataset")),
        *((name, np.int32) for name in ("start", "row")),
        ("t_r", np.float32),
        ("reach", np.int32, 7),
    ]
)
"""What is known of a run, 64 bytes: volumes between neighbouring windows; volumes between left and right;
windows that a same_run negative keeps away (at least 1); numbers of the subject (of one data set), of the
person (who may be in several) and of the data set; first volume of window 0 (-1: several spans); row of the
corpus; repetition time, s; number of windows (reach[POSITIVE]), and how many of them, from the first, can
have a negative of each kind."""
PARTNER = np.dtype([("run", np.int32), ("windows", np.int32)])
"""A run that negatives are drawn from, and its number of windows."""


class Table(NamedTuple):
    """The windows of R runs in S spans (stretches of uncensored volumes), P subjects, D data sets, H shards.

    Runs are numbered in the order of data set, shard and place in the shard. All arrays are from `together`.
    """

    length: int
    """Volumes of a sequence."""
    run_first: np.ndarray
    """int64 [R + 1]: windows in all earlier runs."""
    run_span: np.ndarray
    """int32 [R + 1]: first span of each run."""
    span_first: np.ndarray
    """int64 [S]: windows in all earlier spans."""
    span_start: np.ndarray
    """int32 [S]: first volume."""
    span_stop: np.ndarray
    """int32 [S]: volume after the last one."""
    runs: np.ndarray
    """RUN [R]; no record lies in two lines of the cache."""
    subject_first: np.ndarray
    """int32 [P + 1]: bounds of each subject in `partners`."""
    subject_starts: np.ndarray
    """int64 [R + 1]: possible starts of a sequence in all runs before, in the order of `partners`."""
    dataset_first: np.ndarray
    """int32 [D + 1]: first run of each data set, and bounds in the second part of `partners`."""
    partners: np.ndarray
    """PARTNER [3 R]: all runs by subject, by data set, and in one list; those with most windows first."""
    shard_run: np.ndarray
    """int32 [H + 1]: first run of each shard."""
    dataset_shard: np.ndarray
    """int32 [D + 1]: first shard of each data set."""


class Mixture(NamedTuple):
    """How data sets and kinds alternate in a block of positions."""

    which: np.ndarray
    """int32 [block]: data set at each place."""
    occurrence: np.ndarray
    """int64 [block]: how often it occurred before in the block."""
    quotas: np.ndarray
    """int64 [D]: how often each data set occurs in a block."""
    kinds: np.ndarray
    """int8 [D, KIND_BLOCK]: kind of each negative in turn."""


class Memo(NamedTuple):
    """What the windowed shuffle remembers of the pass it is in; it can be forgotten at any time."""

    epoch: np.ndarray
    """int64 [D]: the pass; -1 = none."""
    blocks: np.ndarray
    """int64 [H + D]: windows in all earlier blocks of the pass."""


class Draw(NamedTuple):
    """B pairs by their places; runs are numbered as in the table."""

    run_left: np.ndarray
    """int32 [B]."""
    start_left: np.ndarray
    """int32 [B]: first volume."""
    run_right: np.ndarray
    """int32 [B]."""
    start_right: np.ndarray
    """int32 [B]: first volume."""
    kind: np.ndarray
    """int8 [B]: 0 for a positive, else the kind of negative."""
    dataset: np.ndarray
    """int16 [B]: data set of the left sequence."""
    row_left: np.ndarray
    """int32 [B]: row of the corpus."""
    row_right: np.ndarray
    """int32 [B]: row of the corpus."""
    t_r: np.ndarray
    """float32 [B]: repetition time of the left run, s."""
