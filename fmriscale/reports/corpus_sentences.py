"""One plain sentence on top of every section, made from the numbers below it."""

import numpy as np
import pandas as pd

from fmriscale.config import SPLITS
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.reports.corpus_facts import Measure, Presence


def counted(n: int, singular: str, plural: str | None = None) -> str:
    """Write a number with its noun: 1 run, 1,026 runs, no runs."""
    noun = singular if n == 1 else plural or f"{singular}s"
    return f"{n:,} {noun}" if n else f"no {noun}"


def listed(words: list[str]) -> str:
    """Join words: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def on_datasets(table: pd.DataFrame) -> str:
    """Tell how the hours are spread over the data sets, and whose licence is unknown."""
    hours = table.hours.sum()
    first = str(table.index[0])
    if len(table) == 1:
        said = f"One data set, {first}: {counted(table.runs.sum(), 'run')} of {people(table.subjects.sum())}."
    elif len(table) <= 4:
        top = _share(table.hours.iloc[0], hours)
        said = f"The longest of {len(table)} data sets, {first}, holds {top} of the hours."
    else:
        names, top = listed(list(table.index[:3])), _share(table.hours.iloc[:3].sum(), hours)
        said = f"The three longest of {len(table)} data sets, {names}, hold {top} of the hours."
    unknown = int((table.licence == "unknown").sum())
    if not unknown:
        return said
    whose = "Its licence is" if len(table) == 1 else f"The licence of {unknown} of them is"
    return f"{said} {whose} unknown: name it in the recipe."


def on_splits(runs: pd.DataFrame) -> str:
    """Tell how people and hours are divided."""
    hours, persons = runs.minutes.groupby(runs.split).sum(), runs.person.groupby(runs.split).nunique()
    parts = [
        f"{split} has {people(persons[split])} ({_share(hours[split], runs.minutes.sum())} of the hours)"
        for split in SPLITS
        if split in persons
    ]
    empty = [split for split in SPLITS if split not in persons]
    rest = f"; nobody is in {' or '.join(empty)}" if empty else ""
    return f"{listed(parts)}{rest}.".capitalize()


def on_recordings(runs: pd.DataFrame) -> str:
    """Tell the usual t_r and length."""
    hours = (runs.minutes / 60).groupby(runs.t_r.round(3)).sum()
    usual = hours.idxmax()
    if len(hours) == 1:
        t_r = f"Every run has a t_r of {usual:g} s"
    else:
        t_r = (
            f"{_share(hours[usual], hours.sum())} of the hours have a t_r of {usual:g} s; "
            f"it ranges from {hours.index.min():g} to {hours.index.max():g} s"
        )
    minutes, volumes = runs.minutes, runs.n_volumes
    if volumes.nunique() == 1 and minutes.nunique() == 1:
        return f"{t_r}. Every run lasts {minutes.iloc[0]:.3g} min ({volumes.iloc[0]:,} volumes)."
    return (
        f"{t_r}. The median run lasts {minutes.median():.3g} min ({volumes.median():,.0f} volumes), "
        f"the shortest {minutes.min():.3g} and the longest {minutes.max():.3g} min."
    )


def on_measure(runs: pd.DataFrame, measure: Measure) -> str:
    """Tell the median and the worst of a measure, and how many runs it is unknown for."""
    known = runs.loc[runs[measure.column].notna()]
    values = known[measure.column]
    if values.empty:
        return f"{first_upper(measure.title)}: unknown for every run."
    if measure.column == "percent_censored":
        return _on_censoring(runs)
    unit = f" {measure.unit}" if measure.unit else ""
    where = "" if len(known) == len(runs) else f" for the {len(known):,} of {len(runs):,} runs that tell it"
    if values.nunique() == 1:
        return f"{first_upper(measure.title)}: {values.iloc[0]:.3g}{unit}{where or ' in every run'}."
    said = f"{first_upper(measure.title)}: median {values.median():.3g}{unit}{where}"
    if measure.worst is None:
        return f"{said}, from {values.min():.3g} to {values.max():.3g}."
    worst = known.loc[values.idxmax() if measure.worst == "highest" else values.idxmin()]
    return f"{said}, {measure.worst} {worst[measure.column]:.3g}{unit} in {worst.key}."


def _on_censoring(runs: pd.DataFrame) -> str:
    """Tell how much is censored, and where most."""
    censored = int(runs.n_censored.sum())
    if not censored:
        return "No volume is censored."
    share = runs.n_censored.groupby(runs.dataset).sum() / runs.n_volumes.groupby(runs.dataset).sum()
    said = f"{_share(censored, runs.n_volumes.sum())} of the volumes are censored"
    return f"{said}, most in {share.idxmax()} ({_share(share.max(), 1)})." if len(share) > 1 else f"{said}."


def on_presence(space: FeatureSpace, found: Presence) -> str:
    """Tell how many features all runs have, and which is the rarest."""
    everywhere = int((found.share == 1).sum())
    read = "" if found.n_read == found.n_runs else f", drawn from {found.n_runs:,}"
    runs = f"{counted(found.n_read, 'run')}{read}"
    if everywhere == space.n_features:
        return f"Every run has all {counted(space.n_features, 'feature')} ({runs})."
    rarest = int(np.argmin(found.share))
    return (
        f"{everywhere:,} of {counted(space.n_features, 'feature')} are in every run ({runs}); "
        f"the rarest, {feature_name(space, rarest)}, is in {_share(found.share[rarest], 1)}."
    )


def feature_name(space: FeatureSpace, index: int) -> str:
    """Name a feature by its label, else by its place."""
    return f"feature {index}" if space.labels is None else f"{space.labels[index]} (feature {index})"


def on_quarantine(quarantine: pd.DataFrame, n_kept: int) -> str:
    """Tell how many runs were rejected, and why."""
    n, total = len(quarantine), n_kept + len(quarantine)
    if not n:
        return f"None of {counted(total, 'run')} was rejected."
    reasons = quarantine.reason.value_counts()
    verb = "was" if n == 1 else "were"
    said = f"{n:,} of {counted(total, 'run')} {verb} rejected"
    if len(reasons) == 1:
        every = {1: "", 2: "both "}.get(n, "all ")
        return f"{said}, {every}for {reason_in_words(str(reasons.index[0]))}."
    first, count = str(reasons.index[0]), int(reasons.iloc[0])
    return f"{said} for {len(reasons)} reasons; the most frequent is {reason_in_words(first)} ({count:,})."


def reason_in_words(slug: str) -> str:
    """Write low_coverage as low coverage, and no_t_r as no t_r."""
    return slug.replace("_", " ").replace("t r", "t_r") if slug.endswith("t_r") else slug.replace("_", " ")


def people(n: int) -> str:
    """Write a number of people."""
    return "1 person" if n == 1 else f"{n:,} people"


def _share(part: float, whole: float) -> str:
    """Write a percentage that is never rounded to all or to nothing."""
    percent = round(100 * part / whole, 9) if whole else 0.0
    if 0 < percent < 0.1:
        return "under 0.1 %"
    if 99.9 < percent < 100:
        return "over 99.9 %"
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.1f} %"


def first_upper(text: str) -> str:
    """Start a sentence without touching the other letters (tSNR)."""
    return text[:1].upper() + text[1:]
