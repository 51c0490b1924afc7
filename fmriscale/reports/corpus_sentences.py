"""One plain sentence on top of every section of a corpus's page, made from the numbers below it."""

import numpy as np
import pandas as pd

from fmriscale.config import SPLITS
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.reports.corpus_facts import Measure, Presence
from fmriscale.reports.page import first_upper
from fmriscale.study.wording import counted


def listed(words: list[str]) -> str:
    """Join words: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def on_datasets(table: pd.DataFrame) -> str:
    """Tell how the hours are spread over the data sets, and whose licence is unknown."""
    hours, first = table.hours.sum(), str(table.index[0])
    if len(table) == 1:
        people = counted(table.subjects.sum(), "person")
        sentence = f"One data set, {first}: {counted(table.runs.sum(), 'run')} of {people}."
    elif len(table) <= 4:
        top = share(table.hours.iloc[0], hours)
        sentence = f"The longest of {len(table)} data sets, {first}, holds {top} of the hours."
    else:
        names, top = listed(list(table.index[:3])), share(table.hours.iloc[:3].sum(), hours)
        sentence = f"The three longest of {len(table)} data sets, {names}, hold {top} of the hours."
    unknown = int((table.licence == "unknown").sum())
    if not unknown:
        return sentence
    whose = "Its licence is" if len(table) == 1 else f"The licence of {unknown} of them is"
    return f"{sentence} {whose} unknown: name it in the recipe."


def on_splits(runs: pd.DataFrame) -> str:
    """Tell how people and hours are divided."""
    minutes, persons = runs.minutes.groupby(runs.split).sum(), runs.person.groupby(runs.split).nunique()
    hours = {split: share(minutes[split], minutes.sum()) for split in SPLITS if split in persons}
    parts = [f"{s} has {counted(persons[s], 'person')} ({part} of the hours)" for s, part in hours.items()]
    empty = [split for split in SPLITS if split not in persons]
    rest = f"; nobody is in {' or '.join(empty)}" if empty else ""
    return f"{listed(parts)}{rest}.".capitalize()


def on_recordings(runs: pd.DataFrame) -> str:
    """Tell the usual t_r and length."""
    hours = (runs.minutes / 60).groupby(runs.t_r.round(3)).sum()
    usual = hours.idxmax()
    t_r = f"Every run has a t_r of {usual:g} s"
    if len(hours) > 1:
        span = f"it ranges from {hours.index.min():g} to {hours.index.max():g} s"
        t_r = f"{share(hours[usual], hours.sum())} of the hours have a t_r of {usual:g} s; {span}"
    minutes, volumes = runs.minutes, runs.n_volumes
    if volumes.nunique() == 1 and minutes.nunique() == 1:
        return f"{t_r}. Every run lasts {minutes.iloc[0]:.3g} min ({volumes.iloc[0]:,} volumes)."
    return (
        f"{t_r}. The median run lasts {minutes.median():.3g} min ({volumes.median():,.0f} volumes), "
        f"the shortest {minutes.min():.3g} and the longest {minutes.max():.3g} min."
    )


def on_measure(runs: pd.DataFrame, measure: Measure) -> str:
    """Tell the median and the worst of a measure, and how many runs it is unknown for."""
    values = pd.Series(runs[measure.column]).dropna()
    title = first_upper(measure.title)
    if values.empty:
        return f"{title}: unknown for every run."
    if measure.column == "percent_censored":
        return _on_censoring(runs)
    unit = f" {measure.unit}" if measure.unit else ""
    where = f" for the {len(values):,} of {len(runs):,} runs that tell it" * (len(values) < len(runs))
    if values.nunique() == 1:
        return f"{title}: {values.iloc[0]:.3g}{unit}{where or ' in every run'}."
    sentence = f"{title}: median {values.median():.3g}{unit}{where}"
    if measure.worst is None:
        return f"{sentence}, from {values.min():.3g} to {values.max():.3g}."
    worst = values.idxmax() if measure.worst == "highest" else values.idxmin()
    return f"{sentence}, {measure.worst} {values[worst]:.3g}{unit} in {runs.key[worst]}."


def _on_censoring(runs: pd.DataFrame) -> str:
    """Tell how much is censored, and where most."""
    censored = int(runs.n_censored.sum())
    if not censored:
        return "No volume is censored."
    by_dataset = runs.n_censored.groupby(runs.dataset).sum() / runs.n_volumes.groupby(runs.dataset).sum()
    sentence = f"{share(censored, runs.n_volumes.sum())} of the volumes are censored"
    if len(by_dataset) == 1:
        return f"{sentence}."
    return f"{sentence}, most in {by_dataset.idxmax()} ({share(by_dataset.max(), 1)})."


def on_presence(space: FeatureSpace, present: Presence) -> str:
    """Tell how many features all runs have, and which is the rarest."""
    everywhere = int((present.share == 1).sum())
    drawn = "" if present.n_read == present.n_runs else f", drawn from {present.n_runs:,}"
    runs, features = f"{counted(present.n_read, 'run')}{drawn}", counted(space.n_features, "feature")
    if everywhere == space.n_features:
        return f"Every run has all {features} ({runs})."
    rarest = int(np.argmin(present.share))
    least = f"{feature_name(space, rarest)}, is in {share(present.share[rarest], 1)}"
    return f"{everywhere:,} of {features} are in every run ({runs}); the rarest, {least}."


def feature_name(space: FeatureSpace, index: int) -> str:
    """Name a feature by its label, else by its number."""
    return f"feature {index}" if space.labels is None else f"{space.labels[index]} (feature {index})"


def on_quarantine(quarantine: pd.DataFrame, n_kept: int) -> str:
    """Tell how many runs were rejected, and why."""
    n, runs = len(quarantine), counted(n_kept + len(quarantine), "run")
    if not n:
        return f"None of {runs} was rejected."
    reasons = quarantine.reason.value_counts()
    sentence = f"{n:,} of {runs} {'was' if n == 1 else 'were'} rejected"
    first = reason_in_words(str(reasons.index[0]))
    if len(reasons) == 1:
        return f"{sentence}, {({1: '', 2: 'both '}).get(n, 'all ')}for {first}."
    return f"{sentence} for {len(reasons)} reasons; the most frequent is {first} ({reasons.iloc[0]:,})."


def reason_in_words(slug: str) -> str:
    """Write low_coverage as low coverage, and no_t_r as no t_r."""
    return slug.replace("_", " ").removesuffix("t r") + "t_r" * slug.endswith("t_r")


def share(part: float, whole: float) -> str:
    """Write a percentage that is never rounded to all or to nothing."""
    percent = round(100 * part / whole, 9) if whole else 0.0
    if 0 < percent < 0.1:
        return "under 0.1 %"
    if 99.9 < percent < 100:
        return "over 99.9 %"
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.1f} %"
