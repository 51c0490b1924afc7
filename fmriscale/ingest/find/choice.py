"""Of all scans that were listed, those the recipe asks for: one for each run."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.forms import form_of
from fmriscale.ingest.find.names import ENTITY_ORDER, RENDERING, current_name
from fmriscale.ingest.read.cuts import Cut, cuts

CHOICES = (*RENDERING, "rec", "echo")
"""Entities of which a recipe must name one where a run has several: each is the same scan once more."""


@dataclass(frozen=True)
class Scan:
    """A file, or an array of an archive, that may be a run."""

    path: Path  # image or array file; of GIFTI the left hemisphere
    source: str  # path below the root, with `:array` for archives and `[first:end]` for cut files
    entities: dict[str, str]  # BIDS entities (short names)
    array: str | None = None  # name of the array in a file that holds several
    right: Path | None = None  # GIFTI: the right hemisphere, once it is joined to the left one
    identity: str = ""  # the run's id in the participants table
    cut: Cut | None = None  # its volumes in a file of several runs end to end


class Listing(NamedTuple):
    """The scans of a data set before the recipe's choice."""

    scans: list[Scan]
    misfits: Sequence[Rejection] = ()  # scans that cannot be runs because of their name or folder
    remarks: Sequence[Rejection] = ()  # empty folders, events of no run


class Choice(NamedTuple):
    """The scans that the recipe asks for."""

    chosen: list[Scan]  # one for each run
    rejections: list[Rejection]  # runs that exist, but not as the recipe wants them, and single hemispheres
    n_unwanted: int  # files that `entities` leaves out, and phase images
    n_other: int  # files that are another rendering or echo of a run


def wanted_entities(dataset: DatasetConfig) -> dict[str, str]:
    """Return the entities that a file must have, those of its kind too; "" = one that it must not have."""
    wanted, form = {k: str(v) for k, v in dataset.entities.items()}, form_of(dataset)
    if dataset.kind == "fmriprep" and form == "nifti" and dataset.files is None:
        wanted.setdefault("desc", "preproc")
    if dataset.kind == "xcpd" and form != "array" and dataset.features.parcels is None:
        wanted.setdefault("desc", "denoised")
    return wanted


def matches(entities: dict[str, str], wanted: dict[str, str]) -> bool:
    """Return whether a file has the wanted entities; 1 and 01 are the same index."""
    pairs = ((entities.get(k, ""), v) for k, v in wanted.items())
    return all(a == b or (a.isdecimal() and b.isdecimal() and int(a) == int(b)) for a, b in pairs)


def choose(dataset: DatasetConfig, scans: list[Scan], wanted: dict[str, str]) -> Choice:
    """Take from all scans of a data set those that the recipe wants, one for each run.

    A phase image and a single echo are taken only where the recipe names `part` or `echo`.
    """
    # A cohort names a template for other people: its runs are left out, not rejected.
    filters = {k: v for k, v in wanted.items() if k not in RENDERING or k == "cohort"}
    runs: dict[tuple, list[Scan]] = defaultdict(list)
    for scan in scans:
        is_phase = "part" not in wanted and scan.entities.get("part", "mag") != "mag"
        if matches(scan.entities, filters) and not is_phase:
            runs[_shared(scan, CHOICES, scan.array)].append(scan)
    chosen, rejections, n_other = [], [], 0
    for files in runs.values():
        fitting = [f for f in files if matches(f.entities, wanted)]
        if not fitting:
            existing = " or ".join(show(o) for o in _options(files)[:4]) or "a file without space or desc"
            what = f"this run has {existing}, the recipe wants {show(wanted)}"
            detail = f"{what}; make that file or change entities"
            rejections.append(Rejection(dataset.name, files[0].source, "not_rendered", detail))
            n_other += len(files) - 1
            continue
        fitting = [f for f in fitting if "echo" not in f.entities] or fitting
        n_other += len(files) - len(fitting)
        if len(options := _options(fitting)) > 1:
            what = f"{fitting[0].source} and {len(fitting) - 1} more are one run"
            raise UserError(f"{what}; choose with entities: {' or '.join(map(show, options))}")
        whole, lone = _join_hemispheres(dataset, fitting)
        chosen += whole
        rejections += lone
    chosen, joined = _without_joined(dataset, chosen)
    return Choice(chosen, rejections + joined, len(scans) - sum(map(len, runs.values())), n_other)


def _shared(scan: Scan, apart: tuple[str, ...], array: str | None = None) -> tuple:
    """Return folder, array and entities of a scan, but for those in `apart` and its hemisphere."""
    entities = sorted((k, v) for k, v in scan.entities.items() if k not in (*apart, "hemi"))
    return (scan.path.parent, array, *entities)


def _options(files: list[Scan]) -> list[dict[str, str]]:
    """Return what tells the files of one run apart, as a recipe would name it."""
    keys = [k for k in CHOICES if any(k in f.entities for f in files)]
    if len(files) > 1:
        keys = [k for k in keys if len({f.entities.get(k) for f in files}) > 1]
    options = {tuple((k, f.entities.get(k, "")) for k in keys) for f in files}
    return [dict(option) for option in sorted(options) if option]


def _join_hemispheres(dataset: DatasetConfig, files: list[Scan]) -> tuple[list[Scan], list[Rejection]]:
    """Join the left and the right hemisphere of one run; files of both hemispheres stay as they are."""
    whole = [f for f in files if "hemi" not in f.entities]
    sides: dict[str, Scan] = {}
    rejections = []
    for scan in (f for f in files if "hemi" in f.entities):
        first = sides.setdefault(scan.entities["hemi"], scan)
        if first is not scan:
            detail = f"{first.path.name} is this hemisphere already; remove one"
            rejections.append(Rejection(dataset.name, scan.source, "duplicate_key", detail))
    if "L" in sides and "R" in sides:
        left, right = sides.pop("L"), sides.pop("R")
        entities = {k: v for k, v in left.entities.items() if k != "hemi"}
        whole.append(replace(left, entities=entities, right=right.path))
    for side, scan in sides.items():
        rejections.append(Rejection(dataset.name, scan.source, "no_hemisphere", _other_half(side, scan)))
    return whole, rejections


def _other_half(side: str, scan: Scan) -> str:
    if side not in ("L", "R"):
        return f"hemi-{side} is neither hemi-L nor hemi-R; rename it"
    other = "R" if side == "L" else "L"
    missing = scan.path.name.replace(f"hemi-{side}", f"hemi-{other}").replace(f".{side}.", f".{other}.")
    return f"only the {'left' if side == 'L' else 'right'} hemisphere is here; add {missing}"


def _without_joined(dataset: DatasetConfig, scans: list[Scan]) -> tuple[list[Scan], list[Rejection]]:
    """Leave out files in which XCP-D or ABCD-BIDS joined runs that are chosen themselves."""
    apart = (*CHOICES, "run", "dir")
    runs: dict[tuple, list[Scan]] = defaultdict(list)
    for scan in scans:
        if "run" in scan.entities:
            runs[_shared(scan, apart)].append(scan)
    kept, rejections = [], []
    for scan in scans:
        parts = [] if "run" in scan.entities else runs.get(_shared(scan, apart), [])
        parts = [p for p in parts if scan.entities.get("dir") in (None, p.entities.get("dir"))]
        if parts and (dataset.kind == "xcpd" or current_name(scan.path.name) != scan.path.name):
            what = f"{parts[0].path.name} and {len(parts) - 1} more runs are in it, and are taken themselves"
            detail = f"{what}; to take it instead, set entities: {{run: ''}}"
            rejections.append(Rejection(dataset.name, scan.source, "duplicate_content", detail))
        else:
            kept.append(scan)
    return kept, rejections


def cut_up(dataset: DatasetConfig, scans: list[Scan]) -> list[Scan]:
    """Replace each file of several runs (`runs` in the recipe) by its runs."""
    if dataset.runs is None:
        return scans
    width, parts = len(str(len(dataset.runs))), []
    for scan in scans:
        index = next((k for k in ("run", "chunk") if k not in scan.entities), None)
        if index is None:
            raise UserError(f"runs cuts {scan.source}, which has run and chunk already; remove chunk")
        for n, cut in enumerate(cuts(dataset.runs), 1):
            entities = scan.entities | {index: f"{n:0{width}d}"}
            parts.append(replace(scan, source=f"{scan.source}{cut}", entities=entities, cut=cut))
    return parts


def none_usable(where: str, misfits: Sequence[Rejection]) -> UserError:
    """Return the error of a data set in which every scan is a misfit; `where` names the place."""
    which = "no scan" if len(misfits) == 1 else f"none of the {len(misfits)} scans"
    return UserError(f"{which} {where} can be a run: {misfits[0].source}: {misfits[0].detail}")


def nothing_fits(dataset: DatasetConfig, root: Path, scans: list[Scan], wanted: dict[str, str]) -> UserError:
    """Return the error of a recipe whose entities fit no file."""
    keys = (*ENTITY_ORDER[2:], *RENDERING)
    labels = {k: sorted({s.entities[k] for s in scans if k in s.entities}) for k in keys}
    listed = [f"{k}: {', '.join(v[:8])}{', ...' * (len(v) > 8)}" for k, v in labels.items() if v]
    existing = "; ".join(listed) or f"{len(scans)} files without task or space"
    is_raw = dataset.kind == "fmriprep" and not any("desc" in s.entities for s in scans)
    hint = f"; this looks like raw data: kind: bids, or root: {root / 'derivatives'}/..." if is_raw else ""
    return UserError(f"no file in {root} has {show(wanted)}; there are {existing}{hint}")


def show(entities: dict[str, str]) -> str:
    """Write entities as they stand in a recipe; '' is an entity that must be absent."""
    return "{" + ", ".join(f"{k}: {v or repr('')}" for k, v in entities.items()) + "}"
