"""The page, the figure and the numbers of benchmarks/transfer.py, from the summaries of its probes."""

import json
from pathlib import Path
from typing import Any

import transfer_scaling
from transfer_questions import Question

from fmriscale.study.statistics import ALPHA

NAMES = {"auc": "AUC", "balanced_accuracy": "accuracy", "r": "r"}
MOST_BASELINES = 4
"""Baselines that the figure shows, the best first."""
HEAD = """# Does pre-training pay? Questions that labs ask, against the baselines that they use

Made by `python benchmarks/transfer.py --work runs/transfer`, with fmriscale's own trainer and probe;
`benchmarks/transfer_questions.py` has every recipe. No encoder has seen the people that are tested, nor the
data sets, parts of a film or sites (which of ten samples: people alone; Haxby: runs). Where no title says
otherwise, encoders stay frozen: a linear model with a nested penalty decodes their vectors, as it does the
features of every baseline. Brackets hold 95 % intervals over people; p is over people / over folds
and seeds (corrected t). A gain counts only if it is above a fresh encoder **and** above the best baseline
by both tests; with few people the best baseline of that size, and p over people is Holm-adjusted.
"""
Summary = dict[str, Any]
Found = dict[str, Summary]


def collect(work: Path, questions: dict[str, Question]) -> Found:
    """Return the summaries of the questions that are answered."""
    paths = {name: work / "probes" / name / "summary.json" for name in questions}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def figures(found: Found) -> dict[str, dict[str, Any]]:
    """Return the judged figure of every question and method, with its interval over people."""
    numbers = {}
    for name, summary in found.items():
        figure = summary["figures"][0]
        for method, content in summary["methods"].items():
            own = {**content[figure], "unit": figure}
            numbers[f"transfer.{name}.{method}"] = {"value": own.pop("mean"), **own}
    return numbers


def write(found: Found, questions: dict[str, Question], docs: Path, work: Path) -> None:
    """Write benchmark.md and its figures into a folder."""
    docs.mkdir(parents=True, exist_ok=True)
    parts, scaling = [HEAD], found.get(transfer_scaling.QUESTION)
    found = {name: summary for name, summary in found.items() if name != transfer_scaling.QUESTION}
    if found:
        draw(found, questions, docs / "benchmark.png")
        parts += ["![Figures by question and method](benchmark.png)\n", overview(found, questions)]
        parts.append(Path(__file__).with_name("transfer_notes.md").read_text())
    parts += [section(summary, questions[name]) for name, summary in found.items()]
    if scaling:
        curves = transfer_scaling.curves(scaling, work)
        transfer_scaling.draw(curves, docs / "benchmark_scaling.png")
        parts += [transfer_scaling.section(curves), "![Curves](benchmark_scaling.png)\n"]
    (docs / "benchmark.md").write_text("\n".join(part.rstrip("\n") + "\n" for part in parts))


def overview(found: Found, questions: dict[str, Question]) -> str:
    """Return the table of all questions: encoder, fresh, best baseline, control, and whether it pays."""
    titles = "question | pre-trained | fresh | best baseline | control | it pays | and with few people"
    lines = ["## In short\n", f"| {titles} |", "|---|---|---|---|---|---|---|"]
    for name, summary in found.items():
        figure, best, main = summary["figures"][0], summary["best_baseline"], summary["main"]
        controls = [m for m, content in summary["methods"].items() if content["kind"] == "control"]
        control = next((m for m in controls if m.startswith("shifted")), (controls or [None])[0])
        cells = [
            questions[name].title,
            f"{NAMES[figure]} {value(summary, main)}",
            value(summary, "fresh"),
            f"{value(summary, best)} ({summary['methods'][best]['title']})",
            f"{value(summary, control)} ({summary['methods'][control]['title']})" if control else "",
            {True: "yes", False: "no", None: "open"}[summary["verdict"]["survives"]],
            "; ".join(with_few(summary, size) for size in summary["sizes"] if size is not None),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_few(summary: Summary, size: int) -> str:
    """Say whether it pays with so many training people: the figure, and the baseline that is best then."""
    rows = [row for row in summary["size_comparisons"] if row["size"] == size]
    pays = "yes" if all(ahead(row) for row in rows) else "no"
    best = next(row["second"] for row in rows if row["second"] != "fresh")
    beside = f"{by_size(summary, best, size)} {summary['methods'][best]['title']}"
    return f"{size}: **{pays}**, {by_size(summary, summary['main'], size)} ({beside})"


def ahead(row: dict[str, Any]) -> bool:
    """Tell whether the first is ahead over people (Holm-adjusted for the sizes) and over trainings."""
    over_trainings = row["corrected_p"] is None or row["corrected_p"] < ALPHA
    return row["effect"] > 0 and row["p_holm"] < ALPHA and over_trainings


def section(summary: Summary, question: Question) -> str:
    """Return the section of a question: verdict, methods by training people, comparisons."""
    figure, main, methods = summary["figures"][0], summary["main"], summary["methods"]
    setting = (
        f"{summary['n_rows']:,} rows of {summary['n_people']} people, {summary['n_folds']} folds by "
        f"{summary['folds_by']}; {trainings(summary)}"
    )
    reached = f" Reached before: {question.to_beat}." if question.to_beat else ""
    lines = [f"## {question.title}\n", f"{setting}.{reached}\n"]
    lines.append(f"> {summary['verdict']['sentence']}\n")
    sizes = [size for size in summary["sizes"] if size is not None]
    lines.append(f"| {NAMES[figure]} | " + "".join(f"{people(n)} | " for n in sizes) + "all | [95 %] |")
    lines.append("|---|" + "---|" * (len(sizes) + 2))
    for method in sorted(methods, key=lambda m: -methods[m][figure]["mean"]):
        content = methods[method]
        name = f"**{content['title']}**" if method == main else content["title"]
        cells = [by_size(summary, method, size) for size in sizes]
        low, high = content[figure]["low"], content[figure]["high"]
        between = "" if low is None else f"[{low:.3f}, {high:.3f}]"
        lines.append(f"| {' | '.join([name, *cells, value(summary, method), between])} |")
    lines += few_people(summary)
    lines += ["", f"| {methods[main]['title']} minus | difference [95 %] | p people / trainings |"]
    lines.append("|---|---|---|")
    for row in summary["comparisons"]:
        if row["figure"] == figure:
            lines.append(f"| {methods[row['second']]['title']} | {difference(row)} |")
    return "\n".join(lines) + "\n"


def trainings(summary: Summary) -> str:
    """Say how often encoders were trained in every fold: the judged one, and the others."""
    n, encoders = len(summary["seeds"]), summary["provenance"]["encoders"]
    once = {name for name, of in encoders.items() if n > 1 and "{seed}" not in of["folder"]}
    if summary["main"] in once:
        return f"every encoder was trained once; fresh encoders and draws of few people: {n}"
    told = f"trainings of the encoder in every fold, and draws of few people: {n}"
    if not once:
        return told
    if once == set(encoders) - {summary["main"]}:
        return f"{told}; the other encoders were trained once"
    return f"{told}; trained once: {', '.join(sorted(summary['methods'][name]['title'] for name in once))}"


def few_people(summary: Summary) -> list[str]:
    """Return lines that compare the judged encoder with fresh and the best baseline of every size."""
    rows = [row for row in summary["size_comparisons"] if row["size"] is not None]
    if not rows:
        return []
    main = summary["methods"][summary["main"]]["title"]
    lines = [
        "",
        f"| trained on | {main} minus | difference [95 %] | p people / trainings |",
        "|---|---|---|---|",
    ]
    for row in rows:
        other = summary["methods"][row["second"]]["title"]
        lines.append(f"| {people(row['size'])} | {other} | {difference(row)} |")
    return lines


def people(n: int) -> str:
    """Return a number of people in words."""
    return f"{n} person" if n == 1 else f"{n} people"


def value(summary: Summary, method: str) -> str:
    """Return the judged figure of a method in words."""
    return f"{summary['methods'][method][summary['figures'][0]]['mean']:.3f}"


def by_size(summary: Summary, method: str, size: int) -> str:
    """Return the judged figure of a method with so many training people."""
    figure = summary["figures"][0]
    rows = [row for row in summary["by_size"] if (row["method"], row["size"]) == (method, size)]
    return f"{rows[0][figure]['mean']:.3f}" if rows else "-"


def difference(row: dict[str, Any]) -> str:
    """Return a difference with its interval and both p."""
    between = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    corrected = "-" if row["corrected_p"] is None else f"{row['corrected_p']:.2g}"
    return f"{row['effect']:+.3f}{between} | {row['p']:.2g} / {corrected}"


def draw(found: Found, questions: dict[str, Question], path: Path) -> None:
    """Draw the judged figure of every question: encoders, and the best baselines, with intervals.

    A circle is the figure with the fewest training people.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(len(found), 2)
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6 * columns, 2.6 * rows), squeeze=False)
    for axis, (name, summary) in zip(axes.flat, found.items(), strict=False):
        methods, judged = summary["methods"], summary["figures"][0]
        ranked = sorted(methods, key=lambda m: -methods[m][judged]["mean"])
        simple = [m for m in ranked if methods[m]["kind"] == "baseline"][:MOST_BASELINES]
        shown = [m for m in ranked if methods[m]["kind"] in ("arm", "control") or m in simple][::-1]
        fewest = min((size for size in summary["sizes"] if size is not None), default=None)
        with_fewest = {r["method"]: r[judged]["mean"] for r in summary["by_size"] if r["size"] == fewest}
        colours = {"baseline": "#9a9a9a", "control": "#e0a15a", "arm": "#c9d7ee"}
        for place, method in enumerate(shown):
            content, middle = methods[method][judged], methods[method][judged]["mean"]
            colour = "#2f5fb3" if method == summary["main"] else colours[methods[method]["kind"]]
            axis.barh(place, middle, color=colour)
            if content["low"] is not None:
                axis.plot([content["low"], content["high"]], [place, place], color="black", linewidth=1)
            if fewest is not None:
                axis.plot(
                    with_fewest[method], place, "o", color="white", markeredgecolor="black", markersize=5
                )
        chance = summary["chance"][judged]
        axis.axvline(chance, color="black", linewidth=0.8, linestyle=":")
        axis.set_xlim(left=max(chance - 0.05, 0) if judged == "auc" else 0)
        axis.set_yticks(range(len(shown)), [methods[m]["title"] for m in shown], fontsize=8)
        axis.set_title(questions[name].title, fontsize=8, loc="left")
        circle = "" if fewest is None else f" (circle: labels of {people(fewest)})"
        axis.set_xlabel(NAMES[judged] + circle, fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
    for axis in list(axes.flat)[len(found) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
