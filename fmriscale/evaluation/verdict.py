"""The verdict: what the numbers of a study allow to say about its claim, in one sentence.

The claim: a pre-trained encoder decodes better than a fresh one. Before the difference is believed, the
verdict asks what else could make it: leaking labels, runs that give the label away, too few units, shortcuts.
"""

from typing import Any

from fmriscale.evaluation.statistics import ALPHA, lowest_p
from fmriscale.evaluation.wording import counted, p_value, percent, points

SHORTCUTS = {"run_means": "run means alone", "persistence": "persistence alone"}
"""Baselines that know nothing of the label but what run or nearness in time give away."""
SIMPLE = {
    "category": "a linear SVM on single windows",
    "pair_logistic": "a logistic regression on pairs",
    "correlation": "correlation",
}
"""Baselines that learn the label without an encoder."""
LEAK = 0.05
"""Accuracy of shuffled labels this far from chance, and with an interval beyond it, is a fault."""
SAME = 0.1
"""Backward windows that lose less than this share of what an arm has over chance score "the same"."""


def verdict(summary: dict[str, Any]) -> dict[str, Any]:
    """Judge a study by its summary.

    Parameters
    ----------
    summary : dict
        As `summary.summarise` makes it.

    Returns
    -------
    dict
        sentence; survives: True, False, or None where the study cannot tell.
    """
    gain = row_of(summary, "pretrained", "fresh")
    if gain is None:
        return {"sentence": sentence([alone(summary), *cautions(summary)]), "survives": None}
    survives, reason = judge(summary, gain)
    told = [reason]
    if survives is not None or not_shown(summary, gain):
        told += [*doubts(summary, gain), *rivals(summary), *where(summary)]
    told += [*sooner(summary), *backwards(summary), *cautions(summary)]
    return {"sentence": sentence(told), "survives": survives}


def judge(summary: dict[str, Any], gain: dict[str, Any]) -> tuple[bool | None, str]:
    """Return whether the claim survives (None: open) and why; the first reason that applies."""
    protocol, label = summary["protocol"], summary["label"]
    units = counted(gain["n"], summary["unit"])
    size = f"{difference(gain)}, {units}"
    shuffled, oracle = accuracy(summary, "shuffled"), accuracy(summary, "same_run")
    if abs(shuffled["mean"] - 0.5) > LEAK and not covers_chance(shuffled):
        return None, (
            f"Open: classifiers trained on shuffled labels score {percent(shuffled['mean'])} %, so something "
            f"but the {label} gives the answer away; no other figure of this study can be trusted"
        )
    if oracle["mean"] > 0.5 + LEAK and oracle["mean"] >= accuracy(summary, "pretrained")["mean"]:
        return None, (
            f"Open: this protocol ({protocol}) cannot tell {label} from run: a same-run oracle scores "
            f"{percent(oracle['mean'])} %, so the pre-trained arm's {difference(gain)} over the fresh one "
            f"says nothing of {label}"
        )
    if lowest_p(gain["n"]) > ALPHA:
        return None, (
            f"Open: {units} cannot give p below {lowest_p(gain['n']):.2g} whatever the difference; it is "
            f"{difference(gain)}"
        )
    above = [name for name in ("pretrained", "fresh") if above_chance(summary, name)]
    if not above:
        both = " and ".join(within(summary, name) for name in ("pretrained", "fresh"))
        return False, f"No: both arms are at chance under {protocol} ({both}), {units}"
    if gain["p"] >= ALPHA:
        return False, f"No: the pre-trained arm's advantage does not survive {protocol}: {size}{seen(gain)}"
    if gain["effect"] < 0:
        return False, f"No: under {protocol} the pre-trained arm is worse than the fresh one: {size}"
    for name, title in SHORTCUTS.items():
        if above_chance(summary, name) and not beaten(summary, name):
            return None, (
                f"Open: under {protocol} the pre-trained arm is ahead of the fresh one by {size}, but "
                f"{title} score{'s' * (name == 'persistence')} {within(summary, name, '')} against its "
                f"{percent(accuracy(summary, 'pretrained')['mean'])} %, without knowing any {label}"
            )
    return True, f"Yes: the pre-trained arm's advantage survives {protocol}: {size}"


def not_shown(summary: dict[str, Any], gain: dict[str, Any]) -> bool:
    """Say whether a study is open for its number of units alone: then all else is still worth telling."""
    return judge(summary, gain)[0] is None and judge(summary, gain | {"n": 1000})[0] is not None


def alone(summary: dict[str, Any]) -> str:
    """Say how the fresh arm does where nothing is pre-trained."""
    units = counted(summary["n_units"], summary["unit"])
    found = within(summary, "fresh")
    if above_chance(summary, "fresh"):
        return f"No pre-trained arm to judge: {found}, above chance, {units}"
    few = lowest_p(summary["n_units"]) > ALPHA
    return f"No pre-trained arm to judge: {found}, {'too few to tell from' if few else 'at'} chance, {units}"


def doubts(summary: dict[str, Any], gain: dict[str, Any]) -> list[str]:
    """Say what weakens a difference that the test over units found."""
    told = []
    corrected = gain["corrected_p"]
    if gain["p"] < ALPHA and corrected is not None and corrected >= ALPHA:
        told.append(f"the corrected resampled t over folds and seeds gives only p = {p_value(corrected)}")
    oracle = accuracy(summary, "same_run")
    if oracle["mean"] > 0.5 + LEAK:
        told.append(f"part may be run: a same-run oracle scores {percent(oracle['mean'])} %")
    return told


def rivals(summary: dict[str, Any]) -> list[str]:
    """Name controls, and the best of the simple baselines, that the pre-trained arm does not beat."""
    if not above_chance(summary, "pretrained"):
        names = [name for name in SIMPLE if above_chance(summary, name)]
        if not names:
            return []
        best = max(names, key=lambda name: accuracy(summary, name)["mean"])
        return [f"yet there is something to decode: {SIMPLE[best]} reaches {within(summary, best, '')}"]
    told = []
    for name, content in summary["arms"].items():
        if content["kind"] == "control" and not beaten(summary, name):
            told.append(
                f"the control '{content['title']}' does as well ({within(summary, name, '')}), "
                "so what it lacks is not what helps"
            )
    matching = [n for n in (*SIMPLE, *SHORTCUTS) if above_chance(summary, n) and not beaten(summary, n)]
    if matching:
        best = max(matching, key=lambda name: accuracy(summary, name)["mean"])
        row = row_of(summary, "pretrained", best)
        better = row is not None and row["effect"] < 0 and row["p"] < ALPHA
        told.append(
            f"{(SIMPLE | SHORTCUTS)[best]} {'does better' if better else 'is not told apart from it'} "
            f"({within(summary, best, '')})"
        )
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
        each = ", ".join(f"{r['condition']} {points(r['effect'])} (p {equals(r['p_holm'])})" for r in rows)
        told.append(f"by condition, Holm-adjusted: {each}")
    small = [
        row
        for row in summary["size_comparisons"]
        if row["size"] != summary["sizes"][-1] and row["p_holm"] < ALPHA and row["effect"] > 0
    ]
    if small:
        what = "run" if summary["folds_by"] == "run" else "subject"
        each = ", ".join(f"{points(row['effect'])} with {counted(row['size'], what)}" for row in small)
        told.append(f"trained on fewer, it is ahead (Holm-adjusted p < 0.05): {each}")
    return told


def sooner(summary: dict[str, Any]) -> list[str]:
    """Compare how soon the arms reach the fresh arm's best, where both learn anything."""
    row = summary["speed"]["epochs"]
    if row is None or row["low"] is None or not above_chance(summary, "fresh"):
        return []
    never = {arm: summary["speed"]["reached"][arm]["n_never"] for arm in ("pretrained", "fresh")}
    counts = (
        f"; cells that never do: {never['pretrained']} and {never['fresh']}" if any(never.values()) else ""
    )
    few = ", which so few folds cannot show" if lowest_p(row["n"]) > ALPHA else ""
    return [
        f"to the fresh arm's best AUC it needs {row['effect']:+.1f} epochs [{row['low']:+.1f}, "
        f"{row['high']:+.1f}] (p {equals(row['p'])}, {counted(row['n'], 'fold')}{few}{counts})"
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
    """Name the settings that flatter."""
    told = []
    if summary["allow_seen_runs"]:
        told.append("pre-training may have seen the test runs")
    if summary["reported"] == "best":
        told.append("the reported epoch was chosen on the test pairs")
    if summary["standardize"] == "subject":
        told.append("test runs took part in standardisation")
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


def beaten(summary: dict[str, Any], name: str) -> bool:
    """Say whether the pre-trained arm beats an arm or baseline at p < 0.05."""
    row = row_of(summary, "pretrained", name)
    return row is not None and row["effect"] > 0 and row["p"] < ALPHA


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
    between = "" if figure["low"] is None else f" [{percent(figure['low'])}, {percent(figure['high'])}]"
    return f"{head} {percent(figure['mean'])} %{between}".strip()


def difference(row: dict[str, Any]) -> str:
    """Return a difference in accuracy with interval and p."""
    between = "" if row["low"] is None else f" [{points(row['low'])}, {points(row['high'])}]"
    return f"{points(row['effect'])} points of accuracy{between}, p {equals(row['p'])}"


def seen(row: dict[str, Any]) -> str:
    """Say which difference would have been seen."""
    return (
        f" (a true {points(row['detectable'])} would be found in 80 % of such studies)"
        if row["detectable"]
        else ""
    )


def equals(p: float) -> str:
    """Return `= 0.016` or `< 0.0001`."""
    text = p_value(p)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def sentence(clauses: list[str]) -> str:
    """Join clauses to a sentence."""
    return "; ".join(clauses) + "."
