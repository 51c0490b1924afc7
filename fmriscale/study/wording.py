"""Numbers and sentences of a study's summary, as its printed table and its page have them."""

from collections.abc import Callable, Mapping
from typing import Any

from fmriscale.study.controls import missing_control
from fmriscale.study.statistics import ALPHA, POWER, lowest_p

# ---------------------------------------------------------------- numbers


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, without its sign; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}".replace("100.0", "100")


def points(value: float | None, sign: str = "+") -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return "-" if value is None else f"{100 * value:{sign}.1f}"


def area(value: float | None) -> str:
    """Return an area under a curve."""
    return "-" if value is None else f"{value:.3f}"


def p_value(p: float | None) -> str:
    """Return a p value with the digits that matter."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def p_equals(p: float) -> str:
    """Return a p value for a sentence: p = 0.030."""
    text = p_value(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def bounds(content: Mapping[str, Any], as_text: Callable[[float], str]) -> str:
    """Return the interval of a figure in brackets; nothing where there is none (one unit)."""
    if content["low"] is None:
        return ""
    return f"[{as_text(content['low'])}, {as_text(content['high'])}]"


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


def counted(n: int, noun: str) -> str:
    """Return a number of things: `1 seed`, `3 seeds`."""
    return f"{n:,} {noun if n == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    return {"person": "people", "half": "halves"}.get(noun, f"{noun}s")


def clipped(text: str, most: int) -> str:
    """Shorten a text at its end."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


# ---------------------------------------------------------------- what was done


def conditions_of(summary: dict[str, Any]) -> list[str]:
    """Return the conditions of the results: all together, then each where there are several."""
    conditions = [condition for condition in summary["conditions"] if condition]
    return ["all", *conditions] if len(conditions) > 1 else ["all"]


def lone_condition(summary: dict[str, Any]) -> str:
    """Return the condition of all pairs of a study, such as "heard to imagined"; "" where there is none."""
    return summary["conditions"][0] if len(summary["conditions"]) == 1 else ""


def condition_title(summary: dict[str, Any], condition: str) -> str:
    """Name a condition of `conditions_of`."""
    return (lone_condition(summary) or "all pairs") if condition == "all" else condition


def trained_on(summary: dict[str, Any]) -> str:
    """Return what the training side of a fold is counted in."""
    return "run" if summary["folds_by"] == "run" else "subject"


def setting(summary: dict[str, Any]) -> str:
    """Say in a line how a study was done."""
    pairs = ", ".join(filter(None, (f"{summary['protocol']} pairs", lone_condition(summary))))
    who = f"{counted(summary['n_units'], 'subject')}; " if summary["unit"] == "subject" else ""
    folds = f"{counted(summary['n_folds'], 'fold')} by {summary['folds_by']}"
    times = f"{counted(len(summary['seeds']), 'seed')}, {counted(summary['epochs'], 'epoch')}"
    return f"{pairs}; {who}{folds}; {times}"


# ---------------------------------------------------------------- sentences


def on_speed(summary: dict[str, Any]) -> list[str]:
    """Say after how many epochs and seconds each arm reached the best of the fresh arm."""
    speed, reached = summary["speed"], []
    for arm, content in speed["reached"].items():
        title, epochs = summary["arms"][arm]["title"], content["median_epochs"]
        never = f" ({content['n_never']} never)" if content["n_never"] else ""
        time = "not reached"
        if epochs is not None:
            time = f"{epochs:g} epoch{'s' * (epochs != 1)}, {content['median_seconds']:,.3g} s"
        reached.append(f"{title}: {time}{never}")
    best = f"To the fresh arm's best AUC ({area(speed['target_auc'])})"
    sentences = [f"{best}, medians: {'; '.join(reached)}."]
    for figure in ("epochs", "seconds"):
        if (row := speed[figure]) is None:
            continue
        sentence = f"Pre-trained minus fresh: {row['effect']:+.1f} {figure}"
        if row["n"] > 1:
            interval = bounds(row, lambda value: f"{value:+.1f}")
            sentence += f" {interval}, {p_equals(row['p'])} ({counted(row['n'], 'fold')})"
        if row["corrected_t"] is not None:
            sentence += f", corrected t {corrected(row)}"
        sentences.append(f"{sentence}.")
    return sentences


def on_reversal(summary: dict[str, Any]) -> str:
    """Say what is left of every arm's accuracy when the test windows run backwards in time."""
    arms = [
        f"{content['title']} {percent(reversed_['accuracy'])} % (loss {effect(reversed_['drop'])} points)"
        for content in summary["arms"].values()
        if (reversed_ := content["reversed"])
    ]
    return f"With test windows run backwards in time: {', '.join(arms)}." if arms else ""


def on_seeds(summary: dict[str, Any]) -> str:
    """Give the difference of the arms by seed: all folds of a seed start the fresh arm from one draw."""
    for row in summary["comparisons"]:
        if row["second"] == "fresh" and len(row.get("by_seed", ())) > 1:
            each = ", ".join(points(difference) for difference in row["by_seed"])
            return f"Pre-trained minus fresh by seed, a draw of the fresh weights each: {each} points."
    return ""


def on_power(summary: dict[str, Any]) -> str:
    """Say which difference the number of units can show."""
    if not summary["comparisons"]:
        return ""
    row = summary["comparisons"][0]
    units = counted(row["n"], summary["unit"])
    if row["detectable"] is None:
        return f"Power: {units} cannot give a p below {lowest_p(row['n']):.2g}, however large the difference."
    return (
        f"Power: with {units} a true difference of {points(row['detectable'], sign='')} points is found in "
        f"{percent(POWER, 0)} % of studies (p < {ALPHA:g})."
    )


def on_missing_control(summary: dict[str, Any]) -> list[str]:
    """Say how a control that was not run is made: a sentence, then commands; or nothing."""
    commands, control = summary.get("to_run"), missing_control(summary)
    if not commands or not control:
        return []
    return [
        f"Not run: the control '{control.title}'. This adds it, and keeps every finished cell:",
        *commands,
    ]


def caveats(summary: dict[str, Any]) -> list[str]:
    """Return what flatters the accuracies by the study's own settings."""
    sentences = {
        "Of every training the epoch that was best on the test pairs is reported, as published: accuracies "
        "are flattered.": summary["reported"] == "best",
        "Trend and scale are those of all runs of a subject together, left-out runs included, as published; "
        "offsets of runs stay in the data.": summary["standardize"] == "subject",
        "Pre-training was allowed to see test runs (without labels).": summary["allow_seen_runs"],
    }
    return [sentence for sentence, applies in sentences.items() if applies]
