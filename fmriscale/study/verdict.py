"""The verdict: what the numbers of a study allow to say about its claim, in one sentence.

The claim: a pre-trained encoder decodes better than a fresh one. Before the difference is believed, the
verdict asks what else could make it: leaking labels, runs that give the label away, too few units, shortcuts.
"""

from typing import Any

from fmriscale.study import shuffled_order
from fmriscale.study.statistics import ALPHA, lowest_p
from fmriscale.study.wording import bounds, counted, lone_condition, p_told, percent, points

SIMPLE = {
    "category": "a linear SVM on single windows",
    "pair_logistic": "a logistic regression on pairs",
    "correlation": "correlation",
    "persistence": "persistence (does one window continue the other?)",
}
"""Baselines without an encoder, as a sentence names them."""
LEAK = 0.05
"""Accuracy of shuffled labels this far from chance, and with an interval beyond it, is a fault."""
SAME = 0.1
"""Backward windows that lose less than this share of what an arm has over chance score "the same"."""


def verdict(summary: dict[str, Any]) -> dict[str, Any]:
    """Judge a study by its summary."""
    gain = row_of(summary, "pretrained", "fresh")
    survives = None
    if gain is None:
        told = [alone(summary)]
    elif fault := flaw(summary, gain):
        told = [fault]
    else:
        survives, reason = judge(summary, gain)
        told = [reason, *doubts(summary), *rivals(summary, survives), *where(summary)]
        told += [*sooner(summary), *backwards(summary)]
    return {"sentence": "; ".join([*told, *cautions(summary)]) + ".", "survives": survives}


def alone(summary: dict[str, Any]) -> str:
    """Say how the fresh arm does where nothing is pre-trained."""
    units = counted(summary["n_units"], summary["unit"])
    if above_chance(summary, "fresh"):
        level = "above chance"
    else:
        level = "too few to tell from chance" if lowest_p(summary["n_units"]) > ALPHA else "at chance"
    return f"No pre-trained arm to judge: {within(summary, 'fresh')}, {units}, {level}"


def flaw(summary: dict[str, Any], gain: dict[str, Any]) -> str | None:
    """Say why no figure of the study can speak of the label at all; None where nothing forbids it."""
    protocol, label = summary["protocol"], summary["label"]
    shuffled = accuracy(summary, "shuffled")
    if abs(shuffled["mean"] - 0.5) > LEAK and not covers_chance(shuffled):
        return (
            f"Open: classifiers trained on shuffled labels score {percent(shuffled['mean'])} %, so something "
            f"but the {label} gives the answer away"
        )
    told_by_run = run_tells(summary)
    if told_by_run > 0.5 + LEAK and told_by_run >= accuracy(summary, "pretrained")["mean"]:
        return (
            f"Open: this protocol ({protocol}) cannot tell {label} from run: a same-run oracle scores "
            f"{percent(told_by_run)} %, so the difference of the arms ({difference(gain)}) says nothing of "
            f"{label}"
        )
    return None


def judge(summary: dict[str, Any], gain: dict[str, Any]) -> tuple[bool | None, str]:
    """Return whether the claim survives (None: open) and why; the first reason that applies."""
    protocol, units = summary["protocol"], counted(gain["n"], summary["unit"])
    if only := lone_condition(summary):
        protocol += f" ({only})"
    size = f"{difference(gain)}, {units}"
    if lowest_p(gain["n"]) > ALPHA:
        return None, (
            f"Open: {units} cannot give p below {lowest_p(gain['n']):.2g}, whatever the difference; under "
            f"{protocol} it is {difference(gain)}{beside(gain)}"
        )
    if not above_chance(summary, "pretrained") and not above_chance(summary, "fresh"):
        both = " and ".join(within(summary, name) for name in ("pretrained", "fresh"))
        return False, f"No: both arms are at chance under {protocol} ({both}), {units}{seen(gain)}"
    if gain["effect"] < 0 and gain["p"] < ALPHA and trainings_agree(gain):
        return False, f"No: under {protocol} the pre-trained arm is worse than the fresh one: {size}"
    if gain["effect"] < 0 or gain["p"] >= ALPHA:
        beyond = corrected(gain) if gain["p"] < ALPHA else seen(gain)
        return False, f"No: the pre-trained arm's advantage does not survive {protocol}: {size}{beyond}"
    if above_chance(summary, "run_means") and standing(summary, "run_means"):
        return None, (
            f"Open: under {protocol} the pre-trained arm is ahead of the fresh one by {size}, but run means "
            f"alone score {within(summary, 'run_means', '')} against its "
            f"{percent(accuracy(summary, 'pretrained')['mean'])} %, so it may be runs that are told apart"
        )
    if summary["n_folds"] == 1:
        return None, (
            f"Open: under {protocol} the pre-trained arm is ahead of the fresh one by {size}, but all share "
            "the trained models of one fold, and what these owe to luck is not known: more folds would tell"
        )
    if not trainings_agree(gain):
        return None, (
            f"Open: under {protocol} the pre-trained arm is ahead of the fresh one by {size}, but those of a "
            "fold share one trained model, and trainings do not agree (corrected resampled t over folds and "
            f"seeds: {p_told(gain['corrected_p'])}): more seeds or folds would tell"
        )
    return True, f"Yes: the pre-trained arm's advantage survives {protocol}: {size}{corrected(gain)}"


def doubts(summary: dict[str, Any]) -> list[str]:
    """Say what weakens a difference that the tests found."""
    if run_tells(summary) > 0.5 + LEAK:
        return [f"part may be run: a same-run oracle scores {percent(run_tells(summary))} %"]
    return []


def trainings_agree(row: dict[str, Any]) -> bool:
    """Say whether a difference over units also stands over folds and seeds.

    Units of a fold are tested by the same trained models, so units agree too readily: a training that failed
    by chance is seen in all of them. Differences that are all the same have no t, and agree.
    """
    return row["corrected_p"] is None or row["corrected_p"] < ALPHA


def rivals(summary: dict[str, Any], survives: bool | None) -> list[str]:
    """Name controls, and the best of the simple baselines, that the pre-trained arm does not beat."""
    decoding = [name for name in SIMPLE if above_chance(summary, name)]
    best_first = sorted(decoding, key=lambda name: -accuracy(summary, name)["mean"])
    if not above_chance(summary, "pretrained"):
        return [
            f"yet there is something to decode: {SIMPLE[name]} reaches {within(summary, name, '')}"
            for name in best_first[:1]
        ]
    told = []
    controls = [name for name, content in summary["arms"].items() if content["kind"] == "control"]
    for name in controls if survives else []:
        if how := standing(summary, name):
            told.append(
                f"the control '{summary['arms'][name]['title']}' {how} ({within(summary, name, '')}), "
                "so what it lacks is not shown to help"
            )
    matching = [name for name in best_first if standing(summary, name)]
    told += [
        f"{SIMPLE[name]} {standing(summary, name)} ({within(summary, name, '')})" for name in matching[:1]
    ]
    return told


def where(summary: dict[str, Any]) -> list[str]:
    """Give the difference in each condition, and the sizes of the training side at which there is one."""
    rows = [
        row
        for row in summary["comparisons"]
        if (row["first"], row["second"]) == ("pretrained", "fresh") and row["condition"] != "all"
    ]
    told = []
    if rows:
        each = ", ".join(f"{r['condition']} {points(r['effect'])} ({p_told(r['p_holm'])})" for r in rows)
        told.append(f"by condition, Holm-adjusted: {each}")
    small = [
        row
        for row in summary["size_comparisons"]
        if row["size"] != summary["sizes"][-1]
        and summary["n_folds"] > 1
        and row["p_holm"] < ALPHA
        and row["effect"] > 0
        and (row["corrected_p_holm"] is None or row["corrected_p_holm"] < ALPHA)
    ]
    if small:
        what = "run" if summary["folds_by"] == "run" else "subject"
        each = ", ".join(f"{points(row['effect'])} with {counted(row['size'], what)}" for row in small)
        told.append(f"trained on fewer, it is ahead (Holm-adjusted, both tests): {each}")
    return told


def sooner(summary: dict[str, Any]) -> list[str]:
    """Compare how soon the arms reach the fresh arm's best, where that one learns anything."""
    row = summary["speed"]["epochs"]
    if row["low"] is None or not above_chance(summary, "fresh"):
        return []
    reached = summary["speed"]["reached"]
    if all(reached[arm]["median_epochs"] is None for arm in ("pretrained", "fresh")):
        return []
    never = [reached[arm]["n_never"] for arm in ("pretrained", "fresh")]
    few = ", too few to show it" if lowest_p(row["n"]) > ALPHA else ""
    counts = f", {never[0]} pre-trained and {never[1]} fresh cells never do" if any(never) else ""
    return [
        f"to reach the fresh arm's best AUC it needs {row['effect']:+.1f} epochs [{row['low']:+.1f}, "
        f"{row['high']:+.1f}] ({p_told(row['p'])}, {counted(row['n'], 'fold')}{few}{counts}{beside(row)})"
    ]


def backwards(summary: dict[str, Any]) -> list[str]:
    """Say so where windows that run backwards score the same."""
    content = summary["arms"]["pretrained"]["reversed"]
    if not above_chance(summary, "pretrained"):
        return []
    if content["drop"]["effect"] >= SAME * (content["forward_accuracy"] - 0.5):
        return []
    return [
        f"windows that run backwards score the same ({percent(content['accuracy'])} %): "
        "the order of volumes is not what it reads"
    ]


def cautions(summary: dict[str, Any]) -> list[str]:
    """Name the settings that flatter, and the control that was left out."""
    told = []
    if summary["allow_seen_runs"]:
        told.append("pre-training may have seen the test runs")
    if summary["reported"] == "best":
        told.append("the reported epoch was chosen on the test pairs")
    if summary["standardize"] == "subject":
        told.append("test runs took part in standardisation")
    if shuffled_order.is_lacking(summary):
        told.append("not run: the control that is pre-trained on volumes in shuffled order")
    return told


def row_of(summary: dict[str, Any], first: str, second: str, part: str = "all") -> dict[str, Any] | None:
    """Return the comparison of two arms; None where there is none."""
    wanted = (part, first, second)
    rows = [*summary["comparisons"], *summary["against_chance"]]
    return next((r for r in rows if (r["condition"], r["first"], r["second"]) == wanted), None)


def above_chance(summary: dict[str, Any], name: str) -> bool:
    """Say whether an arm or baseline is above chance at p < 0.05."""
    row = row_of(summary, name, "chance")
    return row is not None and row["effect"] > 0 and row["p"] < ALPHA


def standing(summary: dict[str, Any], name: str) -> str | None:
    """Say how a baseline or control stands against the pre-trained arm; None where it is beaten."""
    row = row_of(summary, "pretrained", name)
    if row is None or (row["effect"] > 0 and row["p"] < ALPHA):
        return None
    if row["effect"] < 0 and row["p"] < ALPHA:
        return "does better"
    return "does as well" if row["effect"] <= 0 else "is not told apart from it"


def run_tells(summary: dict[str, Any]) -> float:
    """Return the accuracy of who knows which windows are of one run, and nothing else."""
    mean = accuracy(summary, "same_run")["mean"]
    return max(mean, 1 - mean)


def accuracy(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """Return accuracy and interval over all pairs."""
    return summary["arms"][name]["by_condition"]["all"]["accuracy"]


def covers_chance(figure: dict[str, Any]) -> bool:
    """Say whether an interval covers chance; one that there is not does."""
    return figure["low"] is None or figure["low"] <= 0.5 <= figure["high"]


def within(summary: dict[str, Any], name: str, title: str | None = None) -> str:
    """Return an accuracy with its interval, percent, after its title."""
    figure = accuracy(summary, name)
    head = summary["arms"][name]["title"] if title is None else title
    return f"{head} {percent(figure['mean'])} % {bounds(figure, percent)}".strip()


def difference(row: dict[str, Any]) -> str:
    """Return a difference in accuracy with interval and p."""
    size = f"{points(row['effect'])} points of accuracy {bounds(row, points)}".strip()
    return f"{size}, {p_told(row['p'])}"


def seen(row: dict[str, Any]) -> str:
    """Say which difference would have been seen."""
    if not row["detectable"]:
        return ""
    return f" (a true difference of {points(row['detectable'], '')} would show in 80 % of such studies)"


def corrected(row: dict[str, Any]) -> str:
    """Give the corrected t's p after that over units."""
    if row["corrected_p"] is None:
        return ""
    return f" (corrected resampled t over folds and seeds: {p_told(row['corrected_p'])})"


def beside(row: dict[str, Any]) -> str:
    """Give the corrected t's p where units are too few for a p of their own."""
    if row["corrected_p"] is None or lowest_p(row["n"]) <= ALPHA:
        return ""
    return f"; corrected resampled t over folds and seeds: {p_told(row['corrected_p'])}"
