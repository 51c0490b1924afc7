"""Find the runs of a data set and the files that belong to each, without opening an image."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find import hcp, xcpd
from fmriscale.ingest.find.bids_tree import find_bids
from fmriscale.ingest.find.checks import check_dataset, form_of
from fmriscale.ingest.find.choice import Found, Listing, choose, cut_up, wanted_entities
from fmriscale.ingest.find.companions import (
    Identity,
    brain_mask_file,
    confounds_file,
    events_file,
    identity_of,
    missing_confounds,
    missing_mask,
)
from fmriscale.ingest.find.counts import Counts
from fmriscale.ingest.find.fetch import present
from fmriscale.ingest.find.keys import ambiguous, make_key, same_run
from fmriscale.ingest.find.layouts import extension_of, find_by_glob, nothing_fits, stem
from fmriscale.ingest.find.misnamed import contradiction, no_task, tell_apart
from fmriscale.ingest.find.names import LONG_NAMES, Tree, inherited
from fmriscale.ingest.find.participants import Participants
from fmriscale.ingest.read.content import check_content
from fmriscale.ingest.read.cuts import Cut
from fmriscale.ingest.read.mirror import local_path


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
        Name of the array in a file that holds several.
    cut : Cut or None
        Where it lies in a file of several runs end to end.
    shares_events : bool
        `events` are those of the whole file, which others are cut from, too.
    source : str
        Path below the root of the data set, with `:array` for archives and `[first:end]` for cut files.
    entities : dict of str to str
        BIDS entities (short names).
    t_r : float or None
        From the participants table, s.
    participant : dict of str to str
        Columns of that table that the recipe keeps.
    participant_id : str
        The id in that table, where it lost zeros or is written otherwise than the run's; "" else.
    group : str
        What the column `split.group` of that table says; "" = stands alone.
    sidecars : tuple of Path
        JSON files that apply, the most specific last.
    form : str
        What the file is: nifti, cifti, gifti or array (`form_of`).
    right : Path or None
        GIFTI only: `path` is the left hemisphere, this the right one.
    brain_mask, confounds, events : Path or None
        Companions.
    motion : Path or None
        HCP and XCP-D: a table of the run's head motion.
    outliers : Path or None
        XCP-D only: a table of the volumes that moved too much.
    evs : tuple of Path
        HCP only: events of a task run, one file a condition.
    """

    dataset: str
    path: Path
    source: str
    entities: dict[str, str]
    array: str | None = None
    cut: Cut | None = None
    shares_events: bool = False
    t_r: float | None = None
    participant: dict[str, str] = field(default_factory=dict)
    participant_id: str = ""
    group: str = ""
    sidecars: tuple[Path, ...] = ()
    brain_mask: Path | None = None
    confounds: Path | None = None
    events: Path | None = None
    form: str = "nifti"
    right: Path | None = None
    motion: Path | None = None
    outliers: Path | None = None
    evs: tuple[Path, ...] = ()
    key: str = field(default="")

    def inputs(self) -> list[Path]:
        """Return every file the run is made from."""
        companions = (self.right, self.brain_mask, self.confounds, self.motion, self.outliers, self.events)
        files = [self.path, *self.sidecars, *companions, *self.evs]
        return [file for file in files if file is not None]


class FoundRuns(NamedTuple):
    """What a data set holds.

    Attributes
    ----------
    runs : list of RunSource
        Sorted by subject, session, task, run and key; keys are unique.
    rejections : list of Rejection
        Files that belong to no nameable run, or repeat one; folders that cannot be read or hold no scan;
        events of no run.
    counts : Counts
        What became of every scan that was listed.
    """

    runs: list[RunSource]
    rejections: list[Rejection]
    counts: Counts


def find_runs(dataset: DatasetConfig, tree: Tree | None = None) -> FoundRuns:
    """List the runs of a data set in corpus order, and account for every file that looks like a scan."""
    tree = tree or Tree()
    root = check_dataset(dataset)
    form = form_of(dataset)
    wanted = wanted_entities(dataset, form)
    listing = _find(dataset, root, tree, form)
    every, unnamed = _name(dataset, listing.found)
    choice = choose(dataset, every, wanted)
    if not choice.chosen and all(r.reason == "not_rendered" for r in choice.rejections):
        raise nothing_fits(dataset, root, every, wanted)
    context = _Context.of(dataset, root, tree, form, every)
    chosen = cut_up(dataset, choice.chosen)
    runs, refused = _complete_all(chosen, context)
    n_refused = _count(found for found, _ in refused)
    counts = Counts(
        listed=len(listing.found) + len(listing.misfits) + _count(chosen) - _count(choice.chosen),
        in_runs=_count(runs),
        quarantined=len(listing.misfits) + len(unnamed) + len(choice.rejections) + n_refused,
        unwanted=choice.n_unwanted,
        other=choice.n_other,
    )
    rejections = [*listing.misfits, *listing.remarks, *unnamed, *choice.rejections]
    rejections += [Rejection(dataset.name, f.source, why.reason, why.detail) for f, why in refused]
    for folder, why in tree.unreadable.items():
        if folder.is_relative_to(root):
            source = folder.relative_to(root).as_posix()
            rejections.append(Rejection(dataset.name, source, "unreadable", f"{why}; let it be read"))
    return FoundRuns(sorted(runs, key=_corpus_order), sorted(rejections, key=lambda r: r.source), counts)


def _count(scans: Iterable[Found | RunSource]) -> int:
    """Count files: a pair of hemispheres is two."""
    return sum(1 if scan.right is None else 2 for scan in scans)


def _corpus_order(run: RunSource) -> tuple[str, ...]:
    """Return what runs.tsv is sorted by, within a data set."""
    return (*(run.entities.get(k, "") for k in ("sub", "ses", "task", "run")), run.key)


def _find(dataset: DatasetConfig, root: Path, tree: Tree, form: str) -> Listing:
    if dataset.kind == "hcp":
        return hcp.find_hcp(dataset, root, tree, form)
    if dataset.kind == "arrays" or dataset.files is not None:
        return find_by_glob(dataset, root, form)
    return find_bids(dataset, root, tree, form)


def _name(dataset: DatasetConfig, files: list[Found]) -> tuple[list[Found], list[Rejection]]:
    """Add what name_pattern reads from the paths, and by what the participants table knows each run."""
    pattern = re.compile(dataset.name_pattern or "")
    in_tree = dataset.kind in ("fmriprep", "bids", "xcpd") and dataset.files is None
    named, rejections, n_matching = [], [], 0
    for found in files:
        match = pattern.search(found.source)
        if match is None:
            detail = f"name_pattern '{dataset.name_pattern}' does not match; mend either"
            rejections.append(Rejection(dataset.name, found.source, "no_name", detail))
            continue
        n_matching += 1
        groups = {LONG_NAMES.get(k, k): v for k, v in match.groupdict().items() if v is not None}
        identity = groups.pop("id", found.array or stem(found.path))
        if conflict := contradiction(found.source, found.entities, groups):
            rejections.append(Rejection(dataset.name, found.source, "name_conflict", conflict))
            continue
        entities = found.entities | groups
        if in_tree and "task" not in entities:
            rejections.append(Rejection(dataset.name, found.source, "no_name", no_task(found.path.name)))
            continue
        named.append(found._replace(entities=entities, identity=identity))
    if not n_matching:
        raise UserError(
            f"data set '{dataset.name}': name_pattern '{dataset.name_pattern}' matches none of {len(files)} "
            f"paths below root, e.g. {files[0].source}; mend it"
        )
    if not named:
        first, n = rejections[0], len(rejections)
        raise UserError(
            f"data set '{dataset.name}': {'the scan' if n == 1 else f'none of the {n} scans'} in root can be "
            f"a run: {first.source}: {first.detail}"
        )
    return named, rejections


# ---------------------------------------------------------------- naming and companions


class _Context(NamedTuple):
    """What naming a run depends on beside its file."""

    dataset: DatasetConfig
    root: Path
    tree: Tree
    form: str
    table: Participants | None

    @classmethod
    def of(cls, dataset: DatasetConfig, root: Path, tree: Tree, form: str, every: list[Found]) -> "_Context":
        """Open the participants table."""
        labels = {label for f in every for label in (f.identity, f.entities.get("sub")) if label}
        table = Participants(dataset, root, labels) if dataset.participants else None
        return cls(dataset, root, tree, form, table)


def _complete_all(
    chosen: list[Found], context: _Context
) -> tuple[list[RunSource], list[tuple[Found, Rejected]]]:
    """Give files their keys and companions; return those that cannot have them with the reason."""
    done: list[tuple[Found, RunSource]] = []
    refused: list[tuple[Found, Rejected]] = []
    for found in sorted(chosen, key=lambda f: f.source):
        try:
            done.append((found, _complete(found, context)))
        except Rejected as why:
            refused.append((found, why))
    n_sharing = Counter((run.path, run.array, run.events) for _, run in done if run.cut)
    shared = ambiguous(context.dataset.name, [run.entities for _, run in done])
    with_mask = next((run.brain_mask.name for _, run in done if run.brain_mask), "")
    runs: dict[tuple, RunSource] = {}
    for found, run in done:
        try:
            key = make_key(context.dataset.name, run.entities)
            key = make_key(context.dataset.name, run.entities, exact=True) if key in shared else key
            if other := runs.get(same_run(run.entities)):
                remedy = tell_apart((other.source, other.entities), (run.source, run.entities))
                raise Rejected("duplicate_key", f"{other.source} is already {other.key}; {remedy}")
            if run.form == "nifti" and run.brain_mask is None and context.dataset.kind != "hcp":
                _check_no_mask(run, context, with_mask)
            shares = n_sharing[run.path, run.array, run.events] > 1
            runs[same_run(run.entities)] = dataclasses.replace(run, key=key, shares_events=shares)
        except Rejected as why:
            refused.append((found, why))
    return list(runs.values()), refused


def _complete(found: Found, context: _Context) -> RunSource:
    """Give a file its entities and companions."""
    dataset, tree, form = context.dataset, context.tree, context.form
    if found.array == "":
        with present(found.path) as here:
            check_content(here, "array")
        raise Rejected("unreadable", f"not a readable {found.path.suffix} archive; copy it again")
    if form == "gifti" and found.right is None:
        raise Rejected("no_hemisphere", "its name says neither hemi-L nor hemi-R; rename it")
    entities, who = dict(found.entities), None
    if context.table is not None:
        who = context.table.look_up(found.identity, entities.get("sub"))
        entities["sub"] = who.subject
    if not entities.get("sub"):
        raise Rejected("no_name", "no subject in its name; give name_pattern with a group (?P<subject>...)")
    known = _identity(found.path, entities, found.array)
    run = RunSource(
        dataset=dataset.name,
        path=found.path,
        source=found.source,
        entities=entities,
        array=found.array,
        cut=found.cut,
        t_r=who.t_r if who else None,
        participant=who.kept if who else {},
        participant_id=who.written if who else "",
        form=form,
        right=found.right,
        events=_events(found, dataset, context.root, entities, known, tree),
    )
    run = dataclasses.replace(run, **_companions(run, dataset, context.root, known, tree))
    if gone := [f for f in run.inputs() if tree.is_dangling(f)]:
        raise Rejected("not_fetched", f"{gone[0].name} is a link to nothing; fetch it (datalad get)")
    return run


def _check_no_mask(run: RunSource, context: _Context, with_mask: str) -> None:
    """Reject a run without a mask where others have theirs."""
    known = _identity(run.path, run.entities, run.array)
    if why := missing_mask(context.tree, run.path, known, with_mask):
        raise why


def _identity(path: Path, entities: dict[str, str], array: str | None) -> Identity:
    """Return by what a run's companions are known: an array of an archive by its entities alone."""
    return Identity(entities, entities) if array else identity_of(path, entities, extension_of(path))


def _companions(
    run: RunSource, dataset: DatasetConfig, root: Path, known: Identity, tree: Tree
) -> dict[str, Any]:
    """Return the fields of a run that name files beside its image."""
    path = run.path
    if dataset.kind == "xcpd":
        mask = brain_mask_file(tree, path, known) if run.form == "nifti" else None
        return {"brain_mask": mask, **xcpd.companions(tree, path, known)}
    if run.form == "array":
        return {}
    if dataset.kind == "hcp":
        mask = hcp.brain_mask(tree, path) if run.form == "nifti" else None
        evs = hcp.ev_files(tree, path) if run.events is None else ()
        return {"brain_mask": mask, "motion": hcp.motion_table(tree, path), "evs": evs}
    own = f".{path.name.split('.')[-2]}.json"  # fMRIPrep writes .dtseries.json beside .json
    extensions = (".json",) if run.form == "nifti" else (own, ".json")
    hemisphere = {"hemi": "L"} if run.form == "gifti" else {}
    wanted = known.known | hemisphere
    sidecars = [s for e in extensions for s in inherited(tree, path, root, wanted, "bold", e)]
    beside = path.parent / f"{stem(path)}.json"
    if beside not in sidecars and beside.name in tree.folder(path.parent).files:
        sidecars.append(beside)  # whatever the image is called
    mask = brain_mask_file(tree, path, known) if run.form == "nifti" else None
    found: dict[str, Any] = {"sidecars": tuple(sidecars), "brain_mask": mask}
    if dataset.kind == "fmriprep":
        found["confounds"] = confounds_file(tree, path, known)
        if found["confounds"] is None and (why := missing_confounds(tree, path, known, dataset)):
            raise why
    return found


def _events(
    found: Found, dataset: DatasetConfig, root: Path, entities: dict[str, str], known: Identity, tree: Tree
) -> Path | None:
    """Return the events file: by the recipe's template, else by BIDS inheritance."""
    if dataset.events is None:
        return events_file(tree, found.path, root, known)
    long = {short: name for name, short in LONG_NAMES.items()}
    fields = {long.get(k, k): v for k, v in entities.items()}
    fields |= {
        "root": str(root),
        "dir": str(found.path.parent),
        "stem": stem(found.path),
        "array": found.array or "",
    }
    try:
        path = Path(str(local_path(dataset.events)).format(**fields)).absolute()
    except (KeyError, IndexError, ValueError) as error:
        raise Rejected("no_events", f"the template events: {dataset.events} needs {error}") from error
    tree.folder(path.parent)  # a file on a server is known once its folder is listed
    if path.is_dir():
        folders = [f"{k}-{known.known[k]}" for k in ("sub", "ses") if k in known.known]
        return events_file(tree, path.joinpath(*folders, "func", "_"), path, known)
    if not path.is_file():
        told = f"{path.name} is not where events: {dataset.events} says; add it, or mend events"
        raise Rejected("no_events", told)
    return path
