"""Deliver pairs by position: `batch(first, count)` is a pure function of the corpus, settings and seed.

Step s of global batch G is positions s*G to (s+1)*G; ranks and accumulation slice it. The state of the
data is therefore one number, the pairs consumed. Where a corpus holds several feature spaces, or durations in
seconds give sequences of several lengths, each global batch is of one space and one length (a shape group):
all ranks then compute the same shapes, nothing is padded, and the share of a group is exact in whole steps.
"""

import dataclasses
import fnmatch
import hashlib
import json
import re
from typing import Any, Literal

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.common.suggest import did_you_mean
from fmriscale.config import DataConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.batch import Batch
from fmriscale.sampling.gather import Allocate
from fmriscale.sampling.mixture import shares_of, turns_of
from fmriscale.sampling.shape_group import ShapeGroup
from fmriscale.sampling.window_index import volumes

ORDER = 3
"""Version of the order: another one gives other pairs for the same settings."""


class NTPLoader:
    """Next Thought Prediction pairs of a corpus.

    Parameters
    ----------
    corpus : Corpus
        An open corpus.
    data : DataConfig
        Data sets, mixture, held-out runs and pairs.
    split : {"train", "eval"}
        train: runs of the train split; eval: those of the val split and all that match `holdout_runs`,
        every data set with the same weight.
    seed : int
        Seed of order and pairs.
    global_batch : int
        Positions that must be of one group. Without effect where there is one group alone.
    device : torch.device, optional
        Where the corpus goes if `data.access` is device.
    allocate : function
        Makes the arrays of a batch.

    Attributes
    ----------
    groups : list of ShapeGroup
        One for each feature space and length of sequence.
    datasets : list of str
        Names by number.
    n_windows : int
        Left windows in all; an epoch has twice as many pairs.
    fingerprint : str
        Hash of `state`.

    Raises
    ------
    UserError
        A data set or space that is not in the corpus, no run in which a pair fits, or runs that can supply
        none of the declared kinds of negatives.

    Examples
    --------
    >>> from fmriscale.config import DataConfig, PairConfig
    >>> from fmriscale.corpus.reader import Corpus
    >>> data = DataConfig(corpus="demo/corpus", pairs=PairConfig(length=5))
    >>> with_pairs = NTPLoader(Corpus.open(data.corpus), data, "train", seed=0)  # doctest: +SKIP
    >>> with_pairs.batch(first=1000, count=32).left.shape  # doctest: +SKIP
    """

    def __init__(
        self,
        corpus: Corpus,
        data: DataConfig,
        split: Literal["train", "eval"],
        seed: int,
        global_batch: int = 1,
        device: Any = None,
        allocate: Allocate | None = None,
    ) -> None:
        self.corpus, self.data, self.seed, self.global_batch = corpus, data, seed, global_batch
        rows = select_runs(corpus, data, split)
        self.datasets = sorted(set(corpus.runs.dataset.to_numpy()[rows]))
        groups = [
            ShapeGroup(
                corpus,
                members,
                names,
                np.array([self.datasets.index(name) for name in names]),
                corpus.spaces[space],
                int(length),
                data,
                seed,
            )
            for (space, length), (members, names) in rows_by_shape(corpus, data, rows).items()
        ]
        self.groups = [group for group in groups if group.windows.sum() > 0]
        if not self.groups:
            raise UserError(
                f"{corpus}: no run of split '{split}' holds a pair of "
                f"2 x {data.pairs.length} volumes with gap {data.pairs.gap}; shorten pairs.length or "
                "pairs.gap, or check data.datasets, data.holdout_runs and the splits (fmriscale inspect)"
            )
        self.n_windows = int(sum(group.windows.sum() for group in self.groups))
        keys = corpus.runs.key.to_numpy()
        self.run_keys = np.concatenate([keys[group.rows] for group in self.groups]).tolist()
        self._set_shares(split)
        self.state = self._describe_state(split)
        self.fingerprint = hashlib.sha256(json.dumps(self.state, sort_keys=True).encode()).hexdigest()
        for group in self.groups:
            group.open(device, allocate)

    @property
    def spaces(self) -> dict[str, FeatureSpace]:
        """The feature spaces by name."""
        return {group.space.name: group.space for group in self.groups}

    @property
    def length(self) -> int:
        """Volumes of the longest sequence."""
        return max(group.length for group in self.groups)

    def locate(self, position: int) -> tuple[ShapeGroup, int]:
        """Return the group of a position, and the position within the group's own order."""
        if len(self.groups) == 1:
            return self.groups[0], position
        step, offset = divmod(position, self.global_batch)
        which, step = self._turns.at(step)
        return self.groups[which], step * self.global_batch + offset

    def batch(self, first: int, count: int) -> Batch:
        """Return pairs by their positions in the global order.

        Parameters
        ----------
        first : int
            Position of the first pair.
        count : int
            Number of pairs, B: positions `first` to `first + count - 1`.

        Returns
        -------
        Batch
            `left` and `right` float16 [B, L, V], `label` int64 [B] (1 where right follows left), `kind`,
            `dataset`, `t_r` (s) and the places that they were read from. The same for every rank that asks.

        Raises
        ------
        ValueError
            The positions lie in two global batches, which may be of different spaces.
        """
        last, size = first + count - 1, self.global_batch
        if len(self.groups) > 1 and first // size != last // size:
            raise ValueError(f"positions {first} to {last} are not in one global batch of {size}")
        group, within = self.locate(first)
        return group.batch(within, count)

    def describe(self) -> dict[str, Any]:
        """Return what the loader will deliver: windows, mixture as quotas, and what cannot be supplied."""
        mixture: dict[str, float] = {}
        notes, quotas_of_groups = [], self._turns.quotas
        for group, share in zip(self.groups, quotas_of_groups / quotas_of_groups.sum(), strict=True):
            quotas = group.mixture.quotas / group.mixture.quotas.sum()
            mixture |= dict(zip(group.datasets, (share * quotas).tolist(), strict=True))
            for kind, able in group.supply().items():
                if lacking := [(n, a) for n, a in zip(group.datasets, able, strict=True) if a < 1]:
                    names = ", ".join(f"{name} {1 - a:.1%}" for name, a in lacking[:6])
                    more = f" and {len(lacking) - 6} more" if len(lacking) > 6 else ""
                    notes.append(
                        f"{kind}: not possible for windows of {names}{more}; "
                        "other declared kinds take their place"
                    )
            if group.too_short:
                notes.append(f"{group.too_short} runs are too short for a pair of 2 x {group.length} volumes")
        return {
            "windows": self.n_windows,
            "pairs_per_epoch": 2 * self.n_windows,
            "runs": len(self.run_keys),
            "mixture": mixture,
            "kinds": [kind for kind, quota in self.data.pairs.negatives.items() if quota > 0],
            "notes": notes,
        }

    def _set_shares(self, split: str) -> None:
        """Fix the shares of data sets and groups; a group without a share goes."""
        windows = np.zeros(len(self.datasets), np.int64)
        for group in self.groups:
            windows[group.numbers] = group.windows
        shares = np.ones(len(windows))
        if split == "train":
            shares = shares_of(self.corpus, self.data, self.datasets, windows)
        shares = np.where(windows > 0, shares, 0.0)
        self.groups = [group for group in self.groups if shares[group.numbers].sum() > 0]
        for group in self.groups:
            group.set_shares(shares[group.numbers])
        of_group = np.array([shares[group.numbers].sum() for group in self.groups])
        self._turns = turns_of(of_group)

    def _describe_state(self, split: str) -> dict[str, Any]:
        """Return everything that the order depends on."""
        pairs = {f"data.pairs.{k}": v for k, v in dataclasses.asdict(self.data.pairs).items()}
        if self.data.pairs.partner == "same_person":  # as before there were others
            del pairs["data.pairs.partner"]
        elif self.data.stimulus_clock == "shifted":
            pairs["data.stimulus_clock"] = "shifted"
        quotas = [group.mixture.quotas.tolist() for group in self.groups]
        shuffled = {"data.volume_order": "shuffled"} if self.data.volume_order == "shuffled" else {}
        return {
            **shuffled,
            "version of the order": ORDER,
            "split": split,
            "seed": self.seed,
            **pairs,
            "data.shuffle (shards)": self.data.shuffle_shards if self.data.shuffle == "window" else 0,
            "data.standardize": self.data.standardize,
            "mixture": [
                quotas,
                self._turns.quotas.tolist(),
                self.global_batch if len(self.groups) > 1 else 1,
            ],
            "data sets": {name: state for group in self.groups for name, state in group.state().items()},
        }


def changed_data(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say how the data of two loaders differ: one line for each setting and data set."""
    lines = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted((before.keys() | now.keys()) - {"data sets", "mixture"})
        if before.get(key) != now.get(key)
    ]
    old, new = before["data sets"], now["data sets"]
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            lines.append(f"data set {name} is gone")
        elif name not in old:
            lines.append(f"data set {name} is new")
        elif old[name] != new[name]:
            had, has = (f"{of['runs']} runs and {of['windows']} windows" for of in (old[name], new[name]))
            what = f"had {had}, has {has}" if had != has else "has other content"
            lines.append(f"data set {name} {what}")
    if before.get("mixture") != now.get("mixture"):
        lines.append("the mixture has other quotas")
    return lines


def select_runs(corpus: Corpus, data: DataConfig, split: Literal["train", "eval"]) -> np.ndarray:
    """Return the rows of the corpus that a split may draw from, int64 [R]."""
    runs = corpus.runs
    wanted = [data.space] if isinstance(data.space, str) else data.space
    spaces = sorted(corpus.spaces) if wanted is None else [corpus.space(name).name for name in wanted]
    chosen = runs.space.isin(spaces).to_numpy()
    known = set(runs.dataset[chosen])
    if missing := sorted(set(data.datasets or []) - known):
        raise UserError(
            f"{corpus}: no data set {', '.join(missing)} in space {', '.join(spaces)}; "
            f"choose from {', '.join(sorted(known))}{did_you_mean(missing[0], known)}"
        )
    held_out = np.zeros(len(runs), bool)
    for pattern in data.holdout_runs:
        matches = re.compile(fnmatch.translate(pattern)).match
        matched = np.fromiter((matches(key) is not None for key in runs.key), bool, len(runs))
        if not matched.any():
            raise UserError(f"{corpus}: data.holdout_runs '{pattern}' matches no run key")
        held_out |= matched
    if data.datasets is not None:
        chosen = chosen & runs.dataset.isin(data.datasets).to_numpy()
    if split == "eval":
        return np.flatnonzero(chosen & ((runs.split == "val").to_numpy() | held_out))
    return np.flatnonzero(chosen & (runs.split == "train").to_numpy() & ~held_out)


def rows_by_shape(
    corpus: Corpus, data: DataConfig, rows: np.ndarray
) -> dict[tuple[str, int], tuple[np.ndarray, list[str]]]:
    """Return rows and data sets by (feature space, volumes of a sequence), all runs of a data set alike."""
    runs = corpus.runs.iloc[rows]
    table = pd.DataFrame({"dataset": runs.dataset, "space": runs.space, "row": rows})
    table["length"] = volumes(data.pairs.length, runs.t_r.to_numpy(), 1)
    for name, lengths in table.groupby("dataset").length.unique().items():
        if len(lengths) > 1:
            raise UserError(
                f"{corpus.folder}: data set {name} holds runs of different t_r, for which pairs.length "
                f"{data.pairs.length} is {', '.join(map(str, sorted(lengths)))} volumes; give pairs.length "
                "in volumes"
            )
    shapes = table.groupby(["space", "length"])
    return {key: (of.row.to_numpy(), sorted(set(of.dataset))) for key, of in shapes}  # pyright: ignore
