"""The verdict: what the numbers of a study allow to say about its claim, in one sentence.

The claim: a pre-trained encoder decodes better than a fresh one. Before the difference is believed, the
verdict asks what else could make it: leaking labels, runs that give the label away, too few units, shortcuts.
A gain counts only if the pre-trained arm also beats the best of the baselines that need no encoder.
"""

from typing import Any, NamedTuple

from fmriscale.study.controls import missing_control
from fmriscale.study.statistics import ALPHA, lowest_p
from fmriscale.study.wording import bounds, counted, lone_condition, p_equals, percent, points

SIMPLE = {
    "category": "a linear SVM on single windows",
    "pair_logistic": "a logistic regression on pairs",
    "correlation": "correlation",
    "connectivity": "a linear SVM on the connectivity of single windows",
    "connectivity_correlation": "correlation of the windows' connectivity",
    "persistence": "persistence (does one window continue the other?)",
}
"""Baselines without an encoder, as a sentence names them."""
LEAK = 0.05
"""Accuracy of shuffled labels this far from chance, and with an interval beyond it, is a fault."""
SAME = 0.1
"""Backward windows that lose less than this share of what an arm has over chance score "the same"."""
NOTHING_PRETRAINED, LEAKS, RUN_GIVES_LABEL = "nothing pre-trained", "leaks", "run gives label"
"""Cases in which the arms are not compared."""
BESIDE_SIMPLE = ("simple better", "simple as good")
"""Cases in which a gain does not count beside the best simple baseline."""

Summary = Row = dict[str, Any]


class Ruling(NamedTuple):
    """What was decided, by which rule, and the reason with its statistics."""

    survives: bool | None
    """Whether the claim survives; None: open."""
    case: str
    """Name of the rule; `plain` has a sentence for each that needs no statistics."""
    reason: str


def verdict(summary: Summary) -> dict[str, Any]:
    """Judge a study by its summary."""
    ruling = rule(summary)
    reasons = [ruling.reason]
    if ruling.case not in (NOTHING_PRETRAINED, LEAKS, RUN_GIVES_LABEL):
        oracle = run_oracle(summary)
        may_be_run = f"part may be run: a same-run oracle scores {percent(oracle)} %"
        gained = ruling.survives or ruling.case in BESIDE_SIMPLE
        reasons += [*([may_be_run] if oracle > 0.5 + LEAK else []), *rivals(summary, gained)]
        reasons += [*by_condition(summary), *by_size(summary), *speed(summary), *backwards(summary)]
    return {"sentence": "; ".join([*reasons, *cautions(summary)]) + ".", "survives": ruling.survives}


def rule(summary: Summary) -> Ruling:
    """Find the first rule that applies to a study."""
    gain = row_of(summary, "pretrained", "fresh")
    if gain is None:
        return Ruling(None, NOTHING_PRETRAINED, without_pretrained(summary))
    if fault := flaw(summary, gain):
        return fault
    ruling = judge(summary, gain)
    return beside_simple(summary, gain, ruling) if ruling.survives else ruling


def without_pretrained(summary: Summary) -> str:
    """Say how the fresh arm does where nothing is pre-trained."""
    level = "too few to tell from chance" if lowest_p(summary["n_units"]) > ALPHA else "at chance"
    if above_chance(summary, "fresh"):
        level = "above chance"
    units = counted(summary["n_units"], summary["unit"])
    return f"No pre-trained arm to judge: {arm_within(summary, 'fresh')}, {units}, {level}"


def flaw(summary: Summary, gain: Row) -> Ruling | None:
    """Say why no figure of the study can speak of the label at all; None where nothing forbids it."""
    label, shuffled = summary["label"], accuracy(summary, "shuffled")
    covers_chance = shuffled["low"] is None or shuffled["low"] <= 0.5 <= shuffled["high"]
    if abs(shuffled["mean"] - 0.5) > LEAK and not covers_chance:
        reason = (
            f"Open: classifiers trained on shuffled labels score {percent(shuffled['mean'])} %, so something "
            f"but the {label} gives the answer away"
        )
        return Ruling(None, LEAKS, reason)
    oracle, protocol = run_oracle(summary), summary["protocol"]
    if oracle > 0.5 + LEAK and oracle >= accuracy(summary, "pretrained")["mean"]:
        reason = (
            f"Open: this protocol ({protocol}) cannot tell {label} from run: a same-run oracle scores "
            f"{percent(oracle)} %, so the difference of the arms ({difference(gain)}) says nothing of {label}"
        )
        return Ruling(None, RUN_GIVES_LABEL, reason)
    return None


def judge(summary: Summary, gain: Row) -> Ruling:
    """Judge the arms beside each other; the first rule that applies.

    Units of a fold are tested by the same trained models, so units agree too readily: a training that failed
    by chance is seen in all of them. So a difference must stand over folds and seeds too; differences that
    are all the same have no t, and agree.
    """
    protocol, units = summary["protocol"], counted(gain["n"], summary["unit"])
    if condition := lone_condition(summary):
        protocol += f" ({condition})"
    size = f"{difference(gain)}, {units}"
    if lowest_p(gain["n"]) > ALPHA:
        reason = f"Open: {units} cannot give p below {lowest_p(gain['n']):.2g}, whatever the difference; "
        return Ruling(None, "too few", f"{reason}under {protocol} it is {difference(gain)}{beside(gain)}")
    power, trainings = "", over_trainings(gain)
    if gain["detectable"]:
        power = f"a true difference of {points(gain['detectable'], '')} would show in 80 % of such studies"
    if not above_chance(summary, "pretrained") and not above_chance(summary, "fresh"):
        both = " and ".join(arm_within(summary, name) for name in ("pretrained", "fresh"))
        reason = f"No: both arms are at chance under {protocol} ({both}), {units}{bracketed(power)}"
        return Ruling(False, "at chance", reason)
    significant = gain["p"] < ALPHA
    trainings_agree = gain["corrected_p"] is None or gain["corrected_p"] < ALPHA
    if gain["effect"] < 0 and significant and trainings_agree:
        reason = f"No: under {protocol} the pre-trained arm is worse than the fresh one: {size}"
        return Ruling(False, "worse", reason)
    if gain["effect"] < 0 or not significant:
        aside = bracketed(trainings if significant else power)
        reason = f"No: the pre-trained arm's advantage does not survive {protocol}: {size}{aside}"
        return Ruling(False, "no gain", reason)
    if doubt := doubted(summary, trainings_agree, trainings):
        ahead = f"under {protocol} the pre-trained arm is ahead of the fresh one by {size}"
        return Ruling(None, doubt[0], f"Open: {ahead}, but {doubt[1]}")
    reason = f"Yes: the pre-trained arm's advantage survives {protocol}: {size}{bracketed(trainings)}"
    return Ruling(True, "gain", reason)


def doubted(summary: Summary, trainings_agree: bool, trainings: str) -> tuple[str, str] | None:
    """Return the case and the words of what else could make a gain; None where nothing is known to."""
    if above_chance(summary, "run_means") and standing(summary, "run_means"):
        return "run means", (
            f"run means alone score {arm_within(summary, 'run_means', '')} against its "
            f"{percent(accuracy(summary, 'pretrained')['mean'])} %, so it may be runs that are told apart"
        )
    if summary["n_folds"] == 1:
        return "one fold", (
            "all share the trained models of one fold, and what these owe to luck is not known: more folds "
            "would tell"
        )
    if not trainings_agree:
        return "trainings disagree", (
            f"those of a fold share one trained model, and trainings do not agree ({trainings}): more "
            "seeds or folds would tell"
        )
    return None


def beside_simple(summary: Summary, gain: Row, ruling: Ruling) -> Ruling:
    """Hold a gain against the best simple baseline."""
    best = next(iter(best_simple(summary)), None)
    if best is None:
        return ruling
    named = f"the best simple baseline, {SIMPLE[best]}"
    if (how := standing(summary, best)) is None:
        reached = percent(accuracy(summary, best)["mean"])
        return ruling._replace(reason=f"{ruling.reason}; it also beats {named} ({reached} %)")
    better, as_good = BESIDE_SIMPLE
    survives, word, case = (False, "No", better) if how == "does better" else (None, "Open", as_good)
    reason = (
        f"{word}: under {summary['protocol']} the pre-trained arm is ahead of the fresh one by "
        f"{difference(gain)}, {counted(gain['n'], summary['unit'])}, but {named}, {how} "
        f"({arm_within(summary, best, '')} against {percent(accuracy(summary, 'pretrained')['mean'])} %): a "
        "gain counts only if the pre-trained arm beats that one too"
    )
    return Ruling(survives, case, reason)


def best_simple(summary: Summary) -> list[str]:
    """Return the baselines without an encoder that are above chance, the best first."""
    decoding = [name for name in SIMPLE if above_chance(summary, name)]
    return sorted(decoding, key=lambda name: -accuracy(summary, name)["mean"])


def rivals(summary: Summary, gained: bool | None) -> list[str]:
    """Name controls, and the best of the simple baselines, that the pre-trained arm does not beat."""
    best_first = best_simple(summary)
    if not above_chance(summary, "pretrained"):
        return [
            f"yet there is something to decode: {SIMPLE[name]} reaches {arm_within(summary, name, '')}"
            for name in best_first[:1]
        ]
    controls = [
        f"the control '{content['title']}' {how} ({arm_within(summary, name, '')}), "
        "so what it lacks is not shown to help"
        for name, content in summary["arms"].items()
        if gained and content["kind"] == "control" and (how := standing(summary, name))
    ]
    simple = [
        f"{SIMPLE[name]} {how} ({arm_within(summary, name, '')})"
        for name in best_first[1 if gained else 0 :]  # a gain was held against the best
        if (how := standing(summary, name))
    ]
    return controls + simple[:1]


def by_condition(summary: Summary) -> list[str]:
    """Give the difference in each condition."""
    each = [
        f"{row['condition']} {points(row['effect'])} ({p_equals(row['p_holm'])})"
        for row in summary["comparisons"]
        if (row["first"], row["second"]) == ("pretrained", "fresh") and row["condition"] != "all"
    ]
    return [f"by condition, Holm-adjusted: {', '.join(each)}"] if each else []


def by_size(summary: Summary) -> list[str]:
    """Name the smaller training sides at which the pre-trained arm is ahead."""
    unit = "run" if summary["folds_by"] == "run" else "subject"
    each = [
        f"{points(row['effect'])} with {counted(row['size'], unit)}"
        for row in summary["size_comparisons"]
        if row["size"] != summary["sizes"][-1]
        and summary["n_folds"] > 1
        and row["effect"] > 0
        and row["p_holm"] < ALPHA
        and (row["corrected_p_holm"] is None or row["corrected_p_holm"] < ALPHA)
    ]
    return [f"trained on fewer, it is ahead (Holm-adjusted, both tests): {', '.join(each)}"] if each else []


def speed(summary: Summary) -> list[str]:
    """Compare how soon the arms reach the fresh arm's best, where that one learns anything."""
    row, reached = summary["speed"]["epochs"], summary["speed"]["reached"]
    arms = [reached[arm] for arm in ("pretrained", "fresh")]
    if row["low"] is None or not above_chance(summary, "fresh"):
        return []
    if all(arm["median_epochs"] is None for arm in arms):
        return []
    never = [arm["n_never"] for arm in arms]
    few = ", too few to show it" if lowest_p(row["n"]) > ALPHA else ""
    counts = f", {never[0]} pre-trained and {never[1]} fresh cells never do" if any(never) else ""
    return [
        f"to reach the fresh arm's best AUC it needs {row['effect']:+.1f} epochs [{row['low']:+.1f}, "
        f"{row['high']:+.1f}] ({p_equals(row['p'])}, {counted(row['n'], 'fold')}{few}{counts}{beside(row)})"
    ]


def backwards(summary: Summary) -> list[str]:
    """Say so where windows that run backwards score the same."""
    content = summary["arms"]["pretrained"]["reversed"]
    over_chance = content["forward_accuracy"] - 0.5
    if not above_chance(summary, "pretrained") or content["drop"]["effect"] >= SAME * over_chance:
        return []
    return [
        f"windows that run backwards score the same ({percent(content['accuracy'])} %): "
        "the order of volumes is not what it reads"
    ]


def cautions(summary: Summary) -> list[str]:
    """Name the settings that flatter, and the control that was left out."""
    sentences = {
        "pre-training may have seen the test runs": summary["allow_seen_runs"],
        "the reported epoch was chosen on the test pairs": summary["reported"] == "best",
        "test runs took part in standardisation": summary["standardize"] == "subject",
    }
    given = [sentence for sentence, applies in sentences.items() if applies]
    control = missing_control(summary)
    return [*given, f"not run: the control that is {control.description}"] if control else given


# ---------------------------------------------------------------- numbers


def row_of(summary: Summary, first: str, second: str) -> Row | None:
    """Return the comparison of two arms over all pairs; None where there is none."""
    rows = [*summary["comparisons"], *summary["against_chance"]]
    wanted = ("all", first, second)
    return next((r for r in rows if (r["condition"], r["first"], r["second"]) == wanted), None)


def above_chance(summary: Summary, name: str) -> bool:
    """Say whether an arm or baseline is above chance at p < 0.05."""
    row = row_of(summary, name, "chance")
    return row is not None and row["effect"] > 0 and row["p"] < ALPHA


def standing(summary: Summary, name: str) -> str | None:
    """Say how a baseline or control stands against the pre-trained arm; None where it is beaten."""
    row = row_of(summary, "pretrained", name)
    if row is None or (row["effect"] > 0 and row["p"] < ALPHA):
        return None
    if row["effect"] < 0 and row["p"] < ALPHA:
        return "does better"
    return "does as well" if row["effect"] <= 0 else "is not told apart from it"


def run_oracle(summary: Summary) -> float:
    """Return the accuracy of who knows which windows are of one run, and nothing else."""
    mean = accuracy(summary, "same_run")["mean"]
    return max(mean, 1 - mean)


def accuracy(summary: Summary, name: str) -> dict[str, Any]:
    """Return accuracy and interval over all pairs."""
    return summary["arms"][name]["by_condition"]["all"]["accuracy"]


def arm_within(summary: Summary, name: str, title: str | None = None) -> str:
    """Return an accuracy with its interval, percent, after its title."""
    figure = accuracy(summary, name)
    title = summary["arms"][name]["title"] if title is None else title
    return f"{title} {percent(figure['mean'])} % {bounds(figure, percent)}".strip()


def difference(row: Row) -> str:
    """Return a difference in accuracy with interval and p."""
    size = f"{points(row['effect'])} points of accuracy {bounds(row, points)}".strip()
    return f"{size}, {p_equals(row['p'])}"


def over_trainings(row: Row) -> str:
    """Give the corrected t's p; nothing where there is none."""
    p = row["corrected_p"]
    return "" if p is None else f"corrected resampled t over folds and seeds: {p_equals(p)}"


def beside(row: Row) -> str:
    """Give the corrected t's p where units are too few for a p of their own."""
    text = over_trainings(row)
    return f"; {text}" if text and lowest_p(row["n"]) > ALPHA else ""


def bracketed(text: str) -> str:
    """Put a text, if there is one, into brackets."""
    return f" ({text})" if text else ""
