"""Settings of pre-training: pairs, data, encoder, optimisation, tracking."""

from dataclasses import dataclass, field
from typing import Any, Literal

KINDS = ("same_run", "same_subject", "same_dataset", "other_dataset", "reversed")
"""How a negative pair was drawn; the code of a kind is its place here plus one, 0 is a positive."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Which two sequences make a pair."""

    length: int = 5
    """Length of a sequence, volumes."""
    stride: int = 2
    """Distance between neighbouring left windows, volumes."""
    gap: int = 0
    """Volumes between the end of left and the start of a positive right."""
    negatives: dict[str, float] = field(default_factory=lambda: {"same_run": 0.5, "same_subject": 0.5})
    """Quota of each kind of negative (same_run, same_subject, same_dataset, other_dataset, reversed)."""
    min_distance: int = 15
    """A same_run negative starts at least this many volumes from where the positive starts, either side."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.negatives) - set(KINDS))
        if unknown:
            raise ValueError(f"pairs.negatives: unknown kind {unknown}; choose from {list(KINDS)}")
        if not self.negatives or min(self.negatives.values()) < 0 or sum(self.negatives.values()) <= 0:
            raise ValueError("pairs.negatives: give quotas of 0 or more with a sum above 0")
        for name, low in (("length", 1), ("stride", 1), ("gap", 0), ("min_distance", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"pairs.{name} is {getattr(self, name)}; it must be at least {low}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and in which mixture."""

    corpus: str
    """Folder of the corpus."""
    space: str | None = None
    """Feature space to train on; may be left out where the corpus has only one."""
    datasets: list[str] | None = None
    """Names of the data sets to train on; None = all that have the feature space."""
    mixture: Literal["weights", "proportional"] = "weights"
    """weights: those of the corpus recipe (proportional where it gives none); or proportional to windows."""
    holdout_runs: list[str] = field(default_factory=list)
    """Shell patterns of run keys that are never trained on and are evaluated instead, e.g. '*_run-01'."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """How pairs are drawn."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The stacked encoder. None = as the preset has it."""

    preset: Literal["paper", "tiny", "base", "large", "1b", "7b"] = "paper"
    """paper: d = V + 3, post-norm, learned positions; others: projection, pre-norm, rotary in seconds."""
    d_model: int | None = None
    """Width; the paper preset takes V + 3 and allows no other."""
    n_layers: int | None = None
    """Number of encoder blocks."""
    n_heads: int | None = None
    """Attention heads; must divide the width (the paper preset pads its width up with zero columns)."""
    dropout: float | None = None
    """Dropout rate."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation."""

    steps: int = 2000
    """Optimiser steps in all."""
    global_batch: int = 256
    """Pairs in one step, over all ranks and accumulation steps; fixed whatever the number of ranks."""
    max_micro_batch: int = 256
    """Most pairs in one forward pass of one rank; accumulation is derived from it."""
    lr: float = 3e-4
    """Peak learning rate."""
    schedule: Literal["wsd", "cosine", "constant"] = "cosine"
    """After the warm-up: stable then linear decay over the last fifth, cosine to a tenth, or constant."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW weight decay (matrices only)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW betas."""
    grad_clip: float = 1.0
    """Gradient norm is clipped to this; 0 = no clipping."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device has it in hardware, fp32 elsewhere."""
    zero_stage: int = 1
    """DeepSpeed ZeRO stage, 0 to 3."""
    offload: Literal["none", "cpu", "nvme"] = "none"
    """Where ZeRO keeps optimiser states (at stage 3 weights too): on the GPU, in host memory, or on disk."""
    nvme_path: str | None = None
    """Folder on a local disk, for offload: nvme."""
    activation_checkpointing: bool = False
    """Keep only the input of each block and compute the rest again in the backward pass: same result."""
    compile: bool = False
    """Compile the blocks with torch.compile; needs a C++ compiler (on a GPU also Triton)."""
    seed: int = 0
    """Seed of weights, dropout, order and pairs."""
    eval_every: int = 500
    """Steps between evaluations on held-out runs; 0 = only at the end."""
    eval_pairs: int = 4096
    """Held-out pairs per evaluation, spread over data sets."""
    save_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep_last: int = 2
    """Checkpoints kept."""
    log_every: int = 20
    """Steps between console lines; metrics.jsonl has every step."""
    max_bad_steps: int = 10
    """Abort after this many non-finite steps in a row."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Raw DeepSpeed settings merged over the derived ones; keys that fmriscale derives are refused."""

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"train.zero_stage is {self.zero_stage}; choose 0, 1, 2 or 3")
        if self.offload != "none" and self.zero_stage == 0:
            raise ValueError(f"train.offload {self.offload} needs train.zero_stage 1, 2 or 3; use 1, or none")
        if self.offload == "nvme" and (self.zero_stage != 3 or not self.nvme_path):
            raise ValueError("train.offload nvme needs train.zero_stage 3 and a folder in train.nvme_path")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """MLflow. Never stops the work: a store that fails is reported once and left alone."""

    enabled: bool = True
    """Log to MLflow."""
    uri: str | None = None
    """Tracking server or store, e.g. http://host:5000; None = mlflow.db beside the run folder."""
    experiment: str = "fmriscale"
    """Name of the MLflow experiment."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """`deepspeed fmriscale/train.py`: Next Thought Prediction on a corpus."""

    out: str
    """Run folder: config, metrics.jsonl, checkpoints, encoder/."""
    data: DataConfig
    """The data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The encoder."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """MLflow."""
