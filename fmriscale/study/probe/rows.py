"""The rows of a probe: what has one target each, and the pieces of signal that it is made of.

N rows, M pieces (windows, or whole runs), K classes, C columns of confounds.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.common.suggest import did_you_mean
from fmriscale.config import MOMENT, ProbeConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.study.probe.columns import as_numbers, column_of, design_of, is_number, runs_of
from fmriscale.study.probe.cut import Piece, at_events, at_moments, over_runs, starts_in, volumes


@dataclass(frozen=True)
class Rows:
    """Rows in the order of runs (or people) and volumes."""

    run_M: np.ndarray
    """Row of `corpus.runs` of each piece."""
    start_M: np.ndarray
    """First volume of a window; -1: the whole run."""
    row_M: np.ndarray
    """Row that each piece belongs to; ascending."""
    target_N: np.ndarray
    """Index into `classes`, or a number."""
    classes: tuple[str, ...]
    """Values of a target that is classified; empty where it is a number."""
    person_N: np.ndarray
    kin_N: np.ndarray
    """Group of kin, the person where the corpus has none."""
    confounds_NC: np.ndarray
    left_out: dict[str, int]
    """Rows without a place in the probe, by reason."""

    def __len__(self) -> int:
        return len(self.target_N)

    @property
    def of_people(self) -> bool:
        """The target is a property of people: nobody has two values of it."""
        pairs = pd.DataFrame({"person": self.person_N, "target": self.target_N}).drop_duplicates()
        return len(pairs) == len(set(self.person_N.tolist()))

    def mean_of_pieces(self, x_MF: np.ndarray) -> np.ndarray:
        """Return the mean over the pieces of each row, [N, F]."""
        if len(x_MF) == len(self):
            return x_MF
        counts = np.bincount(self.row_M, minlength=len(self))
        return np.add.reduceat(x_MF, np.r_[0, np.cumsum(counts)[:-1]]) / counts[:, None].astype(x_MF.dtype)


def collect(config: ProbeConfig, corpus: Corpus, table: pd.DataFrame, facts: pd.DataFrame) -> Rows:
    """Find rows and targets of a probe; table and facts: the runs that may take part.

    Raises
    ------
    UserError
        A column that there is not, values that never occur, or a target without two values.
    """
    numbers = config.kind == "regress" or config.quantiles is not None
    pieces, n_lost = find_pieces(config, corpus, table, facts, numbers=numbers)
    person, kin = (
        dict(zip(table.index.tolist(), table[name].tolist(), strict=True))
        for name in ("person", "group" if "group" in table else "person")
    )
    groups = [[piece] for piece in pieces]
    if config.rows == "person":
        by_person: dict[str, list[Piece]] = {name: [] for name in sorted({person[p.run] for p in pieces})}
        for piece in pieces:
            by_person[person[piece.run]].append(piece)
        groups = list(by_person.values())
    texts = pd.DataFrame({"target": [one_value([p.target for p in group], numbers) for group in groups]})
    for name in config.regress_out:
        of_run = column_of(facts, name, "regress_out")
        are_numbers = all(map(is_number, filter(None, of_run.values())))
        texts[f"confound {name}"] = [
            one_value([of_run[p.run] for p in group], are_numbers) for group in groups
        ]
    kept, left_out = taking_part(config, texts)
    if n_lost:
        left_out = {"no window fits, or it meets a censored volume": n_lost, **left_out}
    texts, groups = texts.loc[kept], [group for group, keep in zip(groups, kept, strict=True) if keep]
    target_N, classes = as_target(config, texts["target"].tolist(), left_out)
    return Rows(
        run_M=np.array([piece.run for group in groups for piece in group]),
        start_M=np.array([piece.start for group in groups for piece in group]),
        row_M=np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
        target_N=target_N,
        classes=classes,
        person_N=np.array([person[group[0].run] for group in groups]),
        kin_N=np.array([kin[group[0].run] for group in groups]),
        confounds_NC=design_of(texts.drop(columns="target")),
        left_out=left_out,
    )


def find_pieces(
    config: ProbeConfig, corpus: Corpus, table: pd.DataFrame, facts: pd.DataFrame, *, numbers: bool
) -> tuple[list[Piece], int]:
    """Return windows (or whole runs) with the text of their target, and how many events have none."""
    for name in config.regress_out:
        column_of(facts, name, "regress_out")
    n_lost = 0
    if config.rows != "window":
        target = column_of(facts, config.target, "target")
        fitting = [
            row for row, run in runs_of(table) if starts_in(run["segments"], run["t_r"], config.windows)
        ]
        pieces, n_lost = [Piece(row, -1, target[row]) for row in fitting], len(table) - len(fitting)
    elif config.target == MOMENT:
        pieces = at_moments(table, config.windows)
    elif any(config.target in e for row in table.index.tolist() for e in corpus.record(row)["events"][:1]):
        pieces, n_lost = at_events(corpus, table, config.windows, config.target, numbers=numbers)
    else:
        pieces = over_runs(table, config.windows, column_of(facts, config.target, "target"))
    if not pieces:
        raise UserError(
            f"{corpus}: no window of {config.windows.length} volumes fits; give shorter windows.length"
        )
    if config.rows == "window":
        lengths = sorted({volumes(config.windows.length, t_r) for t_r in table["t_r"]})
        if len(lengths) > 1:
            raise UserError(
                f"windows.length {config.windows.length} is {' or '.join(map(str, lengths))} volumes by t_r; "
                "rows: window needs one number: give volumes, or name datasets of one t_r"
            )
    return pieces, n_lost


def one_value(texts: list[str], numbers: bool) -> str:
    """Return the value of a row from its pieces: the mean of numbers; " " where texts are several."""
    known = [text for text in texts if text]
    if len(set(known)) < 2:
        return known[0] if known else ""
    return repr(float(as_numbers(known, "a column").mean())) if numbers else " "


def taking_part(config: ProbeConfig, texts: pd.DataFrame) -> tuple[np.ndarray, dict[str, int]]:
    """Return which rows have all that is needed, and how many have not, by reason."""
    target = texts["target"]
    reasons = {
        f"no value of {config.target}": target == "",
        f"several values of {config.target}": target == " ",
    }
    if config.values is not None:
        wanted, known = [str(value) for value in config.values], set(target) - {"", " "}
        if absent := [value for value in wanted if value not in known]:
            there = ", ".join(sorted(known)[:20]) + did_you_mean(absent[0], known)
            raise UserError(f"values has {absent}, which '{config.target}' never is; there are {there}")
        reasons["another value"] = ~target.isin([*wanted, "", " "])
    for name in config.regress_out:
        reasons[f"no value of {name}"] = texts[f"confound {name}"].isin(["", " "])
    kept, counted = np.ones(len(texts), bool), {}
    for reason, lacking in reasons.items():
        if n := int((kept & np.asarray(lacking)).sum()):
            counted[reason] = n
        kept &= ~np.asarray(lacking)
    return kept, counted


def as_target(
    config: ProbeConfig, texts: list[str], left_out: dict[str, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the target of each row as a class or a number, and the classes; refuse a constant."""
    what = f"target '{config.target}'"
    if not texts:
        raise UserError(f"{what}: no row is left ({reasons_of(left_out)}); choose another column")
    if len(set(texts)) < 2:
        raise UserError(
            f"{what} is '{texts[0]}' in all of {len(texts)} rows: there is nothing to tell; choose another "
            "column, values or data sets"
        )
    if config.kind == "classify" and config.quantiles is None:
        classes = sorted(set(texts), key=lambda text: (float(text) if is_number(text) else np.inf, text))
        place = {name: number for number, name in enumerate(classes)}
        return np.array([place[text] for text in texts]), tuple(classes)
    number_N = as_numbers(texts, what)
    if config.quantiles is None:
        return number_N, ()
    edges = np.unique(np.quantile(number_N, np.linspace(0, 1, config.quantiles + 1)))
    if len(edges) < 3:
        raise UserError(
            f"quantiles is {config.quantiles}, but most values of {what} are the same; leave it out"
        )
    class_N = np.searchsorted(edges[1:-1], number_N)
    return class_N, tuple(f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges))


def reasons_of(left_out: dict[str, int]) -> str:
    """Say how many rows are left out, by reason."""
    return "; ".join(f"{n:,} left out: {reason}" for reason, n in left_out.items())
