"""The time axis of a run: its repetition time, and the time of its first volume."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.config import MAX_T_R, MIN_T_R
from fmriscale.ingest.read.text import read_json

RecipeTime = float | Literal["sidecar"] | None  # What a recipe states as the repetition time of one run

JITTER = 0.05  # Volumes may deviate from a regular grid by this share of a step: triggers are not more exact


def read_sidecars(sidecars: tuple[Path, ...]) -> dict[str, Any]:
    """Merge the JSON files that apply to a run; the most specific one, the last, overrides the others."""
    merged: dict[str, Any] = {}
    for path in sidecars:
        merged |= {name: value for name, value in read_json(path).items() if value is not None}
    return merged


def recipe_t_r(t_r: RecipeTime | dict[str, float], task: str) -> RecipeTime:
    """Return the repetition time that a recipe gives to runs of this task."""
    return t_r.get(task) if isinstance(t_r, dict) else t_r


def stated_t_r(sidecar: dict[str, Any], n_volumes: int | None = None, settled: bool = False) -> float | None:
    """Return the repetition time, s, that the sidecars state; None where the recipe has settled it."""
    stated, timing = sidecar.get("RepetitionTime"), sidecar.get("VolumeTiming")
    step = None if timing is None else _regular_step(timing)
    if settled:
        return None
    if stated is None and timing is not None:
        if n_volumes not in (None, len(timing)):
            what = f"VolumeTiming lists {len(timing)} volumes, the run has {n_volumes}"
            raise Rejected("no_t_r", f"{what}; correct it or set t_r")
        return step
    if stated is not None and not _is_number(stated):
        raise Rejected("no_t_r", f"RepetitionTime '{stated}' is not a number; correct it or set t_r")
    if stated is not None and step is not None and _differ(stated, step):
        what = f"RepetitionTime says {stated:g} s, its VolumeTiming {step:g} s"
        raise Rejected("t_r_conflict", f"{what}; correct one or set t_r")
    return stated


def _regular_step(timing: Any) -> float | None:
    """Return the time between volumes, s; None for fewer than two."""
    if not isinstance(timing, list) or not all(map(_is_number, timing)):
        raise Rejected("no_t_r", "VolumeTiming is no list of numbers; correct it")
    if len(timing) < 2:
        return None
    times = np.asarray(timing, np.float64)
    step = float(times[-1] - times[0]) / (len(times) - 1)
    if step > 0 and (np.abs(times - times[0] - step * np.arange(len(times))) <= JITTER * step).all():
        return step
    gaps = np.diff(times)
    what = f"VolumeTiming is irregular (gaps of {gaps.min():g} to {gaps.max():g} s): no one repetition time"
    raise Rejected("no_t_r", f"{what}; leave the run out by entities, or correct the sidecar")


def decide_t_r(recipe: RecipeTime, stated: float | None, header: float | None) -> float:
    """Return the repetition time of a run, s, from what recipe, sidecars and image header state."""
    if recipe == "sidecar":
        if stated is None:
            what = "t_r: sidecar, but no sidecar states RepetitionTime"
            raise Rejected("no_t_r", f"{what}; add it or give t_r in seconds")
        recipe = header = None
    t_r = next((float(v) for v in (recipe, stated, header) if v is not None), None)
    if t_r is None:
        raise Rejected("no_t_r", "no sidecar, header or table states the repetition time; set t_r")
    if recipe is None and stated and header and _differ(stated, header):
        remedy = "set t_r" + (", or t_r: sidecar to go by the sidecars" if _is_plausible(stated) else "")
        both = f"{stated:g} s{_unit_guess(stated)}, the image header {header:g} s{_unit_guess(header)}"
        raise Rejected("t_r_conflict", f"the sidecar says {both}; {remedy}")
    if not _is_plausible(t_r):
        what = f"a repetition time of {t_r:g} s is implausible{_unit_guess(t_r)}"
        raise Rejected("no_t_r", f"{what}; set t_r in seconds")
    return round(t_r, 6)


def start_time(sidecar: dict[str, Any], seconds: float) -> float | None:
    """Return when the first volume counts as acquired, s after the run began; None = unknown.

    Slice-timing correction moves every slice to one moment, StartTime; onsets count from the beginning.
    """
    stated = sidecar.get("StartTime")
    if stated is None:
        return None if sidecar.get("SliceTimingCorrected") is True else 0.0
    if not _is_number(stated) or abs(stated) > seconds:
        guess = " (milliseconds?)" if _is_number(stated) else ""
        what = f"StartTime {stated}{guess} is no time in seconds within the run"
        raise Rejected("unreadable", f"{what}; correct the sidecar")
    return float(stated)


def _unit_guess(seconds: float) -> str:
    """Return the unit probably taken for seconds, in brackets; "" for a plausible repetition time."""
    if seconds > MAX_T_R and _is_plausible(seconds / 1000):
        return " (milliseconds?)"
    if 0 < seconds < MIN_T_R and _is_plausible(seconds * 1000):
        return " (seconds, declared as milliseconds?)"
    return ""


def _is_plausible(t_r: float) -> bool:
    return MIN_T_R <= t_r <= MAX_T_R


def _differ(a: float, b: float) -> bool:
    """Return whether times differ by more than 1 %."""
    return abs(a - b) > 0.01 * max(abs(a), abs(b))


def _is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
