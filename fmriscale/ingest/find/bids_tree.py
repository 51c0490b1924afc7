"""The scans of a BIDS tree: sub-*/[ses-*/]func. Whatever looks like a scan is a run, or is told why not."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.choice import CHOICES, Found, Listing, matches
from fmriscale.ingest.find.layouts import file_ends, is_of_form
from fmriscale.ingest.find.misnamed import MISPLACED, NO_SERIES, problem, remedy
from fmriscale.ingest.find.names import Name, Traits, Tree, levels, parse_name, take_apart, traits
from fmriscale.ingest.read.convert import from_pair

_NO_FUNC = frozenset(
    [
        *(
            "anat",
            "beh",
            "dwi",
            "eeg",
            "figures",
            "fmap",
            "ieeg",
            "log",
            "meg",
            "micr",
            "motion",
            "mrs",
            "nirs",
        ),
        *("perf", "pet", "surf", "transforms", "xfm"),
    ]
)
"""Folders of a subject or session that hold no functional images; they are not listed where others do."""

_IMAGES = (".dtseries.nii", ".ptseries.nii", ".func.gii", ".nii.gz", ".nii", ".gii")


def find_bids(dataset: DatasetConfig, root: Path, tree: Tree, form: str) -> Listing:
    """List the time series in sub-*/[ses-*/]func, and what looks like some but cannot be read as such."""
    walk = _Walk(dataset, root, tree, form)
    top = tree.folder(root)
    for subject in (f for f in top.folders if f.startswith("sub-")):
        walk.subject(root / subject)
    walk.beside_func(root)
    for folder in (f for f in top.folders if not f.startswith("sub-")):
        walk.elsewhere(root / folder)
    if not walk.found:
        raise _nothing(dataset, root, walk, tree)
    if dataset.events is None:
        walk.remarks += _unused_events(dataset.name, root, tree)
    return Listing(walk.found, walk.misfits, walk.remarks)


class _Walk:
    """Goes through the folders of a tree and sorts their files."""

    def __init__(self, dataset: DatasetConfig, root: Path, tree: Tree, form: str) -> None:
        self.dataset, self.root, self.tree, self.form = dataset, root, tree, form
        self.ends = file_ends(dataset, form)
        self.series = _series(self.ends)
        self.suffixes = {suffix for suffix, _ in self.series}
        self.found: list[Found] = []
        self.misfits: list[Rejection] = []
        self.remarks: list[Rejection] = []

    def subject(self, subject: Path) -> None:
        """Sort a subject's scans; say so where there are none."""
        before = self._n_listed()
        places = (subject, *_sessions(subject, self.tree))
        for place in places:
            for folder in _funcs(place, self.tree):
                self._func(folder)
            self.beside_func(place)
            self._others(place, {*self.tree.folder(place).folders} - _NO_FUNC)
        if before == self._n_listed() and self._is_wanted(subject):
            for place in places:
                self._others(place, _NO_FUNC.intersection(self.tree.folder(place).folders))
            if before == self._n_listed():
                self._no_scans(subject)

    def _n_listed(self) -> int:
        return len(self.found) + len(self.misfits)

    def _is_wanted(self, subject: Path) -> bool:
        wanted = {k: str(v) for k, v in self.dataset.entities.items() if k == "sub"}
        return matches({"sub": subject.name.removeprefix("sub-")}, wanted)

    def _others(self, place: Path, folders: Iterable[str]) -> None:
        """Report the scans in folders of a subject or session that are neither func nor sessions."""
        for folder in sorted(folders):
            if folder != "func" and not folder.startswith("ses-"):
                self.beside_func(place / folder)
                self.elsewhere(place / folder)

    def elsewhere(self, folder: Path) -> None:
        """Report the scans of a folder that is called otherwise than BIDS calls subjects and sessions."""
        for place in (folder, *_sessions(folder, self.tree)):
            if "func" in self.tree.folder(place).folders:
                self.beside_func(place / "func")

    def beside_func(self, folder: Path) -> None:
        """Report the scans that lie in a folder where BIDS has none."""
        for file, extension in self._images(folder):
            suffix = take_apart(file, extension).suffix
            is_series = suffix.lower().startswith("bold") or (suffix and suffix in self.suffixes)
            if is_series and suffix not in NO_SERIES:
                self._misfit(folder, file, "misplaced", MISPLACED)

    def _func(self, folder: Path) -> None:
        """Sort the files of a folder of functional images."""
        below, others, scanned = self._below(folder), [], set()
        for file, extension in self._images(folder):
            name = parse_name(file)
            if name and name[1:] in self.series and problem(file, extension) is None:
                self.found.append(Found(folder / file, f"{below}/{file}", name.entities))
                scanned.add(_scan(name))
            else:
                others.append((file, extension))
        for file in self._halves(folder):
            self._misfit(folder, file, "unreadable", from_pair(folder / file))
        for file, extension in others:
            name = take_apart(file, extension)
            if name.suffix in NO_SERIES or self._is_derived(name, scanned):
                continue
            why = problem(file, extension) or f"'{name.suffix}' is no suffix of time series, as bold is"
            self._misfit(folder, file, "no_name", f"{why}; {remedy(f'{below}/{file}', extension)}")

    def _is_derived(self, name: Name, scanned: set[Traits]) -> bool:
        """Tell a map of some other suffix that was made from a scan of the folder."""
        plain = re.fullmatch("[A-Za-z0-9]+", name.suffix) and name.suffix.lower() not in self.suffixes
        return bool(plain) and _scan(name) in scanned

    def _images(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Yield the files of the wanted form and their extension, however it is written."""
        for file in self.tree.folder(folder).files:
            small = file.lower()
            if small.endswith(self.ends) and not file.startswith(".") and is_of_form(small, self.form):
                yield file, next(end for end in self.ends if small.endswith(end))

    def _halves(self, folder: Path) -> list[str]:
        """Return one file of each .hdr/.img pair that holds a series."""
        if self.form != "nifti":
            return []
        files = [f for f in self.tree.folder(folder).files if f.endswith(("_bold.img", "_bold.hdr"))]
        return list({file[:-4]: file for file in files}.values())

    def _misfit(self, folder: Path, file: str, reason: str, detail: str) -> None:
        source = f"{self._below(folder)}/{file}".removeprefix("./")
        self.misfits.append(Rejection(self.dataset.name, source, reason, detail))

    def _below(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def _no_scans(self, subject: Path) -> None:
        """Say what a subject has instead of scans."""
        if any(folder.is_relative_to(subject) for folder in self.tree.unreadable):
            return  # which is said already
        inside, series = self.tree.folder(subject), f"*_bold{self.ends[0]}"
        if not (inside.folders or inside.files):
            detail = "the folder is empty: fetch it (datalad get), or remove it"
        else:
            has = ", ".join(inside.folders[:4]) or "no folder"
            others = _other_forms(self.tree.folder(subject / "func").files)
            detail = f"no {series} in func, there is {others or has}; add the scans, or remove the folder"
        self.remarks.append(Rejection(self.dataset.name, self._below(subject), "no_scans", detail))


def _series(ends: tuple[str, ...]) -> set[tuple[str, str]]:
    """Return suffix and extension of the time series in a BIDS func folder.

    Parcellated series are `bold` or `timeseries` (XCP-D), in a table `timeseries` alone; surfaces of fMRIPrep
    before 20.1 have no suffix.
    """
    either = ("bold", "timeseries")
    suffixes = {
        ".ptseries.nii": either,
        ".dtseries.nii": either,
        ".func.gii": ("bold", ""),
        ".tsv": either[1:],
    }
    return {(suffix, end) for end in ends for suffix in suffixes.get(end, ("bold",))}


def _scan(name: Name) -> Traits:
    """Return what the files that were made from one scan share."""
    return traits({k: v for k, v in name.entities.items() if k not in (*CHOICES, "hemi", "part")})


def _funcs(place: Path, tree: Tree) -> list[Path]:
    """Return the folders of functional images of a subject or session; HALFpipe has one more a task."""
    func = place / "func"
    if "func" not in tree.folder(place).folders:
        return []
    return [func, *(func / f for f in tree.folder(func).folders if f.startswith("task-"))]


def _sessions(folder: Path, tree: Tree) -> list[Path]:
    return [folder / f for f in tree.folder(folder).folders if f.startswith("ses-")]


def _other_forms(files: list[str]) -> str:
    """Name the time series of other forms."""
    return ", ".join(
        sorted({f"*_bold.{f.partition('_bold.')[2]}" for f in files if "_bold." in f} - {"*_bold.json"})
    )


# ---------------------------------------------------------------- nothing that can be read


def _nothing(dataset: DatasetConfig, root: Path, walk: _Walk, tree: Tree) -> UserError:
    """Return the error of a tree without a scan that could be a run."""
    if walk.misfits:
        first, n = walk.misfits[0], len(walk.misfits)
        return UserError(
            f"data set '{dataset.name}': {'the scan' if n == 1 else f'none of the {n} scans'} in {root} "
            f"can be a run: {first.source}: {first.detail}"
        )
    files = [file for f in _func_folders(root, tree) for file in tree.folder(f).files]
    others = _other_forms(files)
    hint = f"; there are {others}: choose features to fit, or root" if others else _where_else(root, tree)
    return UserError(f"data set '{dataset.name}': no *_bold{walk.ends[0]} in {root}/sub-*/[ses-*/]func{hint}")


def _func_folders(root: Path, tree: Tree) -> Iterator[Path]:
    for subject in (root / f for f in tree.folder(root).folders if f.startswith("sub-")):
        for place in (subject, *_sessions(subject, tree)):
            yield from _funcs(place, tree)


def _where_else(root: Path, tree: Tree) -> str:
    """Say where subjects are, if not in the root."""
    here = tree.folder(root)
    subjects = [tree.folder(root / f) for f in here.folders if f.startswith("sub-")]
    if subjects and not any(s.folders or s.files for s in subjects):
        return "; the folders of its subjects are empty: fetch them (datalad get)"
    if subjects:
        return "; its subjects have no functional images, is there a folder of derivatives?"
    candidates = [root / f for f in here.folders]
    candidates += [root / "derivatives" / f for f in tree.folder(root / "derivatives").folders]
    candidates.append(root.parent)
    for folder in candidates:
        if any(f.startswith("sub-") for f in tree.folder(folder).folders):
            return f"; there are subjects in {folder}: set root to it"
    return "; root must be the folder that holds sub-*"


# ---------------------------------------------------------------- events


def _unused_events(dataset: str, root: Path, tree: Tree) -> list[Rejection]:
    """Report the events files that apply to no scan, of whatever form."""
    funcs = list(_func_folders(root, tree))
    places = {level for func in funcs for level in levels(func, root)}
    there = {
        place: {c.file for c in tree.folder(place).having("events", ".tsv") if not c.file.startswith(".")}
        for place in places
    }
    if not any(there.values()):
        return []
    for func in funcs:
        chain = [level for level in levels(func, root) if there[level]]
        for scan in _scans_of_any_form(tree.folder(func).files) if chain else ():
            for level in chain:
                there[level] -= set(tree.folder(level).applying_to(scan, "events", ".tsv"))
    detail = "these events apply to no scan; call them as their scan is called, or remove them"
    return [
        Rejection(dataset, (place / file).relative_to(root).as_posix(), "unused_events", detail)
        for place, files in there.items()
        for file in files
    ]


def _scans_of_any_form(files: list[str]) -> Iterator[Traits]:
    for file in files:
        end = next((e for e in _IMAGES if file.lower().endswith(e)), None)
        if end is not None:
            name = take_apart(file, end)
            if name.suffix not in NO_SERIES or name.suffix == "cbv":
                yield traits(name.entities)
