"""What the files of a form are called, and the files that a glob finds."""

import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fmriscale.config import DatasetConfig
from fmriscale.errors import UserError
from fmriscale.ingest.arrays import EXTENSIONS
from fmriscale.ingest.choice import Found, describe, show
from fmriscale.ingest.fetch import present
from fmriscale.ingest.mirror import mirror_of
from fmriscale.ingest.names import parse_name

VOLUMES = (".nii.gz", ".nii")

FILE_ENDS = {"nifti": VOLUMES, "cifti": (".dtseries.nii",), "gifti": (".func.gii",), "array": EXTENSIONS}
"""How the files of a form end."""

_KNOWN = sorted({".ptseries.nii", *chain(*FILE_ENDS.values())}, key=len, reverse=True)
_GRAYORDINATES = (".dtseries.nii", ".ptseries.nii", ".dscalar.nii", ".dlabel.nii")


def file_ends(dataset: DatasetConfig, form: str) -> tuple[str, ...]:
    """Return how the names of a data set's files end; parcels are read from .ptseries.nii."""
    return (".ptseries.nii",) if dataset.features.parcels is not None else FILE_ENDS[form]


def is_of_form(name: str, form: str) -> bool:
    """Tell volumes from grayordinates, whose names end in .nii as well."""
    return form != "nifti" or not name.endswith(_GRAYORDINATES)


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
    if far := mirror_of(root):
        far.renew_below(root)
    try:
        below = [(p, p.relative_to(root)) for p in root.glob(dataset.files)]
        matching = sorted(p for p, inner in below if not (_is_hidden(inner) or p.is_dir()))
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"data set '{dataset.name}': files: '{dataset.files}' is no glob below root ({error})"
        ) from error
    paths = [p for p in matching if p.name.endswith(ends) and is_of_form(p.name, form)]
    if not paths:
        but = f"; {len(matching)} others do, e.g. {matching[0].name}" if matching else ""
        raise UserError(f"data set '{dataset.name}': no {'/'.join(ends)} matches {root}/{dataset.files}{but}")
    return [found for path in paths for found in _in_file(dataset, path, root)]


def _is_hidden(path: Path) -> bool:
    """Tell what is no data: .git/annex/objects, the ._files of a Mac."""
    return any(part.startswith(".") for part in path.parts)


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
        with present(path) as here, zipfile.ZipFile(here) as archive:
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
    return path.name[: len(path.name) - len(extension_of(path))]


def extension_of(path: Path) -> str:
    """Return the extension of a file of any form; of another file what stands behind its last dot."""
    return next((end for end in _KNOWN if path.name.endswith(end)), path.suffix)
