"""`CorpusWriter`: a corpus from signals that come from code, without files and without a recipe."""

import importlib.metadata
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand, fsync_folder, writing_to
from fmriscale.common.version import __version__
from fmriscale.config import SplitConfig
from fmriscale.config.corpus import MAX_T_R, MIN_T_R
from fmriscale.corpus.assemble import RunRecord, corpus_json, quarantine_table, run_table, stimulus_of
from fmriscale.corpus.manifest import FeatureSpace, write_manifest
from fmriscale.corpus.signals import json_values, standardize_run
from fmriscale.corpus.writer import MAX_KEY, EncodedRun, ShardWriter

NAME = re.compile("[a-z0-9][a-z0-9_]*")
LABEL = re.compile("[A-Za-z0-9]+")


class CorpusWriter:
    """Write a corpus run by run; the folder appears when the `with` block ends, and not after an error.

    Until then everything lies in a hidden folder beside `folder`.

    Parameters
    ----------
    folder : str or Path
        The corpus; must not exist yet, or be empty.
    split : SplitConfig, optional
        Shares of people held out for validation and testing, drawn by a hash of the person; None = a tenth
        each. `SplitConfig(group="family_id")` keeps people together who share that value in `participant`.
    shard_mb : int
        Size at which a shard is closed, MiB.
    software : mapping of str to str, optional
        Versions to keep in corpus.json; None = those of fmriscale and numpy.

    Raises
    ------
    UserError
        The folder holds something, or cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> from fmriscale import CorpusWriter, FeatureSpace
    >>> regions = FeatureSpace("two_regions", 2, labels=("left", "right"))
    >>> noise = np.random.default_rng(0)
    >>> with CorpusWriter("my_corpus") as corpus:
    ...     for subject in ("01", "02"):
    ...         bold = noise.normal(1000, 10, size=(200, 2))  # [volumes, features]
    ...         key = corpus.add(bold, 2.0, subject, dataset="mine", task="rest", space=regions)
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: SplitConfig | None = None,
        shard_mb: int = 256,
        software: Mapping[str, str] | None = None,
    ) -> None:
        if shard_mb < 1:
            raise UserError(f"shard_mb is {shard_mb}; give 1 or more, MiB")
        self.folder, self.split = expand(folder), split or SplitConfig()
        self._limit = shard_mb * 2**20
        versions = {"fmriscale": __version__, "numpy": importlib.metadata.version("numpy")}
        self._software = dict(versions if software is None else software)
        self._staging = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        self._open: dict[str, ShardWriter] = {}
        self._n_shards: dict[str, int] = {}
        self._spaces: dict[str, FeatureSpace] = {}
        self._space_of: dict[str, str] = {}
        self._settings: dict[str, dict[str, Any]] = {}
        self._keys: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._shards: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self._groups: dict[str, Any] = {}
        self._stimuli: dict[str, tuple[str, float]] = {}
        self._stack: ExitStack | None = None

    def __enter__(self) -> "CorpusWriter":
        with writing_to(self.folder):
            if self.folder.exists() and any(self.folder.iterdir()):
                raise UserError(f"{self.folder}: holds something; choose another folder, or empty it")
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging.mkdir(parents=True)
        self._stack = ExitStack()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._stack is not None
        with self._stack:  # closes what an error left open
            try:
                if kind is None:
                    self._finish()
            finally:
                shutil.rmtree(self._staging, ignore_errors=True)
        self._stack = None

    def describe(
        self,
        dataset: str,
        *,
        kind: str = "code",
        people: str | None = None,
        weight: float | None = None,
        licence: str = "unknown",
        quality: Mapping[str, Any] | None = None,
        denoise: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe a data set for corpus.json; one that is not described has the defaults.

        Parameters
        ----------
        dataset : str
            Its name.
        kind : str
            Where it came from.
        people : str, optional
            Name space of subject labels; data sets of the same people share it. None = the data set's name.
        weight : float, optional
            Weight in the pre-training mixture; None = proportional to the number of windows.
        licence : str
            Licence of the data.
        quality, denoise : mapping, optional
            Limits that runs were held to, and what was done to the signals of all of them.
        """
        self._check_name("data set", dataset)
        self._settings[dataset] = {
            "kind": kind,
            "people": people or dataset,
            "weight": weight,
            "licence": licence,
            "entities": {},
            "denoise": dict(denoise or {}),
            "quality": dict(quality or {}),
        }

    def add(
        self,
        bold: np.ndarray,
        t_r: float,
        subject: str,
        *,
        dataset: str,
        session: str = "",
        task: str = "",
        run: str = "",
        space: FeatureSpace | str = "features",
        sample_mask: Sequence[int] | np.ndarray | None = None,
        missing_features: Sequence[int] | np.ndarray = (),
        events: Iterable[Mapping[str, Any]] = (),
        participant: Mapping[str, Any] | None = None,
        mean: np.ndarray | None = None,
        std: np.ndarray | None = None,
        quality: Mapping[str, Any] | None = None,
        denoise: Mapping[str, Any] | None = None,
        source: str | None = None,
        source_sha256: str = "",
        stimulus: str | None = None,
        stimulus_onset: float = 0.0,
    ) -> str:
        """Add one run.

        Parameters
        ----------
        bold : array-like [T, V]
            Signals: T volumes in order, V features, in any unit. Every feature is standardised over the
            volumes of `sample_mask`, unless `mean` and `std` are given.
        t_r : float
            Repetition time, s.
        subject, session, task, run : str
            Labels, letters and digits; together with the data set they make the run's key. "" = none.
        dataset : str
            Name of the data set: lower-case letters, digits and underscores.
        space : FeatureSpace or str
            What the V columns mean: number, and where they have them names and positions (mm). A name alone
            stands for columns without either. One a data set.
        sample_mask : sequence of int or of bool, optional
            Numbers of the volumes that are kept, ascending, or one truth value a volume; None = all. The
            others stay as rows of zeros.
        missing_features : sequence of int
            Numbers of the columns without signal; they become zeros, whatever they hold.
        events : iterable of mapping
            Each has `onset` and `duration` (0 where it is left out), s from the first volume of `bold`, and
            whatever else is known: text, numbers, truth values.
        participant : mapping, optional
            What is known of the person (age, diagnosis, family_id), kept with the run for studies.
        mean, std : array-like [V], optional
            Of signals that are standardised already: what undoes it; both or neither.
        quality : mapping, optional
            Figures of the run; `coverage` (0 to 1), `mean_fd` (mm) and `tsnr` also stand in runs.tsv.
        denoise : mapping, optional
            What was done to the signals.
        source : str, optional
            Where the run came from; None = its labels.
        source_sha256 : str
            Hash of that source.
        stimulus : str, optional
            Name of what everybody saw or heard, the same in every data set that had it; None = nothing that
            others share.
        stimulus_onset : float
            Time zero of the stimulus, s from the first volume of `bold`: volume k lies at stimulus time
            `k * t_r - stimulus_onset`. Below 0 where the run starts amid the stimulus.

        Returns
        -------
        str
            Key of the run.

        Raises
        ------
        UserError
            Values that are not finite, constant features, another number of columns than the space has, a key
            that is taken, or an impossible repetition time, label, event or volume. Nothing was added then.
        """
        if self._stack is None:
            raise UserError("a CorpusWriter is used in a with block: with CorpusWriter(folder) as corpus")
        labels = {"sub": subject, "ses": session, "task": task, "run": run}
        entities = {entity: _label(dataset, entity, label) for entity, label in labels.items() if label != ""}
        stem = "_".join(f"{entity}-{label}" for entity, label in entities.items())
        key = f"{dataset}_{stem}"
        self._check_key(key, dataset, entities)
        if not MIN_T_R <= t_r <= MAX_T_R:
            raise UserError(f"{key}: t_r of {t_r:g} s is implausible; give seconds")
        signals = standardize_run(key, bold, sample_mask, missing_features, mean, std)
        n_volumes, n_features = signals.bold.shape
        known_space = FeatureSpace(space, n_features) if isinstance(space, str) else space
        self._check_space(key, dataset, known_space, n_features)
        place = stimulus_of(key, stimulus, stimulus_onset, n_volumes * t_r)
        record = RunRecord(
            signals.bold,
            signals.mean,
            signals.std,
            key=key,
            dataset=dataset,
            entities=entities,
            t_r=float(t_r),
            space=known_space.name,
            sample_mask=signals.sample_mask,
            events=[_event(key, event, n_volumes * t_r) for event in events],
            source=stem if source is None else source,
            source_sha256=source_sha256,
            quality={**json_values(key, "quality", quality or {}), "missing_features": signals.missing},
            denoise=json_values(key, "denoise", denoise or {}),
            further={"participant": json_values(key, "participant", participant) if participant else None},
        )
        self._write(dataset, record.encode())
        if dataset not in self._settings:
            self.describe(dataset)
        self._spaces[known_space.name], self._space_of[dataset] = known_space, known_space.name
        if self.split.group is not None:
            self._groups[key] = (participant or {}).get(self.split.group)
        if place is not None:
            self._stimuli[key] = place
        self._keys.add(key)
        return key

    def leave_out(self, dataset: str, source: str, reason: str, detail: str) -> None:
        """List a run that is not in the corpus in quarantine.tsv.

        Parameters
        ----------
        dataset, source : str
            Its data set, and where the run came from.
        reason : str
            One word that a script can match.
        detail : str
            A sentence: what is wrong, and the remedy.
        """
        line = {"dataset": dataset, "source": source, "reason": reason, "detail": " ".join(detail.split())}
        self._left_out.append(line)

    def cut(self, dataset: str) -> None:
        """End the shard of a data set: its next run starts another."""
        writer = self._open.pop(dataset, None)
        if writer is not None and (summary := writer.commit()) is not None:
            self._shards.append(summary)
            self._rows += writer.rows

    def _write(self, dataset: str, run: EncodedRun) -> None:
        """Append a run to the open shard of its data set, or to a new one where that is full."""
        assert self._stack is not None
        with writing_to(self.folder):
            if dataset in self._open and self._open[dataset].size + run.size > self._limit:
                self.cut(dataset)
            if dataset not in self._open:
                number = self._n_shards.get(dataset, 0)
                name = f"{dataset}/{dataset}-{number:06d}.tar"
                self._open[dataset] = self._stack.enter_context(ShardWriter(self._staging / name, name))
                self._n_shards[dataset] = number + 1
            self._open[dataset].add(run)

    def _finish(self) -> None:
        """Close the shards, write the manifest, and rename the folder."""
        if not self._settings and not self._left_out:
            raise UserError(f"{self.folder}: no run was added, so there is no corpus")
        with writing_to(self.folder):
            for dataset in sorted(self._open):
                self.cut(dataset)
            people = {name: settings["people"] for name, settings in self._settings.items()}
            datasets = {n: {**s, "space": self._space_of.get(n, "")} for n, s in self._settings.items()}
            runs = run_table(self._rows, people, self.split, self._groups, self._stimuli)
            quarantine = quarantine_table(self._left_out)
            shards = sorted(self._shards, key=lambda shard: shard["path"])
            spaces = self._spaces.values()
            content = corpus_json(spaces, datasets, self.split, shards, self._software, runs, quarantine)
            write_manifest(self._staging, content, runs, quarantine)
            self._staging.rename(self.folder)
            fsync_folder(self.folder.parent)

    def _check_name(self, what: str, name: str) -> None:
        if not NAME.fullmatch(name):
            raise UserError(f"{what} '{name}': give lower-case letters, digits and underscores")

    def _check_key(self, key: str, dataset: str, entities: Mapping[str, str]) -> None:
        """Refuse a run that cannot be named, or whose name is taken."""
        self._check_name("data set", dataset)
        if "sub" not in entities:
            raise UserError(f"{key}: subject is empty; give its label")
        if len(key) > MAX_KEY:
            raise UserError(f"{key}: has {len(key)} characters, {MAX_KEY} fit; give shorter labels")
        if key in self._keys:
            raise UserError(f"{key}: is added already; give it another task, session or run")

    def _check_space(self, key: str, dataset: str, space: FeatureSpace, n_features: int) -> None:
        """Refuse columns that are not what the corpus says of them."""
        self._check_name("feature space", space.name)
        for what, values in (("labels", space.labels), ("coordinates", space.coordinates)):
            if values is not None and len(values) != (n := space.n_features):
                raise UserError(f"feature space '{space.name}': {len(values)} {what} for {n} features")
        known, other = self._spaces.get(space.name, space), self._space_of.get(dataset, space.name)
        if n_features != known.n_features:
            what = f"{n_features} columns, but feature space '{space.name}' has {known.n_features}"
            raise UserError(f"{key}: {what}; bold is [volumes, features]")
        if known.sha256 != space.sha256:
            raise UserError(f"{key}: feature space '{space.name}' was described otherwise before; rename it")
        if other != space.name:
            what = f"data set '{dataset}' is in feature space '{other}', this run in '{space.name}'"
            raise UserError(f"{key}: {what}; give each space a data set, with the same people in `describe`")


def _label(dataset: str, entity: str, label: str) -> str:
    """Return a label without its prefix; `sub-01` is 01."""
    text = str(label).removeprefix(f"{entity}-")
    if not LABEL.fullmatch(text):
        raise UserError(f"data set '{dataset}': {entity} '{label}': give letters and digits alone")
    return text


def _event(key: str, event: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return an event as JSON keeps it, with onset and duration in s."""
    kept = {"duration": 0.0, **json_values(key, "an event", event)}
    for name, most in (("onset", seconds), ("duration", math.inf)):
        value = kept.get(name, "missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{key}: an event's {name} is {value!r}; give a number, s")
        if value > most or (name == "duration" and value < 0):
            what = f"an event's {name} is {value:g} s, but the run is {seconds:g} s long"
            raise UserError(f"{key}: {what}; give seconds from its first volume")
        kept[name] = float(value)
    return kept
