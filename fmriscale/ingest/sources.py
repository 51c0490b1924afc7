"""Find the runs of a data set and the files that belong to each, without opening an image."""

import dataclasses
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fmriscale.config import DatasetConfig
from fmriscale.corpus.writer import MAX_KEY
from fmriscale.errors import UserError
from fmriscale.files import expand
from fmriscale.ingest.arrays import EXTENSIONS
from fmriscale.ingest.names import (
    ENTITY_ORDER,
    RENDERING,
    brain_mask_file,
    confounds_file,
    inherited,
    listing,
    parse_name,
)
from fmriscale.ingest.quality import Rejected, Rejection

IMAGES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class RunSource:
    """A run before it is read.

    Attributes
    ----------
    key : str
        Its name in the corpus; "" until every entity is known.
    path : Path
        Image or array file.
    array : str or None
        Name of the array in an .npz archive.
    source : str
        Path below the root of the data set, with `:array` for archives.
    entities : dict of str to str
        BIDS entities (short names).
    t_r : float or None
        From the participants table, s.
    sidecars : tuple of Path
        JSON files that apply, the most specific last.
    form : str
        What the file is: nifti, cifti, gifti or array (`form_of`).
    right : Path or None
        GIFTI only: `path` is the left hemisphere, this the right one.
    brain_mask, confounds, events : Path or None
        Companions.
    motion : Path or None
        HCP only: a text table of the run's head motion.
    """

    dataset: str
    path: Path
    source: str
    entities: dict[str, str]
    array: str | None = None
    t_r: float | None = None
    sidecars: tuple[Path, ...] = ()
    brain_mask: Path | None = None
    confounds: Path | None = None
    events: Path | None = None
    form: str = "nifti"
    right: Path | None = None
    motion: Path | None = None
    key: str = field(default="")

    def inputs(self) -> list[Path]:
        """Return every file the run is made from."""
        companions = (self.right, self.brain_mask, self.confounds, self.motion, self.events)
        files = [self.path, *self.sidecars, *companions]
        return [file for file in files if file is not None]


def form_of(dataset: DatasetConfig) -> str:
    """Return what a run's file is, as the features demand: nifti, cifti, gifti or array."""
    features = dataset.features
    if features.columns is not None:
        return "array"
    if features.labels_gii is not None:
        return "gifti"
    grayordinates = features.structures is not None or features.parcels is not None
    return "cifti" if grayordinates or (features.labels_img or "").endswith(".dlabel.nii") else "nifti"


def discover(dataset: DatasetConfig) -> tuple[list[RunSource], list[Rejection]]:
    """List the runs of a data set in corpus order.

    Returns
    -------
    list of RunSource
        Sorted by subject, session, task, run and key; keys are unique.
    list of Rejection
        Files that belong to no nameable run, or repeat one.

    Raises
    ------
    UserError
        The folder is missing, nothing matches, the recipe is ambiguous or a table lacks a column.
    """
    root = expand(dataset.root).absolute()
    if not root.is_dir():
        raise UserError(f"data set '{dataset.name}': {root} is no folder; set root")
    listing.cache_clear()
    if dataset.kind == "arrays" or dataset.files is not None:
        named = _by_glob(dataset, root)
    else:
        named = _by_bids(dataset, root)
    table = _Participants(dataset, root) if dataset.participants else None
    runs: dict[str, RunSource] = {}
    rejections = []
    for source in sorted(named, key=lambda s: s.source):
        try:
            run = _complete(source, dataset, root, table)
            if run.key in runs:
                raise Rejected(
                    "duplicate_key",
                    f"{runs[run.key].source} is already {run.key}; remove one, or tell them apart by "
                    "entities or name_pattern",
                )
            runs[run.key] = run
        except Rejected as why:
            rejections.append(Rejection(dataset.name, source.source, why.reason, why.detail))
    return sorted(runs.values(), key=_corpus_order), rejections


def _corpus_order(run: RunSource) -> tuple[str, ...]:
    """Return what runs.tsv is sorted by, within a data set."""
    return (*(run.entities.get(k, "") for k in ("sub", "ses", "task", "run")), run.key)


# ---------------------------------------------------------------- finding


def _by_bids(dataset: DatasetConfig, root: Path) -> list[RunSource]:
    """Find images by BIDS names in sub-*/[ses-*/]func; nothing else of the tree is walked."""
    folders = sorted([*root.glob("sub-*/func"), *root.glob("sub-*/ses-*/func")])
    wanted = dict(dataset.entities)
    if dataset.kind == "fmriprep":
        wanted.setdefault("desc", "preproc")
    every, found = [], []
    for folder in folders:
        for path, name in listing(folder):
            if name.suffix == "bold" and name.extension in IMAGES:
                every.append(name.entities)
                if all(_same(name.entities.get(k), v) for k, v in wanted.items()):
                    source = path.relative_to(root).as_posix()
                    found.append(RunSource(dataset.name, path, source, name.entities))
    if not found:
        raise UserError(
            f"data set '{dataset.name}': no *_bold.nii.gz with {_show(wanted)} in {root}/sub-*/[ses-*/]func"
            + (f"; there are {_choices(every)}" if every else "; is root the folder that holds sub-*?")
        )
    _refuse_ambiguity(dataset, found)
    return found


def _same(have: str | None, want: str) -> bool:
    """Compare entity values; 1 and 01 are the same index."""
    if have is not None and have.isdigit() and want.isdigit():
        return int(have) == int(want)
    return have == want


def _refuse_ambiguity(dataset: DatasetConfig, found: list[RunSource]) -> None:
    """One run in several spaces or resolutions: the user must choose."""
    renderings: dict[tuple, list[RunSource]] = {}
    for run in found:
        identity = tuple(sorted((k, v) for k, v in run.entities.items() if k not in RENDERING))
        renderings.setdefault((*identity, run.path.parent), []).append(run)
    for same_run in renderings.values():
        options = {tuple((k, r.entities[k]) for k in RENDERING if k in r.entities) for r in same_run}
        if len(options) > 1:
            choices = " or ".join(_show(dict(o)) for o in sorted(options))
            raise UserError(
                f"data set '{dataset.name}': {same_run[0].source} and {len(same_run) - 1} more are one run; "
                f"choose with entities: {choices}"
            )


def _show(entities: dict[str, str]) -> str:
    """Write entities as they stand in a recipe."""
    return "{" + ", ".join(f"{k}: {v}" for k, v in entities.items()) + "}"


def _choices(every: list[dict[str, str]]) -> str:
    """Write the values that occur, for entities a filter may name."""
    keys = [k for k in ("task", "acq", *RENDERING) if any(k in e for e in every)]
    shown = [f"{k}: {', '.join(sorted({e[k] for e in every if k in e})[:8])}" for k in keys]
    return "; ".join(shown) or f"{len(every)} images without task or space"


def _by_glob(dataset: DatasetConfig, root: Path) -> list[RunSource]:
    """Find files by the recipe's glob; an .npz archive holds one run an array."""
    if dataset.files is None:
        raise UserError(f"data set '{dataset.name}': kind arrays needs files, a glob below {root}")
    extensions = EXTENSIONS if dataset.kind == "arrays" else IMAGES
    paths = sorted(p for p in root.glob(dataset.files) if p.name.endswith(extensions))
    if not paths:
        raise UserError(
            f"data set '{dataset.name}': no {'/'.join(extensions)} matches {root}/{dataset.files}"
        )
    return [run for path in paths for run in _runs_of_file(dataset.name, path, root)]


def _runs_of_file(dataset: str, path: Path, root: Path) -> Iterator[RunSource]:
    source = path.relative_to(root).as_posix()
    parsed = parse_name(path.name)
    entities = parsed.entities if parsed else {}
    if path.suffix != ".npz":
        yield RunSource(dataset, path, source, entities)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = sorted(n.removesuffix(".npy") for n in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        yield RunSource(dataset, path, source, entities, array="")  # rejected when it is read
        return
    for array in arrays:
        inner = parse_name(f"{array}.npy")
        both = {**entities, **(inner.entities if inner else {})}
        yield RunSource(dataset, path, f"{source}:{array}", both, array=array)


# ---------------------------------------------------------------- naming and companions


def _complete(run: RunSource, dataset: DatasetConfig, root: Path, table: "_Participants | None") -> RunSource:
    """Fill in entities, key, t_r and companions of a run."""
    entities, identity = dict(run.entities), run.array or _stem(run.path)
    if run.array == "":
        raise Rejected("unreadable", "not a readable .npz archive; copy it again")
    if dataset.name_pattern is not None:
        match = re.search(dataset.name_pattern, run.source)
        if match is None:
            raise Rejected("no_name", f"name_pattern '{dataset.name_pattern}' does not match; mend either")
        groups = {k: v for k, v in match.groupdict().items() if v is not None}
        identity = groups.pop("id", identity)
        short = {"subject": "sub", "session": "ses"}
        entities |= {short.get(k, k): v for k, v in groups.items()}
    t_r = None
    if table is not None:
        subject, t_r = table.look_up(identity, entities.get("sub"))
        entities["sub"] = subject
    if not entities.get("sub"):
        raise Rejected("no_name", "no subject in its name; give name_pattern with a group (?P<subject>...)")
    key = make_key(dataset.name, entities)
    if dataset.kind == "arrays":
        return dataclasses.replace(
            run,
            entities=entities,
            key=key,
            t_r=t_r,
            form="array",
            events=_events(run, dataset, root, entities),
        )
    return dataclasses.replace(
        run,
        entities=entities,
        key=key,
        form=form_of(dataset),
        sidecars=tuple(inherited(run.path, root, entities, "bold", ".json")),
        brain_mask=brain_mask_file(run.path, entities),
        confounds=confounds_file(run.path, entities) if dataset.kind == "fmriprep" else None,
        events=_events(run, dataset, root, entities),
    )


def make_key(dataset: str, entities: dict[str, str]) -> str:
    """Name a run: the data set and every entity that tells runs apart, letters and digits only."""
    known = [(k, entities[k]) for k in ENTITY_ORDER if k in entities]
    parts = [f"{k}-{re.sub('[^A-Za-z0-9]', '', v)}" for k, v in known]
    key = "_".join([dataset, *parts])
    if len(key) > MAX_KEY:
        raise Rejected("no_name", f"its key has {len(key)} characters, {MAX_KEY} fit; shorten the name")
    return key


def _stem(path: Path) -> str:
    """Return a file's name without its known extension."""
    for extension in sorted((*EXTENSIONS, *IMAGES), key=len, reverse=True):
        if path.name.endswith(extension):
            return path.name.removesuffix(extension)
    return path.stem


def _events(run: RunSource, dataset: DatasetConfig, root: Path, entities: dict[str, str]) -> Path | None:
    """Return the events file: by the recipe's template, else by BIDS inheritance."""
    if dataset.events is None:
        found = inherited(run.path, root, entities, "events", ".tsv")
        return found[-1] if found else None
    long = {"sub": "subject", "ses": "session"}
    fields = {long.get(k, k): v for k, v in entities.items()}
    fields |= {
        "root": str(root),
        "dir": str(run.path.parent),
        "stem": _stem(run.path),
        "array": run.array or "",
    }
    try:
        path = expand(dataset.events.format(**fields), relative_to=root)
    except (KeyError, IndexError, ValueError) as error:
        raise Rejected("no_events", f"the template events: {dataset.events} needs {error}") from error
    if not path.is_file():
        raise Rejected("no_events", f"{path.name} is not where events: {dataset.events} says; add it")
    return path


class _Participants:
    """The participants table of a data set, looked up by a run's identity or subject."""

    def __init__(self, dataset: DatasetConfig, root: Path) -> None:
        self.dataset, path = dataset, expand(dataset.participants or "", relative_to=root)
        try:
            separator = "," if path.suffix == ".csv" else "\t"
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"data set '{dataset.name}': participants table {path}: {error}") from error
        self.subject = dataset.participants_subject or dataset.participants_key
        for column in filter(None, (dataset.participants_key, self.subject, dataset.participants_t_r)):
            if column not in table:
                raise UserError(f"{path}: no column '{column}'; it has {', '.join(table.columns)}")
        self.rows = {row[dataset.participants_key]: row for row in table.to_dict("records")}

    def look_up(self, identity: str, subject: str | None) -> tuple[str, float | None]:
        """Return subject and t_r (s) of a run."""
        candidates = [identity, subject, f"sub-{subject}"]
        row = next((self.rows[c] for c in candidates if c in self.rows), None)
        if row is None:
            raise Rejected(
                "no_participant",
                f"no row '{identity}' in column {self.dataset.participants_key} of "
                f"{self.dataset.participants}; add it or set participants_key",
            )
        t_r = None
        if self.dataset.participants_t_r is not None:
            try:
                t_r = float(row[self.dataset.participants_t_r])
            except ValueError:
                t_r = None
        return row[self.subject].removeprefix("sub-"), t_r
