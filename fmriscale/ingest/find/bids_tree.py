"""The scans of a BIDS tree, sub-*/[ses-*/]func; what only looks like a scan gets a line that says why."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.choice import CHOICES, Listing, Scan, matches, none_usable
from fmriscale.ingest.find.forms import file_ends, form_of, is_of_form
from fmriscale.ingest.find.names import EntitySet, FileName, entity_set, parse_name, split_name
from fmriscale.ingest.find.remedies import MISPLACED, NO_SERIES, name_problem, rename
from fmriscale.ingest.find.tree import Tree, levels, sessions
from fmriscale.ingest.read.convert import from_pair

_NO_FUNC = frozenset([
    "anat", "beh", "dwi", "eeg", "figures", "fmap", "ieeg", "log", "meg", "micr", "motion", "mrs", "nirs",
    "perf", "pet", "surf", "transforms", "xfm",
])  # fmt: skip
"""Folders without functional images; they are searched only where no scan of a subject was found."""

_SUFFIXES = {  # Of time series in a func folder by their extension, of fMRIPrep and of XCP-D; else bold
    ".ptseries.nii": ("bold", "timeseries"),
    ".dtseries.nii": ("bold", "timeseries"),
    ".func.gii": ("bold", ""),  # fMRIPrep before 20.1 has no suffix
    ".tsv": ("timeseries",),
}
_IMAGES = (".dtseries.nii", ".ptseries.nii", ".func.gii", ".nii.gz", ".nii", ".gii")


def find_bids(dataset: DatasetConfig, root: Path, tree: Tree) -> Listing:
    """List the time series in sub-*/[ses-*/]func, and what looks like some but cannot be read as such."""
    search = _Search(dataset, root, tree)
    folders = tree.folder(root).folders
    for subject in (f for f in folders if f.startswith("sub-")):
        search.subject(root / subject)
    search.outside_func(root)
    for folder in (f for f in folders if not f.startswith("sub-")):
        search.func_below(root / folder)
    if not search.scans:
        raise _no_scan(search)
    if dataset.events is None:
        search.remarks += _unused_events(dataset.name, root, tree)
    return Listing(search.scans, search.misfits, search.remarks)


class _Search:
    """Goes through the folders of a tree and sorts their files."""

    def __init__(self, dataset: DatasetConfig, root: Path, tree: Tree) -> None:
        self.dataset, self.root, self.tree = dataset, root, tree
        self.form, self.ends = form_of(dataset), file_ends(dataset)
        self.series = {(suffix, end) for end in self.ends for suffix in _SUFFIXES.get(end, ("bold",))}
        self.suffixes = {suffix for suffix, _ in self.series}
        self.scans: list[Scan] = []
        self.misfits: list[Rejection] = []
        self.remarks: list[Rejection] = []

    def subject(self, subject: Path) -> None:
        """Sort a subject's scans; remark where there are none."""
        n_before = self._n_listed()
        folders = (subject, *sessions(subject, self.tree))
        for folder in folders:
            for func in _func_folders(folder, self.tree):
                self._sort(func)
            self.outside_func(folder)
            self._other_folders(folder, {*self.tree.folder(folder).folders} - _NO_FUNC)
        label = {"sub": subject.name.removeprefix("sub-")}
        wanted = {k: str(v) for k, v in self.dataset.entities.items() if k == "sub"}
        if n_before < self._n_listed() or not matches(label, wanted):
            return
        for folder in folders:
            self._other_folders(folder, _NO_FUNC.intersection(self.tree.folder(folder).folders))
        if n_before == self._n_listed():
            self._no_scans(subject)

    def _n_listed(self) -> int:
        return len(self.scans) + len(self.misfits)

    def _other_folders(self, parent: Path, names: Iterable[str]) -> None:
        """Report the scans in folders of a subject or session that are neither func nor sessions."""
        for name in sorted(names):
            if name != "func" and not name.startswith("ses-"):
                self.outside_func(parent / name)
                self.func_below(parent / name)

    def func_below(self, folder: Path) -> None:
        """Report the scans in the func folders of a folder that is no subject or session by its name."""
        for parent in (folder, *sessions(folder, self.tree)):
            if "func" in self.tree.folder(parent).folders:
                self.outside_func(parent / "func")

    def outside_func(self, folder: Path) -> None:
        """Report the scans of a folder in which BIDS has none."""
        for file, extension in self._images(folder):
            suffix = split_name(file, extension).suffix
            is_series = suffix.lower().startswith("bold") or (suffix and suffix in self.suffixes)
            if is_series and suffix not in NO_SERIES:
                self._misfit(folder, file, "misplaced", MISPLACED)

    def _sort(self, folder: Path) -> None:
        """Sort the files of a folder of functional images."""
        below, others, scanned = self._below(folder), [], set()
        for file, extension in self._images(folder):
            name = parse_name(file)
            if name and name[1:] in self.series and name_problem(file, extension) is None:
                self.scans.append(Scan(folder / file, f"{below}/{file}", name.entities))
                scanned.add(_scan_entities(name))
            else:
                others.append((file, extension))
        if self.form == "nifti":  # of each .hdr/.img pair one file
            halves = [f for f in self.tree.folder(folder).files if f.endswith(("_bold.img", "_bold.hdr"))]
            for file in {file[:-4]: file for file in halves}.values():
                self._misfit(folder, file, "unreadable", from_pair(folder / file))
        for file, extension in others:
            name = split_name(file, extension)
            is_plain = re.fullmatch("[A-Za-z0-9]+", name.suffix) and name.suffix.lower() not in self.suffixes
            is_map_of_scan = is_plain and _scan_entities(name) in scanned
            if name.suffix in NO_SERIES or is_map_of_scan:
                continue
            problem = name_problem(file, extension) or f"'{name.suffix}' is no suffix of time series"
            self._misfit(folder, file, "no_name", f"{problem}; {rename(f'{below}/{file}', extension)}")

    def _images(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Yield the files of the wanted form and their extension in small letters."""
        for file in self.tree.folder(folder).files:
            lower = file.lower()
            if lower.endswith(self.ends) and not file.startswith(".") and is_of_form(lower, self.form):
                yield file, next(end for end in self.ends if lower.endswith(end))

    def _misfit(self, folder: Path, file: str, reason: str, detail: str) -> None:
        source = f"{self._below(folder)}/{file}".removeprefix("./")
        self.misfits.append(Rejection(self.dataset.name, source, reason, detail))

    def _below(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def _no_scans(self, subject: Path) -> None:
        """Remark what a subject has instead of scans, unless it cannot be read, which has its own line."""
        if any(folder.is_relative_to(subject) for folder in self.tree.unreadable):
            return
        content = self.tree.folder(subject)
        if not (content.folders or content.files):
            detail = "the folder is empty: fetch it (datalad get), or remove it"
        else:
            others = _other_forms(self.tree.folder(subject / "func").files)
            existing = others or ", ".join(content.folders[:4]) or "no folder"
            detail = f"no *_bold{self.ends[0]} in func, there is {existing}; add some, or remove the folder"
        self.remarks.append(Rejection(self.dataset.name, self._below(subject), "no_scans", detail))


def _scan_entities(name: FileName) -> EntitySet:
    """Return the entities that all files made from one scan share."""
    return entity_set(name.entities, without=(*CHOICES, "hemi", "part"))


def _func_folders(parent: Path, tree: Tree) -> list[Path]:
    """Return the func folders of a subject or session; HALFpipe has one more for each task."""
    func = parent / "func"
    if "func" not in tree.folder(parent).folders:
        return []
    return [func, *(func / f for f in tree.folder(func).folders if f.startswith("task-"))]


def _all_func_folders(root: Path, tree: Tree) -> Iterator[Path]:
    for subject in (root / f for f in tree.folder(root).folders if f.startswith("sub-")):
        for parent in (subject, *sessions(subject, tree)):
            yield from _func_folders(parent, tree)


def _no_scan(search: _Search) -> UserError:
    """Return the error of a tree without a scan that could be a run."""
    root, tree = search.root, search.tree
    if search.misfits:
        return none_usable(f"in {root}", search.misfits)
    others = _other_forms([file for f in _all_func_folders(root, tree) for file in tree.folder(f).files])
    hint = f"there are {others}: choose features to fit, or root" if others else _where_else(root, tree)
    return UserError(f"no *_bold{search.ends[0]} in {root}/sub-*/[ses-*/]func; {hint}")


def _other_forms(files: list[str]) -> str:
    """Name the time series of other forms."""
    kinds = {f"*_bold.{f.partition('_bold.')[2]}" for f in files if "_bold." in f}
    return ", ".join(sorted(kinds - {"*_bold.json"}))


def _where_else(root: Path, tree: Tree) -> str:
    """Say where subjects are, if not in the root."""
    folders = tree.folder(root).folders
    subjects = [tree.folder(root / f) for f in folders if f.startswith("sub-")]
    if subjects and not any(s.folders or s.files for s in subjects):
        return "the folders of its subjects are empty: fetch them (datalad get)"
    if subjects:
        return "its subjects have no functional images, is there a folder of derivatives?"
    derivatives = root / "derivatives"
    candidates = [root / f for f in folders] + [derivatives / f for f in tree.folder(derivatives).folders]
    for folder in (*candidates, root.parent):
        if any(f.startswith("sub-") for f in tree.folder(folder).folders):
            return f"there are subjects in {folder}: set root to it"
    return "root must be the folder that holds sub-*"


def _unused_events(dataset: str, root: Path, tree: Tree) -> list[Rejection]:
    """Report the events files that apply to no scan, of whatever form."""
    funcs = list(_all_func_folders(root, tree))
    unused = {
        level: {f.file for f in tree.folder(level).having("events", ".tsv") if not f.file.startswith(".")}
        for level in {level for func in funcs for level in levels(func, root)}
    }
    if not any(unused.values()):
        return []
    for func in funcs:
        with_events = [level for level in levels(func, root) if unused[level]]
        for scan in _scans_of_any_form(tree.folder(func).files) if with_events else ():
            for level in with_events:
                unused[level] -= set(tree.folder(level).applying_to(scan, "events", ".tsv"))
    detail = "these events apply to no scan; call them as their scan is called, or remove them"
    paths = (level / file for level, files in unused.items() for file in files)
    return [Rejection(dataset, p.relative_to(root).as_posix(), "unused_events", detail) for p in paths]


def _scans_of_any_form(files: list[str]) -> Iterator[EntitySet]:
    for file in files:
        end = next((e for e in _IMAGES if file.lower().endswith(e)), None)
        if end is not None:
            name = split_name(file, end)
            if name.suffix not in NO_SERIES or name.suffix == "cbv":
                yield entity_set(name.entities)
