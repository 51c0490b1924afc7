"""Numbers and sentences of a study's summary, as its printed table and its page say them."""

from typing import Any

POWER = 0.8
"""Power at which `detectable` of a comparison was computed."""


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent, without its sign; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


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


def within(content: dict[str, Any] | None) -> str:
    """Return accuracy and its interval, percent, of an arm in a condition."""
    if content is None:
        return "-"
    accuracy = content["accuracy"]
    return f"{percent(accuracy['mean'])} [{percent(accuracy['low'])}, {percent(accuracy['high'])}]"


def effect(row: dict[str, Any]) -> str:
    """Return a difference in accuracy and its interval, percentage points."""
    return f"{points(row['effect'])} [{points(row['low'])}, {points(row['high'])}]"


def corrected(row: dict[str, Any]) -> str:
    """Return the corrected t of a comparison and its p."""
    t = row["corrected_t"]
    return "-" if t is None else f"{t:.2f} ({p_value(row['corrected_p'])})"


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


def trained_on(summary: dict[str, Any]) -> str:
    """Return what the training side of a fold is counted in."""
    return "run" if summary["folds_by"] == "run" else "subject"


def setting(summary: dict[str, Any]) -> str:
    """Say in a line how a study was done."""
    by = summary["folds_by"]
    folds = f"{counted(summary['n_folds'], 'fold')} by {by}"
    who = f"{counted(summary['n_units'], 'subject')}; " if summary["unit"] == "subject" else ""
    times = f"{counted(len(summary['seeds']), 'seed')}, {counted(summary['epochs'], 'epoch')}"
    return f"{summary['protocol']} pairs; {who}{folds}; {times}"


def on_speed(summary: dict[str, Any]) -> list[str]:
    """Say after how many epochs and seconds each arm reached the best of the fresh arm."""
    speed = summary.get("speed") or {}
    if not speed.get("reached"):
        return []
    titles = {name: content["title"] for name, content in summary["arms"].items()}
    told = []
    for arm, content in speed["reached"].items():
        never = f" ({content['n_never']} never)" if content["n_never"] else ""
        if content["median_epochs"] is None:
            told.append(f"{titles[arm]}: not reached{never}")
            continue
        seconds = content["median_seconds"]
        told.append(f"{titles[arm]}: {content['median_epochs']:g} epochs, {seconds:,.3g} s{never}")
    sentences = [f"To the fresh arm's best AUC ({area(speed['target_auc'])}), medians: {'; '.join(told)}."]
    for what in ("epochs", "seconds"):
        row = speed[what]
        if row is not None:
            low, high = (f"{row[side]:+.1f}" for side in ("low", "high"))
            p = p_value(row["p"])
            sentences.append(
                f"Pre-trained minus fresh: {row['effect']:+.1f} {what} [{low}, {high}], "
                f"p {p if p.startswith('<') else f'= {p}'} (n = {row['n']})."
            )
    return sentences


def on_power(summary: dict[str, Any]) -> str:
    """Say which difference the number of units can show."""
    rows = [row for row in summary["comparisons"] if row["detectable"] is not None]
    if not rows:
        return ""
    row = rows[0]
    floor = 2 / 2 ** row["n"]
    few = f" So few cannot give a p below {floor:.2g}." if floor > 0.05 else ""
    return (
        f"Power: {counted(row['n'], summary['unit'])} show a true difference of "
        f"{points(row['detectable'], sign='')} points or more in {POWER:.0%} of studies (5 % level).{few}"
    )
