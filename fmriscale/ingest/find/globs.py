"""The scans that a recipe's glob finds, of any layout; an archive may hold several."""

from collections.abc import Iterator
from pathlib import Path

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.archives import ARCHIVES, arrays_in, is_template
from fmriscale.ingest.find.choice import Listing, Scan, none_usable
from fmriscale.ingest.find.fetch import present
from fmriscale.ingest.find.forms import file_ends, form_of, is_of_form
from fmriscale.ingest.find.names import parse_name, short_names
from fmriscale.ingest.read import convert
from fmriscale.ingest.read.mirror import mirror_of


def find_by_glob(dataset: DatasetConfig, root: Path) -> Listing:
    """Find files by the recipe's glob; one that holds several arrays may be several runs."""
    if dataset.files is None:
        raise UserError(f"kind arrays needs files, a glob below {root}")
    form, ends, pattern = form_of(dataset), file_ends(dataset), f"{root}/{dataset.files}"
    matching = _matching_files(dataset.files, root)
    paths = [p for p in matching if p.name.endswith(ends) and is_of_form(p.name, form)]
    misfits = _pairs(dataset, matching, root) if form == "nifti" else []
    if not paths:
        hint = f"; {len(matching)} others do, e.g. {matching[0].name}" if matching else ""
        hint = f"; {convert.from_pairs(root, dataset.files, misfits[0].source)}" if misfits else hint
        raise UserError(f"no {'/'.join(ends)} matches {pattern}{hint}")
    if form == "nifti":
        series = list(convert.series_of_volumes(paths))
        paths = [path for path in paths if path not in set().union(*series)]
        misfits += _single_volumes(dataset, series, root)
    items = [item for path in paths for item in _in_file(dataset, path, root)]
    scans = [item for item in items if isinstance(item, Scan)]
    misfits += [item for item in items if isinstance(item, Rejection)]
    if not scans:
        raise none_usable(f"that matches {pattern}", misfits)
    return Listing(scans, misfits)


def _matching_files(glob: str, root: Path) -> list[Path]:
    """Return what matches a glob but folders and hidden files: .git/annex/objects, the ._files of a Mac."""
    if mirror := mirror_of(root):
        mirror.renew_below(root)
    try:
        files = sorted(path for path in root.glob(glob) if not path.is_dir())
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"files: '{glob}' is no glob below root ({error})") from error
    return [f for f in files if not any(part.startswith(".") for part in f.relative_to(root).parts)]


def _pairs(dataset: DatasetConfig, paths: list[Path], root: Path) -> list[Rejection]:
    """Report each .hdr/.img pair once."""
    halves = {path.with_suffix(""): path for path in paths if path.name.endswith(convert.PAIRS)}.values()
    sources = [(path.relative_to(root).as_posix(), convert.from_pair(path)) for path in halves]
    return [Rejection(dataset.name, source, "unreadable", detail) for source, detail in sources]


def _single_volumes(dataset: DatasetConfig, series: list[list[Path]], root: Path) -> Iterator[Rejection]:
    """Report each run that lies in one file per volume."""
    for volumes in series:
        first = volumes[0]
        source = (first.parent.relative_to(root) / convert.pattern_of(first)).as_posix()
        detail = f"{len(volumes)} files of one volume each; {convert.from_volumes(first)}"
        yield Rejection(dataset.name, source, "unreadable", detail)


def _in_file(dataset: DatasetConfig, path: Path, root: Path) -> Iterator[Scan | Rejection]:
    """Yield the scans of a file; an archive that cannot be listed is one scan with the array name ""."""
    source, parsed = path.relative_to(root).as_posix(), parse_name(path.name)
    entities, variable = parsed.entities if parsed else {}, dataset.variable
    if path.suffix != ".npz" and not (path.suffix in ARCHIVES and is_template(variable)):
        yield Scan(path, source, entities)
        return
    if variable is not None and not is_template(variable):
        yield Scan(path, source, entities, array=variable)
        return
    try:
        with present(path) as local:
            contents = arrays_in(local, variable)
    except Exception:  # zip, scipy and HDF5 each have their own
        yield Scan(path, source, entities, array="")  # rejected when it is completed
        return
    for name, fields in contents.arrays:
        yield Scan(path, f"{source}:{name}", entities | short_names(fields), array=name)
    for group, content in contents.empty:
        detail = f"holds nothing that fits variable: '{variable}', but {content}; correct either"
        yield Rejection(dataset.name, f"{source}:{group}", "no_variable", detail)
    if not (contents.arrays or contents.empty):
        detail = f"no array fits variable: '{variable}'" if variable else "no array is in it"
        detail += f"; it holds {contents.names}; correct either"
        yield Rejection(dataset.name, source, "no_variable", detail)
