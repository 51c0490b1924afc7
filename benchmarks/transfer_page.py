"""The page, the figure and the numbers of benchmarks/transfer.py, from the summaries of its probes."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import transfer_scaling
from transfer_questions import Question

NAMES = {"auc": "AUC", "balanced_accuracy": "accuracy", "r": "r"}
MOST_BASELINES = 4
"""Baselines that the figure shows, the best first."""
HEAD = """# Does pre-training pay? Questions that labs ask, against the baselines that they use

Made by `python benchmarks/transfer.py --work runs/transfer`, from real data, with fmriscale's own trainer
and probe; `benchmarks/transfer_questions.py` has every recipe. No encoder has seen a person or a data set
that is tested. The encoders stay frozen: a linear model with a nested penalty decodes their vectors, as it
does the features of every baseline. Brackets hold 95 % intervals over people; p is over people / over folds
and seeds (corrected t). A gain counts only if it is above a fresh encoder **and** above the best baseline
by both tests.
"""
Found = dict[str, list[dict[str, Any]]]


def collect(work: Path, questions: dict[str, Question]) -> Found:
    """Return the summaries of every question that is answered, one for each seed of pre-training."""
    found: Found = defaultdict(list)
    for name in questions:
        for path in sorted((work / "probes").glob(f"{name}-*/summary.json")):
            found[name].append(json.loads(path.read_text()))
    return dict(found)


def figures(found: Found) -> dict[str, dict[str, Any]]:
    """Return the judged figure of every question and method, mean over seeds of pre-training."""
    numbers = {}
    for name, summaries in found.items():
        figure = summaries[0]["figures"][0]
        for method in summaries[0]["methods"]:
            each = [summary["methods"][method][figure]["mean"] for summary in summaries]
            spread = {"low": min(each), "high": max(each), "n": len(each)}
            numbers[f"transfer.{name}.{method}"] = {"value": float(np.mean(each)), "unit": figure, **spread}
    return numbers


def write(found: Found, questions: dict[str, Question], docs: Path, work: Path) -> None:
    """Write benchmark.md and its figures into a folder."""
    docs.mkdir(parents=True, exist_ok=True)
    parts, scaling = [HEAD], found.get(transfer_scaling.QUESTION)
    found = {name: summaries for name, summaries in found.items() if name != transfer_scaling.QUESTION}
    if found:
        draw(found, questions, docs / "benchmark.png")
        parts += ["![Figures by question and method](benchmark.png)\n", overview(found, questions)]
        parts.append(Path(__file__).with_name("transfer_notes.md").read_text())
    parts += [section(summaries, questions[name]) for name, summaries in found.items()]
    if scaling:
        curves = transfer_scaling.curves(scaling[0], work)
        transfer_scaling.draw(curves, docs / "benchmark_scaling.png")
        parts += [transfer_scaling.section(curves), "![Curves](benchmark_scaling.png)\n"]
    (docs / "benchmark.md").write_text("\n".join(part.rstrip("\n") + "\n" for part in parts))


def overview(found: Found, questions: dict[str, Question]) -> str:
    """Return the table of all questions: encoder, fresh, best baseline, control, and whether it pays."""
    titles = "question | pre-trained | fresh | best baseline | control | it pays | with few people"
    lines = ["## In short\n", f"| {titles} |", "|---|---|---|---|---|---|---|"]
    for name, summaries in found.items():
        first = summaries[0]
        figure, best, main = first["figures"][0], first["best_baseline"], first["main"]
        controls = [m for m, content in first["methods"].items() if content["kind"] == "control"]
        worst = next((m for m in controls if m.startswith("shifted")), (controls or [None])[-1])
        cells = [
            questions[name].title,
            f"{NAMES[figure]} {value(summaries, main)}",
            value(summaries, "fresh"),
            f"{value(summaries, best)} ({first['methods'][best]['title']})",
            f"{value(summaries, worst)} ({first['methods'][worst]['title']})" if worst else "",
            ", ".join({True: "yes", False: "no", None: "open"}[s["verdict"]["survives"]] for s in summaries),
            with_few(summaries),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_few(summaries: list[dict[str, Any]]) -> str:
    """Return the encoder's figure beside that of the baseline that is best then, by training people."""
    first = summaries[0]
    simple = [m for m, content in first["methods"].items() if content["kind"] == "baseline"]
    told = []
    for size in (size for size in first["sizes"] if size is not None):
        best = max(simple, key=lambda m: float(by_size(summaries, m, size)))
        beside = f"{by_size(summaries, best, size)} {first['methods'][best]['title']}"
        told.append(f"{size}: {by_size(summaries, first['main'], size)} ({beside})")
    return "; ".join(told)


def section(summaries: list[dict[str, Any]], question: Question) -> str:
    """Return the section of a question: verdict, methods by training people, comparisons."""
    first = summaries[0]
    figure, main = first["figures"][0], first["main"]
    setting = (
        f"{first['n_rows']:,} rows of {first['n_people']} people, {first['n_folds']} folds by "
        f"{first['folds_by']}; pre-trainings of every arm in every fold: {len(summaries)}; draws of few "
        f"people: {len(first['seeds'])}"
    )
    reached = f" Reached before: {question.to_beat}." if question.to_beat else ""
    lines = [f"## {question.title}\n", f"{setting}.{reached}\n"]
    lines += [f"> {summary['verdict']['sentence']}\n" for summary in summaries]
    sizes = [size for size in first["sizes"] if size is not None]
    lines.append(f"| {NAMES[figure]} | " + "".join(f"{n} people | " for n in sizes) + "all | [95 %] |")
    lines.append("|---|" + "---|" * (len(sizes) + 2))
    for method in sorted(first["methods"], key=lambda m: -mean_of(summaries, m)):
        content = first["methods"][method]
        name = f"**{content['title']}**" if method == main else content["title"]
        cells = [by_size(summaries, method, size) for size in sizes]
        low, high = content[figure]["low"], content[figure]["high"]
        between = "" if low is None else f"[{low:.3f}, {high:.3f}]"
        lines.append(f"| {' | '.join([name, *cells, value(summaries, method), between])} |")
    lines += few_people(first)
    lines += ["", f"| {first['methods'][main]['title']} minus | difference [95 %] | p people / trainings |"]
    lines.append("|---|---|---|")
    for row in first["comparisons"]:
        if row["figure"] == figure:
            lines.append(f"| {first['methods'][row['second']]['title']} | {difference(row)} |")
    return "\n".join(lines) + "\n"


def few_people(summary: dict[str, Any]) -> list[str]:
    """Return lines that compare the judged encoder with fresh and the best baseline by training people."""
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
        lines.append(f"| {row['size']} people | {other} | {difference(row)} |")
    return lines


def mean_of(summaries: list[dict[str, Any]], method: str) -> float:
    """Return the judged figure of a method, mean over seeds of pre-training."""
    figure = summaries[0]["figures"][0]
    return float(np.mean([summary["methods"][method][figure]["mean"] for summary in summaries]))


def value(summaries: list[dict[str, Any]], method: str) -> str:
    """Return the judged figure of a method in words."""
    return f"{mean_of(summaries, method):.3f}"


def by_size(summaries: list[dict[str, Any]], method: str, size: int) -> str:
    """Return the judged figure of a method with so many training people."""
    figure = summaries[0]["figures"][0]
    rows = [r for s in summaries for r in s["by_size"] if (r["method"], r["size"]) == (method, size)]
    return f"{np.mean([row[figure]['mean'] for row in rows]):.3f}" if rows else "-"


def difference(row: dict[str, Any]) -> str:
    """Return a difference with its interval and both p."""
    between = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    corrected = "-" if row["corrected_p"] is None else f"{row['corrected_p']:.2g}"
    return f"{row['effect']:+.3f}{between} | {row['p']:.2g} / {corrected}"


def draw(found: Found, questions: dict[str, Question], path: Path) -> None:
    """Draw the judged figure of every question: encoders, and the best baselines, with intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(len(found), 2)
    rows = -(-len(found) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6 * columns, 2.6 * rows), squeeze=False)
    for axis, (name, summaries) in zip(axes.flat, found.items(), strict=False):
        methods, judged = summaries[0]["methods"], summaries[0]["figures"][0]
        ranked = sorted(methods, key=lambda m: -mean_of(summaries, m))
        simple = [m for m in ranked if methods[m]["kind"] == "baseline"][:MOST_BASELINES]
        shown = [m for m in ranked if methods[m]["kind"] in ("arm", "control") or m in simple][::-1]
        colours = {"baseline": "#9a9a9a", "control": "#e0a15a", "arm": "#c9d7ee"}
        for place, method in enumerate(shown):
            content, middle = methods[method][judged], mean_of(summaries, method)
            colour = "#2f5fb3" if method == summaries[0]["main"] else colours[methods[method]["kind"]]
            axis.barh(place, middle, color=colour)
            if content["low"] is not None:
                axis.plot([content["low"], content["high"]], [place, place], color="black", linewidth=1)
        chance = summaries[0]["chance"][judged]
        axis.axvline(chance, color="black", linewidth=0.8, linestyle=":")
        axis.set_xlim(left=max(chance - 0.05, 0) if judged == "auc" else 0)
        axis.set_yticks(range(len(shown)), [methods[m]["title"] for m in shown], fontsize=8)
        axis.set_title(questions[name].title, fontsize=8, loc="left")
        axis.set_xlabel(NAMES[judged], fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
    for axis in list(axes.flat)[len(found) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
