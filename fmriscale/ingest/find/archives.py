"""The arrays of files that hold several: .npz, .h5 and .mat. Names are read, never numbers."""

import re
import string
import zipfile
from pathlib import Path
from typing import NamedTuple

from fmriscale.ingest.find.names import LONG_NAMES, parse_name

ARCHIVES = (".npz", ".h5", ".hdf5", ".mat")  # Files that may hold several arrays

_N_SHOWN = 8


class Contents(NamedTuple):
    """What an archive holds."""

    arrays: list[tuple[str, dict[str, str]]]  # those that are runs: name, and entities as recipes call them
    empty: list[tuple[str, str]]  # groups that look like runs but hold none: name and what is there instead
    names: str  # of the first arrays, for messages


def is_template(variable: str | None) -> bool:
    """Return whether a variable names many arrays, as `{subject}/timeseries` does."""
    return variable is not None and "{" in variable


def template_fields(variable: str) -> list[str]:
    """Return the fields of a template; ValueError where it is none, or asks for a format."""
    parts = [part for part in string.Formatter().parse(variable) if part[1] is not None]
    for _, field, form, conversion in parts:
        if form or conversion:
            raise ValueError(f"{{{field}}} takes no format")
    return [str(field) for _, field, _, _ in parts]


def arrays_in(path: Path, variable: str | None) -> Contents:
    """List the arrays of an archive: all of an .npz, or those whose names fit a template."""
    members = _members(path)
    names = [name for name, is_group in members if not is_group]
    shown = ", ".join(names[:_N_SHOWN]) + ", ..." * (len(names) > _N_SHOWN) or "nothing"
    if variable is None or not is_template(variable):
        parsed = ((name, parse_name(f"{name}.npy")) for name in names)
        return Contents([(name, p.entities if p else {}) for name, p in parsed], [], shown)
    template = variable.strip("/")
    matches = [(name, _compile(template).fullmatch(name)) for name in names]
    arrays = []
    for name, match in matches:
        if match:  # labels as BIDS has them: the subject of `sub-01/timeseries` is 01
            fields = match.groupdict().items()
            labels = {k: v.removeprefix(f"{LONG_NAMES.get(k, k)}-") or v for k, v in fields}
            arrays.append((name, labels))
    parent, filled = template.rpartition("/")[0], {name.rpartition("/")[0] for name, _ in arrays}
    groups = [name for name, is_group in members if is_group and name not in filled and "{" in parent]
    empty = []
    for group in filter(_compile(parent).fullmatch, groups):
        inner = [name.removeprefix(f"{group}/") for name, _ in members if name.startswith(f"{group}/")]
        empty.append((group, ", ".join(inner[:_N_SHOWN]) or "nothing"))
    return Contents(arrays, empty, shown)


def _compile(template: str) -> re.Pattern[str]:
    """Turn a template into a pattern; a field that comes twice must be the same both times."""
    parts, seen = [], set()
    for literal, field, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if field is not None:
            parts.append(f"(?P={field})" if field in seen else f"(?P<{field}>[^/]+)")
            seen.add(field)
    return re.compile("".join(parts))


def _members(path: Path) -> list[tuple[str, bool]]:
    """Return the names in an archive, sorted, and which of them are groups."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return sorted((name.removesuffix(".npy"), False) for name in archive.namelist())
    import h5py

    if path.suffix == ".mat" and not h5py.is_hdf5(path):
        import scipy.io

        return sorted((name, False) for name, _, _ in scipy.io.whosmat(path))
    members = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: members.append((name, isinstance(item, h5py.Group))))
    return sorted((name, is_group) for name, is_group in members if not name.startswith("#"))
