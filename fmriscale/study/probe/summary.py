"""A probe in numbers: one dictionary, for its text, page and verdict; and a table."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.config import MOMENT
from fmriscale.study.probe.data import Probe
from fmriscale.study.probe.figures import (
    Result,
    by_fold,
    by_unit,
    chance_of,
    comparison,
    figure_with_interval,
    figures_of,
    scores_of,
)
from fmriscale.study.probe.folds import as_list
from fmriscale.study.probe.jobs import FRESH, SHUFFLED, TITLES, arms, judged, sizes
from fmriscale.study.probe.run import settings_of
from fmriscale.study.probe.verdict import verdict
from fmriscale.study.results import digest, encoder_origin, provenance
from fmriscale.study.statistics import holm

MOST_VALUES = 24
"""Classes whose numbers of rows are told."""


def summarise(probe: Probe, results: list[Result]) -> dict[str, Any]:
    """Return all numbers of a finished probe."""
    config, rows = probe.config, probe.rows
    figures, all_sizes, main = figures_of(rows), sizes(config), judged(config)
    at = {
        (method, size): [r for r in results if r["method"] == method and r["size"] == size]
        for method in probe.methods
        for size in all_sizes
    }
    chance = {figure: chance_of(figure, rows, at[SHUFFLED, None]) for figure in figures}
    methods = {
        name: {
            "title": TITLES.get(name, name.replace("_", " ")),
            "kind": kind_of(name, probe),
            **{f: figure_with_interval(f, by_unit(scores_of(f, rows, at[name, None]))) for f in figures},
        }
        for name in probe.methods
    }
    simple = [name for name in probe.methods if methods[name]["kind"] == "baseline" and name != SHUFFLED]
    ratio = 1 / max(len(probe.folds) - 1, 1)

    def compared(first: str, second: str, figure: str, size: int | None = None) -> dict[str, Any]:
        other = chance[figure] if second == "chance" else at[second, size]
        row = comparison(figure, rows, at[first, size], other, ratio)
        return {"first": first, "second": second, "size": size, **row}

    def best_at(size: int | None) -> str:
        """Return the baseline whose figure is the highest at a size; None = the full size."""
        there = [name for name in simple if at[name, size]]
        means = {n: by_unit(scores_of(figures[0], rows, at[n, size])).values() for n in there}
        return max(there, key=lambda name: float(np.mean(list(means[name]))))

    others = [name for name in probe.methods if name not in (main, SHUFFLED)]
    of_sizes: list[dict[str, Any]] = []
    if main is not None and config.train_sizes:
        for second_at in (lambda _: FRESH, best_at):
            rows_of = [compared(main, second_at(n), figures[0], n) for n in all_sizes]
            adjusted = holm([row["p"] for row in rows_of])
            of_sizes += [{**row, "p_holm": p} for row, p in zip(rows_of, adjusted, strict=True)]
    summary = {
        **description(probe),
        "figures": list(figures),
        "chance": chance,
        "main": main,
        "best_baseline": best_at(None),
        "methods": methods,
        "comparisons": [] if main is None else [compared(main, o, f) for o in others for f in figures],
        "against_chance": [compared(name, "chance", figures[0]) for name in probe.methods],
        "by_size": by_size(probe, at, figures),
        "size_comparisons": of_sizes,
        "folds": folds_of(probe, at, figures[0]),
        "provenance": provenance_of(probe),
    }
    return summary | {"verdict": verdict(summary)}


def description(probe: Probe) -> dict[str, Any]:
    """Return what is asked, of how many, and what was left out."""
    config, rows = probe.config, probe.rows
    return {
        "probe": True,
        "question": question(probe),
        "target": config.target,
        "kind": config.kind,
        "rows": config.rows,
        "folds_by": " and ".join(as_list(config.folds_by)),
        "n_folds": len(probe.folds),
        "seeds": list(config.seeds),
        "sizes": sizes(config),
        "regress_out": list(config.regress_out),
        "adapt": config.train.adapt,
        "allow_seen_runs": config.allow_seen_runs,
        "n_rows": len(rows),
        "n_people": len(set(rows.person_N.tolist())),
        "n_runs": len(set(rows.run_M.tolist())),
        "left_out": rows.left_out,
        "values": values_of(probe),
    }


def question(probe: Probe) -> str:
    """Ask what the probe asks."""
    config = probe.config
    length = config.windows.length
    window = f"a window of {length}{'' if isinstance(length, str) else ' volumes'}"
    what = {"run": "a run", "person": "a person's runs", "window": window}[config.rows]
    if config.target == MOMENT:
        return f"Which moment of the stimulus is {what}?"
    verb = "told" if config.kind == "classify" else "predicted"
    return f"How well can {config.target} be {verb} from {what}?"


def kind_of(name: str, probe: Probe) -> str:
    """Return whether a method is an arm, a further encoder (control), a baseline, or the check for leaks."""
    if name == SHUFFLED:
        return "check"
    if name in (judged(probe.config), FRESH):
        return "arm"
    return "control" if name in arms(probe.config) else "baseline"


def values_of(probe: Probe) -> dict[str, Any]:
    """Describe the target: rows by class, or mean, deviation and range of a number."""
    rows = probe.rows
    if not rows.classes:
        target = rows.target_N
        ends = {"low": float(target.min()), "high": float(target.max())}
        return {"mean": float(target.mean()), "sd": float(target.std()), **ends}
    counts = Counter(rows.target_N.tolist())
    named = {name: counts[number] for number, name in enumerate(rows.classes[:MOST_VALUES])}
    return {"n_classes": len(rows.classes), "rows": named}


def by_size(probe: Probe, at: dict[Any, list[Result]], figures: tuple[str, str]) -> list[dict[str, Any]]:
    """Return the figures of every method at every size of the training side."""
    found = []
    for (name, size), results in at.items():
        if results and len(sizes(probe.config)) > 1 and name != SHUFFLED:
            each = {f: figure_with_interval(f, by_unit(scores_of(f, probe.rows, results))) for f in figures}
            found.append({"method": name, "size": size, **each})
    return found


def folds_of(probe: Probe, at: dict[Any, list[Result]], figure: str) -> list[dict[str, Any]]:
    """Return by fold what it leaves out, its sides, and the judged figure of every method."""
    by_method = {name: by_fold(figure, probe.rows, at[name, None]) for name in probe.methods}
    found = []
    for fold in probe.folds:
        train_N, test_N = probe.sides(fold)
        own = {
            name: [value for (number, _), value in values.items() if number == fold.number]
            for name, values in by_method.items()
        }
        content = {"fold": fold.number, "left_out": list(fold.left_out)}
        content |= {"n_train": len(train_N), "n_test": len(test_N)}
        found.append({**content, figure: {n: float(np.mean(v)) if v else None for n, v in own.items()}})
    return found


def provenance_of(probe: Probe) -> dict[str, Any]:
    """Return what a probe was made from and with."""
    config = probe.config
    encoders = {
        name: encoder_origin(given, probe.encoder_meta(name, 0, config.seeds[0]))
        for name, given in config.encoders.items()
    }
    recipe = digest(settings_of(probe, learning=config.train.adapt != "probe"))[:12]
    return provenance(probe, recipe, encoders)


def table_of(probe: Probe, results: list[Result]) -> pd.DataFrame:
    """Return a table to compute further with: a line a fit, with its figures."""
    lines = []
    figures = figures_of(probe.rows)
    for result in results:
        sides = ("n_train", "n_train_people", "n_test", "n_features", "penalty")
        names = ("method", "size", "fold", "seed", *sides)
        line = {name: result[name] for name in names}
        if probe.config.train.adapt != "probe":
            line |= {"epochs": result.get("epochs"), "validation": max(result.get("validation") or [np.nan])}
        for figure in figures:
            line[figure] = next(iter(by_fold(figure, probe.rows, [result]).values()), None)
        lines.append({**line, "seconds": result["seconds"], "left_out": " ".join(result["left_out"])})
    whole = [name for name in ("size", "seed", "epochs") if name in lines[0]]
    return pd.DataFrame(lines).astype(dict.fromkeys(whole, "Int64"))
