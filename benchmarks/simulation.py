"""What a study finds where the truth is known: simulated people in the design of the real timbre experiment.

    python benchmarks/simulation.py [--seeds N] [--folder DIR] [--json FILE] [--figure FILE]
                                    [--only PART ...] [--quick]

Parts, each from simulated signals of an ROI (no images), 17 people x 8 runs:

    offsets   runs differ by offsets, not by timbre: `paper` pairs look good, `cross_run` pairs do not
    timbre    timbre and no offsets: both do; pre-trained and fresh arm by number of training people, each
              person left out in turn
    nulls     hundreds of studies with a light model: how often p < 0.05 where nothing is to be found

The order of tones is that of $FMRISCALE_DATA/timbre_design/events.tsv, or where that is not, a generated one.
About 75 minutes on one core; finished work in the folder is used again.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import null_studies
import numpy as np

from fmriscale import cli, train
from fmriscale.common.files import expand
from fmriscale.config import SimulateConfig

REPOSITORY = Path(__file__).parents[1]
EVENTS: str | None = "$FMRISCALE_DATA/timbre_design/events.tsv"
WORLDS = {"offsets": {"timbre": 0.0, "run_offset": 1.0}, "timbre": {"timbre": 0.5, "run_offset": 0.0}}
"""Strengths, in standard deviations of a voxel's noise."""
N_VOXELS, N_PEOPLE = 64, 17
SIZES = [1, 2, 4, 8, 15]
"""Training people."""
N_SEEDS = 3
N_STUDIES, N_MORE, N_EXPERIMENTS = 200, 20, 8
CHANGED: dict[str, list[Any]] = {"simulate": [], "others": [], "pretrain": [], "finetune": []}
"""Further options, by what they are for."""
SMALL = ["--model.preset", "tiny", "--model.d_model", 16, "--model.n_layers", 1, "--model.n_heads", 2]
SHORT = ["--train.steps", 2, "--train.global_batch", 8, "--train.eval_pairs", 8]
QUICK = {
    **{"N_VOXELS": 8, "N_PEOPLE": 4, "SIZES": [1, 2], "N_SEEDS": 1, "EVENTS": None},
    **{"N_STUDIES": 2, "N_MORE": 2, "N_EXPERIMENTS": 1},
    "CHANGED": {
        "simulate": ["--n_subjects", 4],
        "others": ["--n_subjects", 4],
        "pretrain": [*SMALL, *SHORT],
        "finetune": [*SMALL, "--train.epochs", 1, "--seeds", "[0]"],
    },
}
FEW_TESTS = {
    "p": "equal arms, 1 to 4 training people: the test over people",
    "as_cut": "the same: corrected t, n_test / n_train as the folds are cut",
    "as_trained": "the same: corrected t, n_train as few as train",
}
ARMS = ("pretrained", "fresh")
BASELINES = ("category", "run_means", "same_run", "shuffled")

Tell = Callable[..., None]


def main() -> None:
    """Run the parts, print a line a figure, write JSON and the drawing."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--folder", type=Path, help="corpora, encoders and studies; kept, and used again")
    parser.add_argument("--seeds", type=int, help="trainings of an arm in a fold, cross-run pairs (3)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw accuracy by protocol and by training people")
    parser.add_argument("--only", nargs="+", choices=["offsets", "timbre", "nulls"], help="these parts alone")
    parser.add_argument("--quick", action="store_true", help="a toy size: does it run, not what is found")
    options = parser.parse_args()
    if options.quick:
        globals().update(QUICK)
        vars(null_studies).update(null_studies.QUICK)
    if options.figure and options.only and not {"offsets", "timbre"} <= set(options.only):
        parser.error("--figure draws the parts offsets and timbre; leave --only out")
    figures: dict[str, dict] = {}

    def tell(name: str, value: float, low: float | None, high: float | None, n: int, reference: str) -> None:
        figures[f"simulation.{name}"] = {
            **{"value": value, "unit": "share", "median_of": 1},
            **{"low": low, "high": high, "n": n, "reference": reference},
        }
        between = "" if low is None else f"[{low:.3f}, {high:.3f}]"
        print(f"{name:44} {value:7.3f}  {between:16} n = {n:<4} {reference}", flush=True)

    with tempfile.TemporaryDirectory(prefix="fmriscale-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        parts = options.only or ["offsets", "timbre", "nulls"]
        studies: dict[tuple[str, str], dict] = {}
        for world in ("offsets", "timbre"):
            if world in parts:
                for protocol in ("paper", "cross_run"):
                    studies[world, protocol] = protocol_study(
                        folder, world, protocol, options.seeds or N_SEEDS
                    )
                    tell_study(world, protocol, studies[world, protocol], tell)
        if "nulls" in parts:
            null_part(folder, tell)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.figure:
        draw(options.figure, studies)


# ---------------------------------------------------------------- the pieces of a study


def verb(*words: Any) -> None:
    """Run a verb of fmriscale; what it prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        code = cli.run([*map(str, words)])
    if code:
        sys.exit(code)


def simulated(world: str) -> list[Any]:
    """Return options for `fmriscale simulate`: strengths, size and form."""
    strengths = [word for name, value in WORLDS[world].items() for word in (f"--{name}", value)]
    return [*strengths, "--n_roi_voxels", N_VOXELS, "--form", "corpus"]


def real_events() -> str | None:
    """Return where the order of tones of the real experiment is, if it is there."""
    return EVENTS if EVENTS and "FMRISCALE_DATA" in os.environ and expand(EVENTS).exists() else None


def design() -> list[Any]:
    """Return the option that takes the real events, or says that there are none."""
    if events := real_events():
        return ["--events", events]
    print("no events of the real experiment: the design is a generated one of the same kind", file=sys.stderr)
    return ["--events", "null"]


def protocol_study(folder: Path, world: str, protocol: str, n_seeds: int) -> dict[str, Any]:
    """Simulate, pre-train and fine-tune; return the summary of the study.

    `paper` pre-trains on runs 1-4 of the people whose runs 5-8 it tests, and has ten seeds; `cross_run`
    pre-trains on 48 other people.
    """
    recipes, name = REPOSITORY / "configs", f"{world}_{protocol}"
    corpus, encoder, out = (folder / f"{name}_{what}" for what in ("corpus", "encoder", "study"))
    recipe = ["--config", recipes / "simulate_timbre.yaml", "--out", corpus, *simulated(world), *design()]
    published = ["--clean", "false", "--split.val", 0, "--split.test", 0]
    verb("simulate", *recipe, *CHANGED["simulate"], *(published if protocol == "paper" else []))
    unlabelled = corpus
    if protocol == "cross_run":
        unlabelled = folder / f"{world}_listeners"
        others = recipes / "simulate_listeners.yaml"
        verb("simulate", "--config", others, "--out", unlabelled, *simulated(world), *CHANGED["others"])
    training = {"paper": "pretrain_paper.yaml", "cross_run": "pretrain_simulated.yaml"}[protocol]
    pretrain(recipes / training, encoder, unlabelled, ["--train.steps", 400] if protocol == "paper" else [])
    recipe = [
        "--config",
        recipes / {"paper": "timbre_paper.yaml", "cross_run": "timbre_simulated.yaml"}[protocol],
    ]
    changed: dict[str, Any] = {"out": out, "corpus": corpus, "pretrained": encoder / "encoder", "jobs": 1}
    changed |= {"tracking.enabled": "false", "keep_model": "false", "controls": "{}"}
    if protocol == "cross_run":
        changed["seeds"] = [*range(n_seeds)]
    if (world, protocol) == ("timbre", "cross_run"):
        changed |= {"n_folds": N_PEOPLE, "train_sizes": SIZES}
    words = (word for key, value in changed.items() for word in (f"--{key}", value))
    verb("finetune", *recipe, *words, *CHANGED["finetune"])
    return json.loads((out / "summary.json").read_text())


def pretrain(recipe: Path, out: Path, corpus: Path, changed: list[Any]) -> None:
    """Pre-train in one process."""
    words = ["--config", recipe, "--out", out, "--data.corpus", corpus, "--train.zero_stage", 0]
    words += ["--tracking.enabled", "false", "--train.eval_every", 0, *changed, *CHANGED["pretrain"]]
    with contextlib.redirect_stdout(sys.stderr):
        code = train.main([*map(str, words)])
    if code:
        sys.exit(code)


# ---------------------------------------------------------------- telling


def tell_study(world: str, protocol: str, summary: dict[str, Any], tell: Tell) -> None:
    """Tell the accuracy of arms and baselines over people, and the arms by size."""
    chance = {("offsets", "cross_run"): "aim: the interval holds 0.5"}.get(
        (world, protocol), "aim: above 0.5"
    )
    for name in (*ARMS, *BASELINES):
        if name in summary["arms"]:
            found = summary["arms"][name]["by_condition"]["all"]["accuracy"]
            about = chance if name in ARMS else summary["arms"][name]["title"]
            tell(f"{world}_{protocol}_{name}", found["mean"], found["low"], found["high"], found["n"], about)
    row = summary["comparisons"][0]
    tell(f"{world}_{protocol}_gain", row["effect"], row["low"], row["high"], row["n"], tests(row))
    for row in summary["by_size"] if len(summary["sizes"]) > 1 else ():
        name = f"{world}_{row['arm']}_{row['size']}_people"
        tell(name, row["accuracy"], row["low"], row["high"], summary["n_units"], f"AUC {row['auc']:.3f}")
    for row in summary["size_comparisons"] if len(summary["sizes"]) > 1 else ():
        name = f"{world}_gain_{row['size']}_people"
        tell(name, row["effect"], row["low"], row["high"], row["n"], tests(row))


def tests(row: dict[str, Any]) -> str:
    """Tell p over people, the same adjusted over sizes, and p of the corrected t over folds and seeds."""
    over_folds = "one fold" if row["corrected_p"] is None else f"{row['corrected_p']:.2g}"
    return f"p {row['p']:.2g}, Holm {row['p_holm']:.2g}; corrected t: {over_folds}"


def null_part(folder: Path, tell: Tell) -> None:
    """Tell how often light studies find what is not there."""
    results = {}
    events = real_events()
    for world, strengths in WORLDS.items():
        experiment = SimulateConfig(
            out="", form="corpus", events=events, n_subjects=N_PEOPLE, n_roi_voxels=N_VOXELS
        )
        experiment = replace(experiment, **strengths)
        log = folder / f"nulls_{world}.jsonl"
        results[world] = null_studies.run(experiment, N_STUDIES, N_MORE, log)
        for draws in ("few", "one_draw"):
            log = folder / f"{draws}_{world}.jsonl"
            few = null_studies.with_few(experiment, N_EXPERIMENTS, log, shared=draws == "one_draw")
            for test, reference in FEW_TESTS.items():
                hits = [row[test] < 0.05 for row in few]
                tell(f"{world}_{draws}_train_{test}", *null_studies.share(hits), len(hits), reference)
            both = [row["p"] < 0.05 and row["as_cut"] < 0.05 for row in few]
            tell(f"{world}_{draws}_train_both", *null_studies.share(both), len(both), "what the verdict asks")
    questions = {
        "null_chance": ("offsets", "cross_run", "chance", "an arm against 0.5, no timbre: 0.05 is right"),
        "null_paper_chance": ("offsets", "paper", "chance", "an arm against 0.5, no timbre, published pairs"),
        "null_arms": ("offsets", "cross_run", "arms", "two equal arms, no timbre: 0.05 is right"),
        "equal_arms": (
            "timbre",
            "cross_run",
            "arms",
            "two equal arms, timbre: 0.05 if luck of a draw counted",
        ),
    }
    for name, (world, protocol, test, reference) in questions.items():
        for figure, value, low, high, n in null_studies.shares(results[world], protocol, test):
            of = reference if figure != "coverage" else "95 % intervals that hold 0"
            tell(f"{name}_{figure}", value, low, high, n, of)
    for world, found in results.items():
        p = np.array([r["cross_run"]["shuffled"][0] for r in found if "shuffled" in r["cross_run"]])
        passed = int((p >= 0.05 / len(p)).sum())
        tell(f"{world}_shuffled_at_chance", passed / len(p), None, None, len(p), "p >= 0.05 / n against 0.5")


def draw(path: Path, studies: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Draw accuracy by signal and protocol, and the arms by number of training people."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"pretrained": "#0b6e99", "fresh": "#e07b39", "run_means": "#8a8f98", "same_run": "#c9ccd1"}
    titles = {
        "pretrained": "pre-trained",
        "fresh": "fresh",
        "run_means": "run means",
        "same_run": "same-run oracle",
    }
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.2), width_ratios=[1.5, 1], constrained_layout=True
    )
    words = {"offsets": "run offsets, no timbre", "timbre": "timbre, no offsets"}
    for group, summary in enumerate(studies.values()):
        for place, (name, colour) in enumerate(colours.items()):
            found = summary["arms"][name]["by_condition"]["all"]["accuracy"]
            x, mean = group + (place - 1.5) * 0.2, found["mean"]
            spread = [[mean - found["low"]], [found["high"] - mean]]
            label = titles[name] if group == 0 else None
            left.bar(x, mean - 0.5, 0.18, bottom=0.5, color=colour, label=label)
            left.errorbar(x, mean, spread, color="#333333", linewidth=1, capsize=2)
    left.axhline(0.5, color="#333333", linewidth=0.8)
    left.set_xticks(range(len(studies)), [f"{words[w]}\n{p} pairs" for w, p in studies], fontsize=8)
    left.set(ylim=(0.4, 1.02), ylabel="accuracy (95 % interval over people)")
    left.set_title("What a study finds, by what is in the data", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    curve = studies["timbre", "cross_run"]["by_size"]
    for arm in ARMS:
        rows = [row for row in curve if row["arm"] == arm]
        sizes = [row["size"] for row in rows]
        right.plot(sizes, [row["accuracy"] for row in rows], "o-", color=colours[arm], label=titles[arm])
        low, high = ([row[end] for row in rows] for end in ("low", "high"))
        right.fill_between(sizes, low, high, color=colours[arm], alpha=0.2, linewidth=0)
    right.axhline(0.5, color="#333333", linewidth=0.8)
    right.set_xscale("log", base=2)
    right.set_xticks(SIZES, [str(size) for size in SIZES])
    right.set(xlabel="training people", ylim=(0.4, 1.02))
    right.set_title("Timbre in the data, cross-run pairs", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
