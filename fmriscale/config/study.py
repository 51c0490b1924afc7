"""Settings of `fmriscale finetune`: the task, the training of a cell, folds and arms."""

from dataclasses import dataclass, field
from typing import Literal

from fmriscale.config.corpus import SPLITS
from fmriscale.config.pretrain import ModelConfig, TrackingConfig


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Same-label pairs: were two windows recorded under the same label?"""

    label: str = "trial_type"
    """Events column whose value is the label (timbre, trial_type, genre, ...)."""
    labels: list[str] | None = None
    """Values that take part; None = all that occur."""
    condition: str | None = None
    """Events column within which pairs are formed (heard with heard, ...); None = all together."""
    conditions: list[str] | None = None
    """Values of the condition column that take part; None = all."""
    length: int = 5
    """Window length, volumes; the encoder's own length when it has learned positions."""
    delay: float = 4.0
    """Haemodynamic delay between onset and window start, s."""
    pairs: Literal["cross_run", "any"] = "cross_run"
    """cross_run: positives and negatives are both from different runs; any: run is ignored."""
    pairs_per_window: int = 4
    """Pairs drawn per left window (half positive, half negative)."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"task.length is {self.length}; it must be at least 1")
        if self.pairs_per_window < 2 or self.pairs_per_window % 2:
            raise ValueError(f"task.pairs_per_window is {self.pairs_per_window}; give an even number")


@dataclass(frozen=True, kw_only=True)
class FinetuneTrainConfig:
    """Fine-tuning of one cell."""

    epochs: int = 20
    """Epochs of every cell; the last one is reported, none is selected on test data."""
    batch: int = 64
    """Pairs in one step."""
    lr: float = 1e-4
    """Learning rate of the encoder."""
    head_lr: float | None = None
    """Learning rate of the new head; None = lr."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    freeze: bool = False
    """Train the head alone (linear probe)."""
    projection_epochs: int = 0
    """Give a feature space that the encoder has not seen a new projection, and train it and the head alone
    in the first so many of the epochs; 0 = refuse such a space."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """`fmriscale finetune`: fresh and pre-trained arms over folds and seeds, with controls."""

    out: str
    """Study folder: config, results.tsv, curves.tsv, figure, MLflow store."""
    corpus: str
    """Folder of the corpus with the labelled runs, or its URL."""
    pretrained: str | None
    """encoder/ folder of a pre-training; {fold} is replaced by the fold number; None = fresh arm only."""
    datasets: list[str] | None = None
    """Data sets that take part; None = all of the encoder's feature space."""
    splits: list[str] = field(default_factory=lambda: list(SPLITS))
    """Corpus splits whose subjects take part."""
    space: str | None = None
    """Feature space; may be left out where the corpus has only one."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """The labelled pairs."""
    folds_by: Literal["subject", "run"] = "subject"
    """Leave subjects or leave runs out."""
    n_folds: int = 4
    """Number of folds (at most the number of subjects or runs)."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds of head, order and dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Encoder of the fresh arm where nothing is pre-trained; else the pre-trained encoder's own."""
    train: FinetuneTrainConfig = field(default_factory=FinetuneTrainConfig)
    """Fine-tuning."""
    allow_seen_runs: bool = False
    """Permit test runs that the encoder was pre-trained on (their unlabelled data leaked)."""
    jobs: int = 0
    """Cells computed at a time; 0 = one per available core."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """MLflow."""
