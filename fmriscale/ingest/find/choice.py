"""Of all files that were found, those the recipe asks for: one for each run."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.names import ENTITY_ORDER, RENDERING
from fmriscale.ingest.find.old_names import current_name
from fmriscale.ingest.read.cuts import Cut, cuts

CHOICES = (*RENDERING, "rec", "echo")
"""Entities of which a recipe must name one where a run has several: each is the same scan once more."""


class Found(NamedTuple):
    """A file that may be a run."""

    path: Path
    source: str
    """Path below the root of the data set, with `:array` for archives."""
    entities: dict[str, str]
    array: str | None = None
    right: Path | None = None
    identity: str = ""
    """By what the participants table knows the run; "" until it is named."""
    cut: Cut | None = None
    """Where the run lies in a file of several."""


class Listing(NamedTuple):
    """What was found in a data set."""

    found: list[Found]
    misfits: Sequence[Rejection] = ()
    """Scans that can be no run as they are called or placed."""
    remarks: Sequence[Rejection] = ()
    """What is missing or idle beside the scans: empty folders, events of no run."""


class Choice(NamedTuple):
    """What the recipe asks for of the files that were found."""

    chosen: list[Found]
    """One for each run."""
    rejections: list[Rejection]
    """Runs that exist, but not as the recipe wants them, and hemispheres without their other half."""
    n_unwanted: int
    """Files that `entities` leaves out, and phase images."""
    n_other: int
    """Files that are another rendering or echo of a run."""


def wanted_entities(dataset: DatasetConfig, form: str) -> dict[str, str]:
    """Return the entities a file must have; "" stands for an entity it must not have.

    fMRIPrep marks its volumes by `desc-preproc`, its surfaces and grayordinates by nothing; XCP-D marks all
    images by `desc-denoised`, but parcels by nothing.
    """
    wanted = {k: str(v) for k, v in dataset.entities.items()}
    if dataset.kind == "fmriprep" and form == "nifti" and dataset.files is None:
        wanted.setdefault("desc", "preproc")
    if dataset.kind == "xcpd" and form != "array" and dataset.features.parcels is None:
        wanted.setdefault("desc", "denoised")
    return wanted


def matches(entities: dict[str, str], wanted: dict[str, str]) -> bool:
    """Tell whether a file has the wanted entities; 1 and 01 are the same index."""
    return all(_same(entities.get(k, ""), v) for k, v in wanted.items())


def _same(have: str, want: str) -> bool:
    if have.isdecimal() and want.isdecimal():
        return int(have) == int(want)
    return have == want


def choose(dataset: DatasetConfig, every: list[Found], wanted: dict[str, str]) -> Choice:
    """Take from all files of a data set those that the recipe wants, one a run.

    Phase images are taken only where the recipe names `part`. Of a multi-echo run the combination of its
    echoes is taken; a single echo only where the recipe names `echo`. Hemispheres are joined in pairs.
    Another cohort is another template's people: those are passed over.
    """
    filters = {k: v for k, v in wanted.items() if k not in RENDERING or k == "cohort"}
    runs: dict[tuple, list[Found]] = {}
    for found in every:
        is_phase = "part" not in wanted and found.entities.get("part", "mag") != "mag"
        if matches(found.entities, filters) and not is_phase:
            runs.setdefault(_identity(found), []).append(found)
    chosen, rejections, n_other = [], [], 0
    for files in runs.values():
        fitting = [f for f in files if matches(f.entities, wanted)]
        if not fitting:
            rejections.append(_not_rendered(dataset, files, wanted))
            n_other += len(files) - 1
            continue
        combined = [f for f in fitting if "echo" not in f.entities]
        fitting = combined or fitting
        n_other += len(files) - len(fitting)
        _refuse_ambiguity(dataset, fitting)
        fitting, lone = _join_hemispheres(dataset, fitting)
        rejections += lone
        chosen += fitting
    chosen, joined = _without_joined(dataset, chosen)
    rejections += joined
    return Choice(chosen, rejections, len(every) - sum(map(len, runs.values())), n_other)


def _identity(found: Found) -> tuple:
    """Return what the files of one run share."""
    own = sorted((k, v) for k, v in found.entities.items() if k not in (*CHOICES, "hemi"))
    return (found.path.parent, found.array, *own)


def _not_rendered(dataset: DatasetConfig, files: list[Found], wanted: dict[str, str]) -> Rejection:
    have = " or ".join(show(o) for o in _options(files)[:4]) or "a file without space or desc"
    return Rejection(
        dataset.name,
        files[0].source,
        "not_rendered",
        f"this run has {have}, the recipe wants {show(wanted)}; make that file or change entities",
    )


def _options(files: list[Found]) -> list[dict[str, str]]:
    """Return what tells the files of one run apart, as a recipe would name it."""
    keys = [k for k in CHOICES if any(k in f.entities for f in files)]
    if len(files) > 1:
        keys = [k for k in keys if len({f.entities.get(k) for f in files}) > 1]
    options = {tuple((k, f.entities.get(k, "")) for k in keys) for f in files}
    return [dict(option) for option in sorted(options) if option]


def _refuse_ambiguity(dataset: DatasetConfig, files: list[Found]) -> None:
    """One run in several spaces, resolutions, reconstructions or echoes: the user must choose."""
    options = _options(files)
    if len(options) > 1:
        raise UserError(
            f"data set '{dataset.name}': {files[0].source} and {len(files) - 1} more are one run; "
            f"choose with entities: {' or '.join(show(o) for o in options)}"
        )


def _join_hemispheres(dataset: DatasetConfig, files: list[Found]) -> tuple[list[Found], list[Rejection]]:
    """Join the left and the right hemisphere of one run; files of both hemispheres stay as they are."""
    sides: dict[str, Found] = {}
    whole, rejections = [], []
    for found in files:
        side = found.entities.get("hemi")
        if side is None:
            whole.append(found)
        elif first := sides.get(side):
            why = f"{first.path.name} is this hemisphere already; remove one"
            rejections.append(Rejection(dataset.name, found.source, "duplicate_key", why))
        else:
            sides[side] = found
    if "L" in sides and "R" in sides:
        left, right = sides.pop("L"), sides.pop("R")
        entities = {k: v for k, v in left.entities.items() if k != "hemi"}
        whole.append(left._replace(entities=entities, right=right.path))
    for side, lone in sides.items():
        rejections.append(Rejection(dataset.name, lone.source, "no_hemisphere", _other_half(side, lone)))
    return whole, rejections


def _other_half(side: str, lone: Found) -> str:
    if side not in ("L", "R"):
        return f"hemi-{side} is neither hemi-L nor hemi-R; rename it"
    other = "R" if side == "L" else "L"
    missing = lone.path.name.replace(f"hemi-{side}", f"hemi-{other}").replace(f".{side}.", f".{other}.")
    return f"only the {'left' if side == 'L' else 'right'} hemisphere is here; add {missing}"


def _without_joined(dataset: DatasetConfig, files: list[Found]) -> tuple[list[Found], list[Rejection]]:
    """Leave out what XCP-D and ABCD-BIDS put end to end, where its runs are taken themselves."""
    runs: dict[tuple, list[Found]] = {}
    for found in files:
        if "run" in found.entities:
            runs.setdefault(_scan(found), []).append(found)
    left, rejections = [], []
    for found in files:
        parts = [] if "run" in found.entities else runs.get(_scan(found), [])
        parts = [p for p in parts if found.entities.get("dir") in (None, p.entities.get("dir"))]
        if parts and (dataset.kind == "xcpd" or current_name(found.path.name) != found.path.name):
            why = (
                f"{parts[0].path.name} and {len(parts) - 1} more runs are in it, end to end, and are taken "
                "themselves; to take it instead, set entities: {run: ''}"
            )
            rejections.append(Rejection(dataset.name, found.source, "duplicate_content", why))
        else:
            left.append(found)
    return left, rejections


def _scan(found: Found) -> tuple:
    """Return what the runs of one task and the file that joins them share."""
    apart = (*CHOICES, "hemi", "run", "dir")
    return (found.path.parent, *sorted((k, v) for k, v in found.entities.items() if k not in apart))


def cut_up(dataset: DatasetConfig, files: list[Found]) -> list[Found]:
    """Make each file the runs that lie in it end to end."""
    if dataset.runs is None:
        return files
    width, parts = len(str(len(dataset.runs))), []
    for found in files:
        index = next((k for k in ("run", "chunk") if k not in found.entities), None)
        if index is None:
            raise UserError(
                f"data set '{dataset.name}': runs cuts {found.source}, whose name has run and chunk already; "
                "rename it without chunk"
            )
        for n, cut in enumerate(cuts(dataset.runs), 1):
            entities = found.entities | {index: f"{n:0{width}d}"}
            parts.append(found._replace(source=f"{found.source}{cut}", entities=entities, cut=cut))
    return parts


def show(entities: dict[str, str]) -> str:
    """Write entities as they stand in a recipe; '' is an entity that must be absent."""
    return "{" + ", ".join(f"{k}: {v or repr('')}" for k, v in entities.items()) + "}"


def describe(every: list[Found]) -> str:
    """Write the entity values that occur, for a message about a filter that fits nothing."""
    keys = (*ENTITY_ORDER[2:], *RENDERING)
    values = {k: sorted({f.entities[k] for f in every if k in f.entities}) for k in keys}
    shown = [f"{k}: {', '.join(v[:8])}{', ...' * (len(v) > 8)}" for k, v in values.items() if v]
    return "; ".join(shown) or f"{len(every)} files without task or space"
