"""What the numbers of a probe allow to say, in one sentence.

The claim: a pre-trained encoder tells the target better than a fresh one, and better than the best of the
simple baselines. Both have to hold over people, and over trainings (folds and seeds).
"""

from typing import Any

from fmriscale.study.probe.wording import difference, title, value, with_interval
from fmriscale.study.statistics import ALPHA, lowest_p
from fmriscale.study.verdict import Ruling
from fmriscale.study.wording import counted, p_equals

LEAK = 0.05
"""A figure with shuffled labels this far from chance, with an interval beyond it, is a fault."""
LEAKS, NO_ENCODER = "leaks", "no encoder"
"""Cases in which no encoder is compared with anything."""

Summary = Row = dict[str, Any]


def verdict(summary: Summary) -> dict[str, Any]:
    """Judge a probe by its summary."""
    ruling = rule(summary)
    reasons = [ruling.reason]
    if ruling.case not in (LEAKS, NO_ENCODER):
        reasons += [*controls(summary, ruling.survives), *other_figure(summary), *by_size(summary)]
    if summary["allow_seen_runs"]:
        reasons.append("pre-training may have seen the test runs")
    return {"sentence": "; ".join(reasons) + ".", "survives": ruling.survives}


def rule(summary: Summary) -> Ruling:
    """Find the first rule that applies to a probe."""
    if fault := leak(summary):
        return Ruling(None, LEAKS, fault)
    if summary["main"] is None:
        return Ruling(None, NO_ENCODER, without_encoder(summary))
    return judge(summary)


def leak(summary: Summary) -> str | None:
    """Say so where shuffled labels can be told: then something gives the answer away."""
    figure = summary["figures"][0]
    shuffled, chance = summary["methods"]["shuffled"][figure], summary["chance"][figure]
    covers = shuffled["low"] is None or shuffled["low"] <= chance <= shuffled["high"]
    # People who see the same agree on what a model has learned from one shuffle: shuffles have to agree too.
    row = next(r for r in summary["against_chance"] if r["first"] == "shuffled")
    by_chance = row["corrected_p"] is None or row["corrected_p"] >= ALPHA
    if abs(shuffled["mean"] - chance) <= LEAK or covers or by_chance:
        return None
    return (
        f"Open: models trained on shuffled labels reach {with_interval(summary, 'shuffled')}, so something "
        f"but {summary['target']} gives the answer away"
    )


def without_encoder(summary: Summary) -> str:
    """Say what there is to beat where no encoder is judged."""
    best = summary["best_baseline"]
    row = next(r for r in summary["against_chance"] if r["first"] == best)
    level = "above chance" if beats(row) is True else "not shown to be above chance"
    return (
        f"No encoder to judge: the best baseline is {title(summary, best)}, {with_interval(summary, best)} "
        f"({counted(summary['n_people'], 'person')}), {level}"
    )


def judge(summary: Summary) -> Ruling:
    """Judge the encoder beside the fresh one and the best baseline; the first rule that applies."""
    main, best = summary["main"], summary["best_baseline"]
    over_fresh, over_best = (row_of(summary, main, other) for other in ("fresh", best))
    people = counted(over_fresh["n"], "person")
    own = f"the {title(summary, main)} encoder's {with_interval(summary, main)}"
    if lowest_p(over_fresh["n"]) > ALPHA:
        floor = f"{lowest_p(over_fresh['n']):.2g}"
        reason = f"Open: {people} cannot give p below {floor}, whatever the difference; {own}"
        return Ruling(None, "too few", reason)
    fresh = f"a fresh one's {value(summary, 'fresh')} ({difference(over_fresh)})"
    simple = f"the best baseline, {title(summary, best)}, {value(summary, best)} ({difference(over_best)})"
    against_chance = next(r for r in summary["against_chance"] if r["first"] == main)
    if beats(against_chance) is not True:
        reached = f"; {title(summary, best)} reaches {with_interval(summary, best)}"
        reason = f"No: {own} is not above chance ({p_equals(against_chance['p'])}, {people}){reached}"
        return Ruling(False, "at chance", reason)
    gains = beats(over_fresh), beats(over_best)
    if gains == (True, True):
        return Ruling(True, "gain", f"Yes: {own} is above {fresh} and above {simple}, {people}")
    if False in gains:
        if gains[0] is False and gains[1] is False:
            reason = f"No: {own} is neither above {fresh} nor above {simple}, {people}"
            return Ruling(False, "neither", reason)
        if gains[0] is False:
            return Ruling(False, "not above fresh", f"No: {own} is not above {fresh}, {people}; {simple}")
        prefix = "is above" if gains[0] else "is ahead of"
        reason = f"No: {own} {prefix} {fresh}, but not above {simple}, {people}"
        return Ruling(False, "not above best", reason)
    reason = (
        f"Open: over people {own} is above {fresh} and {simple}, {people}, but those of a fold share one "
        "trained model, and trainings do not agree: more folds or seeds would tell"
    )
    return Ruling(None, "trainings disagree", reason)


def beats(row: Row) -> bool | None:
    """Tell whether the first is better by both tests; None: over people, but trainings do not agree."""
    if row["effect"] <= 0 or row["p"] >= ALPHA:
        return False
    return True if row["corrected_p"] is None or row["corrected_p"] < ALPHA else None


def controls(summary: Summary, survives: bool | None) -> list[str]:
    """Name the further encoders that the judged one does not beat."""
    main = summary["main"]
    return [
        f"the control '{content['title']}' is not beaten ({value(summary, name)}), so what it lacks is not "
        "shown to help"
        for name, content in summary["methods"].items()
        if survives and content["kind"] == "control" and beats(row_of(summary, main, name)) is not True
    ]


def other_figure(summary: Summary) -> list[str]:
    """Give the figure that is not judged."""
    figure, main, best = summary["figures"][1], summary["main"], summary["best_baseline"]
    names = (main, "fresh", best)
    each = ", ".join(f"{title(summary, name)} {value(summary, name, figure)}" for name in names)
    return [each]


def by_size(summary: Summary) -> list[str]:
    """Name the smaller training sides at which the judged encoder beats the baseline that is best there."""
    ahead = [
        f"{counted(row['size'], 'person')} ({title(summary, row['second'])}: {difference(row)})"
        for row in summary["size_comparisons"]
        if row["size"] is not None
        and row["second"] != "fresh"
        and row["p_holm"] < ALPHA
        and beats(row) is True
    ]
    if not ahead:
        return []
    return [f"trained on fewer it is above the best baseline there (Holm-adjusted) with {', '.join(ahead)}"]


def row_of(summary: Summary, first: str, second: str) -> Row:
    """Return the comparison of two methods by the judged figure, at the full size."""
    wanted = (first, second, summary["figures"][0])
    return next(r for r in summary["comparisons"] if (r["first"], r["second"], r["figure"]) == wanted)
