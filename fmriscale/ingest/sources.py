"""Find the runs of a data set and the files that belong to each, without opening an image."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmriscale.config import DatasetConfig
from fmriscale.corpus.writer import MAX_KEY
from fmriscale.errors import UserError
from fmriscale.files import expand
from fmriscale.ingest import hcp
from fmriscale.ingest.checks import check_dataset, form_of
from fmriscale.ingest.choice import Found, choose, wanted_entities
from fmriscale.ingest.content import check_content
from fmriscale.ingest.layouts import find_bids, find_by_glob, nothing_fits, stem
from fmriscale.ingest.names import (
    ENTITY_ORDER,
    LONG_NAMES,
    Tree,
    brain_mask_file,
    confounds_file,
    inherited,
)
from fmriscale.ingest.participants import Participants
from fmriscale.ingest.quality import Rejected, Rejection


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
    participant : dict of str to str
        Columns of that table that the recipe keeps.
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
    evs : tuple of Path
        HCP only: events of a task run, one file a condition.
    """

    dataset: str
    path: Path
    source: str
    entities: dict[str, str]
    array: str | None = None
    t_r: float | None = None
    participant: dict[str, str] = field(default_factory=dict)
    sidecars: tuple[Path, ...] = ()
    brain_mask: Path | None = None
    confounds: Path | None = None
    events: Path | None = None
    form: str = "nifti"
    right: Path | None = None
    motion: Path | None = None
    evs: tuple[Path, ...] = ()
    key: str = field(default="")

    def inputs(self) -> list[Path]:
        """Return every file the run is made from."""
        companions = (self.right, self.brain_mask, self.confounds, self.motion, self.events)
        files = [self.path, *self.sidecars, *companions, *self.evs]
        return [file for file in files if file is not None]


def discover(dataset: DatasetConfig, tree: Tree | None = None) -> tuple[list[RunSource], list[Rejection]]:
    """List the runs of a data set in corpus order.

    Parameters
    ----------
    dataset : DatasetConfig
        Where to look, and for what.
    tree : Tree, optional
        What was listed so far; data sets of one plan share it, so that no folder is read twice.

    Returns
    -------
    list of RunSource
        Sorted by subject, session, task, run and key; keys are unique.
    list of Rejection
        Files that belong to no nameable run, or repeat one; folders that cannot be read.

    Raises
    ------
    UserError
        The folder is missing, nothing matches, the recipe is ambiguous or a table lacks a column.
    """
    tree = tree or Tree()
    root = check_dataset(dataset)
    form = form_of(dataset)
    wanted = wanted_entities(dataset, form)
    every, rejections = _name(dataset, _find(dataset, root, tree, form))
    chosen, others = choose(dataset, every, wanted)
    if not chosen and all(r.reason == "not_rendered" for r in others):
        raise nothing_fits(dataset, root, every, wanted)
    rejections += others
    table = Participants(dataset, root) if dataset.participants else None
    runs: dict[str, RunSource] = {}
    for found in sorted(chosen, key=lambda f: f.source):
        try:
            run = _complete(found, dataset, root, form, table, tree)
            if run.key in runs:
                raise Rejected(
                    "duplicate_key",
                    f"{runs[run.key].source} is already {run.key}; remove one, or tell them apart by "
                    "entities or name_pattern",
                )
            runs[run.key] = run
        except Rejected as why:
            rejections.append(Rejection(dataset.name, found.source, why.reason, why.detail))
    for folder, why in tree.unreadable.items():
        if folder.is_relative_to(root):
            source = folder.relative_to(root).as_posix()
            rejections.append(Rejection(dataset.name, source, "unreadable", f"{why}; let it be read"))
    return sorted(runs.values(), key=_corpus_order), sorted(rejections, key=lambda r: r.source)


def _corpus_order(run: RunSource) -> tuple[str, ...]:
    """Return what runs.tsv is sorted by, within a data set."""
    return (*(run.entities.get(k, "") for k in ("sub", "ses", "task", "run")), run.key)


def _find(dataset: DatasetConfig, root: Path, tree: Tree, form: str) -> list[Found]:
    if dataset.kind == "hcp":
        return hcp.find_hcp(dataset, root, tree, form)
    if dataset.kind == "arrays" or dataset.files is not None:
        return find_by_glob(dataset, root, form)
    return find_bids(dataset, root, tree, form)


def _name(dataset: DatasetConfig, files: list[Found]) -> tuple[list[Found], list[Rejection]]:
    """Add what name_pattern reads from the paths, and by what the participants table knows each run."""
    pattern = re.compile(dataset.name_pattern or "")
    named, rejections = [], []
    for found in files:
        match = pattern.search(found.source)
        if match is None:
            detail = f"name_pattern '{dataset.name_pattern}' does not match; mend either"
            rejections.append(Rejection(dataset.name, found.source, "no_name", detail))
            continue
        groups = {k: v for k, v in match.groupdict().items() if v is not None}
        identity = groups.pop("id", found.array or stem(found.path))
        entities = found.entities | {LONG_NAMES.get(k, k): v for k, v in groups.items()}
        named.append(found._replace(entities=entities, identity=identity))
    if not named:
        raise UserError(
            f"data set '{dataset.name}': name_pattern '{dataset.name_pattern}' matches none of {len(files)} "
            f"paths below root, e.g. {files[0].source}; mend it"
        )
    return named, rejections


# ---------------------------------------------------------------- naming and companions


def _complete(
    found: Found, dataset: DatasetConfig, root: Path, form: str, table: Participants | None, tree: Tree
) -> RunSource:
    """Give a file its key and its companions."""
    if found.array == "":
        check_content(found.path, "array")
        raise Rejected("unreadable", "not a readable .npz archive; copy it again")
    if form == "gifti" and found.right is None:
        raise Rejected("no_hemisphere", "its name says neither hemi-L nor hemi-R; rename it")
    entities, t_r, participant = dict(found.entities), None, {}
    if table is not None:
        entities["sub"], t_r, participant = table.look_up(found.identity, entities.get("sub"))
    if not entities.get("sub"):
        raise Rejected("no_name", "no subject in its name; give name_pattern with a group (?P<subject>...)")
    run = RunSource(
        dataset=dataset.name,
        path=found.path,
        source=found.source,
        entities=entities,
        array=found.array,
        t_r=t_r,
        participant=participant,
        form=form,
        right=found.right,
        events=_events(found, dataset, root, entities, tree),
        key=make_key(dataset.name, entities),
    )
    run = dataclasses.replace(run, **_companions(run, dataset, root, tree))
    if gone := [f for f in run.inputs() if tree.is_dangling(f)]:
        raise Rejected("not_fetched", f"{gone[0].name} is a link to nothing; fetch it (datalad get)")
    return run


def _companions(run: RunSource, dataset: DatasetConfig, root: Path, tree: Tree) -> dict[str, Any]:
    """Return the fields of a run that name files beside its image."""
    if run.form == "array":
        return {}
    path, entities = run.path, run.entities
    if dataset.kind == "hcp":
        mask = hcp.brain_mask(tree, path) if run.form == "nifti" else None
        evs = hcp.ev_files(tree, path) if run.events is None else ()
        return {"brain_mask": mask, "motion": hcp.motion_table(tree, path), "evs": evs}
    own = f".{path.name.split('.')[1]}.json"  # fMRIPrep writes .dtseries.json beside .json
    extensions = (".json",) if run.form == "nifti" else (own, ".json")
    hemisphere = {"hemi": "L"} if run.form == "gifti" else {}
    sidecars = [s for e in extensions for s in inherited(tree, path, root, entities | hemisphere, "bold", e)]
    beside = path.parent / f"{stem(path)}.json"
    if beside not in sidecars and beside.name in tree.folder(path.parent).files:
        sidecars.append(beside)  # whatever the image is called
    return {
        "sidecars": tuple(sidecars),
        "brain_mask": brain_mask_file(tree, path, entities) if run.form == "nifti" else None,
        "confounds": confounds_file(tree, path, entities) if dataset.kind == "fmriprep" else None,
    }


def make_key(dataset: str, entities: dict[str, str]) -> str:
    """Name a run: the data set and every entity that tells runs apart, letters and digits only."""
    known = [(k, entities[k]) for k in ENTITY_ORDER if k in entities]
    parts = [f"{k}-{re.sub('[^A-Za-z0-9]', '', v)}" for k, v in known]
    key = "_".join([dataset, *parts])
    if len(key) > MAX_KEY:
        raise Rejected("no_name", f"its key has {len(key)} characters, {MAX_KEY} fit; shorten the name")
    return key


def _events(
    found: Found, dataset: DatasetConfig, root: Path, entities: dict[str, str], tree: Tree
) -> Path | None:
    """Return the events file: by the recipe's template, else by BIDS inheritance."""
    if dataset.events is None:
        files = inherited(tree, found.path, root, entities, "events", ".tsv")
        return files[-1] if files else None
    long = {short: name for name, short in LONG_NAMES.items()}
    fields = {long.get(k, k): v for k, v in entities.items()}
    fields |= {
        "root": str(root),
        "dir": str(found.path.parent),
        "stem": stem(found.path),
        "array": found.array or "",
    }
    try:
        path = expand(str(expand(dataset.events)).format(**fields), relative_to=root)
    except (KeyError, IndexError, ValueError) as error:
        raise Rejected("no_events", f"the template events: {dataset.events} needs {error}") from error
    if path.is_dir():
        folders = [f"{k}-{entities[k]}" for k in ("sub", "ses") if k in entities]
        files = inherited(tree, path.joinpath(*folders, "func", "_"), path, entities, "events", ".tsv")
        return files[-1] if files else None
    if not path.is_file():
        raise Rejected("no_events", f"{path.name} is not where events: {dataset.events} says; add it")
    return path
