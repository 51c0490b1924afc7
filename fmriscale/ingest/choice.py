"""Of all files that were found, those the recipe asks for: one for each run."""

from pathlib import Path
from typing import NamedTuple

from fmriscale.config import DatasetConfig
from fmriscale.errors import UserError
from fmriscale.ingest.names import ENTITY_ORDER, RENDERING
from fmriscale.ingest.quality import Rejection

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


def wanted_entities(dataset: DatasetConfig, form: str) -> dict[str, str]:
    """Return the entities a file must have; "" stands for an entity it must not have.

    fMRIPrep marks its volumes by `desc-preproc`, its surfaces and grayordinates by nothing.
    """
    wanted = {k: str(v) for k, v in dataset.entities.items()}
    if dataset.kind == "fmriprep" and form == "nifti" and dataset.files is None:
        wanted.setdefault("desc", "preproc")
    return wanted


def matches(entities: dict[str, str], wanted: dict[str, str]) -> bool:
    """Tell whether a file has the wanted entities; 1 and 01 are the same index."""
    return all(_same(entities.get(k, ""), v) for k, v in wanted.items())


def _same(have: str, want: str) -> bool:
    if have.isdecimal() and want.isdecimal():
        return int(have) == int(want)
    return have == want


def choose(
    dataset: DatasetConfig, every: list[Found], wanted: dict[str, str]
) -> tuple[list[Found], list[Rejection]]:
    """Take from all files of a data set those that the recipe wants, one a run.

    Phase images are taken only where the recipe names `part`. Of a multi-echo run the combination of its
    echoes is taken; a single echo only where the recipe names `echo`. Hemispheres are joined in pairs.

    Returns
    -------
    list of Found
        One for each run.
    list of Rejection
        Runs that exist, but not in the wanted space, resolution or processing, and hemispheres without
        their other half. (Another cohort is another template's people: those are passed over.)

    Raises
    ------
    UserError
        A run has several files that fit; the message lists the choices.
    """
    if "part" not in wanted:
        every = [f for f in every if f.entities.get("part", "mag") == "mag"]
    filters = {k: v for k, v in wanted.items() if k not in RENDERING or k == "cohort"}
    runs: dict[tuple, list[Found]] = {}
    for found in every:
        if matches(found.entities, filters):
            runs.setdefault(_identity(found), []).append(found)
    chosen, rejections = [], []
    for files in runs.values():
        fitting = [f for f in files if matches(f.entities, wanted)]
        if not fitting:
            rejections.append(_not_rendered(dataset, files, wanted))
            continue
        combined = [f for f in fitting if "echo" not in f.entities]
        fitting = combined or fitting
        _refuse_ambiguity(dataset, fitting)
        if "hemi" in fitting[0].entities:
            fitting, lone = _join_hemispheres(dataset, fitting)
            rejections += lone
        chosen += fitting
    return chosen, rejections


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
    """Join the left and the right hemisphere of one run."""
    sides = {f.entities["hemi"]: f for f in files}
    if "L" in sides and "R" in sides:
        entities = {k: v for k, v in sides["L"].entities.items() if k != "hemi"}
        return [sides["L"]._replace(entities=entities, right=sides["R"].path)], []
    lone = next(iter(sides.values()))
    side, other = ("left", "R") if "L" in sides else ("right", "L")
    missing = lone.path.name.replace(f"hemi-{lone.entities['hemi']}", f"hemi-{other}")
    why = f"only the {side} hemisphere is here; add {missing}"
    return [], [Rejection(dataset.name, lone.source, "no_hemisphere", why)]


def show(entities: dict[str, str]) -> str:
    """Write entities as they stand in a recipe; '' is an entity that must be absent."""
    return "{" + ", ".join(f"{k}: {v or repr('')}" for k, v in entities.items()) + "}"


def describe(every: list[Found]) -> str:
    """Write the entity values that occur, for a message about a filter that fits nothing."""
    keys = (*ENTITY_ORDER[2:], *RENDERING)
    values = {k: sorted({f.entities[k] for f in every if k in f.entities}) for k in keys}
    shown = [f"{k}: {', '.join(v[:8])}{', ...' * (len(v) > 8)}" for k, v in values.items() if v]
    return "; ".join(shown) or f"{len(every)} files without task or space"
