"""BIDS file names: entities, inheritance, and the files that belong to a run.

A maintained indexer was tried in this place: bids2table 2.3.1 finds nothing below a root whose name holds
a dot (`fmriprep-23.2.1`), lists neither sidecars nor files above the subjects' folders, and follows loops of
links. It indexes 10,000 files in 1.0 CPU-s; here the runs and all their companions take 0.7.
"""

import os
import re
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

from fmriscale.ingest.find.old_names import current_name
from fmriscale.ingest.read.mirror import mirror_of

ENTITY_ORDER = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part", "chunk")
"""Entities that tell runs apart, in BIDS order."""

RENDERING = ("space", "cohort", "atlas", "seg", "res", "den", "stat", "setting", "feature", "desc")
"""Entities that tell renderings of ONE run apart: space, parcellation, resolution, processing."""

LONG_NAMES = {"subject": "sub", "session": "ses"}
"""Names that recipes may use in patterns and templates."""

INDICES = ("run", "echo", "chunk")
"""Entities that are numbers: 1 and 01 are the same."""

_BUCKET = ("sub", "task", "run")
"""Entities by which the files of a folder are looked up, so that huge folders stay fast."""

_DOTTED_LABEL = re.compile(r"(?!1D\b)\d|.*_")
"""What follows the first dot of a name where it stands in a label: acq-2.5mm_bold.nii.gz."""

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
    stem, dot, extension = current_name(name).partition(".")
    *parts, suffix = stem.split("_")
    if suffix.count("-") == 1:
        parts, suffix = [*parts, suffix], ""
    if not dot or any("-" not in p for p in parts) or "-" in suffix or _DOTTED_LABEL.match(extension):
        return None
    entities = dict(p.split("-", 1) for p in parts)
    if len(entities) < len(parts) or not all(k and v for k, v in entities.items()):
        return None  # an entity twice, or without a label
    return Name(entities, suffix, dot + extension)


def take_apart(name: str, extension: str) -> Name:
    """Split any name as far as it goes: dots and underscores belong to the label before them.

    What stands before the first entity is kept under "". A name that `parse_name` can split is split alike.
    """
    name = current_name(name)
    *parts, suffix = name[: len(name) - len(extension)].split("_")
    if "-" in suffix:
        parts, suffix = [*parts, suffix], ""
    entities: dict[str, str] = {}
    key = ""
    for part in parts:
        entity, dash, label = part.partition("-")
        if dash and entity not in entities:
            key, entities[entity] = entity, label
        else:
            entities[key] = f"{entities[key]}_{part}" if key in entities else part
    return Name(entities, suffix, extension)


def traits(entities: dict[str, str]) -> Traits:
    """Return entities in the form in which they are compared."""
    return frozenset((k, plain(k, v)) for k, v in entities.items())


def plain(key: str, value: str) -> str:
    """Return an index without leading zeros, any other label as it is."""
    return str(int(value)) if key in INDICES and value.isdecimal() else value


class Companion(NamedTuple):
    """A file of a folder that may belong to a run."""

    file: str
    entities: dict[str, str]
    traits: Traits


class Folder:
    """The names in one folder.

    Attributes
    ----------
    folders : list of str
        Subfolders, sorted; hidden ones are left out.
    files : list of str
        The others, sorted.
    links : set of str
        The symbolic links among them.
    """

    def __init__(self, folders: list[str], files: list[str], links: set[str]) -> None:
        self.folders, self.files, self.links = folders, files, links

    def candidates(self, wanted: Traits, suffix: str, extension: str) -> list[Companion]:
        """Return the files that are of the wanted subject, task and run, or do not say of which."""
        buckets = _index(self, suffix, extension)
        if not buckets:
            return []
        values = dict(wanted)
        keys = product(*((None, values[k]) if k in values else (None,) for k in _BUCKET))
        return [entry for key in keys for entry in buckets.get(key, ())]

    def applying_to(self, wanted: Traits, suffix: str, extension: str) -> list[str]:
        """Return the files whose every entity is among those wanted, the one with most entities last."""
        here = [c for c in self.candidates(wanted, suffix, extension) if c.traits <= wanted]
        return [c.file for c in sorted(here, key=lambda c: (len(c.traits), c.file))]

    def having(self, suffix: str, extension: str) -> list[Companion]:
        """Return every file of this suffix and extension, whatever its entities."""
        return [entry for bucket in _index(self, suffix, extension).values() for entry in bucket]


@lru_cache(maxsize=256)  # runs come folder by folder: a few are enough, and all would be a burden
def _index(folder: Folder, suffix: str, extension: str) -> dict[tuple, list[Companion]]:
    """Sort the files of one suffix and extension into buckets."""
    buckets: dict[tuple, list[Companion]] = {}
    for file in folder.files:
        if not current_name(file).endswith(suffix + extension):
            continue
        name = take_apart(file, extension)
        if name.suffix == suffix:
            have = traits(name.entities)
            values = dict(have)
            key = tuple(values.get(k) for k in _BUCKET)
            buckets.setdefault(key, []).append(Companion(file, name.entities, have))
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
        self._mirrored: set[Path] = set()

    def folder(self, path: Path) -> Folder:
        """Return what a folder holds; nothing where there is none."""
        if path not in self._folders:
            self._folders[path] = self._list(path)
        return self._folders[path]

    def _list(self, path: Path) -> Folder:
        folders, files, links = [], [], set()
        if (far := mirror_of(path)) and path not in self._mirrored:
            self._mirrored |= far.renew(path)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if not _is_folder(entry):
                        files.append(entry.name)
                    elif not entry.name.startswith("."):
                        folders.append(entry.name)
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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell a folder; a link called like a file of BIDS is none, which spares looking at what it points to."""
    called_like_a_file = "." in entry.name and "_" in entry.name
    return not (called_like_a_file and entry.is_symlink()) and entry.is_dir()


def inherited(
    tree: Tree, path: Path, root: Path, entities: dict[str, str], suffix: str, extension: str
) -> list[Path]:
    """Return the files that apply to a run by BIDS inheritance, the most specific last."""
    wanted = traits(entities)
    return [
        folder / file
        for folder in reversed(levels(path.parent, root))
        for file in tree.folder(folder).applying_to(wanted, suffix, extension)
    ]


@lru_cache(maxsize=256)
def levels(folder: Path, root: Path) -> tuple[Path, ...]:
    """Return a folder and those above it up to the root."""
    folders = (folder, *folder.parents)
    return folders[: folders.index(root) + 1] if root in folders else (folder,)
