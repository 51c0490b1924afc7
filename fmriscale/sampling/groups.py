"""Deliver groups of people on one clock: P people x W windows of one stretch of a stimulus that they share.

`batch(step)` is a pure function of the corpus, settings, seed and step; a rank takes its share of the people.
Shapes: P people, W windows, L volumes, V features, R runs of a stimulus, G times of its grid.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.batch import sent
from fmriscale.sampling.gather import Allocate, HostRuns, Rescaling, copy_runs, rescaling_of, verify_runs
from fmriscale.sampling.loader import rows_by_shape, select_runs
from fmriscale.sampling.masks import uniform
from fmriscale.sampling.mixture import shares_of, turns_of
from fmriscale.sampling.stimuli import Clock, clock_of, fitting, shared_runs

if TYPE_CHECKING:
    import torch

FEWEST = 2
"""People of a group."""
GROUP_ORDER = 1
"""Version of the order of groups: another one gives other groups for the same settings."""
_STREAM = 0x67726F757073  # Keeps these random numbers apart from those of the masks
_MOST_EVALUATED = 64  # Groups of an evaluation


class GroupBatch(NamedTuple):
    """P people x W windows of one stretch of a stimulus; window w of all people is the same time of it.

    Windows lie end to end (with different t_r: as far apart as the longest lasts). `bold` and `t_r` are numpy
    arrays at first, and tensors after `to`.
    """

    bold: Any  # float16 [P, W, L, V]
    t_r: Any  # float32 [P], s
    space: str
    stimulus: str
    row: np.ndarray  # int32 [P], rows of the corpus
    start: np.ndarray  # int32 [P, W], first volumes
    n_people: int  # of the whole group
    n_a_rank: int  # people of a rank; the last ones may have fewer, or none that counts

    @property
    def n_windows(self) -> int:
        """Windows of the whole group."""
        return self.n_people * self.bold.shape[1]

    def to(self, device: "torch.device") -> "GroupBatch":
        """Return the batch with tensors on a device."""
        return sent(self, ("bold", "t_r"), device)


@dataclass(frozen=True)
class Stretches:
    """Where groups of one stimulus may lie."""

    stimulus: str
    clock: Clock
    person: np.ndarray  # int64 [R], ascending
    apart: int  # times of the grid from one window to the next
    n_windows: int  # W
    times: np.ndarray  # int64 [N]: of the grid, at which a stretch may begin
    covers_RG: np.ndarray  # bool: runs that have every window of the stretch that begins there
    windows: dict[str, int]  # different windows of the stimulus that data sets share in, by data set
    space: str
    runs: Any = None  # HostRuns: reads the windows, ...
    run: Any = None  # int64 [R]: ... by these numbers

    @property
    def n_people(self) -> int:
        """People who can be drawn."""
        return int(self.person[-1]) + 1


class GroupLoader:
    """Groups of people who share a stimulus, for contrastive learning.

    Parameters
    ----------
    corpus : Corpus
        An open corpus whose data sets have stimuli.
    data : DataConfig
        Data sets, mixture, held-out runs; of the pairs the length and `first`.
    split : {"train", "eval"}
        As for `NTPLoader`.
    seed : int
        Seed of stimuli, stretches and people, and of the shifted clock.
    n_people, n_windows : int
        Most people and windows of a group; a stimulus that fewer people share, or whose uncensored stretches
        are shorter, has smaller groups.
    allocate : function
        Makes the arrays of a batch.

    Attributes
    ----------
    datasets : list of str
        Data sets that groups are drawn from.
    run_keys : list of str
        Keys of their runs.
    n_groups : int
        Groups in which each window of each person comes once, about; at most 64 for an evaluation.
    state : dict
        Everything that the order depends on.
    fingerprint : str
        Hash of `state`.

    Raises
    ------
    UserError
        No stimulus is shared by enough people.
    """

    def __init__(
        self,
        corpus: Corpus,
        data: DataConfig,
        split: Literal["train", "eval"],
        seed: int,
        n_people: int,
        n_windows: int,
        allocate: Allocate | None = None,
    ) -> None:
        self.corpus, self.data, self.split, self.seed = corpus, data, split, seed
        self.n_people, self.n_windows = n_people, n_windows
        self.stretches: list[Stretches] = []
        n_stimuli = 0
        shapes = rows_by_shape(corpus, data, select_runs(corpus, data, split))
        for (space, length), (rows, _) in shapes.items():
            stimuli = shared_runs(corpus, rows, length)
            n_stimuli += len(stimuli)
            found = [
                stretch
                for name, members in stimuli.items()
                if (stretch := self._stretches(name, members, space, length)) is not None
            ]
            if found:
                self.stretches += self._open(rows, found, length, allocate)
        if not self.stretches:
            raise UserError(_nothing_shared(corpus, split, n_stimuli))
        used = np.concatenate([of.clock.rows for of in self.stretches])
        self.datasets = sorted(set(corpus.runs.dataset.to_numpy()[used]))
        self.run_keys = corpus.runs.key.to_numpy()[used].tolist()
        weights = self._weights()
        self._turns = turns_of(weights)
        times = [-(-max(of.windows.values()) // of.n_windows) for of in self.stretches]
        people = [-(-of.n_people // self._most(of)) for of in self.stretches]
        n_groups = sum(t * p for t, p in zip(times, people, strict=True))
        self.n_groups = n_groups if split == "train" else min(n_groups, _MOST_EVALUATED)
        self.state = self._describe_state()
        self.fingerprint = hashlib.sha256(json.dumps(self.state, sort_keys=True).encode()).hexdigest()

    def peek(self, step: int) -> tuple[int, int, int, int]:
        """Return the shape (P, W, L, V) of a step's group, of all ranks together, without reading it."""
        of, run, _ = self._draw(step)
        return len(run), of.n_windows, of.runs.length, of.runs.n_features

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> GroupBatch:
        """Return what a rank reads of the group of a step: with the people of the other ranks it is all.

        Parameters
        ----------
        step : int
            Number of the step, from 0.
        rank, world_size : int
            The people are divided among the ranks in their order; each takes one at least.

        Returns
        -------
        GroupBatch
            `bold` float16 [P, W, L, V], `t_r` float32 [P] (s), and the places that they were read from.
            Window w of all people is the same time of the stimulus.
        """
        of, run, start = self._draw(step)
        n_people, n_a_rank = len(run), -(-len(run) // world_size)
        first = min(rank * n_a_rank, n_people - 1)
        run, start = run[first : first + n_a_rank], start[first : first + n_a_rank]
        flat = of.runs.windows(np.repeat(of.run[run], start.shape[1]).astype(np.int32), start.reshape(-1))
        return GroupBatch(
            bold=flat.reshape(*start.shape, *flat.shape[1:]),
            t_r=of.clock.t_r[run].astype(np.float32),
            space=of.space,
            stimulus=of.stimulus,
            row=of.clock.rows[run].astype(np.int32),
            start=start,
            n_people=n_people,
            n_a_rank=n_a_rank,
        )

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return people, windows, size of a group and share of each stimulus, by its name."""
        names = [of.stimulus for of in self.stretches]
        described = {}
        for of, quota in zip(self.stretches, self._turns.quotas.tolist(), strict=True):
            several = names.count(of.stimulus) > 1
            key = f"{of.stimulus} ({of.space}, {of.runs.length} volumes)" if several else of.stimulus
            described[key] = {
                "people": of.n_people,
                "windows": max(of.windows.values()),
                "group": [self._most(of), of.n_windows],
                "share": quota / int(self._turns.quotas.sum()),
            }
        return described

    def _most(self, of: Stretches) -> int:
        """Return the people of a group where nobody lacks the stretch."""
        return min(self.n_people, of.n_people)

    def _draw(self, step: int) -> tuple[Stretches, np.ndarray, np.ndarray]:
        """Return a step's stimulus, the runs of its people [P] and their first volumes, int32 [P, W]."""
        which, nth = self._turns.at(step)
        of = self.stretches[which]
        random = uniform((self.seed + _STREAM + which) % 2**64, nth, 1, 1 + of.n_people + len(of.person))[0]
        of_person, of_run = np.split(random[1:], [of.n_people])
        time = int(of.times[int(random[0] * len(of.times))])
        # People in random order, of each one of the runs that have the whole stretch.
        able = np.flatnonzero(of.covers_RG[:, time])
        able = able[np.lexsort((of_run[able], of_person[of.person[able]]))]
        run = able[np.r_[True, np.diff(of.person[able]) != 0]]
        n = min(self.n_people, len(run))
        windows = time + of.apart * np.arange(of.n_windows)
        return of, run[:n], of.clock.starts(run[:n, None], windows)

    def _stretches(self, name: str, rows: np.ndarray, space: str, length: int) -> Stretches | None:
        """Return where groups of a stimulus may lie; None where nowhere.

        Groups have as many windows as half of the people who can be had at once still cover.
        """
        clock = clock_of(self.corpus, rows, length, self.data, self.seed)
        fits_RG = fitting(self.corpus, clock, length, self.data)
        person = pd.factorize(self.corpus.runs.person.to_numpy()[rows])[0]
        of_person = np.flatnonzero(np.r_[True, np.diff(person) > 0])

        def count(covers_RG: np.ndarray) -> np.ndarray:
            """Count the people who cover a stretch, int [G]."""
            return np.logical_or.reduceat(covers_RG, of_person, axis=0).sum(axis=0)

        apart = int(np.ceil((length * clock.t_r).max() / clock.step - 1e-6))
        n_G = count(fits_RG)
        most = int(n_G.max(initial=0))
        if most < FEWEST:
            return None
        enough = max(FEWEST, -(-min(most, self.n_people) // 2))
        covers_RG, n_windows = fits_RG, 1
        while n_windows < self.n_windows:
            longer = covers_RG[:, : max(0, covers_RG.shape[1] - apart)] & fits_RG[:, n_windows * apart :]
            if count(longer).max(initial=0) < enough:
                break
            covers_RG, n_windows = longer, n_windows + 1
        times = np.flatnonzero(count(covers_RG) >= enough)
        dataset = self.corpus.runs.dataset.to_numpy()[rows]
        at_times = {name: fits_RG[dataset == name].any(axis=0) & (n_G > 1) for name in sorted(set(dataset))}
        windows = {name: int(np.ceil(at.sum() / apart)) for name, at in at_times.items()}
        return Stretches(name, clock, person, apart, n_windows, times, covers_RG, windows, space)

    def _open(
        self, rows: np.ndarray, found: list[Stretches], length: int, allocate: Allocate | None
    ) -> list[Stretches]:
        """Open the runs of some stimuli in place, or as a copy where their volumes are shuffled."""
        corpus, data = self.corpus, self.data
        used = np.unique(np.concatenate([of.clock.rows for of in found]))
        runs, shape = corpus.runs.iloc[rows], (length, corpus.spaces[found[0].space].n_features)
        subject = pd.factorize(runs.dataset + "/" + runs.subject)[0]
        rescaling = rescaling_of(corpus, rows, subject, data.standardize)
        if rescaling is not None:
            kept = pd.Index(rows).get_indexer(used)  # pyright: ignore[reportArgumentType]
            rescaling = Rescaling(rescaling.scale_RV[kept], rescaling.shift_RV[kept])
        corpus.want(pd.unique(corpus.runs["shard"].to_numpy()[used]).tolist(), reader=f"{id(self)}")
        if data.volume_order == "shuffled":
            host = copy_runs(corpus, used, *shape, rescaling, allocate, self.seed)
        else:
            if data.verify:
                verify_runs(corpus, used)
            host = HostRuns(corpus.addresses(used), *shape, corpus, rescaling, allocate)
        return [dataclasses.replace(of, runs=host, run=np.searchsorted(used, of.clock.rows)) for of in found]

    def _weights(self) -> np.ndarray:
        """Return the share of each stimulus: those of its data sets, by the windows they share in."""
        windows = pd.DataFrame([of.windows for of in self.stretches], columns=self.datasets).fillna(0)
        totals = windows.sum().to_numpy()
        shares = np.ones(len(self.datasets))
        if self.split == "train":
            given = {name: w for name, w in self.data.weights.items() if name in self.datasets}
            data = dataclasses.replace(self.data, weights=given)
            shares = shares_of(self.corpus, data, self.datasets, totals)
        weights = (windows.to_numpy() / np.maximum(totals, 1) * shares).sum(axis=1)
        return weights / weights.sum()

    def _describe_state(self) -> dict[str, Any]:
        """Return everything that the order depends on."""
        runs, data = self.corpus.runs, self.data
        columns = ["key", "sha256", "segments", "person", "t_r", "stimulus", "stimulus_onset"]
        datasets = {}
        used = np.unique(np.concatenate([of.clock.rows for of in self.stretches]))
        for name, of in runs.iloc[used].groupby("dataset"):
            text = json.dumps(of[columns].astype(str).to_numpy().tolist())
            datasets[str(name)] = {"runs": len(of), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        return {
            "version of the order": GROUP_ORDER,
            "split": self.split,
            "seed": self.seed,
            "people": self.n_people,
            "windows": self.n_windows,
            "data.pairs.length": data.pairs.length,
            "data.pairs.first": data.pairs.first,
            "data.standardize": data.standardize,
            "data.volume_order": data.volume_order,
            "data.stimulus_clock": data.stimulus_clock,
            "mixture": self._turns.quotas.tolist(),
            "data sets": datasets,
        }


def _nothing_shared(corpus: Corpus, split: str, n_stimuli: int) -> str:
    """Say why there are no groups."""
    if n_stimuli == 0:
        return (
            f"{corpus}: train.contrastive_weight needs two people of split '{split}' who share a stimulus; "
            "give stimulus (and stimulus_onset) to data sets in the corpus recipe and build it again, or "
            "check data.datasets, data.holdout_runs and the splits"
        )
    return (
        f"{corpus}: no window of a stimulus is covered by {FEWEST} people of split '{split}'; check "
        "stimulus_onset in the corpus recipe, or shorten data.pairs.length"
    )
