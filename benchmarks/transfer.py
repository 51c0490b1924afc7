"""Does pre-training pay? Encoders, controls and the baselines that labs use, on the questions that labs ask.

    python benchmarks/transfer.py --work runs/transfer [--only QUESTION ...] [--seeds N]
    python benchmarks/transfer.py --work runs/transfer --page     # tables, figure, record from what is there

For every question: the corpus is sharded from $FMRISCALE_DATA, every arm is pre-trained by
fmriscale/train.py for every fold, without the people and data sets that the fold tests, and `fmriscale
probe` asks the encoders of all seeds and the baselines. All is in one MLflow store (WORK/mlflow.db); what is
finished is not done again. The results go to docs/benchmark.md and docs/benchmark.png, their numbers to
WORK/benchmark.json. Questions and recipes: transfer_questions.py; corpora: transfer_corpora.py. With --quick,
noise stands for the data, and little is trained.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import transfer_page
import transfer_record
from transfer_corpora import CORPORA, write_toy
from transfer_questions import LIMITS, ONCE, QUESTIONS, WEIGHTED, Question, Settings, Toy

from fmriscale import cli, train
from fmriscale.common.errors import EXIT_OK, EXIT_QUARANTINED, UserError
from fmriscale.config import PretrainConfig, ProbeConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus

ROOT = Path(__file__).resolve().parents[1]
APART, TRACKED = True, True
"""Every pre-training has a process of its own, and MLflow keeps it; at toy size most time would be theirs."""


def main() -> None:
    """Compute what is missing, then write the page, the figure and the numbers."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--work", type=Path, help="corpora, encoders, probes, MLflow; kept, and used again")
    parser.add_argument("--only", nargs="+", help="these questions alone")
    parser.add_argument("--seeds", type=int, default=5, help="pre-trainings of every arm in every fold")
    parser.add_argument("--controls-once", action="store_true", help="train the other arms with one seed")
    parser.add_argument("--page", action="store_true", help="compute nothing, write from what is there")
    parser.add_argument("--docs", type=Path, help="where benchmark.md and its figure go (docs/)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a toy size: does it run, not what is found")
    given = parser.parse_args()
    questions = Toy().questions() if given.quick else QUESTIONS
    if unknown := set(given.only or ()) - set(questions):
        parser.error(f"--only: no question {sorted(unknown)}; there are {', '.join(questions)}")
    with tempfile.TemporaryDirectory(prefix="fmriscale-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if given.quick:
            given.seeds = 1
            globals().update(APART=False, TRACKED=False)
        transfer_record.begin(work)
        for name in () if given.page else given.only or questions:
            answer(questions[name], name, list(range(given.seeds)), work, controls_once=given.controls_once)
        found = transfer_page.collect(work, questions)
        docs = given.docs or (work if given.quick else ROOT / "docs")
        transfer_page.write(found, questions, docs, work)
        if not given.quick and not given.docs:
            transfer_record.write(found, work)
        figures = json.dumps(transfer_page.figures(found), indent=1) + "\n"
        (work / "benchmark.json").write_text(figures)
        if given.json:
            given.json.write_text(figures)


def answer(question: Question, name: str, seeds: list[int], work: Path, *, controls_once: bool) -> None:
    """Shard, pre-train and probe for one question, as far as it is not done."""
    corpus = sharded(question.corpus, work)
    settings = {**question.probe, "out": work / "probes" / name, "corpus": corpus, "seeds": seeds}
    settings |= tracking(work)
    main = next(iter(question.arms))
    seeds_of = {
        arm: seeds[:1] if ONCE in recipe or (controls_once and arm != main) else seeds
        for arm, recipe in question.arms.items()
    }
    encoders = pretrained(question, name, seeds_of, settings, work)
    fmriscale(
        ["probe", *options({**settings, **{f"encoders.{arm}": text for arm, text in encoders.items()}})]
    )


def sharded(name: str, work: Path) -> Path:
    """Return the folder of a corpus, which is made where it is missing."""
    folder = work / "corpora" / name
    if not (folder / "corpus.json").exists():
        if name == Toy.corpus:
            write_toy(folder)
        else:
            fmriscale([*CORPORA[name](work), "--out", str(folder)], fine=(EXIT_OK, EXIT_QUARANTINED))
    return folder


# ---------------------------------------------------------------- pre-training


def pretrained(
    question: Question, name: str, seeds_of: dict[str, list[int]], settings: Settings, work: Path
) -> dict[str, str]:
    """Return by arm where its encoders are, with {fold} and {seed} for the numbers; train the missing."""
    asked, folds = Corpus.open(settings["corpus"]).runs, test_sides(settings)
    source = question.pretrain_corpus or question.corpus
    runs = Corpus.open(str(sharded(source, work))).runs
    encoders = {}
    for arm, recipe in question.arms.items():
        links = work / "encoders" / name / arm
        links.mkdir(parents=True, exist_ok=True)
        own = {name: value for name, value in recipe.items() if name not in (*LIMITS, WEIGHTED, ONCE)}
        seeds = seeds_of[arm]
        for seed, (fold, tested) in itertools.product(seeds, enumerate(folds)):
            run = trained(source, own | unseen(question, runs, asked.iloc[tested], recipe), arm, seed, work)
            link = links / f"fold{fold}_seed{seed}"
            link.unlink(missing_ok=True)
            link.symlink_to(weighted(run) if WEIGHTED in recipe else run / "encoder")
        encoders[arm] = str(links / ("fold{fold}_seed" + ("{seed}" if len(seeds) > 1 else str(seeds[0]))))
    return encoders


def test_sides(settings: Settings) -> list[list[int]]:
    """Return the rows of the corpus that each fold of a probe tests."""
    from fmriscale.study.probe.data import open_probe

    known = {name: value for name, value in settings.items() if not name.startswith("train.")}
    config = parse(ProbeConfig, options(known))  # no encoder is there yet to learn
    probe = open_probe(config, Corpus.open(config.corpus))
    return [fold.test.tolist() for fold in probe.folds]


def unseen(question: Question, runs: pd.DataFrame, tested: pd.DataFrame, recipe: Settings) -> Settings:
    """Return the settings that keep what the test side has out of pre-training: people, data sets, or runs.

    A recipe may be of fewer people or stimuli than there are: the first ones by name.
    """
    left_out = set(tested["dataset"]) if "dataset" in question.unseen else set()
    kept = [name for name in question.pretrain_on if name not in left_out]
    there = runs["dataset"].isin(kept)
    own = [runs[column].isin(tested[column]) for column in question.unseen if column != "dataset"]
    held_out = there & np.logical_or.reduce(own)
    for name, column in LIMITS.items():
        if name in recipe:
            known = sorted(set(runs[column][there & ~held_out]))
            held_out |= there & ~runs[column].isin(known[: recipe[name]])
    return {"data.datasets": kept, "data.holdout_runs": runs["key"][held_out].tolist()}


def trained(corpus: str, recipe: Settings, arm: str, seed: int, work: Path) -> Path:
    """Return the run folder of a pre-training, which is run (or gone on with) where it is not finished."""
    identity = hashlib.sha256(json.dumps([corpus, recipe, seed], sort_keys=True).encode()).hexdigest()
    out = work / "pretrained" / f"{corpus}-{arm}-{identity[:12]}"
    if not (out / "encoder" / "config.json").exists():
        places = {"out": out, "data.corpus": work / "corpora" / corpus, "train.seed": seed}
        line = options({**recipe, **places, **tracking(work)})
        print(f"pre-training {out.name}", flush=True)
        if not APART:
            with contextlib.redirect_stdout(sys.stderr):
                code = train.main(line)
        else:
            log = work / "logs" / f"{out.name}.log"
            log.parent.mkdir(exist_ok=True)
            with log.open("a") as file:
                command = [sys.executable, str(ROOT / "fmriscale/train.py"), *line]
                code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        if code:
            raise SystemExit(f"pre-training {out} ended with {code}")
    return out


def weighted(run: Path) -> Path:
    """Return a run's encoder whose directions count by how alike people are in them; made where missing.

    Each column of the projection is scaled by the root of the ratio of the covariance between people to that
    within runs. The inner product of the volumes of two people is then that of what they share.
    """
    from fmriscale.model.directions import SHRINKAGE_SHARED, Sums, shrunk
    from fmriscale.model.encoder import Encoder
    from fmriscale.training.projection import TrainingRuns

    folder = run / "weighted"
    if not (folder / "config.json").exists():
        config = parse(PretrainConfig, ["--config", str(run / "config.yaml")])
        encoder, corpus = Encoder.from_pretrained(run / "encoder"), Corpus.open(config.data.corpus)
        rows = np.flatnonzero(corpus.runs["key"].isin(encoder.meta["train_runs"]))
        runs = TrainingRuns(corpus, config.data, config.train.seed, rows)
        for space, place in encoder.embedding.rows.items():
            sums = Sums(place.stop - place.start)
            for unit in runs.units(space):
                sums.add(runs.read(unit))
            weight_VD = encoder.embedding.weight.data[place]
            between_D, within_D = (
                np.einsum("vd,vw,wd->d", weight_VD.numpy(), covariance_VV, weight_VD.numpy())
                for covariance_VV in (sums.between_VV, shrunk(sums.within_VV, SHRINKAGE_SHARED))
            )
            ratio_D = np.maximum(between_D / within_D, 1e-4)
            weight_VD *= weight_VD.new_tensor(np.sqrt(ratio_D / ratio_D.mean()))
        encoder.save_pretrained(folder, encoder.meta)
    return folder


# ---------------------------------------------------------------- command lines


def tracking(work: Path) -> Settings:
    """Return the settings of the one MLflow store."""
    if not TRACKED:
        return {"tracking.enabled": False}
    return {"tracking.uri": f"sqlite:///{work / 'mlflow.db'}", "tracking.experiment": "transfer"}


def options(settings: Settings) -> list[str]:
    """Return settings as options of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", text_of(value))]


def text_of(value: Any) -> str:
    """Return a value as the command line takes it."""
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def fmriscale(words: list[str], fine: tuple[int, ...] = (EXIT_OK,)) -> None:
    """Run a verb of fmriscale; what it prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        code = cli.run(words)
    if code not in fine:
        sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"transfer.py: {error}")
