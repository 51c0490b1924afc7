"""Settings of pre-training: pairs, data, encoder, optimisation, tracking."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from fmriscale.common.suggest import did_you_mean
from fmriscale.config.settings import PathText, Rule, Settings

KINDS = ("same_run", "same_subject", "same_dataset", "other_dataset", "reversed", "anywhere", "other_person")
"""How a negative pair was drawn; the code of a kind is its place here plus one, 0 is a positive."""
KIND_NAMES = ("positive", *KINDS, "positive_other_person")
"""Names of all kinds of pairs by their code."""
POSITIVE_KINDS = (0, len(KINDS) + 1)
"""Codes of the kinds in which right follows left: in the same run, or in another person's."""

_SECONDS = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?s")


def seconds_of(value: int | str) -> float | None:
    """Return the seconds of a duration such as "10 s"; None where it is a number of volumes."""
    if isinstance(value, int):
        return None
    if not (duration := _SECONDS.fullmatch(value.strip())):
        raise ValueError(f"'{value}' is neither a number of volumes nor a duration such as '10 s'")
    return float(duration[1])


@dataclass(frozen=True, kw_only=True)
class PairConfig(Settings):
    """Which two sequences make a pair. Durations are volumes (5) or seconds ('10 s': rounded by each t_r)."""

    length: int | str = 5
    """Length of a sequence, volumes or seconds; in seconds, data sets may differ in volumes, steps do not."""
    stride: int | str = 2
    """Distance between neighbouring left windows, volumes or seconds."""
    gap: int | str = 0
    """Between the end of left and the start of a positive right, volumes or seconds."""
    negatives: dict[str, float] = field(default_factory=lambda: {"same_run": 0.5, "same_subject": 0.5})
    """Quota of each kind: same_run, same_subject, same_dataset, other_dataset, reversed, anywhere; and, with
    partner other_person, the quota of other_person among negatives and among positives."""
    partner: Literal["same_person", "other_person"] = "same_person"
    """other_person: as often as the quota of other_person says, the right sequence is from another person who
    shares the stimulus of left: at the following time of it, or, as a negative, at another time."""
    min_distance: int | str = 15
    """A same_run negative starts at least this far from where the positive does, volumes or seconds."""
    first: int | str = 0
    """Where in a run the first left may start, volumes or seconds."""

    def _broken_rules(self) -> Iterator[Rule]:
        unknown = sorted(set(self.negatives) - set(KINDS))
        if unknown:
            text = f"choose from {list(KINDS)}{did_you_mean(unknown[0], KINDS)}"
            yield ("negatives",), f"pairs.negatives: unknown kind {unknown}; {text}"
        if not self.negatives or min(self.negatives.values()) < 0 or sum(self.negatives.values()) <= 0:
            yield ("negatives",), "pairs.negatives: give quotas of 0 or more with a sum above 0"
        has_quota = self.negatives.get("other_person", 0) > 0
        if self.partner == "same_person" and has_quota:
            text = (
                "pairs.negatives has other_person, but pairs.partner is same_person: set it to other_person"
            )
            yield ("negatives", "partner"), text
        elif self.partner == "other_person" and not has_quota:
            what = "pairs.partner other_person needs a quota of other_person in pairs.negatives"
            text = "positives have the same quota, and runs without a shared stimulus take the other kinds"
            yield ("partner", "negatives"), f"{what}, e.g. {{other_person: 0.8, same_run: 0.2}}: {text}"
        for name, low in (("length", 1), ("stride", 1), ("gap", 0), ("min_distance", 0), ("first", 0)):
            value = getattr(self, name)
            try:
                seconds = seconds_of(value)
            except ValueError as error:
                yield (name,), f"pairs.{name}: {error}"
                continue
            if seconds is None and value < low:
                yield (name,), f"pairs.{name} is {value}; it must be at least {low}"


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """What is read, and in which mixture."""

    corpus: PathText
    """Folder of the corpus, or its URL: https://, s3://, or another that fsspec opens."""
    cache: PathText | None = None
    """Folder for the shards of a corpus on a server; None = $FMRISCALE_CACHE, or else ~/.cache/fmriscale."""
    cache_gb: float | None = None
    """Limit of that folder, GB (10^9 bytes): shards longest unused are deleted; None = no limit."""
    space: str | list[str] | None = None
    """Feature space or spaces to train on; None = all. Each step reads one space."""
    datasets: list[str] | None = None
    """Names of the data sets to train on; None = all that have the feature space."""
    mixture: Literal["weights", "proportional", "temperature"] = "weights"
    """weights (proportional where there are none); proportional to windows; or windows ** temperature."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight by data set, for mixture: weights; else those of the corpus recipe hold. 0 = not drawn from."""
    temperature: float = 0.5
    """Exponent of mixture: temperature; 1 = proportional, 0 = every data set alike."""
    shuffle: Literal["exact", "window"] = "exact"
    """exact: all windows of a data set in random order; window: within a moving set of shuffled shards."""
    shuffle_shards: int = 16
    """Shards of each data set that shuffle: window has open at a time."""
    holdout_runs: list[str] = field(default_factory=list)
    """Shell patterns of run keys that are never trained on and are evaluated instead, e.g. '*_run-01'."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """How pairs are drawn."""
    standardize: Literal["run", "subject", "none"] = "run"
    """Mean 0 and deviation 1 by run (as stored), or over the subject's runs; none = as measured."""
    volume_order: Literal["recorded", "shuffled"] = "recorded"
    """shuffled: the volumes of every run in random order (by train.seed), so that nothing is left of time:
    a control for what pre-training learns. Needs access: memory or device."""
    stimulus_clock: Literal["recorded", "shifted"] = "recorded"
    """shifted: the clock of every run's stimulus is turned by an amount of its own (by train.seed), so that
    nobody is where the others are: a control for what people share."""
    access: Literal["mmap", "memory", "device"] = "mmap"
    """Read runs in place from their shards; from a copy in memory; or from a copy on the accelerator."""
    verify: bool = False
    """Check the sha256 of every run before the first step (memory and device always do)."""

    def _broken_rules(self) -> Iterator[Rule]:
        if self.weights and self.mixture != "weights":
            text = f"data.weights is given, but data.mixture is {self.mixture}; use one of them"
            yield ("mixture", "weights"), text
        if any(weight < 0 for weight in self.weights.values()):
            yield ("weights",), "data.weights: give weights of 0 or more"
        if not 0 <= self.temperature <= 1:
            yield ("temperature",), f"data.temperature is {self.temperature}; it must be between 0 and 1"
        if self.pairs.partner == "other_person" and self.shuffle == "window":
            what = "data.shuffle window reads some shards at a time, but other people are in all of them"
            yield ("shuffle", "pairs"), f"{what}: use exact, or data.pairs.partner same_person"
        if self.volume_order == "shuffled" and self.access == "mmap":
            text = "data.volume_order shuffled changes a copy of the runs: set data.access memory"
            yield ("volume_order", "access"), text
        if (n := self.shuffle_shards) < 1:
            yield ("shuffle_shards",), f"data.shuffle_shards is {n}; it must be at least 1"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The stacked encoder. None = as the preset has it."""

    preset: Literal["paper", "tiny", "base", "large", "1b", "7b"] = "paper"
    """paper: d = V + 3, post-norm, learned positions; others: projection, pre-norm, rotary in seconds."""
    d_model: int | None = None
    """Width; the paper preset takes V + 3. What is given beyond that is zero columns, which may be faster."""
    n_layers: int | None = None
    """Number of encoder blocks."""
    n_heads: int | None = None
    """Attention heads; must divide the width (the paper preset pads its width up with zero columns)."""
    dropout: float | None = None
    """Dropout rate, 0 to below 1."""
    input_dropout: float = 0.0
    """Share of the features of volumes that are zeroed in training, 0 to below 1."""
    start: Literal["random", "identity"] = "random"
    """identity: blocks start as nothing but their residual, so that a new encoder is its projection alone
    (presets with norms before each sub-layer)."""
    init_projection: Literal["random", "whiten", "shared"] = "random"
    """Where the input projection starts, fitted on the training runs before the first step: whiten = their
    principal directions, scaled to unit variance; shared = the directions in which people who share a
    stimulus are most alike (needs a stimulus in the corpus recipe). The width that is left stays random."""

    def _broken_rules(self) -> Iterator[Rule]:
        for name in ("d_model", "n_layers", "n_heads"):
            if (value := getattr(self, name)) is not None and value < 1:
                yield (name,), f"model.{name} is {value}; it must be at least 1"
        for name in ("dropout", "input_dropout"):
            if (rate := getattr(self, name)) is not None and not 0 <= rate < 1:
                yield (name,), f"model.{name} is {rate}; give a rate from 0 to below 1"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Optimisation."""

    steps: int = 2000
    """Optimiser steps in all."""
    global_batch: int = 256
    """Pairs in one step, over all ranks and accumulation steps; fixed whatever the number of ranks."""
    max_micro_batch: int = 256
    """Most pairs in one forward pass of one rank; accumulation is derived from it."""
    pair: Literal["joint", "siamese"] = "joint"
    """joint: both sequences through the encoder together; siamese: one at a time, and NTP's head sees
    |a - b| and a * b, so that what a sequence holds must be in its own vector."""
    pool: Literal["cls", "mean", "bins"] = "cls"
    """What every objective reads of the encoder: CLS; the mean over the tokens of volumes; or their means in
    five bins of time, side by side, which keep when something happened."""
    ntp_weight: float = 1.0
    """Weight of Next Thought Prediction; 0 = it is not learnt."""
    masked_weight: float = 0.0
    """Weight of the mean squared error on masked volumes; 0 = nothing is masked. Published: 0.1 and 0.9."""
    masked_share: float = 0.15
    """Share of the volumes of a pair that are masked, at least one: 1 or 2 of 2 x 5, as published."""
    contrastive_weight: float = 0.0
    """Weight of the contrastive task across people: which window of another person is of the same time of the
    stimulus that both saw or heard? Needs data sets with a stimulus in the corpus recipe."""
    contrastive_people: int = 16
    """Most people in the group of a step, over all ranks."""
    contrastive_windows: int = 20
    """Most windows of each of them, end to end; data.pairs.length is that of a window."""
    connectivity_weight: float = 0.0
    """Weight of the alignment with connectivity: sequences should be alike whose whole runs are alike in the
    correlations of their features. Compares all pairs of a step, so max_micro_batch must hold them."""
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
    nvme_path: PathText | None = None
    """Folder on a local disk, for offload: nvme."""
    activation_checkpointing: bool = False
    """Keep only the input of each block and compute the rest again in the backward pass: same result."""
    compile: bool = False
    """Compile the blocks with torch.compile; needs a C++ compiler (on a GPU also Triton)."""
    deterministic: bool = False
    """Equal runs give equal bits on GPUs too, of one type and as many ranks; slower. CPUs do so anyway."""
    seed: int = 0
    """Seed of weights, dropout, order, pairs and masks."""
    eval_every: int = 500
    """Steps between evaluations on held-out runs; 0 = only at the end."""
    eval_pairs: int = 4096
    """Held-out pairs per evaluation, spread over data sets."""
    save_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep_last: int = 2
    """Newest checkpoints kept."""
    keep_every: int = 0
    """The checkpoint of every so many steps is kept for good; 0 = none."""
    keep_best: bool = False
    """Save where the held-out loss is the lowest so far, and keep that one; its encoder is encoder_best/."""
    max_minutes: float | None = None
    """Save and stop (exit code 85) before this many minutes are over, as before the end of a Slurm job."""
    hang_minutes: float = 20.0
    """A rank without a step for so long writes its stacks and ends the run."""
    log_every: int = 20
    """Steps between console lines; metrics.jsonl has every step."""
    max_bad_steps: int = 10
    """Abort after this many non-finite steps in a row."""
    allow_data_change: bool = False
    """Go on from a checkpoint though the corpus or a setting of the data has changed since."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Raw DeepSpeed settings merged over the derived ones; keys that fmriscale derives are refused."""

    def _broken_rules(self) -> Iterator[Rule]:
        if self.zero_stage not in (0, 1, 2, 3):
            yield ("zero_stage",), f"train.zero_stage is {self.zero_stage}; choose 0, 1, 2 or 3"
        yield from self._broken_weights()
        if not 0 < self.lr < math.inf:
            yield ("lr",), f"train.lr is {self.lr}; it must be above 0, and finite"
        if not 0 <= self.weight_decay < math.inf:
            yield ("weight_decay",), f"train.weight_decay is {self.weight_decay}; give 0 or more"
        lowest = dict.fromkeys(("seed", "warmup_steps", "eval_every", "keep_every"), 0)
        ones = ("steps", "global_batch", "max_micro_batch", "eval_pairs", "log_every", "max_bad_steps")
        for name, low in (lowest | dict.fromkeys((*ones, "save_every", "keep_last"), 1)).items():
            if getattr(self, name) < low:
                yield (name,), f"train.{name} is {getattr(self, name)}; it must be at least {low}"
        if self.save_every >= 1 and self.keep_every > 0 and self.keep_every % self.save_every:
            what = f"train.keep_every {self.keep_every} is no multiple of train.save_every {self.save_every}"
            yield ("keep_every", "save_every"), f"{what}, so no checkpoint would be kept for good"
        for name in ("hang_minutes", "max_minutes"):
            if (minutes := getattr(self, name)) is not None and minutes <= 0:
                yield (name,), f"train.{name} is {minutes:g}; it must be above 0"
        if self.offload != "none" and self.zero_stage == 0:
            text = f"train.offload {self.offload} needs train.zero_stage 1, 2 or 3; use 1, or none"
            yield ("offload", "zero_stage"), text
        elif self.offload == "nvme" and (self.zero_stage != 3 or not self.nvme_path):
            text = "train.offload nvme needs train.zero_stage 3 and a folder in train.nvme_path"
            yield ("offload", "zero_stage", "nvme_path"), text
        if self.compile and self.zero_stage == 3:
            what = "train.compile with train.zero_stage 3 is slower than without"
            why = "DeepSpeed gathers weights by hooks, and torch.compile breaks its graph at each"
            remedy = "set train.compile false, or take zero_stage 1 or 2"
            yield ("compile", "zero_stage"), f"{what}: {why}; {remedy}"

    def _broken_weights(self) -> Iterator[Rule]:
        """Yield the rules of the tasks and their weights."""
        weights = ("ntp_weight", "masked_weight", "contrastive_weight", "connectivity_weight")
        values = [getattr(self, name) for name in weights]
        if min(values) < 0 or sum(values) <= 0:
            text = (
                "train.ntp_weight, masked_, contrastive_ and connectivity_weight: give 0 or more, not all 0"
            )
            yield weights, text
        elif sum(values) == self.ntp_weight != 1:
            what = f"train.ntp_weight is {self.ntp_weight}, but nothing else is learnt"
            yield weights, f"{what}: leave it at 1, or give another weight, such as train.masked_weight"
        if self.masked_weight > 0 and self.pair == "siamese":
            text = "train.pair siamese reads no masked volumes: use joint, or masked_weight 0"
            yield ("pair", "masked_weight"), text
        if not 0 < (share := self.masked_share) <= 1:
            yield ("masked_share",), f"train.masked_share is {share}; give a share above 0, at most 1"
        for name in ("contrastive_people", "contrastive_windows"):
            if (value := getattr(self, name)) < 2:
                yield (name,), f"train.{name} is {value}; it must be at least 2"

    @property
    def reads_pairs(self) -> bool:
        """Whether any task is learnt from pairs; the contrastive one is not."""
        return self.ntp_weight + self.masked_weight + self.connectivity_weight > 0


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(Settings):
    """MLflow. Never stops the work: a store that fails is reported once and left alone."""

    enabled: bool = True
    """Log to MLflow."""
    uri: str | None = None
    """Tracking server or store, e.g. http://host:5000; None = mlflow.db beside the run folder."""
    experiment: str = "fmriscale"
    """Name of the MLflow experiment."""
    system_metrics: int | None = None
    """Interval at which load, memory and GPUs of the first machine are logged too, s; None = never."""

    def _broken_rules(self) -> Iterator[Rule]:
        if self.system_metrics is not None and self.system_metrics < 1:
            text = f"tracking.system_metrics is {self.system_metrics}; give at least 1 s, or null"
            yield ("system_metrics",), text


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Settings):
    """`fmriscale pretrain`: pre-training on a corpus, by NTP or other objectives."""

    out: PathText
    """Run folder: config, metrics.jsonl, checkpoints, encoder/."""
    data: DataConfig
    """The data."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The encoder."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """MLflow."""
