"""What the page of a corpus tells, as numbers: by data set, by feature and by run."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from fmriscale.config import SPLITS
from fmriscale.corpus.inspect import value_range
from fmriscale.corpus.reader import Corpus

MOST_RECORDS = 5_000
"""Runs of a feature space whose records are read for missing features; of more, some are drawn."""
MOST_WORST = 8  # Worst runs that are named


@dataclass(frozen=True)
class Measure:
    """A figure of quality that every run may have."""

    column: str  # In the table of runs
    title: str
    short: str  # Its name for narrow places
    unit: str = ""
    worst: Literal["highest", "lowest"] | None = None  # The runs to look at; None where that is not known


MEASURES = (  # In the order in which they decide which run is the worst
    Measure("mean_fd", "mean framewise displacement", "mean FD", "mm", "highest"),
    Measure("tsnr", "temporal signal-to-noise ratio (tSNR)", "tSNR", "", "lowest"),
    Measure("spike", "largest jump of the global signal", "global jump", "s.d.", "highest"),
    Measure("percent_covered", "coverage of the features", "coverage", "%", "lowest"),
    Measure("percent_censored", "censored volumes", "censored", "%", "highest"),
    Measure("n_repeated", "volumes that repeat the one before", "repeated", "", "highest"),
)
STRATEGIES_WITH_A_CHOICE = ("motion", "wm_csf", "global_signal", "compcor")
"""The choice stands under the name of the strategy."""


@dataclass(frozen=True)
class Presence:
    """Which features the runs of a feature space have."""

    share: np.ndarray  # Share of the runs that have each feature, [V], 0 to 1
    n_read: int  # Runs that were looked at
    n_runs: int  # Runs of the space


def with_durations(runs: pd.DataFrame) -> pd.DataFrame:
    """Add minutes, percent_covered and percent_censored to the table of runs."""
    return runs.assign(
        minutes=runs.t_r * runs.n_volumes / 60,
        percent_covered=100 * runs.coverage,
        percent_censored=100 * runs.n_censored / runs.n_volumes,
    )


def measures_of(runs: pd.DataFrame, figures: list[str]) -> list[Measure]:
    """Return the measures that runs have a column for; `figures` are the columns of their records."""
    named = [measure for measure in MEASURES if measure.column in runs]
    more = sorted(set(figures) - {measure.column for measure in named})
    return named + [Measure(c, c.replace("_", " "), c.replace("_", " ")) for c in more]


def differs(runs: pd.DataFrame, measure: Measure) -> bool:
    """Tell whether runs differ in a measure."""
    known = runs[measure.column].dropna().to_numpy(float)
    return known.size > 0 and float(np.ptp(known)) > 0


def by_dataset(corpus: Corpus, runs: pd.DataFrame, quarantine: pd.DataFrame) -> pd.DataFrame:
    """Return one row a data set, the longest first."""
    rows = {}
    for name, entry in corpus.manifest["datasets"].items():
        own = runs.loc[runs.dataset == name]
        hours = own.minutes.groupby(own.split).sum() / 60
        rows[name] = {
            "subjects": own.person.nunique(),
            "runs": len(own),
            "hours": own.minutes.sum() / 60,
            **{split: float(hours.get(split, 0.0)) for split in SPLITS},
            "t_r": value_range(own.t_r.tolist(), "\N{EN DASH}"),
            "space": entry["space"],
            "licence": entry.get("licence") or "unknown",
            "denoising": spelled_denoising(entry.get("denoise", {})),
            "rejected": int((quarantine.dataset == name).sum()),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.loc[sorted(table.index, key=lambda name: (-table.hours[name], name))]


def spelled_denoising(denoise: dict[str, Any]) -> str:
    """Say in a few words how the runs of a data set were cleaned."""
    steps = []
    if dummies := denoise.get("dummy_volumes", 0):
        which = "non-steady-state" if dummies == "auto" else f"first {dummies}"
        steps.append(f"{which} volumes dropped")
    for strategy in denoise.get("strategy", []):
        choice = denoise.get(strategy) if strategy in STRATEGIES_WITH_A_CHOICE else None
        if strategy == "scrub" and "fd_threshold" in denoise:
            choice = f"FD above {denoise['fd_threshold']:g} mm"
        steps.append(f"{strategy} ({choice})" if choice else strategy)
    low, high = denoise.get("high_pass"), denoise.get("low_pass")
    if low is not None and high is not None:
        steps.append(f"{low:g}–{high:g} Hz")  # noqa: RUF001
    elif low is not None or high is not None:
        steps.append(f"above {low:g} Hz" if low is not None else f"below {high:g} Hz")
    if denoise.get("detrend"):
        steps.append("detrended")
    if denoise.get("resample_t_r"):
        steps.append(f"resampled to {denoise['resample_t_r']:g} s")
    return ", ".join(steps) or "none"


def read_records(corpus: Corpus, most: int = MOST_RECORDS) -> tuple[dict[str, Presence], pd.DataFrame]:
    """Read which features are missing, and every figure of quality, from the records of the runs."""
    presence: dict[str, Presence] = {}
    figures: dict[int, dict[str, float]] = {}
    for name, space in corpus.spaces.items():
        own = np.flatnonzero(corpus.runs.space == name)
        drawn = own if own.size <= most else np.random.default_rng(0).choice(own, most, replace=False)
        missing = np.zeros(space.n_features, np.int64)
        for index in np.sort(drawn).tolist():
            quality = corpus.record(index)["quality"]
            np.add.at(missing, np.asarray(quality.get("missing_features", []), np.int64), 1)
            further = {name: value for name, value in quality.items() if name not in corpus.runs}
            figures[index] = {name: v for name, v in further.items() if type(v) in (int, float)}
        if own.size:
            presence[name] = Presence(1 - missing / drawn.size, drawn.size, own.size)
    return presence, pd.DataFrame.from_dict(figures, orient="index").sort_index()


def worst_runs(runs: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return the worst runs by a measure (column `value`), the very worst on top."""
    known = runs.assign(value=runs[measure.column]).dropna(subset="value")
    return known.sort_values(["value", "key"], ascending=[measure.worst == "lowest", True]).head(MOST_WORST)


def deciding_measure(runs: pd.DataFrame) -> Measure | None:
    """Return the first of `MEASURES` that tells runs apart."""
    return next((m for m in MEASURES if m.column in runs and differs(runs, m)), None)


def typical_and_worst(runs: pd.DataFrame, measure: Measure | None) -> tuple[int, int | None]:
    """Return the row numbers of a typical and of the worst run."""
    known = runs if measure is None else runs.loc[runs[measure.column].notna()]
    values = known["minutes" if measure is None else measure.column].to_numpy(float)
    distance = np.abs(values - np.median(values))
    if measure is None:
        return int(known.index[distance.argmin()]), None
    worst = int(values.argmax() if measure.worst == "highest" else values.argmin())
    distance[worst] = np.inf
    return int(known.index[distance.argmin()]), int(known.index[worst])
