"""Where the files of a data set lie: in BIDS folders, or where a glob finds them."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from fmriscale.config import DatasetConfig
from fmriscale.errors import UserError
from fmriscale.ingest.arrays import EXTENSIONS
from fmriscale.ingest.choice import Found, describe, show
from fmriscale.ingest.names import Tree, parse_name

VOLUMES = (".nii.gz", ".nii")

FILE_ENDS = {"nifti": VOLUMES, "cifti": (".dtseries.nii",), "gifti": (".func.gii",), "array": EXTENSIONS}
"""How the files of a form end."""


def file_ends(dataset: DatasetConfig, form: str) -> tuple[str, ...]:
    """Return how the names of a data set's files end; parcels are read from .ptseries.nii."""
    return (".ptseries.nii",) if dataset.features.parcels is not None else FILE_ENDS[form]


def _series(dataset: DatasetConfig, form: str) -> list[tuple[str, str]]:
    """Return suffix and extension of the time series in a BIDS func folder.

    Parcellated series are `bold` or `timeseries` (XCP-D); surfaces of fMRIPrep before 20.1 have no suffix.
    """
    other = {".ptseries.nii": ["timeseries"], ".func.gii": [""]}
    return [(suffix, end) for end in file_ends(dataset, form) for suffix in ("bold", *other.get(end, ()))]


def find_bids(dataset: DatasetConfig, root: Path, tree: Tree, form: str) -> list[Found]:
    """List the time series in sub-*/[ses-*/]func; no other folder of the tree is read."""
    found, folders = [], list(_func_folders(root, tree))
    for folder in folders:
        below = folder.relative_to(root).as_posix()
        for suffix, extension in _series(dataset, form):
            for file, name in tree.folder(folder).having(suffix, extension):
                found.append(Found(folder / file, f"{below}/{file}", name.entities))
    if not found:
        files = [file for folder in folders for file in tree.folder(folder).files]
        others = {f"*_bold.{f.partition('_bold.')[2]}" for f in files if "_bold." in f} - {"*_bold.json"}
        hint = f"; there are {', '.join(sorted(others))}: choose features to fit, or root"
        raise UserError(
            f"data set '{dataset.name}': no *_bold{file_ends(dataset, form)[0]} in "
            f"{root}/sub-*/[ses-*/]func{hint if others else _where_else(root, tree)}"
        )
    return found


def _func_folders(root: Path, tree: Tree) -> Iterator[Path]:
    for subject in tree.folder(root).folders:
        if subject.startswith("sub-"):
            inside = tree.folder(root / subject).folders
            for folder in ("", *(f for f in inside if f.startswith("ses-"))):
                if folder or "func" in inside:
                    yield root / subject / folder / "func"


def _where_else(root: Path, tree: Tree) -> str:
    """Say where subjects are, if not in the root."""
    here = tree.folder(root)
    if any(f.startswith("sub-") for f in here.folders):
        return "; its subjects have no functional images, is there a folder of derivatives?"
    candidates = [root / f for f in here.folders]
    candidates += [root / "derivatives" / f for f in tree.folder(root / "derivatives").folders]
    candidates.append(root.parent)
    for folder in candidates:
        if any(f.startswith("sub-") for f in tree.folder(folder).folders):
            return f"; there are subjects in {folder}: set root to it"
    return "; root must be the folder that holds sub-*"


def nothing_fits(dataset: DatasetConfig, root: Path, every: list[Found], wanted: dict[str, str]) -> UserError:
    """Return the error of a recipe whose entities fit no file."""
    raw = dataset.kind == "fmriprep" and not any("desc" in f.entities for f in every)
    derived = root / "derivatives"
    hint = f"; this looks like raw data: kind: bids, or root: {derived}/..." if raw else ""
    return UserError(
        f"data set '{dataset.name}': no file in {root} has {show(wanted)}; there are {describe(every)}{hint}"
    )


# ---------------------------------------------------------------- by glob


def find_by_glob(dataset: DatasetConfig, root: Path, form: str) -> list[Found]:
    """Find files by the recipe's glob; an .npz archive holds one run an array unless `variable` names one.

    A .mat or .h5 file is one run: it is not opened before it is read.
    """
    if dataset.files is None:
        raise UserError(f"data set '{dataset.name}': kind arrays needs files, a glob below {root}")
    ends = file_ends(dataset, form)
    try:
        below = [(p, p.relative_to(root)) for p in root.glob(dataset.files)]
        matching = sorted(p for p, inner in below if not (_is_hidden(inner) or p.is_dir()))
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"data set '{dataset.name}': files: '{dataset.files}' is no glob below root ({error})"
        ) from error
    paths = [p for p in matching if _ends(p.name, form, ends)]
    if not paths:
        but = f"; {len(matching)} others do, e.g. {matching[0].name}" if matching else ""
        raise UserError(f"data set '{dataset.name}': no {'/'.join(ends)} matches {root}/{dataset.files}{but}")
    return [found for path in paths for found in _in_file(dataset, path, root)]


def _is_hidden(path: Path) -> bool:
    """Tell what is no data: .git/annex/objects, the ._files of a Mac."""
    return any(part.startswith(".") for part in path.parts)


def _ends(name: str, form: str, ends: tuple[str, ...]) -> bool:
    grayordinates = name.endswith((".dtseries.nii", ".ptseries.nii", ".dscalar.nii", ".dlabel.nii"))
    return name.endswith(ends) and not (form == "nifti" and grayordinates)


def _in_file(dataset: DatasetConfig, path: Path, root: Path) -> Iterator[Found]:
    source = path.relative_to(root).as_posix()
    parsed = parse_name(path.name)
    entities = parsed.entities if parsed else {}
    if path.suffix != ".npz":
        yield Found(path, source, entities)
        return
    if dataset.variable is not None:
        yield Found(path, source, entities, array=dataset.variable)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = sorted(n.removesuffix(".npy") for n in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        yield Found(path, source, entities, array="")  # rejected when it is named
        return
    for array in arrays:
        inner = parse_name(f"{array}.npy")
        both = {**entities, **(inner.entities if inner else {})}
        yield Found(path, f"{source}:{array}", both, array=array)


def stem(path: Path) -> str:
    """Return a file's name without its known extension."""
    known = {end for ends in FILE_ENDS.values() for end in ends} | {".ptseries.nii"}
    for extension in sorted(known, key=len, reverse=True):
        if path.name.endswith(extension):
            return path.name.removesuffix(extension)
    return path.stem
