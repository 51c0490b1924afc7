"""Every setting of fmriscale: typed, documented, with its unit.

One dataclass per recipe (`CorpusConfig`, `PretrainConfig`, `StudyConfig`, `SimulateConfig`); a YAML file
fills it, dotted options override it (`--train.lr 3e-4`), unknown or mistyped keys are refused by name.
`recipe.py` makes the command line, `--help` and `--print_config` from these definitions.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

KINDS = ("same_run", "same_subject", "same_dataset", "other_dataset", "reversed")
"""How a negative pair was drawn; the code of a kind is its place here plus one, 0 is a positive."""

SPLITS = ("train", "val", "test")

# ---------------------------------------------------------------- corpus


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """What the V columns of a run mean. Exactly one of labels_img, mask_img and columns is given."""

    name: str
    """Name of the feature space, kept with the corpus (letters, digits, underscores)."""
    labels_img: str | None = None
    """Atlas NIfTI; every integer label above 0 is one feature (the mean of its voxels)."""
    labels: str | None = None
    """Text file naming the atlas labels, one 'index name' a line; optional."""
    mask_img: str | None = None
    """ROI NIfTI; every voxel above mask_threshold is one feature."""
    mask_threshold: float = 0.0
    """Voxels of mask_img strictly above this value are taken (unit of the mask: 0/1, percent, ...)."""
    columns: int | None = None
    """Number of columns of given arrays [T, V]; checked against every run."""

    def __post_init__(self) -> None:
        given = [k for k in ("labels_img", "mask_img", "columns") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"features '{self.name}': give exactly one of labels_img, mask_img, columns (got {given})"
            )


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """Cleaning of [T, V], with the names and meaning of nilearn's load_confounds and signal.clean."""

    strategy: list[str] = field(default_factory=list)
    """nilearn load_confounds strategies (motion, wm_csf, global_signal, high_pass, scrub, compcor, ...)."""
    motion: Literal["basic", "power2", "derivatives", "full"] = "full"
    """Motion parameters taken by the 'motion' strategy."""
    wm_csf: Literal["basic", "power2", "derivatives", "full"] = "basic"
    """White-matter and CSF signals taken by the 'wm_csf' strategy."""
    global_signal: Literal["basic", "power2", "derivatives", "full"] = "basic"
    """Global signals taken by the 'global_signal' strategy."""
    compcor: Literal["anat_combined", "anat_separated", "temporal"] = "anat_combined"
    """Components taken by the 'compcor' strategy."""
    n_compcor: int = 6
    """Number of CompCor components."""
    fd_threshold: float = 0.5
    """Framewise displacement above which 'scrub' censors a volume, mm."""
    std_dvars_threshold: float = 1.5
    """Standardised DVARS above which 'scrub' censors a volume."""
    scrub: int = 5
    """'scrub' also drops stretches of at most this many volumes between censored ones; 0 = none."""
    detrend: bool = True
    """Remove a linear trend per run and feature."""
    high_pass: float | None = None
    """High-pass cut-off, Hz; None = no filter."""
    low_pass: float | None = None
    """Low-pass cut-off, Hz; None = no filter."""
    dummy_volumes: int = 0
    """Volumes dropped at the start of every run; event onsets are shifted."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Limits beyond which a run is quarantined, never silently dropped."""

    min_volumes: int = 30
    """Fewest uncensored volumes of a run."""
    max_mean_fd: float | None = None
    """Largest mean framewise displacement of a run, mm; None = no limit."""
    min_coverage: float = 0.5
    """A feature covered by less than this share of its voxels is missing (set to 0)."""
    max_missing: float = 0.2
    """Largest share of missing or constant features of a run."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One study as released."""

    name: str
    """Name in the corpus: lower-case letters, digits and underscores."""
    kind: Literal["fmriprep", "bids", "arrays"]
    """Layout of the input: fMRIPrep derivatives, plain BIDS NIfTI, or [T, V] arrays."""
    root: str
    """Folder of the data set; ~ and environment variables ($FMRISCALE_DATA) are expanded."""
    features: FeatureConfig
    """Feature space of the data set."""
    files: str | None = None
    """Glob below root for 'arrays' (npz, npy, tsv, 1D, 1D.gz) or for NIfTI files without BIDS names."""
    entities: dict[str, str] = field(default_factory=dict)
    """BIDS entities a file must have, e.g. {task: rest, space: MNI152NLin2009cAsym, res: '2'}."""
    participants: str | None = None
    """Table (TSV/CSV) below root with one row a run or subject; gives t_r and subject to 'arrays'."""
    participants_key: str = "participant_id"
    """Column of the participants table that holds the run's file stem or array name."""
    participants_subject: str | None = None
    """Column with the subject label; None = participants_key."""
    participants_t_r: str | None = None
    """Column with the repetition time, s; None = use t_r."""
    t_r: float | None = None
    """Repetition time, s, for every run of the data set; None = from sidecar, header or table."""
    name_pattern: str | None = None
    """Regular expression with named groups (subject, session, task, run) read from the path below root."""
    events: str | None = None
    """Path of a run's events file with {root}, {dir}, {stem}, {array}; None = the BIDS name beside it."""
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    """Cleaning of every run."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Quality limits."""
    people: str | None = None
    """Name space of subject labels; data sets that share people share it; None = the data set's name."""
    weight: float | None = None
    """Weight in the pre-training mixture; None = proportional to the number of windows."""
    licence: str = "unknown"
    """Licence of the data, kept with the corpus."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Subjects, never runs or windows, go to train, val or test by a hash of the person."""

    val: float = 0.1
    """Share of people held out for validation."""
    test: float = 0.1
    """Share of people held out for testing."""
    salt: str = "fmriscale"
    """Changes the draw; keep it for the life of a corpus."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """`fmriscale shard`: any number of data sets into one corpus of tar shards."""

    datasets: list[DatasetConfig]
    """The data sets."""
    out: str
    """Folder of the corpus."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Subject-level splits."""
    shard_mb: int = 256
    """Target size of a shard, MiB."""
    jobs: int = 0
    """Worker processes; 0 = one per available core."""


# ---------------------------------------------------------------- pre-training


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

    preset: Literal["paper", "tiny", "base"] = "paper"
    """paper: d = V + 3, post-norm, learned positions; tiny, base: projection, pre-norm, rotary in seconds."""
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


# ---------------------------------------------------------------- the study


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


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """`fmriscale finetune`: fresh and pre-trained arms over folds and seeds, with controls."""

    out: str
    """Study folder: config, results.tsv, curves.tsv, figure, MLflow store."""
    corpus: str
    """Folder of the corpus with the labelled runs."""
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


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """`fmriscale simulate`: a timbre experiment with known truth, written as an fMRIPrep derivative."""

    out: str
    """Folder of the derivative."""
    n_subjects: int = 12
    """Number of subjects."""
    n_runs: int = 8
    """Runs a subject; runs alternate timbre and condition as in the experiment."""
    n_volumes: int = 233
    """Volumes a run."""
    t_r: float = 2.0
    """Repetition time, s."""
    shape: list[int] = field(default_factory=lambda: [16, 18, 14])
    """Voxels in x, y and z."""
    voxel_mm: float = 6.0
    """Edge of a voxel, mm."""
    n_roi_voxels: int = 96
    """Voxels of the ROI that carries the patterns."""
    sound: float = 1.0
    """Strength of the pattern that every tone evokes, in standard deviations of the noise."""
    timbre: float = 0.5
    """Strength of the timbre pattern, likewise; 0 = no timbre in the data."""
    pitch: float = 0.5
    """Strength of the pitch pattern, likewise."""
    run_offset: float = 0.5
    """Strength of an offset constant over a run, likewise."""
    individual: float = 0.5
    """Share of each pattern's variance that is the subject's own, 0 to 1."""
    seed: int = 0
    """Seed of everything random."""
