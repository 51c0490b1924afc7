"""Settings of `fmriscale finetune`: the task, the training of a cell, folds and arms."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fmriscale.common.suggest import did_you_mean
from fmriscale.config.corpus import SPLITS
from fmriscale.config.pretrain import ModelConfig, TrackingConfig
from fmriscale.config.settings import PathText, Rule, Settings


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Settings):
    """Same-label pairs: were two windows recorded under the same label?"""

    protocol: Literal["cross_run", "paper", "any"] = "cross_run"
    """cross_run: positives and negatives are both from different runs, matched in how far apart these are;
    paper: any two windows of a person and condition, drawn without matching, as published; any: matched, but
    both may be of one run."""
    label: str = "trial_type"
    """Events column whose value is the label (timbre, trial_type, genre, ...); with label_of: run a column of
    runs.tsv (dataset, task, ...) or one that participants_columns of the corpus recipe names."""
    label_of: Literal["event", "run"] = "event"
    """event: a window after every event; run: windows spread over every run, which has one label."""
    labels: list[str] | None = None
    """Values that take part; None = all that occur."""
    condition: str | None = None
    """Column of the same kind within which pairs are formed (heard with heard); None = all together."""
    conditions: list[str] | None = None
    """Values of the condition column that take part; None = all."""
    train_conditions: list[str] | None = None
    """Values to train on, for transfer (heard); None = those of `conditions`."""
    test_conditions: list[str] | None = None
    """Values to test on, for transfer (imagined); None = those of `conditions`."""
    partners: Literal["same_person", "other_person"] = "same_person"
    """Both windows of a pair are of one person, or of two."""
    length: int = 5
    """Window length, volumes; the encoder's own length when it has learned positions."""
    delay: float = 4.0
    """Haemodynamic delay between onset and window start, s."""
    windows_per_run: int = 4
    """With label_of: run, windows cut from a run, evenly spread."""
    pairs_per_window: int = 4
    """Pairs drawn per left window (half positive, half negative)."""
    standardize: Literal["run", "subject"] = "run"
    """run: as the corpus has it; subject: linear trend and scale of all runs of a subject together, as
    published: offsets of runs stay in, and held-out runs take part."""

    def _broken_rules(self) -> Iterator[Rule]:
        if self.length < 1:
            yield ("length",), f"task.length is {self.length}; it must be at least 1"
        if self.pairs_per_window < 2 or self.pairs_per_window % 2:
            text = f"task.pairs_per_window is {self.pairs_per_window}; give an even number"
            yield ("pairs_per_window",), text
        if self.windows_per_run < 1:
            text = f"task.windows_per_run is {self.windows_per_run}; it must be at least 1"
            yield ("windows_per_run",), text
        if self.condition is None and (self.conditions or self.train_conditions or self.test_conditions):
            given = ("conditions", "train_conditions", "test_conditions")
            yield given, "task: values of a condition are given, but no column; set task.condition"
        if self.protocol == "paper" and self.partners == "other_person":
            text = "task.protocol: paper pairs within a person; use cross_run with other_person"
            yield ("protocol", "partners"), text


@dataclass(frozen=True, kw_only=True)
class FinetuneTrainConfig(Settings):
    """Fine-tuning of one cell."""

    epochs: int = 20
    """Epochs of every cell."""
    report: Literal["last", "best"] = "last"
    """Epoch that is reported: the last; or the best on the test pairs, as published, which flatters."""
    batch: int = 64
    """Pairs in one step."""
    lr: float = 1e-4
    """Learning rate of the encoder."""
    head_lr: float | None = None
    """Learning rate of the new head; None = lr."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    adapt: Literal["full", "probe", "lora"] = "full"
    """What learns beside the head, in every arm: all, nothing (linear probe), or low-rank additions to the
    matrices (LoRA)."""
    lora_rank: int = 8
    """With adapt: lora, rank of the additions."""
    projection_epochs: int = 0
    """Give a feature space that the encoder has not seen a new projection, and train it and the head alone
    in the first so many of the epochs; 0 = refuse such a space."""
    pair: Literal["joint", "siamese"] = "joint"
    """joint: both windows through the encoder together, as in pre-training; siamese: one at a time, and the
    head sees |a - b| and a * b."""
    pool: Literal["cls", "mean", "bins"] = "cls"
    """What the head reads: CLS; the mean over the tokens of volumes; or their means in five bins of time."""

    def _broken_rules(self) -> Iterator[Rule]:
        for name in ("epochs", "batch", "lora_rank"):
            if getattr(self, name) < 1:
                yield (name,), f"train.{name} is {getattr(self, name)}; it must be at least 1"
        for name, rate in (("lr", self.lr), ("head_lr", self.head_lr)):
            if rate is not None and not 0 < rate < math.inf:
                yield (name,), f"train.{name} is {rate}; it must be above 0, and finite"
        if not 0 <= self.weight_decay < math.inf:
            yield ("weight_decay",), f"train.weight_decay is {self.weight_decay}; give 0 or more"


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """`fmriscale finetune`: fresh and pre-trained arms over folds and seeds, with controls."""

    elsewhere: ClassVar[dict[str, str]] = {
        "task.kind": "a study compares pairs of windows; to tell or predict a column, take `fmriscale probe` "
        "(target: its name; kind: classify or regress; train.adapt: lora or full)"
    }
    """What a study does not ask."""

    out: PathText
    """Study folder: config, results.tsv, curves.tsv, report.html, MLflow store."""
    corpus: PathText
    """Folder of the corpus with the labelled runs, or its URL."""
    pretrained: PathText | None
    """encoder/ folder of a pre-training; {fold} is replaced by the fold number; None = fresh arm only (and no
    controls)."""
    controls: dict[str, PathText] = field(default_factory=dict)
    """Further arms for comparison: name and encoder/ folder. shuffled_order: the same pre-training, with
    data.volume_order shuffled; shifted_clock (for one across people): with data.stimulus_clock shifted. Where
    the one that is due is left out, the report says so."""
    datasets: list[str] | None = None
    """Data sets that take part; None = all of the encoder's feature space."""
    splits: list[str] = field(default_factory=lambda: list(SPLITS))
    """Corpus splits whose subjects take part."""
    space: str | None = None
    """Feature space; may be left out where the corpus has only one."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """The labelled pairs."""
    folds_by: Literal["subject", "run", "half"] = "subject"
    """Leave subjects or runs out; half: train on the first half of every person's runs, test on the other."""
    n_folds: int = 4
    """Number of folds (at most the number of subjects or runs); halves: 1 or, both ways, 2."""
    train_sizes: list[int] | None = None
    """Sizes of the training side, in subjects (or runs), each a study of its own; None = all there are."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds of head, order and dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Encoder of the fresh arm where nothing is pre-trained; else the pre-trained encoder's own."""
    train: FinetuneTrainConfig = field(default_factory=FinetuneTrainConfig)
    """Fine-tuning."""
    keep_model: bool = True
    """Fit the recipe once more, on all subjects: model/ of the study's folder, registered in MLflow."""
    allow_seen_runs: bool = False
    """Permit test runs that the encoder was pre-trained on (their unlabelled data leaked)."""
    jobs: int = 0
    """Cells computed at a time; 0 = one per available core, and at most four on each GPU."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """MLflow."""

    def _broken_rules(self) -> Iterator[Rule]:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield ("seeds",), f"seeds is {self.seeds}; give one or more, each once: a seed is a training"
        if min(self.seeds, default=0) < 0:
            yield ("seeds",), f"seeds is {self.seeds}; give numbers of 0 or more"
        if unknown := [split for split in self.splits if split not in SPLITS]:
            text = f"choose from {', '.join(SPLITS)}{did_you_mean(unknown[0], SPLITS)}"
            yield ("splits",), f"splits has '{unknown[0]}'; {text}"
        if self.train_sizes == []:
            yield ("train_sizes",), "train_sizes is empty; give sizes, or null for all there are"
        if self.jobs < 0:
            yield ("jobs",), f"jobs is {self.jobs}; it must be 0 or more"
        for name in self.controls:
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in ("fresh", "pretrained"):
                text = "give lower-case letters, digits and _, and neither fresh nor pretrained"
                yield ("controls",), f"controls names an arm '{name}'; {text}"
