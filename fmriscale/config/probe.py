"""Settings of `fmriscale probe`: what is asked of encoders, from which rows, and over which folds."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from fmriscale.common.suggest import did_you_mean
from fmriscale.config.corpus import SPLITS
from fmriscale.config.pretrain import TrackingConfig, seconds_of
from fmriscale.config.settings import PathText, Rule, Settings

MOMENT = "moment"
"""The target that no column holds: which window of a shared stimulus is it?"""


@dataclass(frozen=True, kw_only=True)
class WindowConfig(Settings):
    """How runs are cut into the windows that an encoder reads one by one."""

    length: int | str = 10
    """Window length, volumes or seconds ('10 s'); the encoder's own length where it has learned positions."""
    stride: int | str | None = None
    """From one window of a run (or of a stimulus) to the next; None = length, end to end. With rows: window
    and an events column: None = one window after every event, else windows over the run, whose target is that
    of the events during them."""
    delay: float = 0.0
    """Haemodynamic delay, s: windows start so long after their event, or after the stimulus' time zero."""

    def _broken_rules(self) -> Iterator[Rule]:
        for name in ("length", "stride"):
            value = getattr(self, name)
            try:
                small = value is not None and (
                    (seconds_of(value) or 0) <= 0 if isinstance(value, str) else value < 1
                )
            except ValueError as error:
                yield (name,), f"windows.{name}: {error}"
                continue
            if small:
                yield (name,), f"windows.{name} is {value}; it must be above 0"


@dataclass(frozen=True, kw_only=True)
class ProbeTrainConfig(Settings):
    """How encoders learn the target, in every arm; they start from the linear model of their vectors."""

    adapt: Literal["probe", "lora", "full"] = "probe"
    """What learns: the linear model alone (linear probe: the encoder stays frozen), low-rank additions to the
    matrices too (LoRA), or all."""
    epochs: int = 20
    """Epochs at most: inner folds choose the number."""
    batch: int = 64
    """Rows in one step."""
    lr: float = 1e-4
    """Learning rate of encoder and linear model."""
    lora_rank: int = 8
    """With adapt: lora, rank of the additions."""

    def _broken_rules(self) -> Iterator[Rule]:
        for name in ("epochs", "batch", "lora_rank"):
            if getattr(self, name) < 1:
                yield (name,), f"train.{name} is {getattr(self, name)}; it must be at least 1"
        if not 0 < self.lr < math.inf:
            yield ("lr",), f"train.lr is {self.lr}; it must be above 0, and finite"


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Settings):
    """`fmriscale probe`: decode a column from encoders, beside the baselines that labs use."""

    out: PathText
    """Folder of the probe: config, results.tsv, summary.json, report.html, MLflow store."""
    corpus: PathText
    """Folder of the corpus, or its URL."""
    target: str
    """What is told from the signals: a column of the events (rows: window), of runs.tsv, or of those that
    participants_columns of the corpus recipe names; moment = which window of a shared stimulus (its recipe's
    `stimulus`) it is."""
    kind: Literal["classify", "regress"] = "classify"
    """Tell classes, or a number."""
    rows: Literal["run", "person", "window"] = "run"
    """What has one target: a run (its vector is the mean over its windows), a person (the mean over the
    runs), or a window."""
    encoders: dict[str, PathText] = field(default_factory=dict)
    """Arms: name and encoder/ folder, in which {fold} is replaced by the fold number and {seed} by
    each of `seeds` (one encoder a training). `pretrained` (or else
    the first) is the one that is judged, against a fresh encoder of its architecture, the others and the
    baselines; with none there are the baselines alone."""
    values: list[str] | None = None
    """Values of the target that take part; None = all."""
    quantiles: int | None = None
    """Cut a target of numbers into so many classes of equal size (2: below or above the median)."""
    datasets: list[str] | None = None
    """Data sets that take part; None = all of the feature space."""
    splits: list[str] = field(default_factory=lambda: list(SPLITS))
    """Corpus splits whose subjects take part."""
    space: str | None = None
    """Feature space; may be left out where the corpus has only one."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    """Windows."""
    pool: Literal["mean", "cls", "bins"] = "mean"
    """The vector of a window: the mean over its volumes, CLS, or the means of its time bins."""
    train: ProbeTrainConfig = field(default_factory=ProbeTrainConfig)
    """What of the encoders learns; by default nothing."""
    folds_by: str | list[str] = "subject"
    """What a fold leaves out: subject (with all kin), run (its place in a person's sequence), dataset,
    stimulus, or any column of runs or participants (a site). A list leaves out several at once: subject and
    stimulus = other people and another film."""
    n_folds: int | None = 5
    """Number of folds; None = one for every value of folds_by (leave one site out)."""
    train_sizes: list[int] | None = None
    """Sizes of the training side, in people, each a probe of its own; None = all there are."""
    regress_out: list[str] = field(default_factory=list)
    """Columns whose linear effect on the features is taken out, fitted on the training side of a fold:
    numbers (mean_fd, age), or texts, each value of which is a category (site)."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds of the fresh encoder's weights, of trainings that `encoders` names with {seed}, of the draw of
    people for train_sizes, and of how encoders learn."""
    allow_seen_runs: bool = False
    """Permit test runs that an encoder was pre-trained on (their unlabelled data leaked)."""
    jobs: int = 0
    """Fits computed at a time; 0 = one per available core."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """MLflow."""

    def _broken_rules(self) -> Iterator[Rule]:
        for name in self.encoders:
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in RESERVED:
                text = f"give lower-case letters, digits and _, and none of {', '.join(RESERVED)}"
                yield ("encoders",), f"encoders names an arm '{name}'; {text}"
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            yield ("seeds",), f"seeds is {self.seeds}; give one or more numbers of 0 or more, each once"
        if unknown := [split for split in self.splits if split not in SPLITS]:
            text = f"choose from {', '.join(SPLITS)}{did_you_mean(unknown[0], SPLITS)}"
            yield ("splits",), f"splits has '{unknown[0]}'; {text}"
        if self.train_sizes is not None and (not self.train_sizes or min(self.train_sizes) < 1):
            yield ("train_sizes",), f"train_sizes is {self.train_sizes}; give sizes above 0, or null for all"
        if self.n_folds is not None and self.n_folds < 2:
            yield ("n_folds",), f"n_folds is {self.n_folds}; give 2 or more, or null for one fold a value"
        if self.folds_by == []:
            yield ("folds_by",), "folds_by is empty; give subject, run, dataset, stimulus, or a column"
        if self.jobs < 0:
            yield ("jobs",), f"jobs is {self.jobs}; it must be 0 or more"
        if self.quantiles is not None and (self.quantiles < 2 or self.kind == "regress"):
            text = "it makes 2 or more classes of numbers, with kind: classify"
            yield ("quantiles",), f"quantiles is {self.quantiles}; {text}"
        if self.train.adapt != "probe":
            adapts = f"train.adapt is {self.train.adapt}"
            if not self.encoders:
                yield ("train", "encoders"), f"{adapts}, but no encoder is given to learn; name `encoders`"
            if self.regress_out:
                text = "confounds are taken out of frozen vectors alone; leave one of the two out"
                yield ("train", "regress_out"), f"{adapts}, with regress_out {self.regress_out}: {text}"
        if self.target == MOMENT and (self.rows != "window" or self.kind != "classify"):
            yield ("target", "rows", "kind"), "target: moment is of windows: set rows: window, kind: classify"


RESERVED = (
    *("fresh", "connectivity", "tangent", "raw", "window_mean", "pca", "whitening", "shared"),
    *("run_mean", "motion", "shuffled"),
)
"""Names of the arm that is always there, and of the baselines."""
