"""Settings of `fmriscale shard`: data sets, features, cleaning, quality, splits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from fmriscale.config.settings import NameOrPath, PathTemplate, PathText, Rule, Settings

SPLITS = ("train", "val", "test")
MIN_T_R, MAX_T_R = 0.05, 30.0
"""Repetition times outside these, s, are milliseconds taken for seconds or the reverse."""


def _shares(where: str, config: object, *names: str) -> Iterator[Rule]:
    """Yield the shares that are none: often they are percentages."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            yield (name,), f"{where}.{name} is a share from 0 to 1, not {value:g}"


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(Settings):
    """What the V columns of a run mean: exactly one of the fields from labels_img to columns is given."""

    name: str
    """Name of the feature space, kept with the corpus (letters, digits, underscores)."""
    labels_img: NameOrPath | None = None
    """Atlas, NIfTI or .dlabel.nii; every integer label above 0 is one feature (the mean of its voxels)."""
    labels_gii: list[PathText] | None = None
    """Surface atlas: .label.gii of the left and the right hemisphere; 0 and medial walls are left out."""
    labels: PathText | list[str] | None = None
    """Names of the features in order, or a file: one 'index name' or one name a line, a table with columns
    index and name (BIDS dseg.tsv), a colour table (FreeSurfer, Schaefer, ITK-SNAP, Workbench); optional."""
    mask_img: PathText | None = None
    """ROI NIfTI, 0/1 or a probability map; every voxel taken is one feature."""
    mask_threshold: float | None = None
    """Least value of a voxel of mask_img that is taken: 23 takes 23 % and more; None = all above 0."""
    structures: list[str] | None = None
    """CIFTI brain structures, e.g. [CORTEX_LEFT, CORTEX_RIGHT], or [all]: every grayordinate is a feature."""
    template: PathText | None = None
    """CIFTI file with the grayordinates that `structures` means, in its order; None = fsLR 91k."""
    parcels: PathText | None = None
    """A .ptseries.nii or a .tsv whose parcels are the features; runs are matched by parcel name."""
    columns: int | None = None
    """Number of columns of given arrays [T, V]; checked against every run."""

    def _broken_rules(self) -> Iterator[Rule]:
        kinds = ("labels_img", "labels_gii", "mask_img", "structures", "parcels", "columns")
        given = [k for k in kinds if getattr(self, k) is not None]
        if len(given) != 1:
            got = ", ".join(given) or "none"
            yield (), f"features '{self.name}': give exactly one of {', '.join(kinds)} (got {got})"
        if self.columns is not None and self.columns < 1:
            yield ("columns",), f"features '{self.name}': columns must be 1 or more, not {self.columns}"


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig(Settings):
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
    """Number of CompCor components, of each mask where compcor is anat_separated; fewer are refused."""
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
    dummy_volumes: int | Literal["auto"] = 0
    """Volumes dropped at the start of every run (event onsets are shifted); auto = as many as the
    confounds flag as not yet in a steady state."""
    resample_t_r: float | None = None
    """Repetition time that every run is brought to after cleaning, anti-aliased, s; None = its own."""

    def _broken_rules(self) -> Iterator[Rule]:
        if self.high_pass is not None and self.low_pass is not None and self.high_pass >= self.low_pass:
            band = f"high_pass {self.high_pass:g} Hz must lie below low_pass {self.low_pass:g} Hz"
            yield ("high_pass", "low_pass"), f"denoise: {band}"
        if self.dummy_volumes != "auto" and self.dummy_volumes < 0:
            text = f"denoise.dummy_volumes must be 0 or more, or auto, not {self.dummy_volumes}"
            yield ("dummy_volumes",), text
        for name in ("high_pass", "low_pass", "resample_t_r"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                yield (name,), f"denoise.{name} must be above 0, not {value}; leave it out for none"


@dataclass(frozen=True, kw_only=True)
class QualityConfig(Settings):
    """Limits beyond which a run is quarantined, never silently dropped."""

    min_volumes: int = 30
    """Fewest uncensored volumes of a run."""
    max_mean_fd: float | None = None
    """Largest mean framewise displacement of a run, mm; None = no limit."""
    min_coverage: float = 0.5
    """A feature covered by less than this share of its voxels is missing (set to 0)."""
    max_missing: float = 0.2
    """Largest share of missing or constant features of a run."""
    max_censored: float = 0.5
    """Largest share of censored volumes of a run."""
    min_tsnr: float | None = None
    """Smallest temporal signal-to-noise ratio of an image (median over features); None = no limit."""
    max_spike: float | None = 100.0
    """Largest deviation of the global signal from its median, robust standard deviations; None = no limit."""
    max_level_change: float | None = 0.2
    """Largest deviation of a volume's mean over features from the level of the run (its median), as a share
    of it. A volume beyond it is not of the run (noise, padding, dummy scans): it is censored at the start or
    end, up to a quarter of the run; else the run is quarantined. Signals without a level (z-scored) are not
    looked at; None = no limit."""
    max_repeated: float = 0.05
    """Largest share of volumes that repeat the one before, as scanners and padding leave them."""

    def _broken_rules(self) -> Iterator[Rule]:
        yield from _shares("quality", self, "min_coverage", "max_missing", "max_censored", "max_repeated")
        if self.min_volumes < 1:
            yield ("min_volumes",), f"quality.min_volumes must be 1 or more, not {self.min_volumes}"
        for name in ("max_mean_fd", "min_tsnr", "max_spike", "max_level_change"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                yield (name,), f"quality.{name} must be 0 or more, not {value:g}; null for no limit"


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Settings):
    """One study as released."""

    name: str
    """Name in the corpus: lower-case letters, digits and underscores."""
    kind: Literal["fmriprep", "bids", "xcpd", "hcp", "arrays"]
    """Layout of the input: fMRIPrep derivatives, plain BIDS, XCP-D derivatives, HCP folders, or arrays."""
    root: PathText
    """Folder of the data set, or its URL (s3://, https://, ...); $FMRISCALE_DATA may stand in it."""
    features: FeatureConfig
    """Feature space of the data set."""
    files: str | None = None
    """Glob below root for 'arrays' (npz, npy, tsv, csv, 1D, mat, h5) or for images without BIDS names.
    Every array of an .npz archive is a run; any other file is one run."""
    orientation: Literal["TV", "VT"] = "TV"
    """Axes of 'arrays': TV = [volumes, features], VT = [features, volumes]."""
    header: bool | None = None
    """Whether the first line of a text table of 'arrays' holds names; None = told from the table."""
    index_column: bool | None = None
    """Whether the first column of a text table of 'arrays' is an index and no signal; None = told from it."""
    variable: str | None = None
    """Name of the array in .mat, .h5 and .npz files; may be left out where a .mat or .h5 holds only one. For
    files that hold many runs a template, such as '{subject}/{session}/timeseries': every array it fits is a
    run."""
    runs: list[int] | None = None
    """Volumes of each run in files that hold several end to end, e.g. [1200, 1200]: every file is cut there,
    and the runs are numbered. Confounds and events are those of the file, or of each run by its number."""
    entities: dict[str, str | int] = field(default_factory=dict)
    """BIDS entities a file must have, e.g. {task: rest, space: MNI152NLin2009cAsym, res: 2}; '' = must not
    have. HCP: {desc: MSMAll_hp2000_clean} is what stands between the run's name and the extension."""
    participants: str | None = None
    """Table (TSV/CSV) below root with one row a run or subject; gives t_r and subject to 'arrays'."""
    participants_key: str = "participant_id"
    """Column of the participants table that holds the run's file stem or array name."""
    participants_subject: str | None = None
    """Column with the subject label; None = participants_key."""
    participants_t_r: str | None = None
    """Column with the repetition time, s; None = use t_r."""
    participants_columns: list[str] = field(default_factory=list)
    """Columns kept with every run (diagnosis, sex, age), so that a study can take them as labels."""
    t_r: float | Literal["sidecar"] | dict[str, float] | None = None
    """Repetition time, s, for every run of the data set, or by task ({rest: 2.0, movie: 1.0}; of other tasks
    as for None). sidecar = as the JSON files say, where headers contradict them. None = from sidecar, header
    or table, which must agree."""
    name_pattern: str | None = None
    """Regular expression with named groups (subject, session, task, run, ...) for the path below root."""
    events: PathTemplate | None = None
    """Path of a run's events file with {root}, {dir} (the run's folder), {stem}, {array}, {subject}, {task},
    ...; or the folder of the raw BIDS data set, where they are looked up; None = beside the run, by BIDS
    inheritance."""
    affine_from: PathText | None = None
    """NIfTI image on the runs' grid: runs without orientation (qform_code and sform_code 0) take its affine;
    None = they are quarantined."""
    stimulus: str | None = None
    """Name of what everybody saw or heard in a run, the same in every data set that had it: text, or a
    template of entities and participants_columns ({task}, film_{run}); None = nothing that people share."""
    stimulus_onset: float | str = 0.0
    """Time zero of the stimulus, s from the beginning of the run as onsets of events are, or a template
    ({onset}); below 0 where the run starts amid the stimulus."""
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

    def _broken_rules(self) -> Iterator[Rule]:
        times = self.t_r.values() if isinstance(self.t_r, dict) else [self.t_r]
        for t_r in times:
            if isinstance(t_r, int | float) and not MIN_T_R <= t_r <= MAX_T_R:
                yield ("t_r",), f"t_r of {t_r:g} s is implausible; give seconds, or leave it out"
        if self.runs is not None and not (self.runs and all(n > 0 for n in self.runs)):
            yield ("runs",), f"runs is the volumes of each run, e.g. [1200, 1200], not {self.runs}"
        if self.weight is not None and not 0 <= self.weight < math.inf:
            yield ("weight",), f"weight must be 0 or more, not {self.weight:g}"


@dataclass(frozen=True, kw_only=True)
class SharesConfig(Settings):
    """Subjects, never runs or windows, go to train, val or test by a hash of the person."""

    val: float = 0.1
    """Share of people held out for validation."""
    test: float = 0.1
    """Share of people held out for testing."""
    salt: str = "fmriscale"
    """Changes the draw; keep it for the life of a corpus."""

    def _broken_rules(self) -> Iterator[Rule]:
        yield from (shares := list(_shares("split", self, "val", "test")))
        if not shares and self.val + self.test > 1:
            yield ("val", "test"), f"split: val {self.val:g} and test {self.test:g} are more than everybody"


@dataclass(frozen=True, kw_only=True)
class SplitConfig(SharesConfig):
    """Shares of people held out, drawn by a hash of the person; people who are kin stay together."""

    group: str | None = None
    """Column of the participants tables, e.g. family_id: people of one group are kin, and stay together in
    splits and in the folds of a study. A person whose cell is empty or n/a stands alone."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(Settings):
    """`fmriscale shard`: any number of data sets into one corpus of tar shards."""

    datasets: list[DatasetConfig]
    """The data sets."""
    out: PathText
    """Folder of the corpus."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Subject-level splits."""
    shard_mb: int = 256
    """Target size of a shard, MiB."""
    shard_runs: int = 64
    """Most runs of a shard: the piece of work that a job array deals out and a killed task loses."""
    jobs: int = 0
    """Worker processes; 0 = one per available core, 1 = this process does the work itself."""
    read_timeout: float = 600.0
    """Longest time that one run may take, s: what hangs (a dead mount, a pipe) is quarantined; 0 = none."""

    def _broken_rules(self) -> Iterator[Rule]:
        if not self.out.strip():
            yield ("out",), "out is empty; give the folder of the corpus"
        for name, least in (("shard_mb", 1), ("shard_runs", 1), ("jobs", 0), ("read_timeout", 0)):
            if getattr(self, name) < least:
                yield (name,), f"{name} must be {least} or more, not {getattr(self, name)}"
