"""BIDS file names: entities, inheritance, and the files that belong to a run.

A maintained indexer was tried in this place: bids2table 2.3.1 finds nothing below a root whose name holds
a dot (`fmriprep-23.2.1`), lists neither sidecars nor files above the subjects' folders, and follows loops of
links. It indexes 10,000 files in 1.0 CPU-s; here the runs and all their companions take 0.3.
"""

import os
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

ENTITY_ORDER = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part")
"""Entities that tell runs apart, in BIDS order."""

RENDERING = ("space", "cohort", "atlas", "seg", "res", "den", "stat", "desc")
"""Entities that tell renderings of ONE run apart: space, parcellation, resolution, processing."""

LONG_NAMES = {"subject": "sub", "session": "ses"}
"""Names that recipes may use in patterns and templates."""

INDICES = ("run", "echo")
"""Entities that are numbers: 1 and 01 are the same."""

_BUCKET = ("sub", "task", "run")
"""Entities by which the files of a folder are looked up, so that huge folders stay fast."""

Traits = frozenset[tuple[str, str]]
"""Entities for comparison: indices without leading zeros."""


class Name(NamedTuple):
    """A parsed file name."""

    entities: dict[str, str]
    suffix: str
    extension: str


def parse_name(name: str) -> Name | None:
    """Split `sub-01_task-rest_bold.nii.gz` into entities, suffix and extension; None for other names.

    A name may lack its suffix, as `sub-01_task-rest.npz` and the surfaces of fMRIPrep before 20.1 do
    (`..._space-fsaverage5_hemi-L.func.gii`).
    """
    stem, dot, extension = name.partition(".")
    *parts, suffix = stem.split("_")
    if suffix.count("-") == 1:
        parts, suffix = [*parts, suffix], ""
    if not dot or any("-" not in p for p in parts) or "-" in suffix:
        return None
    return Name(dict(p.split("-", 1) for p in parts), suffix, dot + extension)


def traits(entities: dict[str, str]) -> Traits:
    """Return entities in the form in which they are compared."""
    return frozenset((k, _plain(k, v)) for k, v in entities.items())


def _plain(key: str, value: str) -> str:
    return str(int(value)) if key in INDICES and value.isdecimal() else value


class Folder:
    """The names in one folder.

    Attributes
    ----------
    folders : list of str
        Subfolders, sorted. A name with a dot is taken for a file.
    files : list of str
        The others, sorted.
    links : set of str
        The symbolic links among them.
    """

    def __init__(self, folders: list[str], files: list[str], links: set[str]) -> None:
        self.folders, self.files, self.links = folders, files, links

    def having(self, suffix: str, extension: str) -> list[tuple[str, Name]]:
        """Return the files with a BIDS name of this suffix and extension; no other name is taken apart."""
        named = ((file, parse_name(file)) for file in self.files if file.endswith(suffix + extension))
        return [(f, name) for f, name in named if name and name[1:] == (suffix, extension)]

    def applying_to(self, wanted: Traits, suffix: str, extension: str) -> list[str]:
        """Return the files whose every entity is among those wanted, the one with most entities last."""
        buckets = _index(self, suffix, extension)
        if not buckets:
            return []
        values = dict(wanted)
        keys = product(*((None, values[k]) if k in values else (None,) for k in _BUCKET))
        here = [entry for key in keys for entry in buckets.get(key, ()) if entry[2] <= wanted]
        return [file for _, file, _ in sorted(here)]


@lru_cache(maxsize=256)  # runs come folder by folder: a few are enough, and all would be a burden
def _index(folder: Folder, suffix: str, extension: str) -> dict[tuple, list[tuple[int, str, Traits]]]:
    """Sort the files of one suffix and extension into buckets."""
    buckets: dict[tuple, list[tuple[int, str, Traits]]] = {}
    for file, name in folder.having(suffix, extension):
        have = traits(name.entities)
        values = dict(have)
        key = tuple(values.get(k) for k in _BUCKET)
        buckets.setdefault(key, []).append((len(have), file, have))
    return buckets


class Tree:
    """Folders that were listed, each once however many data sets and runs ask for it.

    Attributes
    ----------
    unreadable : dict of Path to str
        Folders that are there and could not be listed, and why.
    """

    def __init__(self) -> None:
        self.unreadable: dict[Path, str] = {}
        self._folders: dict[Path, Folder] = {}

    def folder(self, path: Path) -> Folder:
        """Return what a folder holds; nothing where there is none."""
        if path not in self._folders:
            self._folders[path] = self._list(path)
        return self._folders[path]

    def _list(self, path: Path) -> Folder:
        folders, files, links = [], [], set()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    inside = folders if "." not in entry.name and entry.is_dir() else files
                    inside.append(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self.unreadable[path] = error.strerror or str(error)
        return Folder(sorted(folders), sorted(files), links)

    def is_dangling(self, path: Path) -> bool:
        """Tell a link to content that is not here, as data sets under git-annex have them."""
        return path.name in self.folder(path.parent).links and not path.exists()


def inherited(
    tree: Tree, path: Path, root: Path, entities: dict[str, str], suffix: str, extension: str
) -> list[Path]:
    """Return the files that apply to a run by BIDS inheritance, the most specific last.

    Parameters
    ----------
    tree : Tree
        Where folders are looked up.
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
    wanted = traits(entities)
    return [
        folder / file
        for folder in reversed(chain)
        for file in tree.folder(folder).applying_to(wanted, suffix, extension)
    ]


def confounds_file(tree: Tree, path: Path, entities: dict[str, str]) -> Path | None:
    """Return the fMRIPrep confounds of a run, of either era's suffix."""
    own = {k: v for k, v in entities.items() if k not in (*RENDERING, "hemi")}
    wanted = traits({**own, "desc": "confounds"})
    for suffix in ("timeseries", "regressors"):
        for file in reversed(tree.folder(path.parent).applying_to(wanted, suffix, ".tsv")):
            if "_desc-confounds_" in file:
                return path.parent / file
    return None


def brain_mask_file(tree: Tree, path: Path, entities: dict[str, str]) -> Path | None:
    """Return the brain mask of a run in the run's own space and resolution."""
    wanted = traits({**entities, "desc": "brain"})
    own = {k: entities.get(k) for k in ("space", "cohort", "res")}
    for extension in (".nii.gz", ".nii"):
        for file in reversed(tree.folder(path.parent).applying_to(wanted, "mask", extension)):
            name = parse_name(file)
            if name and "desc" in name.entities and {k: name.entities.get(k) for k in own} == own:
                return path.parent / file
    return None
