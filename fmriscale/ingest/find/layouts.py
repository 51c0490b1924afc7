"""What the files of a form are called, and the files that a glob finds."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.archives import ARCHIVES, arrays_in, describe_arrays, is_template
from fmriscale.ingest.find.choice import Found, Listing, describe, show
from fmriscale.ingest.find.fetch import present
from fmriscale.ingest.find.names import LONG_NAMES, parse_name
from fmriscale.ingest.read.arrays import EXTENSIONS
from fmriscale.ingest.read.convert import (
    PAIRS,
    from_pair,
    from_pairs,
    from_volumes,
    pattern_of,
    series_of_volumes,
)
from fmriscale.ingest.read.mirror import mirror_of

VOLUMES = (".nii.gz", ".nii")

FILE_ENDS = {"nifti": VOLUMES, "cifti": (".dtseries.nii",), "gifti": (".func.gii",), "array": EXTENSIONS}
"""How the files of a form end."""

_KNOWN = sorted({".ptseries.nii", *chain(*FILE_ENDS.values())}, key=len, reverse=True)
_GRAYORDINATES = (".dtseries.nii", ".ptseries.nii", ".dscalar.nii", ".dlabel.nii")


def file_ends(dataset: DatasetConfig, form: str) -> tuple[str, ...]:
    """Return how the names of a data set's files end; parcels are read from .ptseries.nii."""
    if form == "array" and dataset.kind == "xcpd":
        return (".tsv",)
    return (".ptseries.nii",) if form == "cifti" and dataset.features.parcels is not None else FILE_ENDS[form]


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


def find_by_glob(dataset: DatasetConfig, root: Path, form: str) -> Listing:
    """Find files by the recipe's glob; one that holds several arrays may be several runs (`arrays_in`)."""
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
    misfits = _pairs(dataset, matching, root) if form == "nifti" else []
    if not paths:
        but = f"; {len(matching)} others do, e.g. {matching[0].name}" if matching else ""
        but = f"; {from_pairs(root, dataset.files, misfits[0].source)}" if misfits else but
        raise UserError(f"data set '{dataset.name}': no {'/'.join(ends)} matches {root}/{dataset.files}{but}")
    if form == "nifti":
        paths, volumes = _series(dataset, paths, root)
        misfits += volumes
    items = [item for path in paths for item in _in_file(dataset, path, root)]
    found = [item for item in items if isinstance(item, Found)]
    misfits += [item for item in items if isinstance(item, Rejection)]
    if not found:
        first, n = misfits[0], len(misfits)
        raise UserError(
            f"data set '{dataset.name}': {'what' if n == 1 else f'none of the {n} scans that'} matches "
            f"{root}/{dataset.files} {'is no' if n == 1 else 'can be a'} run: {first.source}: {first.detail}"
        )
    return Listing(found, misfits)


def _is_hidden(path: Path) -> bool:
    """Tell what is no data: .git/annex/objects, the ._files of a Mac."""
    return any(part.startswith(".") for part in path.parts)


def _pairs(dataset: DatasetConfig, paths: list[Path], root: Path) -> list[Rejection]:
    """Report each .hdr/.img pair once."""
    halves = {path.with_suffix(""): path for path in paths if path.name.endswith(PAIRS)}
    return [
        Rejection(dataset.name, path.relative_to(root).as_posix(), "unreadable", from_pair(path))
        for path in halves.values()
    ]


def _series(dataset: DatasetConfig, paths: list[Path], root: Path) -> tuple[list[Path], list[Rejection]]:
    """Take out the volumes of runs that lie one by one, and report each run once."""
    loose: set[Path] = set()
    misfits = []
    for volumes in series_of_volumes(paths):
        loose |= set(volumes)
        source = (volumes[0].parent.relative_to(root) / pattern_of(volumes[0])).as_posix()
        detail = f"{len(volumes)} files of one volume each; {from_volumes(volumes[0])}"
        misfits.append(Rejection(dataset.name, source, "unreadable", detail))
    return [path for path in paths if path not in loose], misfits


def _in_file(dataset: DatasetConfig, path: Path, root: Path) -> Iterator[Found | Rejection]:
    """Yield the runs of a file; an archive whose arrays are not known holds one without a name."""
    source = path.relative_to(root).as_posix()
    parsed = parse_name(path.name)
    entities = parsed.entities if parsed else {}
    variable, is_archive = dataset.variable, path.suffix in ARCHIVES
    if not (path.suffix == ".npz" or (is_archive and is_template(variable))):
        yield Found(path, source, entities)
        return
    if variable is not None and not is_template(variable):
        yield Found(path, source, entities, array=variable)
        return
    try:
        with present(path) as here:
            contents = arrays_in(here, variable)
            others = "" if contents.arrays else describe_arrays(here)
    except Exception:  # zip, scipy and HDF5 each have their own
        yield Found(path, source, entities, array="")  # rejected when it is named
        return
    for array in contents.arrays:
        fields = {LONG_NAMES.get(k, k): v for k, v in array.fields.items()}
        yield Found(path, f"{source}:{array.name}", entities | fields, array=array.name)
    for group, inside in contents.empty:
        detail = f"holds nothing that fits variable: '{variable}', but {inside}; mend either"
        yield Rejection(dataset.name, f"{source}:{group}", "no_variable", detail)
    if not (contents.arrays or contents.empty):
        detail = f"no array fits variable: '{variable}'" if variable else "no array is in it"
        yield Rejection(dataset.name, source, "no_variable", f"{detail}; it holds {others}; mend either")


def stem(path: Path) -> str:
    """Return a file's name without its known extension."""
    return path.name[: len(path.name) - len(extension_of(path))]


def extension_of(path: Path) -> str:
    """Return the extension of a file of any form; of another file what stands behind its last dot."""
    return next((end for end in _KNOWN if path.name.endswith(end)), path.suffix)
