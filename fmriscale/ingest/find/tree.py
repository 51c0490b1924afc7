"""The folders of a data set: each is listed once, and its files are looked up by entities.

A maintained indexer was tried in this place: bids2table 2.3.1 finds nothing below a root whose name holds
a dot (`fmriprep-23.2.1`), lists neither sidecars nor files above the subjects' folders, and follows loops of
links. It indexes 10,000 files in 1.0 CPU-s; here the runs and all their companions take 0.7.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

from fmriscale.ingest.find.names import EntitySet, current_name, entity_set, split_name
from fmriscale.ingest.read.mirror import mirror_of

_BUCKET = ("sub", "task", "run")
"""Entities by which the files of a folder are looked up, so that huge folders stay fast."""


class NamedFile(NamedTuple):
    """A file of a folder and the entities in its name."""

    file: str
    entities: dict[str, str]
    entity_set: EntitySet


@dataclass(frozen=True, eq=False)
class Folder:
    """The sorted names in one folder: subfolders that are not hidden, all files, and which are links."""

    folders: list[str]
    files: list[str]
    links: set[str]

    def having(self, suffix: str, extension: str) -> list[NamedFile]:
        """Return every file of this suffix and extension, whatever its entities."""
        return [file for bucket in _index(self, suffix, extension).values() for file in bucket]

    def candidates(self, wanted: EntitySet, suffix: str, extension: str) -> list[NamedFile]:
        """Return the files of the wanted subject, task and run, and those that name none."""
        buckets, labels = _index(self, suffix, extension), dict(wanted)
        if not buckets:
            return []
        keys = product(*((None, labels[k]) if k in labels else (None,) for k in _BUCKET))
        return [file for key in keys for file in buckets.get(key, ())]

    def applying_to(self, wanted: EntitySet, suffix: str, extension: str) -> list[str]:
        """Return the files whose every entity is among those wanted, the one with most entities last."""
        applying = [f for f in self.candidates(wanted, suffix, extension) if f.entity_set <= wanted]
        return [f.file for f in sorted(applying, key=lambda f: (len(f.entity_set), f.file))]


@lru_cache(maxsize=256)  # runs come folder by folder: a few are enough, and all would take much memory
def _index(folder: Folder, suffix: str, extension: str) -> dict[tuple, list[NamedFile]]:
    """Sort the files of one suffix and extension into buckets."""
    buckets: dict[tuple, list[NamedFile]] = {}
    for file in folder.files:
        if not current_name(file).endswith(suffix + extension):
            continue
        name = split_name(file, extension)
        if name.suffix == suffix:
            own = entity_set(name.entities)
            bucket = buckets.setdefault(tuple(map(dict(own).get, _BUCKET)), [])
            bucket.append(NamedFile(file, name.entities, own))
    return buckets


class Tree:
    """Folders that were listed, each once however many data sets and runs ask for it."""

    def __init__(self) -> None:
        self.unreadable: dict[Path, str] = {}  # folders that exist and could not be listed, and why
        self._folders: dict[Path, Folder] = {}
        self._mirrored: set[Path] = set()

    def folder(self, path: Path) -> Folder:
        """Return what a folder holds; nothing where there is none."""
        if path not in self._folders:
            self._folders[path] = self._list(path)
        return self._folders[path]

    def _list(self, path: Path) -> Folder:
        folder = Folder([], [], set())
        if (mirror := mirror_of(path)) and path not in self._mirrored:
            self._mirrored |= mirror.renew(path)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    # Of a link named like a BIDS file the target is not looked up.
                    is_file_link = "." in entry.name and "_" in entry.name and entry.is_symlink()
                    if is_file_link or not entry.is_dir():
                        folder.files.append(entry.name)
                    elif not entry.name.startswith("."):
                        folder.folders.append(entry.name)
                    if entry.is_symlink():
                        folder.links.add(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self.unreadable[path] = error.strerror or str(error)
        folder.folders.sort()
        folder.files.sort()
        return folder

    def is_dangling(self, path: Path) -> bool:
        """Return whether a file is a link to content that was not fetched, as git-annex has them."""
        return path.name in self.folder(path.parent).links and not path.exists()


@lru_cache(maxsize=256)
def levels(folder: Path, root: Path) -> tuple[Path, ...]:
    """Return a folder and those above it up to the root."""
    folders = (folder, *folder.parents)
    return folders[: folders.index(root) + 1] if root in folders else (folder,)


def sessions(folder: Path, tree: Tree) -> list[Path]:
    """Return the session folders of a subject."""
    return [folder / name for name in tree.folder(folder).folders if name.startswith("ses-")]
