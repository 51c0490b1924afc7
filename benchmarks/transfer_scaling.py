"""How pre-training across people scales: loss and decoding against people, stimuli and width."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from transfer_corpora import FILM_PARTS
from transfer_questions import SCALE_ARMS, SCALED

from fmriscale.corpus.reader import Corpus
from fmriscale.model.encoder import Encoder
from fmriscale.model.vectors import window_vectors

QUESTION, TESTED, LENGTH = "film_scaling", "forrest_c", 10
WHOLE = {"people": 10, "stimuli": 6, "width": 64}
"""What the arm `full` has of each (of stimuli: what two parts of the film have)."""
NAMES = {"people": "people", "stimuli": "runs of the film (15 min each)", "width": "width of the encoder"}
SHARPNESS = np.geomspace(1, 100, 25)
"""Scales of similarities, of which the best is taken for every encoder."""
Summary = dict[str, Any]


def curves(summary: Summary, work: Path) -> dict[str, list[dict[str, float]]]:
    """Return by what is scaled the points of the curve, smallest first: loss, and accuracy."""
    losses = held_out_losses(work)
    found = {}
    for what, arms in SCALED.items():
        names = {n: f"{what}_{n}" for n in arms} | {WHOLE[what]: "full"}
        found[what] = [
            {"n": n, "loss": losses[name], **accuracies(summary, name)} for n, name in sorted(names.items())
        ]
    return found


def accuracies(summary: Summary, arm: str) -> dict[str, float]:
    """Return the accuracy of an arm by number of labelled people."""
    rows = [row for row in summary["by_size"] if row["method"] == arm]
    return {f"accuracy_{row['size'] or 'all'}": row[summary["figures"][0]]["mean"] for row in rows}


def held_out_losses(work: Path) -> dict[str, float]:
    """Return by arm the contrastive loss on what no arm has seen, the mean over folds."""
    corpus = Corpus.open(str(work / "corpora" / "film"))
    folder = work / "encoders" / QUESTION
    losses: dict[str, list[float]] = {}
    for full in sorted((folder / "full").iterdir()):
        runs, kept = corpus.runs, Encoder.from_pretrained(full).meta["train_runs"]
        seen = set(runs["person"][runs["key"].isin(kept)])
        tested = runs[(runs["dataset"] == TESTED) & ~runs["person"].isin(seen)]
        for arm in SCALE_ARMS:
            encoder = Encoder.from_pretrained(folder / arm / full.name)
            losses.setdefault(arm, []).append(loss_of(encoder, corpus, tested))
    return {name: float(np.mean(each)) for name, each in losses.items()}


def loss_of(encoder: Encoder, corpus: Corpus, tested: pd.DataFrame) -> float:
    """Return an encoder's loss in telling the right window of another person."""
    losses = []
    for run in [f"{number}" for number in FILM_PARTS[TESTED]]:
        of_run = tested.index[tested["run"].astype(str) == run].tolist()
        found = [vectors_of(encoder, corpus, row) for row in of_run]
        v_PWD = F.normalize(torch.from_numpy(np.stack(found)), dim=-1)
        alike = torch.einsum("iwd,jud->ijwu", v_PWD, v_PWD)[~torch.eye(len(v_PWD), dtype=torch.bool)]
        right = torch.arange(alike.shape[-1]).repeat(len(alike))
        each = [F.cross_entropy(float(s) * alike.flatten(0, 1), right).item() for s in SHARPNESS]
        losses.append(min(each))
    return float(np.mean(losses))


def vectors_of(encoder: Encoder, corpus: Corpus, row: int) -> np.ndarray:
    """Return the vectors of all windows of a run, end to end, [W, D]."""
    about, bold_TV = corpus.runs.iloc[row], corpus.bold(row)
    windows = [bold_TV[i : i + LENGTH] for i in range(0, len(bold_TV) - LENGTH + 1, LENGTH)]
    return window_vectors(encoder, np.stack(windows), about.t_r, about.space, "bins")


def fit(points: list[dict[str, float]], name: str) -> tuple[float, float]:
    """Return exponent and factor of the power law through points, by least squares of logarithms."""
    x, y = (np.log([point[key] for point in points]) for key in ("n", name))
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(np.exp(start))


def section(found: dict[str, list[dict[str, float]]]) -> str:
    """Return the tables of the curves, with their fits."""
    lines = [
        "## How it scales\n",
        "Loss: InfoNCE among the windows of a run, on people and a part of the film that no encoder saw. "
        "Accuracy: the moment, with so many labelled people. 100 steps each, one seed, three folds. The last "
        "line of a table is the power of n by which a column changes, fitted to logarithms.\n",
    ]
    for what, points in found.items():
        names = [name for name in points[0] if name != "n"]
        lines += [f"| {what} | {' | '.join(names).replace('_', ', ')} |", "|---|" + "---|" * len(names)]
        for point in points:
            lines.append(f"| {point['n']} | {' | '.join(f'{point[name]:.3f}' for name in names)} |")
        powers = [f"{fit(points, name)[0]:+.3f}" for name in names]
        lines += [f"| power of n | {' | '.join(powers)} |", ""]
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw loss and accuracy against each of what is scaled, both axes logarithmic, with their fits."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, axes = plt.subplots(2, len(found), figsize=(3.6 * len(found), 5.2), squeeze=False)
    for column, (what, points) in enumerate(found.items()):
        for row, name in enumerate(("loss", "accuracy_2")):
            axis, x = axes[row, column], np.array([point["n"] for point in points], float)
            power, factor = fit(points, name)
            y = [point[name] for point in points]
            axis.loglog(x, y, "o", color="#2f5fb3")
            axis.loglog(x, factor * x**power, color="#9a9a9a", label=f"n^{power:+.2f}")
            axis.legend(fontsize=8, frameon=False)
            axis.set_xlabel(NAMES[what], fontsize=8)
            axis.set_ylabel({"loss": "loss", "accuracy_2": "accuracy, 2 labelled people"}[name], fontsize=8)
            for side, values in ((axis.xaxis, x), (axis.yaxis, np.linspace(min(y), max(y), 4).round(2))):
                side.set_major_locator(FixedLocator(sorted(set(values))))
                side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                side.set_minor_locator(NullLocator())
            axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
