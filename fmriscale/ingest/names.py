"""BIDS file names: entities, inheritance, and the files that belong to a run."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

ENTITY_ORDER = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part")
"""Entities that tell runs apart, in BIDS order."""

RENDERING = ("space", "cohort", "res", "den", "desc")
"""Entities that tell renderings of ONE run apart: space, resolution, processing."""


class Name(NamedTuple):
    """A parsed file name."""

    entities: dict[str, str]
    suffix: str
    extension: str


def parse_name(name: str) -> Name | None:
    """Split `sub-01_task-rest_bold.nii.gz` into entities, suffix and extension; None for other names."""
    stem, dot, extension = name.partition(".")
    *parts, suffix = stem.split("_")
    if not dot or any("-" not in p for p in parts) or "-" in suffix:
        return None
    return Name(dict(p.split("-", 1) for p in parts), suffix, dot + extension)


@lru_cache(maxsize=4096)
def listing(folder: Path) -> tuple[tuple[Path, Name], ...]:
    """Return the files of a folder that have BIDS names, sorted."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return ()
    parsed = ((folder / name, parse_name(name)) for name in names)
    return tuple((path, name) for path, name in parsed if name is not None)


def inherited(path: Path, root: Path, entities: dict[str, str], suffix: str, extension: str) -> list[Path]:
    """Return the files that apply to a run by BIDS inheritance, the most specific last.

    Parameters
    ----------
    path : Path
        The run's image.
    root : Path
        Where inheritance starts.
    entities : dict
        Of the run.
    suffix, extension : str
        Of the wanted files, e.g. `bold` and `.json`.
    """
    folders = [path.parent, *path.parent.parents]
    chain = folders[: folders.index(root) + 1] if root in folders else [path.parent]
    found = []
    for folder in reversed(chain):
        here = [
            (len(name.entities), file)
            for file, name in listing(folder)
            if (name.suffix, name.extension) == (suffix, extension)
            and name.entities.items() <= entities.items()
        ]
        found += [file for _, file in sorted(here)]
    return found


def confounds_file(path: Path, entities: dict[str, str]) -> Path | None:
    """Return the fMRIPrep confounds of a run, of either era's suffix."""
    wanted = {k: v for k, v in entities.items() if k not in RENDERING} | {"desc": "confounds"}
    found = [
        (len(name.entities), file)
        for file, name in listing(path.parent)
        if name.suffix in ("timeseries", "regressors")
        and name.extension == ".tsv"
        and name.entities.get("desc") == "confounds"
        and name.entities.items() <= wanted.items()
    ]
    return max(found)[1] if found else None


def brain_mask_file(path: Path, entities: dict[str, str]) -> Path | None:
    """Return the brain mask of a run in the run's own space and resolution."""
    wanted = {**entities, "desc": "brain"}
    found = [
        (len(name.entities), file)
        for file, name in listing(path.parent)
        if name.suffix == "mask"
        and name.extension in (".nii.gz", ".nii")
        and name.entities.get("desc") == "brain"
        and name.entities.items() <= wanted.items()
        and all(name.entities.get(k) == entities.get(k) for k in ("space", "cohort", "res"))
    ]
    return max(found)[1] if found else None
