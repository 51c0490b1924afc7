"""Find the runs of a data set and the files that belong to each, without opening an image."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find import choice
from fmriscale.ingest.find.bids_tree import find_bids
from fmriscale.ingest.find.checks import check_dataset
from fmriscale.ingest.find.choice import Listing, Scan
from fmriscale.ingest.find.companions import RunFiles, check_no_mask, find_companions
from fmriscale.ingest.find.fetch import present
from fmriscale.ingest.find.forms import form_of, stem_of
from fmriscale.ingest.find.globs import find_by_glob
from fmriscale.ingest.find.hcp import find_hcp
from fmriscale.ingest.find.names import EntitySet, ambiguous_keys, make_key, run_identity, short_names
from fmriscale.ingest.find.participants import Participant, Participants
from fmriscale.ingest.find.remedies import contradiction, no_task, tell_apart
from fmriscale.ingest.find.stimulus import stimulus_of_run
from fmriscale.ingest.find.tree import Tree
from fmriscale.ingest.read.content import check_content


@dataclass(frozen=True, kw_only=True)
class RunSource(Scan):
    """A run before it is read: its file, its companion files, and what names and tables say of it."""

    dataset: str
    shares_events: bool = False  # whether `events` are those of a file from which other runs are cut, too
    t_r: float | None = None  # from the participants table, s
    participant: dict[str, str] = field(default_factory=dict)  # columns of that table that the recipe keeps
    participant_id: str = ""  # The id in that table where it is written otherwise than the run's; "" else
    group: str = ""  # The cell of the column `split.group` of that table; "" = stands alone
    stimulus: str = ""  # What everybody saw or heard; "" = nothing that people share
    stimulus_onset: float = 0.0  # s from the beginning of the run
    sidecars: tuple[Path, ...] = ()  # JSON files that apply, the most specific last
    brain_mask: Path | None = None
    confounds: Path | None = None
    events: Path | None = None
    form: str = "nifti"  # nifti, cifti, gifti or array (`form_of`)
    motion: Path | None = None  # HCP and XCP-D: a table of head motion
    outliers: Path | None = None  # XCP-D: a table of the volumes that moved too much
    evs: tuple[Path, ...] = ()  # HCP: events of a task run, one file a condition
    key: str = ""  # Its name in the corpus; "" until the keys of all runs are known

    def inputs(self) -> list[Path]:
        """Return every file the run is made from."""
        companions = (self.right, self.brain_mask, self.confounds, self.motion, self.outliers, self.events)
        return [file for file in (self.path, *self.sidecars, *companions, *self.evs) if file is not None]


@dataclass(frozen=True)
class Counts:
    """What became of the scans of a data set, in files or arrays of archives; the numbers must add up."""

    listed: int
    in_runs: int
    quarantined: int
    unwanted: int = 0  # left out by `entities`, or phase images
    other: int = 0

    def __post_init__(self) -> None:
        total = self.in_runs + self.quarantined + self.unwanted + self.other
        if self.listed != total:
            raise RuntimeError(f"{self.listed} files were listed, but {total} accounted for: {self}")

    def __str__(self) -> str:
        parts = [f"{self.in_runs} in runs", f"{self.quarantined} quarantined"]
        parts += [f"{self.unwanted} left out by entities"] * bool(self.unwanted)
        parts += [f"{self.other} other renderings or echoes of them"] * bool(self.other)
        return f"{self.listed} listed = {' + '.join(parts)}"


class FoundRuns(NamedTuple):
    """What a data set holds."""

    runs: list[RunSource]  # sorted by subject, session, task, run and key; keys are unique
    rejections: list[Rejection]  # scans that are no usable run, folders without scans, events of no run
    counts: Counts


def find_runs(dataset: DatasetConfig, tree: Tree | None = None, group_column: str | None = None) -> FoundRuns:
    """List the runs of a data set in corpus order, and account for every file that looks like a scan."""
    try:
        return _find_runs(dataset, tree or Tree(), group_column)
    except UserError as error:
        lines = (f"data set '{dataset.name}': {line}" for line in str(error).split("\n"))
        raise type(error)("\n".join(lines)) from error


def _find_runs(dataset: DatasetConfig, tree: Tree, group_column: str | None) -> FoundRuns:
    root = check_dataset(dataset)
    listing = _list_scans(dataset, root, tree)
    scans, unnamed = _add_names(dataset, listing.scans)
    wanted = choice.wanted_entities(dataset)
    taken = choice.choose(dataset, scans, wanted)
    if not taken.chosen and all(r.reason == "not_rendered" for r in taken.rejections):
        raise choice.nothing_fits(dataset, root, scans, wanted)
    labels = {label for scan in scans for label in (scan.identity, scan.entities.get("sub")) if label}
    table = Participants(dataset, root, labels, group_column) if dataset.participants else None
    chosen = choice.cut_up(dataset, taken.chosen)
    runs, refused = _complete_all(chosen, dataset, root, tree, table)
    rejections = [*listing.misfits, *listing.remarks, *unnamed, *taken.rejections]
    rejections += [Rejection(dataset.name, scan.source, why.reason, why.detail) for scan, why in refused]
    for folder, why in tree.unreadable.items():
        if folder.is_relative_to(root):
            source = folder.relative_to(root).as_posix()
            rejections.append(Rejection(dataset.name, source, "unreadable", f"{why}; let it be read"))
    n_quarantined = len(listing.misfits) + len(unnamed) + len(taken.rejections)
    counts = Counts(
        # A file of several runs counts as several.
        listed=len(listing.scans) + len(listing.misfits) + _n_files(chosen) - _n_files(taken.chosen),
        in_runs=_n_files(runs),
        quarantined=n_quarantined + _n_files(scan for scan, _ in refused),
        unwanted=taken.n_unwanted,
        other=taken.n_other,
    )
    # As runs.tsv is sorted within a data set.
    runs.sort(key=lambda run: (*(run.entities.get(k, "") for k in ("sub", "ses", "task", "run")), run.key))
    return FoundRuns(runs, sorted(rejections, key=lambda r: r.source), counts)


def _list_scans(dataset: DatasetConfig, root: Path, tree: Tree) -> Listing:
    if dataset.kind == "hcp":
        return find_hcp(dataset, root, tree)
    if dataset.kind == "arrays" or dataset.files is not None:
        return find_by_glob(dataset, root)
    return find_bids(dataset, root, tree)


def _n_files(scans: Iterable[Scan]) -> int:
    """Count files: a pair of hemispheres is two."""
    return sum(1 if scan.right is None else 2 for scan in scans)


def _add_names(dataset: DatasetConfig, scans: list[Scan]) -> tuple[list[Scan], list[Rejection]]:
    """Add what name_pattern reads from the paths, and the id of each run in the participants table."""
    pattern = re.compile(dataset.name_pattern or "")
    in_tree = dataset.kind in ("fmriprep", "bids", "xcpd") and dataset.files is None
    named, rejections, n_matching = [], [], 0
    for scan in scans:
        match = pattern.search(scan.source)
        if match is None:
            detail = f"name_pattern '{dataset.name_pattern}' does not match; correct either"
            rejections.append(Rejection(dataset.name, scan.source, "no_name", detail))
            continue
        n_matching += 1
        groups = short_names({k: v for k, v in match.groupdict().items() if v is not None})
        identity = groups.pop("id", scan.array or stem_of(scan.path))
        entities = scan.entities | groups
        if conflict := contradiction(scan.source, scan.entities, groups):
            rejections.append(Rejection(dataset.name, scan.source, "name_conflict", conflict))
        elif in_tree and "task" not in entities:
            rejections.append(Rejection(dataset.name, scan.source, "no_name", no_task(scan.path.name)))
        else:
            named.append(dataclasses.replace(scan, entities=entities, identity=identity))
    if not n_matching:
        what = f"name_pattern '{dataset.name_pattern}' matches none of {len(scans)} paths below root"
        raise UserError(f"{what}, e.g. {scans[0].source}; correct it")
    if not named:
        raise choice.none_usable("in root", rejections)
    return named, rejections


def _complete_all(
    chosen: list[Scan], dataset: DatasetConfig, root: Path, tree: Tree, table: Participants | None
) -> tuple[list[RunSource], list[tuple[Scan, Rejected]]]:
    """Give scans their keys and companions; return those that cannot have them with the reason."""
    complete: list[tuple[Scan, RunSource]] = []
    refused: list[tuple[Scan, Rejected]] = []
    for scan in sorted(chosen, key=lambda scan: scan.source):
        try:
            complete.append((scan, _complete(scan, dataset, root, tree, table)))
        except Rejected as why:
            refused.append((scan, why))
    n_sharing = Counter((run.path, run.array, run.events) for _, run in complete if run.cut)
    ambiguous = ambiguous_keys(dataset.name, (run.entities for _, run in complete))
    some_mask = next((run.brain_mask for _, run in complete if run.brain_mask), None)
    runs: dict[EntitySet, RunSource] = {}
    for scan, run in complete:
        try:
            key = make_key(dataset.name, run.entities)
            key = make_key(dataset.name, run.entities, exact=True) if key in ambiguous else key
            if other := runs.get(run_identity(run.entities)):
                remedy = tell_apart((other.source, other.entities), (run.source, run.entities))
                raise Rejected("duplicate_key", f"{other.source} is already {other.key}; {remedy}")
            if run.form == "nifti" and run.brain_mask is None and dataset.kind != "hcp":
                check_no_mask(RunFiles(tree, run.path, run.entities), some_mask)
            shares = n_sharing[run.path, run.array, run.events] > 1
            runs[run_identity(run.entities)] = dataclasses.replace(run, key=key, shares_events=shares)
        except Rejected as why:
            refused.append((scan, why))
    return list(runs.values()), refused


def _complete(
    scan: Scan, dataset: DatasetConfig, root: Path, tree: Tree, table: Participants | None
) -> RunSource:
    """Give a scan its entities and companions."""
    form = form_of(dataset)
    if scan.array == "":
        with present(scan.path) as local:
            check_content(local, "array")
        raise Rejected("unreadable", f"not a readable {scan.path.suffix} archive; copy it again")
    if form == "gifti" and scan.right is None:
        raise Rejected("no_hemisphere", "its name says neither hemi-L nor hemi-R; rename it")
    participant = Participant(scan.entities.get("sub", ""))
    if table is not None:
        participant = table.look_up(scan.identity, scan.entities.get("sub"))
        scan = dataclasses.replace(scan, entities=scan.entities | {"sub": participant.subject})
    if not participant.subject:
        raise Rejected("no_name", "no subject in its name; give name_pattern with a group (?P<subject>...)")
    stimulus, onset = stimulus_of_run(dataset, scan.entities, participant.kept)
    run = RunSource(
        **vars(scan),
        dataset=dataset.name,
        t_r=participant.t_r,
        participant=participant.kept,
        participant_id=participant.table_id,
        group=participant.group,
        stimulus=stimulus,
        stimulus_onset=onset,
        form=form,
        **find_companions(scan, form, dataset, root, tree),
    )
    if missing := [file for file in run.inputs() if tree.is_dangling(file)]:
        raise Rejected("not_fetched", f"{missing[0].name} is a link to nothing; fetch it (datalad get)")
    return run
