"""A corpus as one self-contained HTML page: facts, sentences and figures gathered for its template."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.corpus.inspect import read_quarantine
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.reports import corpus_facts as facts
from fmriscale.reports import corpus_figures as figures
from fmriscale.reports import corpus_sentences as sentences
from fmriscale.reports.carpets import CENSORED_COLOUR, carpet
from fmriscale.reports.first_screen import count_tiles, screen
from fmriscale.reports.page import write_html
from fmriscale.study.wording import counted

MOST_CARPETS = 24  # Data sets that carpet plots are drawn of, the longest ones: the file stays small
OPEN_CARPETS = 6  # Data sets whose carpets are seen at once; the others unfold
MOST_REJECTED = 500  # Rejected runs that are listed for a reason; quarantine.tsv has them all
MOST_FIRST = 6  # Data sets on the first screen
RAREST_FEATURES = 10  # Features that are named where runs lack them


def write_page(corpus: Corpus, path: Path) -> None:
    """Write the report of a corpus: the same corpus gives the same bytes."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first or choose another place for --report")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give --report the name of a file, e.g. {path / 'report.html'}")
    quarantine = read_quarantine(corpus.folder)
    runs = facts.with_durations(corpus.runs)
    table = facts.by_dataset(corpus, runs, quarantine)
    present, figures_of_records = facts.read_records(corpus) if len(runs) else ({}, pd.DataFrame())
    runs = runs.join(figures_of_records)
    where = str(corpus.remote.shown if corpus.remote else corpus.folder.resolve())
    write_html(
        path,
        "corpus.html.jinja",
        "--report",
        say=sentences,
        name=where.rstrip("/").rpartition("/")[2],
        manifest=corpus.manifest,
        first=_first(table, runs),
        config="",
        provenance=[],
        splits=facts.SPLITS,
        tiles=_tiles(corpus, runs, table),
        spaces=[_space(corpus, name, present[name]) for name in sorted(present)],
        datasets=_datasets(table, runs),
        recordings=(sentences.on_recordings(runs), figures.recordings(runs)) if len(runs) else None,
        quality=_quality(runs, table, list(figures_of_records.columns)) if len(runs) else None,
        carpets=_carpets(corpus, runs, table),
        quarantine=_quarantine(quarantine, len(runs)),
    )


def _first(table: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Any]:
    """Say what a corpus is in a sentence."""
    hours, people = float(table.hours.sum()), counted(int(runs.person.nunique()), "person")
    return screen(
        "What does this corpus hold?",
        f"{_hours(hours)} hour{'s' * (_hours(hours) != '1.0')}",
        f"of brain activity: {counted(len(runs), 'run')} (recordings) of {people} in "
        f"{counted(len(table), 'data set')}, cleaned, cut into features and packed for pre-training.",
        sentences.on_datasets(table),
    )


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours < 1000 else f"{hours:,.0f}"


def _tiles(corpus: Corpus, runs: pd.DataFrame, table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return the totals as (figure, what it counts, note)."""
    n_people, hours = int(runs.person.nunique()), float(table.hours.sum())
    size = sum(shard["bytes"] for shard in corpus.manifest["shards"])
    units = ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))
    power, unit = next(((power, unit) for power, unit in units if size >= 2**power), units[-1])
    return [
        *count_tiles(((len(table), "data set"), (n_people, "person"), (len(runs), "run"))),
        (_hours(hours), "hours", ""),
        (f"{size / 2**power:.1f}", f"{unit} in shards", ""),
    ]


def _datasets(table: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Any]:
    """Return table, chart and sentences on data sets and splits."""
    return {
        "sentence": sentences.on_datasets(table),
        "splits": sentences.on_splits(runs) if len(runs) else "",
        "rows": table.reset_index(names="name").to_dict("records"),
        "most": max(float(table.hours.max()), 1e-9),
        "first": MOST_FIRST if len(table) > MOST_FIRST + 1 else len(table),
    }


def _quality(runs: pd.DataFrame, table: pd.DataFrame, more: list[str]) -> dict[str, Any]:
    """Return sentences, chart and the runs to look at first."""
    measures = facts.measures_of(runs, more)
    shown = [measure for measure in measures if facts.differs(runs, measure)]
    judged = [measure for measure in shown if measure.worst is not None]
    return {
        "sentences": [sentences.on_measure(runs, measure) for measure in measures],
        "names": list(table.index),
        "strips": figures.strips(runs, list(table.index), shown),
        "outlying": [{"measure": m, "runs": facts.worst_runs(runs, m).to_dict("records")} for m in judged],
    }


def _space(corpus: Corpus, name: str, present: facts.Presence) -> dict[str, Any]:
    """Return sentence, picture and rarest features of a feature space."""
    space, share = corpus.spaces[name], present.share
    rarest = [
        {
            "name": sentences.feature_name(space, i),
            "percent": 100 * share[i],
            "position": None if space.coordinates is None else space.coordinates[i],
        }
        for i in np.argsort(share, kind="stable")[:RAREST_FEATURES].tolist()
        if share[i] < 1
    ]
    return {
        "name": name,
        "sentence": sentences.on_presence(space, present),
        "charts": figures.presence(space, present),
        "ramp": figures.RAMP if space.coordinates is not None and share.min() < 1 else None,
        "lowest": 100 * figures.lowest_shown(share),
        "on_brain": space.coordinates is not None,
        "rarest": rarest,
    }


def _carpets(corpus: Corpus, runs: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Return pictures of a typical and of the worst run of the longest data sets."""
    groups = dict(tuple(runs.groupby("dataset")))
    names = [str(name) for name in table.index if name in groups]
    drawn = []
    for name in names[:MOST_CARPETS]:
        measure = facts.deciding_measure(groups[name])
        typical, worst = facts.typical_and_worst(groups[name], measure)
        drawn.append(
            {
                "name": name,
                "measure": measure,
                "typical": _carpet(corpus, runs, typical, measure),
                "worst": None if worst is None else _carpet(corpus, runs, worst, measure),
            }
        )
    return {
        "drawn": drawn,
        "n_open": OPEN_CARPETS,
        "n_datasets": len(names),
        "colour": "rgb({}, {}, {})".format(*CENSORED_COLOUR),
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
        **{name: int(run[name]) for name in ("n_volumes", "n_features", "n_censored")},
        "value": None if measure is None else float(run[measure.column]),
    }


def _quarantine(quarantine: pd.DataFrame, n_kept: int) -> dict[str, Any]:
    """Return the sentence and, reason by reason, the rejected runs; the most frequent reason first."""
    groups = [
        {
            "reason": reason,
            "n": len(rejected),
            "n_datasets": int(rejected.dataset.nunique()),
            "rows": rejected.head(MOST_REJECTED).to_dict("records"),
        }
        for reason, rejected in quarantine.groupby("reason")
    ]
    groups.sort(key=lambda group: -group["n"])
    sentence, most = sentences.on_quarantine(quarantine, n_kept), groups[0]["n"] if groups else 1
    return {"sentence": sentence, "groups": groups, "most": most}
