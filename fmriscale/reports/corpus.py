"""The page: facts, sentences and figures gathered for a template that escapes all text."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.common.files import atomic_write
from fmriscale.corpus.inspect import read_quarantine
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.reports import corpus_facts as facts
from fmriscale.reports import corpus_figures as figures
from fmriscale.reports import corpus_sentences as sentences
from fmriscale.reports.brains import presence
from fmriscale.reports.carpets import CENSORED_COLOUR, carpet
from fmriscale.reports.page import environment

MOST_CARPETS = 24
"""Data sets that carpet plots are drawn of, the longest ones: the file stays small."""
OPEN_CARPETS = 6
"""Data sets whose carpets are seen at once; the others unfold."""
MOST_REJECTED = 500
"""Rejected runs that are listed for a reason; quarantine.tsv has them all."""
RAREST_FEATURES = 10
"""Features that are named where runs lack them."""


def write_report(corpus: Corpus, path: Path) -> None:
    """Write the report of a corpus: the same corpus gives the same bytes."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first or choose another place for --report")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give --report the name of a file, e.g. {path / 'report.html'}")
    page = render(corpus, read_quarantine(corpus.folder))
    try:
        atomic_write(path, page)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; choose another place for --report") from error


def render(corpus: Corpus, quarantine: pd.DataFrame) -> str:
    """Return the report as HTML."""
    runs = facts.with_durations(corpus.runs)
    table = facts.by_dataset(corpus, runs, quarantine)
    found, extra = facts.read_records(corpus) if len(runs) else ({}, pd.DataFrame())
    runs = runs.join(extra)
    templates = environment()
    templates.filters.update(
        say=sentences.counted,
        words=sentences.reason_in_words,
        begin=sentences.first_upper,
    )
    return templates.get_template("corpus.html.jinja").render(
        name=str(corpus.remote.shown if corpus.remote else corpus.folder.resolve())
        .rstrip("/")
        .rpartition("/")[2],
        manifest=corpus.manifest,
        tiles=_tiles(corpus, runs, table),
        spaces=_spaces(corpus, found),
        datasets=_datasets(table, runs),
        recordings=_recordings(runs),
        quality=_quality(runs, table, list(extra.columns)),
        carpets=_carpets(corpus, runs, table),
        quarantine=_quarantine(quarantine, len(runs)),
    )


# ---------------------------------------------------------------- sections


def _tiles(corpus: Corpus, runs: pd.DataFrame, table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the totals as (figure, what it counts)."""
    n_people, hours = int(runs.person.nunique()), float(table.hours.sum())
    size = sum(shard["bytes"] for shard in corpus.manifest["shards"])
    return [
        (f"{len(table):,}", "data set" if len(table) == 1 else "data sets"),
        (f"{n_people:,}", "person" if n_people == 1 else "people"),
        (f"{len(runs):,}", "run" if len(runs) == 1 else "runs"),
        (f"{hours:,.1f}" if hours < 1000 else f"{hours:,.0f}", "hours"),
        _size(size),
    ]


def _size(size: int) -> tuple[str, str]:
    """Write a number of bytes with its unit."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if size >= 2**power:
            return f"{size / 2**power:.1f}", f"{unit} in shards"
    return f"{size / 2**10:.1f}", "KiB in shards"


def _datasets(table: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Any]:
    """Return table, chart and sentences on data sets and splits."""
    return {
        "sentence": sentences.on_datasets(table),
        "splits": sentences.on_splits(runs) if len(runs) else "",
        "rows": table.reset_index(names="name").to_dict("records"),
        "most": max(float(table.hours.max()), 1e-9),
        "chart": figures.hours_by_dataset(table) if len(runs) else None,
    }


def _recordings(runs: pd.DataFrame) -> dict[str, Any] | None:
    """Return sentence and charts on t_r and length."""
    if runs.empty:
        return None
    return {"sentence": sentences.on_recordings(runs), "chart": figures.recordings(runs)}


def _quality(runs: pd.DataFrame, table: pd.DataFrame, extra: list[str]) -> dict[str, Any] | None:
    """Return sentences, chart and the runs to look at first."""
    if runs.empty:
        return None
    measures = {m.column: m for m in facts.measures_of(runs, extra)}
    shown = [m for m in measures.values() if facts.differs(runs, m)]
    outlying = [
        {
            "measure": measures[column],
            "runs": worst.assign(value=worst[column]).to_dict("records"),
        }
        for column, worst in facts.outlying_runs(runs, shown).items()
    ]
    return {
        "sentences": [sentences.on_measure(runs, m) for m in measures.values()],
        "chart": figures.quality_by_dataset(runs, list(table.index), shown) if shown else None,
        "outlying": outlying,
    }


def _spaces(corpus: Corpus, found: dict[str, facts.Presence]) -> list[dict[str, Any]]:
    """Return for each feature space its sentence, picture and rarest features."""
    sections = []
    for name, space in sorted(corpus.spaces.items()):
        if name not in found:
            continue
        share = found[name].share
        rare = [i for i in np.argsort(share, kind="stable")[:RAREST_FEATURES].tolist() if share[i] < 1]
        sections.append(
            {
                "name": name,
                "n_features": space.n_features,
                "sha256": space.sha256,
                "sentence": sentences.on_presence(space, found[name]),
                "chart": presence(space, found[name]),
                "on_brain": space.coordinates is not None,
                "rarest": [
                    {
                        "name": sentences.feature_name(space, i),
                        "percent": 100 * share[i],
                        "position": None if space.coordinates is None else space.coordinates[i],
                    }
                    for i in rare
                ],
            }
        )
    return sections


def _carpets(corpus: Corpus, runs: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Return pictures of a typical and of the worst run of the longest data sets."""
    groups = dict(tuple(runs.groupby("dataset")))
    names = [str(name) for name in table.index if name in groups]
    drawn = []
    for name in names[:MOST_CARPETS]:
        own = groups[name]
        measure = facts.deciding_measure(own)
        typical, worst = facts.typical_and_worst(own, measure)
        drawn.append(
            {
                "name": name,
                "measure": measure,
                "typical": _carpet(corpus, runs, typical, measure),
                "worst": None if worst is None else _carpet(corpus, runs, worst, measure),
            }
        )
    colour = "rgb({}, {}, {})".format(*CENSORED_COLOUR)
    return {
        "drawn": drawn,
        "n_open": OPEN_CARPETS,
        "n_datasets": len(names),
        "colour": colour,
        "measures": [m.short for m in facts.MEASURES],
    }


def _carpet(corpus: Corpus, runs: pd.DataFrame, index: int, measure: facts.Measure | None) -> dict[str, Any]:
    """Return a run's picture and what stands below it."""
    run = runs.loc[index]
    kept = np.zeros(int(run.n_volumes), bool)
    for start, stop in parse_segments(run.segments):
        kept[start:stop] = True
    picture = base64.b64encode(carpet(corpus.bold(index), kept)).decode()
    return {
        "key": run.key,
        "picture": f"data:image/png;base64,{picture}",
        "minutes": float(run.minutes),
        "n_volumes": int(run.n_volumes),
        "n_features": int(run.n_features),
        "n_censored": int(run.n_censored),
        "value": None if measure is None else float(run[measure.column]),
    }


def _quarantine(quarantine: pd.DataFrame, n_kept: int) -> dict[str, Any]:
    """Return the sentence and, reason by reason, the rejected runs; the most frequent reason first."""
    counts = quarantine.reason.value_counts()
    order = sorted(counts.index, key=lambda reason: (-counts[reason], reason))
    groups = [
        {
            "reason": reason,
            "n": int(counts[reason]),
            "n_datasets": int(own.dataset.nunique()),
            "rows": own.head(MOST_REJECTED).to_dict("records"),
        }
        for reason in order
        for own in [quarantine.loc[quarantine.reason == reason]]
    ]
    return {
        "sentence": sentences.on_quarantine(quarantine, n_kept),
        "groups": groups,
        "most": max(counts, default=1),
    }
