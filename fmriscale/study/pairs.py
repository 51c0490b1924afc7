"""Same-label pairs: were two windows recorded under the same label?

N windows, P pairs. In a design whose runs hold one label each, "same label" and "same run" are one thing;
`cross_run` pairs therefore take both partners of positives AND negatives from different runs. What else could
tell the two apart is matched: every positive has a negative with the same left window, whose right window is

- of the same data set, where data sets hold several labels (where each holds one, it is the label);
- of a run as far away as the positive's, or the nearest to that which the design has;
- at the same position among the windows of its run, or the nearest.

Windows of one label are not rarer on one side: each is left in as many positives as negatives.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import TaskConfig
from fmriscale.study.windows import Windows

MOST_OTHERS = 4096
"""Windows among which the partners of one are looked for; of more, so many are drawn: time stays linear."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of windows: indices into `Windows`, and 1 where both have the same label."""

    left_P: np.ndarray
    right_P: np.ndarray
    same_P: np.ndarray

    def __len__(self) -> int:
        return len(self.same_P)

    def take(self, chosen: np.ndarray) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(self.left_P[chosen], self.right_P[chosen], self.same_P[chosen])


def draw_label_pairs(windows: Windows, members: np.ndarray, task: TaskConfig, seed: Sequence[int]) -> Pairs:
    """Draw balanced same-label and different-label pairs among some of the windows.

    Both partners are of one condition, and of one person or of two. Of every left window as many positives as
    negatives are drawn, without repetition. The pairs of a person (and condition) depend on nobody else.
    """
    facts = facts_of(windows)
    columns = {"condition": np.array(windows.conditions)[windows.condition_N[members]]}
    if task.partners == "same_person":
        columns["person"] = windows.person_N[members]
    drawn: list[tuple[Any, Any, int]] = []
    for key, places in pd.DataFrame(columns).groupby(list(columns), sort=True).indices.items():
        rng = np.random.default_rng([*seed, zlib.crc32(repr(key).encode())])
        drawn += draw(facts.loc[np.sort(members[places])], task, rng)
    if not drawn:
        raise UserError(explain_no_pairs(windows, members, task))
    return Pairs(*np.array(drawn).T)


def position_in_run(windows: Windows) -> np.ndarray:
    """Return the position of each window among those of its run, [N], counted from 0."""
    table = pd.DataFrame({"run": windows.run_N, "start": windows.start_N})
    return table.groupby("run")["start"].rank(method="first").to_numpy(np.int64) - 1


def facts_of(windows: Windows) -> pd.DataFrame:
    """Return what the drawing needs of every window."""
    return pd.DataFrame(
        {
            "label": windows.label_N,
            "order": windows.order_N,  # position of the run in its person's sequence
            "position": position_in_run(windows),
            "run": windows.run_N,
            "start": windows.start_N,
            "person": np.unique(windows.person_N, return_inverse=True)[1],
            "dataset": np.unique(windows.dataset_N, return_inverse=True)[1],
        }
    )


def draw(facts: pd.DataFrame, task: TaskConfig, rng: np.random.Generator) -> Iterator[tuple[Any, Any, int]]:
    """Yield pairs among windows: left window, right window, whether they have the same label."""
    index, of = facts.index.to_numpy(), {name: column.to_numpy() for name, column in facts.items()}
    label, dataset = of["label"], of["dataset"]
    # A data set that holds one label alone says which; it can be matched only among those with several.
    several = (pd.Series(label).groupby(dataset).nunique().to_numpy() > 1).any()
    matched = dataset if several else np.zeros_like(dataset)
    for i, left in enumerate(index):
        others = np.arange(len(index))
        if len(others) > MOST_OTHERS:
            others = np.unique(rng.integers(len(others), size=MOST_OTHERS))
        others = others[may_be_partners(of, i, others, task)]
        same = label[others] == label[i]
        negatives, positives = others[~same], others[same]
        positives = positives[np.isin(matched[positives], matched[negatives])]
        count = min(task.pairs_per_window // 2, len(positives), len(negatives))
        chosen = rng.choice(positives, count, replace=False)
        if task.protocol == "paper":
            unmatched = rng.choice(negatives, count, replace=False)
            yield from ((left, index[p], 1) for p in chosen)
            yield from ((left, index[n], 0) for n in unmatched)
            continue
        for p in chosen:
            fitting = negatives[matched[negatives] == matched[p]]
            if len(fitting):
                best = nearest(of, i, p, fitting, rng)
                yield left, index[p], 1
                yield left, index[best], 0
                negatives = negatives[negatives != best]


def may_be_partners(of: dict[Any, np.ndarray], i: int, others: np.ndarray, task: TaskConfig) -> np.ndarray:
    """Say which of the others the protocol permits as partners of window i."""

    def differs(name: str) -> np.ndarray:
        return of[name][others] != of[name][i]

    if task.partners == "other_person":
        # Everybody's first runs may have had the same stimuli at the same times: not those, then.
        if task.protocol == "cross_run" and task.label_of == "event":
            return differs("person") & differs("order")
        return differs("person")
    if task.protocol == "cross_run":
        return differs("order")
    # Windows of one run may not share volumes; nor may a window meet itself.
    return differs("run") | (np.abs(of["start"][others] - of["start"][i]) >= task.length)


def nearest(
    of: dict[Any, np.ndarray], i: int, positive: int, negatives: np.ndarray, rng: np.random.Generator
) -> int:
    """Return the negative of left window i whose run and position are nearest to the positive's."""
    order, position = of["order"], of["position"]
    distance = np.abs(order[negatives] - order[i])
    # A whole run counts more than all positions in it, and a position more than the draw.
    cost = np.abs(distance - np.abs(order[positive] - order[i])) * (position.max() + 1.0)
    cost += np.abs(position[negatives] - position[positive]) + rng.random(len(negatives)) / 2
    return negatives[np.argmin(cost)]


def explain_no_pairs(windows: Windows, members: np.ndarray, task: TaskConfig) -> str:
    """Explain why a set of windows has no pairs."""
    n_runs, n_people = (len(np.unique(of[members])) for of in (windows.run_N, windows.person_N))
    text = f"no {task.protocol} pairs among {len(members)} windows of {n_runs} runs: "
    if task.partners == "other_person":
        return text + (
            f"within a condition{', and a data set with several labels,' * (task.label_of == 'run')} a label "
            f"needs two people and another label a third; there are {n_people} people; use fewer folds"
            + (", or (when every person has one run) task.protocol: any" if task.label_of == "event" else "")
        )
    if task.protocol != "cross_run":
        return text + "within a condition a person needs two labels and one of them twice"
    return text + (
        "within a condition a person needs one label in two runs and another label in a run besides the "
        "first; use fewer folds, folds_by: subject, or (when label may be run) task.protocol: any"
    )
