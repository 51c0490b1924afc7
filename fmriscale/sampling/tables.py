"""What the compiled order works on, as plain arrays: windows, mixture, and the pairs it draws."""

from typing import NamedTuple

import numpy as np

POSITIVE, SAME_RUN, SAME_SUBJECT, SAME_DATASET, OTHER_DATASET, REVERSED, ANYWHERE = range(7)
"""Codes of kinds: 0, and the place of a negative's kind in `config.KINDS` plus one."""
KIND_BLOCK = 240
"""Negatives of a data set in which the quotas of kinds are exact."""


class Table(NamedTuple):
    """The windows of R runs in S spans (stretches of uncensored volumes), P subjects, D data sets, H shards.

    Runs are numbered in the order of data set, shard and place in the shard.
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
    stride: np.ndarray
    """int32 [R]: volumes between neighbouring windows."""
    gap: np.ndarray
    """int32 [R]: volumes between left and right."""
    near: np.ndarray
    """int32 [R]: windows that a same_run negative keeps away, at least 1."""
    subject: np.ndarray
    """int32 [R]: number of the subject (of one data set)."""
    person: np.ndarray
    """int32 [R]: number of the person (who may be in several data sets)."""
    dataset: np.ndarray
    """int32 [R]: number of the data set."""
    subject_first: np.ndarray
    """int32 [P + 1]: bounds of each subject in the next two."""
    subject_runs: np.ndarray
    """int32 [R]: runs by subject, those with most windows first."""
    subject_longest: np.ndarray
    """int32 [R]: their numbers of windows."""
    subject_starts: np.ndarray
    """int64 [R + 1]: possible starts of a sequence in all runs before, in the order of subject_runs."""
    dataset_first: np.ndarray
    """int32 [D + 1]: first run of each data set, and bounds in the next two."""
    dataset_runs: np.ndarray
    """int32 [R]: runs by data set, those with most windows first."""
    dataset_longest: np.ndarray
    """int32 [R]: their numbers of windows."""
    all_runs: np.ndarray
    """int32 [R]: all runs, those with most windows first."""
    all_longest: np.ndarray
    """int32 [R]: their numbers of windows."""
    reach: np.ndarray
    """int32 [R, 1 + kinds]: windows 0..reach-1 of the run can have a negative of this kind."""
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
