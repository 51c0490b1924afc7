"""Numbers and sentences of a study's summary, as its printed table and its page say them."""

from collections.abc import Callable
from typing import Any

from fmriscale.study.statistics import ALPHA, POWER, lowest_p

SHUFFLED_ORDER = "pre-trained, time shuffled"
"""What tables call the control that is pre-trained on volumes in shuffled order."""


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, without its sign; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}".replace("100.0", "100")


def points(value: float | None, sign: str = "+") -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def whole(value: float) -> str:
    """Return a tick of an axis of accuracy."""
    return f"{100 * value:g}"


def whole_points(value: float) -> str:
    """Return a tick of an axis of differences."""
    return f"{100 * value:+g}" if value else "0"


def area(value: float | None) -> str:
    """Return an area under a curve."""
    return "-" if value is None else f"{value:.3f}"


def p_value(p: float | None) -> str:
    """Return a p value with the digits that matter."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def bounds(content: dict[str, Any], as_text: Callable[[float], str]) -> str:
    """Return the interval of a figure in brackets; nothing where there is none (one unit)."""
    if content["low"] is None:
        return ""
    return f"[{as_text(content['low'])}, {as_text(content['high'])}]"


def p_told(p: float) -> str:
    """Return a p value as part of a sentence."""
    text = p_value(p)
    return f"p {text[0]} {text[1:]}" if text.startswith("<") else f"p = {text}"


def within(content: dict[str, Any] | None) -> str:
    """Return accuracy and its interval, percent, of an arm in a condition."""
    if content is None:
        return "-"
    accuracy = content["accuracy"]
    return f"{percent(accuracy['mean'])} {bounds(accuracy, percent)}".strip()


def effect(row: dict[str, Any]) -> str:
    """Return a difference in accuracy and its interval, percentage points."""
    return f"{points(row['effect'])} {bounds(row, points)}".strip()


def corrected(row: dict[str, Any]) -> str:
    """Return the corrected t of a comparison and its p."""
    t = row["corrected_t"]
    return "-" if t is None else f"{t:.2f} ({p_value(row['corrected_p'])})"


def corrected_holm(row: dict[str, Any]) -> str:
    """Return the p of the corrected t, adjusted; summaries of older studies do not have it."""
    p = row.get("corrected_p_holm")
    return "-" if p is None else p_value(p)


def counted(n: int, what: str) -> str:
    """Return a number of things: `1 seed`, `3 seeds`."""
    return f"{n:,} {what if n == 1 else plural(what)}"


def plural(what: str) -> str:
    """Return the plural of a word of this house."""
    return {"person": "people", "half": "halves"}.get(what, f"{what}s")


def clipped(text: str, most: int) -> str:
    """Shorten a text at its end."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def conditions_of(summary: dict[str, Any]) -> list[str]:
    """Return the conditions of the results: all together, then each where there are several."""
    conditions = [condition for condition in summary["conditions"] if condition]
    return ["all", *conditions] if len(conditions) > 1 else ["all"]


def lone_condition(summary: dict[str, Any]) -> str:
    """Return the condition of all pairs of a study, such as "heard to imagined"; "" where there is none."""
    return summary["conditions"][0] if len(summary["conditions"]) == 1 else ""


def part(summary: dict[str, Any], condition: str) -> str:
    """Name the pairs of a condition of `conditions_of`."""
    return (lone_condition(summary) or "all pairs") if condition == "all" else condition


def trained_on(summary: dict[str, Any]) -> str:
    """Return what the training side of a fold is counted in."""
    return "run" if summary["folds_by"] == "run" else "subject"


def setting(summary: dict[str, Any]) -> str:
    """Say in a line how a study was done."""
    by = summary["folds_by"]
    folds = f"{counted(summary['n_folds'], 'fold')} by {by}"
    who = f"{counted(summary['n_units'], 'subject')}; " if summary["unit"] == "subject" else ""
    times = f"{counted(len(summary['seeds']), 'seed')}, {counted(summary['epochs'], 'epoch')}"
    pairs = ", ".join(filter(None, (f"{summary['protocol']} pairs", lone_condition(summary))))
    return f"{pairs}; {who}{folds}; {times}"


def on_speed(summary: dict[str, Any]) -> list[str]:
    """Say after how many epochs and seconds each arm reached the best of the fresh arm."""
    speed = summary["speed"]
    titles = {name: content["title"] for name, content in summary["arms"].items()}
    told = []
    for arm, content in speed["reached"].items():
        never = f" ({content['n_never']} never)" if content["n_never"] else ""
        if content["median_epochs"] is None:
            told.append(f"{titles[arm]}: not reached{never}")
            continue
        seconds = content["median_seconds"]
        epochs = content["median_epochs"]
        told.append(f"{titles[arm]}: {epochs:g} epoch{'s' * (epochs != 1)}, {seconds:,.3g} s{never}")
    sentences = [f"To the fresh arm's best AUC ({area(speed['target_auc'])}), medians: {'; '.join(told)}."]
    for what in ("epochs", "seconds"):
        row = speed[what]
        if row is None:
            continue
        sentence = f"Pre-trained minus fresh: {row['effect']:+.1f} {what}"
        if row["n"] > 1:
            between = bounds(row, lambda value: f"{value:+.1f}")
            sentence += f" {between}, {p_told(row['p'])} ({counted(row['n'], 'fold')})"
        if row["corrected_t"] is not None:
            sentence += f", corrected t {corrected(row)}"
        sentences.append(f"{sentence}.")
    return sentences


def on_reversal(summary: dict[str, Any]) -> str:
    """Say what is left of every arm's accuracy when the test windows run backwards in time."""
    told = []
    for content in summary["arms"].values():
        if content["reversed"]:
            drop = content["reversed"]["drop"]
            loss = f"{points(drop['effect'])} {bounds(drop, points)}".strip()
            told.append(
                f"{content['title']} {percent(content['reversed']['accuracy'])} % (loss {loss} points)"
            )
    return f"With test windows run backwards in time: {', '.join(told)}." if told else ""


def on_seeds(summary: dict[str, Any]) -> str:
    """Give the difference of the arms by seed: all folds of a seed start the fresh arm from one draw."""
    for row in summary["comparisons"]:
        if row["second"] == "fresh" and len(row.get("by_seed", ())) > 1:
            each = ", ".join(points(effect) for effect in row["by_seed"])
            return f"Pre-trained minus fresh by seed, a draw of the fresh weights each: {each} points."
    return ""


def on_power(summary: dict[str, Any]) -> str:
    """Say which difference the number of units can show."""
    if not summary["comparisons"]:
        return ""
    row = summary["comparisons"][0]
    who = counted(row["n"], summary["unit"])
    if row["detectable"] is None:
        return f"Power: {who} cannot give a p below {lowest_p(row['n']):.2g}, however large the difference."
    return (
        f"Power: with {who} a true difference of {points(row['detectable'], sign='')} points is found in "
        f"{percent(POWER, 0)} % of studies (p < {ALPHA:g})."
    )


def on_lacking(summary: dict[str, Any]) -> list[str]:
    """Say how a control that was not run is made: a sentence, then commands; nothing where none lacks."""
    commands = summary.get("to_run")
    told = f"Not run: the control '{SHUFFLED_ORDER}'. This adds it, and keeps every finished cell:"
    return [told, *commands] if commands else []


def caveats(summary: dict[str, Any]) -> list[str]:
    """Return what flatters the accuracies by the study's own settings."""
    found = {
        "Of every training the epoch that was best on the test pairs is reported, as published: accuracies "
        "are flattered.": summary["reported"] == "best",
        "Trend and scale are those of all runs of a subject together, left-out runs included, as published; "
        "offsets of runs stay in the data.": summary["standardize"] == "subject",
        "Pre-training was allowed to see test runs (without labels).": summary["allow_seen_runs"],
    }
    return [sentence for sentence, true in found.items() if true]
