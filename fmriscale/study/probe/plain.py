"""The verdict of a probe for readers who know neither fMRI nor statistics: a question, a word, the reason."""

from typing import Any

from fmriscale.config import MOMENT
from fmriscale.study.plain import MOST_CONTROLS, UNTRAINED, WORDS, Answer, Compared, begin, spaced
from fmriscale.study.probe.verdict import rule
from fmriscale.study.probe.wording import adapted, number, title, value
from fmriscale.study.verdict import Ruling
from fmriscale.study.wording import counted

MEANINGS = {
    "auc": "AUC: how often, of two cases, the right one is put first; guessing gives 0.5, always right is 1.",
    "balanced_accuracy": "Balanced accuracy: how often the answer is right, each class counting alike; "
    "guessing gives {chance} %.",
    "r": "r: how closely the told numbers follow the true ones; guessing gives 0, always right is 1.",
}
"""The judged figure in a line."""

Summary = dict[str, Any]


def answer(summary: Summary) -> Answer:
    """Say in plain words what a probe found."""
    survives, ruling = summary["verdict"]["survives"], rule(summary)
    why = begin(reason(summary, ruling))
    if ruling.survives is not survives:  # judged by another version: its own words stand
        why = summary["verdict"]["sentence"].partition("; ")[0].rstrip(".") + "."
    figure = summary["figures"][0]
    chance = number(figure)(summary["chance"][figure])
    seen = "Pre-training was allowed to see test runs (without labels)."
    return Answer(
        question(summary),
        WORDS[survives],
        why,
        f"The task of every method: {summary['question']} {MEANINGS[figure].format(chance=chance)}",
        (seen,) if summary["allow_seen_runs"] else (),
    )


def question(summary: Summary) -> str:
    """Return what a probe asks of pre-training."""
    what = {"run": "a run (recording)", "person": "a person's runs", "window": "a short stretch of a run"}
    rows, target = what[summary["rows"]], spaced(summary["target"])
    if summary["target"] == MOMENT:
        return f"Does pre-training help to tell which moment of the film or story {rows} is?"
    verb = "tell" if summary["kind"] == "classify" else "predict"
    return f"Does pre-training help to {verb} {target} from {rows} of brain activity?"


def reason(summary: Summary, ruling: Ruling) -> str:
    """Return the reason of a ruling without statistics."""
    main, best = summary["main"], summary["best_baseline"]
    simple = f"the best simple method, {title(summary, best)} ({value(summary, best)})"
    if ruling.case == "leaks":
        return (
            "something gives the answers away: a method that learned from shuffled answers, and so can know "
            f"nothing, reaches {value(summary, 'shuffled')}."
        )
    if ruling.case == "no encoder":
        return f"no pre-trained encoder was given, so there is nothing to compare with {simple}."
    own, fresh = value(summary, main), f"{UNTRAINED} ({value(summary, 'fresh')})"
    reaches = f"the pre-trained encoder reaches {own}"
    row = next(
        row
        for row in summary["comparisons"]
        if (row["first"], row["second"], row["figure"]) == (main, best, summary["figures"][0])
    )
    rival = f"{simple} does better" if row["effect"] <= 0 else f"not reliably ahead of {simple}"
    sentences = {
        "too few": f"{counted(summary['n_people'], 'person')} are too few for any answer; so far {reaches}, "
        f"{fresh}.",
        "at chance": f"{reaches}, no better than guessing; {simple} shows what there is to find.",
        "gain": f"{reaches}, more than {fresh} and more than {simple}.",
        "neither": f"{reaches}, not reliably more than {fresh}, nor than {simple}.",
        "not above fresh": f"{reaches}, not reliably more than {fresh}.",
        "not above best": f"{reaches}, ahead of {fresh}, but {rival}.",
        "trainings disagree": f"{reaches}, more than {fresh} and than {simple}, but not reliably when the "
        "training is repeated: more repetitions would tell.",
    }
    return sentences[ruling.case]


def compared(summary: Summary) -> list[Compared]:
    """Return the encoders and the best simple method: what the picture shows."""
    main, best, rows = summary["main"], summary["best_baseline"], []
    then = "then it learned the target" if adapted(summary) else "a linear model reads it out"
    for name, content in summary["methods"].items():
        own = content["title"]
        if name == main:
            kept = "" if own == "pre-trained" else f" ({own})"
            what = f"learned from recordings without labels; {then}"
            rows.append(Compared(name, f"Pre-trained encoder{kept}", what, "pretrained"))
        elif name == "fresh":
            what = f"random numbers; {then}"
            rows.append(Compared(name, "The same network without pre-training", what, "fresh"))
        elif content["kind"] == "control" and sum(row.look == "control" for row in rows) < MOST_CONTROLS:
            rows.append(Compared(name, f"Also: {own}", "another encoder", "control"))
    what = "no network, nothing pre-trained"
    return [*rows, Compared(best, f"Best simple method: {title(summary, best)}", what, "baseline")]
