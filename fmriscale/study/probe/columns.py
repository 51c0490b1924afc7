"""Columns of runs, participants and events as a probe reads them: text, numbers, and what is missing.

M pieces (windows or runs), N rows.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.common.suggest import did_you_mean
from fmriscale.corpus.reader import Corpus

MISSING = ("", "n/a", "nan", "NaN", "None", "NA", "<NA>")
"""What a cell without a value holds."""


def facts_of(corpus: Corpus, rows: Sequence[int]) -> pd.DataFrame:
    """Return all columns of runs and their participants, as text ("" = missing), by row of the corpus."""
    table = corpus.runs.iloc[list(rows)]
    people = pd.DataFrame([corpus.record(row).get("participant", {}) for row in rows], index=table.index)
    own = people.drop(columns=[name for name in people if name in table])
    facts = pd.concat([table, own], axis=1).astype(object)
    return facts.map(as_text)


def runs_of(table: pd.DataFrame) -> list[tuple[int, dict[str, Any]]]:
    """Return row and columns of every run."""
    records: list[dict[str, Any]] = table.to_dict("records")  # pyright: ignore[reportAssignmentType]
    return list(zip(table.index.tolist(), records, strict=True))


def as_text(value: object) -> str:
    """Return a cell as text; "" where it is missing."""
    text = str(value).strip()
    return "" if text in MISSING else text


def column_of(facts: pd.DataFrame, name: str, setting: str) -> dict[int, str]:
    """Return a column by row; refuse one that there is not, naming those that there are."""
    if name not in facts:
        raise UserError(
            f"{setting} names '{name}', a column of neither runs nor participants; there are "
            f"{', '.join(facts.columns)} (participants_columns of the corpus recipe adds more)"
            f"{did_you_mean(name, facts.columns)}"
        )
    return dict(zip(facts.index.tolist(), facts[name].tolist(), strict=True))


def as_numbers(texts: Iterable[str], what: str) -> np.ndarray:
    """Return numbers, nan where a text is empty; refuse texts that are none."""
    texts = list(texts)
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        wrong = next(text for text in texts if text and not is_number(text))
        raise UserError(
            f"{what} holds '{wrong}', which is no number; take kind: classify, or another column"
        ) from None


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def design_of(table: pd.DataFrame) -> np.ndarray:
    """Return confounds as numbers, [N, C]: numbers as they are, of texts a column for each category."""
    blocks = []
    for name in table:
        if all(map(is_number, table[name])):
            blocks.append(table[[name]].astype(float).to_numpy())
        else:
            blocks.append(pd.get_dummies(table[name]).to_numpy(float))
    return np.concatenate(blocks, axis=1) if blocks else np.empty((len(table), 0))


def value_during(
    onset_E: np.ndarray, end_E: np.ndarray, value_E: Sequence[str], start: float, stop: float, numbers: bool
) -> str:
    """Return the value of the events during a stretch of time, "" where they fill less than half of it.

    Of numbers it is the mean weighted by time, else the value that takes most of the time.
    """
    overlap_E = np.clip(np.minimum(end_E, stop) - np.maximum(onset_E, start), 0, None)
    if overlap_E.sum() < (stop - start) / 2:
        return ""
    inside = np.flatnonzero(overlap_E).tolist()
    if numbers:
        return repr(float(np.average([float(value_E[e]) for e in inside], weights=overlap_E[inside])))
    time: dict[str, float] = {}
    for e in inside:
        time[value_E[e]] = time.get(value_E[e], 0.0) + float(overlap_E[e])
    return max(time, key=lambda value: (time[value], value))
