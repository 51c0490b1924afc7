"""The verdict of a study for readers who know neither fMRI nor statistics: a question, a word, the reason.

The rules are those of `verdict`; their statistics are in its sentence, which tells the same with all numbers.
"""

from typing import Any, NamedTuple

from fmriscale.study.controls import CONTROLS
from fmriscale.study.verdict import (
    LEAK,
    SIMPLE,
    Ruling,
    accuracy,
    best_simple,
    rule,
    run_oracle,
    standing,
)
from fmriscale.study.wording import caveats, counted, percent, plural

WORDS = {True: "Yes", False: "No", None: "Open"}
"""The answer by whether the claim survives."""
UNTRAINED = "the same network without pre-training"

MOST_CONTROLS = 3
"""Controls that the picture has room for; the tables have all."""

Summary = dict[str, Any]


class Answer(NamedTuple):
    """What the first screen says."""

    question: str
    word: str
    """Yes, No or Open."""
    why: str
    """One or two plain sentences."""
    task: str
    """What every method had to do."""
    caveats: tuple[str, ...]
    """What flatters the figures."""


class Compared(NamedTuple):
    """One of those that were compared, for the picture."""

    name: str
    title: str
    what: str
    """What it is, in a line."""
    look: str
    """pretrained, fresh, control or baseline."""


def answer(summary: Summary) -> Answer:
    """Say in plain words what a study found."""
    survives = summary["verdict"]["survives"]
    ruling = rule(summary)
    why = reason(summary, ruling)
    if ruling.survives is not survives:  # judged by another version: its own words stand
        why = summary["verdict"]["sentence"].partition("; ")[0].rstrip(".") + "."
    return Answer(
        f"Does pre-training help to decode {spaced(summary['label'])} from brain activity?",
        WORDS[survives],
        why,
        f"The task of every method: {summary['question']} Guessing is right in half of the cases.",
        tuple(caveats(summary)),
    )


def reason(summary: Summary, ruling: Ruling) -> str:
    """Return the reason of a ruling without statistics."""
    label, units = spaced(summary["label"]), counted(summary["n_units"], summary["unit"])
    if ruling.case == "nothing pre-trained":
        return (
            "Nothing was pre-trained in this study, so there is nothing to compare: the network alone is "
            f"right in {right(summary, 'fresh')} of the cases."
        )
    if ruling.case == "leaks":
        return (
            "Something gives the answers away: a method that learned from shuffled answers, and so can know "
            f"nothing, is still right in {right(summary, 'shuffled')} of the cases."
        )
    if ruling.case == "run gives label":
        return (
            f"This design cannot tell {label} from run: who only recognises which run (recording) a window "
            f"is of, and knows nothing of {label}, is right in {percent(run_oracle(summary))} % of the cases."
        )
    own, fresh = right(summary, "pretrained"), right(summary, "fresh")
    ahead = f"With pre-training the network is right more often ({own} of the cases, {fresh} without)"
    behind = accuracy(summary, "pretrained")["mean"] < accuracy(summary, "fresh")["mean"]
    luck = "" if behind else ": a difference that luck can make"
    sentences = {
        "too few": f"{units} are too few for any answer; so far {own} with pre-training, {fresh} without.",
        "at chance": f"The network does no better than guessing, with pre-training ({own} right) or without "
        f"({fresh}){at_chance(summary)}",
        "worse": f"Pre-training makes the network worse: it is right in {own} of the cases, {UNTRAINED} in "
        f"{fresh}{simple_reaches(summary)}.",
        "no gain": f"The network is right in {own} of the cases with pre-training and in {fresh} "
        f"without{luck}{simple_reaches(summary)}.",
        "run means": f"{ahead}, but the mean of each run alone gives {right(summary, 'run_means')}: it may "
        f"only tell runs (recordings) apart, and not {label}.",
        "one fold": f"{ahead}, but all rests on one split of the data, which may have been a lucky one.",
        "trainings disagree": f"{ahead}, but not reliably when the training is repeated: more repetitions "
        "would tell.",
        "simple better": f"{ahead}, but a simple method without any network does better: "
        f"{simple_right(summary)}.",
        "simple as good": f"{ahead}, but a simple method without any network may be as good: "
        f"{simple_right(summary)}.",
        "gain": gain(summary, own, fresh),
    }
    return begin(sentences[ruling.case])


def gain(summary: Summary, own: str, fresh: str) -> str:
    """Return the reason of a Yes."""
    best = next(iter(best_simple(summary)), None)
    than = f"more often than {UNTRAINED} ({fresh})"
    if best:
        than += f" and than the best simple method, {SIMPLE[best]} ({right(summary, best)})"
    units = f"{summary['n_units']:,} {plural(summary['unit'])}"
    said = f"The pre-trained network is right in {own} of the cases, {than}; over {units} "
    said += "luck cannot explain it."
    for name, content in summary["arms"].items():
        if content["kind"] == "control" and standing(summary, name):
            what = f"the control '{content['title']}' ({right(summary, name)})"
            said += f" But {what} is not beaten, so what it lacks is not what helps."
            break
    return said


def at_chance(summary: Summary) -> str:
    """Say what there would be to find, where neither arm finds anything."""
    if best := next(iter(best_simple(summary)), None):
        return f". Yet there is something to find: {SIMPLE[best]} is right in {right(summary, best)}."
    nothing = ", and simple methods find nothing either."
    if summary["protocol"] == "cross_run" and abs(run_oracle(summary) - 0.5) < LEAK:
        nothing += (
            " Each pair compares two different runs (recordings), so what only tells runs apart, such as an "
            "offset of a run, is no help."
        )
    return nothing


def simple_reaches(summary: Summary) -> str:
    """Name the best simple method where it does at least as well as the pre-trained arm."""
    best = next(iter(best_simple(summary)), None)
    if best is None or accuracy(summary, best)["mean"] < accuracy(summary, "pretrained")["mean"]:
        return ""
    return f". A simple method without any network does as well: {simple_right(summary)}"


def simple_right(summary: Summary) -> str:
    """Name the best simple method and its accuracy."""
    return next((f"{SIMPLE[best]}, {right(summary, best)}" for best in best_simple(summary)), "")


def compared(summary: Summary) -> list[Compared]:
    """Return the arms, their controls and the best simple method: what the picture shows."""
    arms, rows = summary["arms"], []
    if "pretrained" in arms:
        what = "learned from recordings without labels first, then the task"
        rows.append(Compared("pretrained", "Pre-trained encoder", what, "pretrained"))
    title = "The same network without pre-training" if rows else "The network, nothing pre-trained"
    rows.append(Compared("fresh", title, "starts from random numbers, then learns the task", "fresh"))
    controls = [name for name, content in arms.items() if content["kind"] == "control"]
    for name in controls[:MOST_CONTROLS]:
        what = CONTROLS[name].description if name in CONTROLS else "a further comparison"
        rows.append(Compared(name, f"Control: {arms[name]['title']}", what, "control"))
    simple = [name for name in SIMPLE if name in arms]
    if simple:
        best = max(simple, key=lambda name: accuracy(summary, name)["mean"])
        title = f"Best simple method: {SIMPLE[best].removeprefix('a ').partition(' (')[0]}"
        rows.append(Compared(best, title, "no network, nothing pre-trained", "baseline"))
    return rows


def right(summary: Summary, name: str) -> str:
    """Return how often an arm or baseline is right."""
    return f"{percent(accuracy(summary, name)['mean'])} %"


def spaced(name: str) -> str:
    """Return a name of a recipe as words."""
    return name.replace("_", " ")


def begin(text: str) -> str:
    """Start a sentence without touching its other letters."""
    return text[:1].upper() + text[1:]
