"""The arrays of files that hold several: .npz, .h5 and .mat. Names are read, never numbers."""

import re
import string
import zipfile
from pathlib import Path
from typing import NamedTuple

from fmriscale.ingest.find.names import LONG_NAMES, parse_name

ARCHIVES = (".npz", ".h5", ".hdf5", ".mat")
"""Files that may hold several arrays."""

_FEW = 8


class Array(NamedTuple):
    """An array of an archive."""

    name: str
    fields: dict[str, str]
    """Entities by what the recipe calls them."""


class Contents(NamedTuple):
    """The arrays of an archive that are runs, and the groups that look like runs but hold none."""

    arrays: list[Array]
    empty: list[tuple[str, str]]
    """Name and what is there instead."""


def is_template(variable: str | None) -> bool:
    """Tell `{subject}/timeseries`, which names many arrays, from the name of one."""
    return variable is not None and "{" in variable


def template_fields(variable: str) -> list[str]:
    """Return the fields of a template."""
    parts = [part for part in string.Formatter().parse(variable) if part[1] is not None]
    for _, field, form, conversion in parts:
        if form or conversion:
            raise ValueError(f"{{{field}}} takes no format")
    return [str(field) for _, field, _, _ in parts]


def arrays_in(path: Path, variable: str | None) -> Contents:
    """List the arrays of an archive: all of an .npz, or those whose names fit a template."""
    names = _names(path)
    if not is_template(variable) or variable is None:
        inner = ((name, parse_name(f"{name}.npy")) for name, is_group in names if not is_group)
        return Contents([Array(name, parsed.entities if parsed else {}) for name, parsed in inner], [])
    template = variable.strip("/")
    pattern, parent = _compile(template), template.rpartition("/")[0]
    arrays = []
    for name, is_group in names:
        match = None if is_group else pattern.fullmatch(name)
        if match is not None:
            arrays.append(Array(name, _labels(match.groupdict())))
    found = {array.name.rpartition("/")[0] for array in arrays}
    groups = [name for name, is_group in names if is_group and name not in found]
    is_run = _compile(parent) if "{" in parent else None
    empty = [(g, _inside(g, names)) for g in groups if is_run is not None and is_run.fullmatch(g)]
    return Contents(arrays, empty)


def describe_arrays(path: Path) -> str:
    """Name the first arrays of an archive."""
    names = [name for name, is_group in _names(path) if not is_group]
    return ", ".join(names[:_FEW]) + ", ..." * (len(names) > _FEW) or "nothing"


def _compile(template: str) -> re.Pattern[str]:
    """Turn a template into a pattern; a field that comes twice must be the same both times."""
    parts, seen = [], set()
    for literal, field, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if field is not None:
            parts.append(f"(?P={field})" if field in seen else f"(?P<{field}>[^/]+)")
            seen.add(field)
    return re.compile("".join(parts))


def _labels(fields: dict[str, str]) -> dict[str, str]:
    """Return labels as BIDS has them: the subject of `sub-01/timeseries` is 01."""
    return {k: v.removeprefix(f"{LONG_NAMES.get(k, k)}-") or v for k, v in fields.items()}


def _inside(group: str, names: list[tuple[str, bool]]) -> str:
    inside = [name.removeprefix(f"{group}/") for name, _ in names if name.startswith(f"{group}/")]
    return ", ".join(inside[:_FEW]) or "nothing"


def _names(path: Path) -> list[tuple[str, bool]]:
    """Return the names in an archive, sorted, and which of them are groups."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return sorted((name.removesuffix(".npy"), False) for name in archive.namelist())
    import h5py

    if path.suffix == ".mat" and not h5py.is_hdf5(path):
        import scipy.io

        return sorted((name, False) for name, _, _ in scipy.io.whosmat(path))
    names = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append((name, isinstance(item, h5py.Group))))
    return sorted((name, is_group) for name, is_group in names if not name.startswith("#"))
