"""Read signals that are already [T, V] or [V, T]: NumPy, text tables, MATLAB and HDF5 files."""

import io
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pandas as pd
import scipy.io
from isal import igzip

from fmriscale.ingest.content import check_content
from fmriscale.ingest.quality import Rejected

TABLES = (".tsv", ".csv", ".txt", ".1D")
EXTENSIONS = (".npz", ".npy", ".mat", ".h5", ".hdf5", *TABLES, *(f"{table}.gz" for table in TABLES))


def read_array(
    path: Path,
    array: str | None = None,
    variable: str | None = None,
    orientation: Literal["TV", "VT"] = "TV",
) -> np.ndarray:
    """Read one run.

    Parameters
    ----------
    path : Path
        The file.
    array : str, optional
        Name of the array in an .npz archive.
    variable : str, optional
        Name of the array in a .mat or .h5 file; None = the only matrix in it.
    orientation : {"TV", "VT"}
        Axes as they are stored: volumes by features, or features by volumes. A .mat file counts as MATLAB
        shows it, whichever version wrote it.

    Returns
    -------
    ndarray [T, V] of float64

    Raises
    ------
    Rejected
        The file is damaged, empty or holds no matrix of real numbers (`unreadable`), or not the wanted
        one (`no_variable`).
    """
    check_content(path, "array")
    try:
        signals = _read(path, array, variable)
    except Rejected:
        raise
    except Exception as error:  # zip, gzip, numpy, pandas, scipy and HDF5 each have their own
        raise Rejected("unreadable", f"not readable as numbers: {error}; copy it again") from error
    if signals.dtype.kind not in "biuf":
        raise Rejected("unreadable", f"holds {signals.dtype}, not real numbers")
    if signals.ndim != 2:
        raise Rejected("unreadable", f"shape {signals.shape} is not [volumes, features]")
    return np.asarray(signals if orientation == "TV" else signals.T, dtype=np.float64)


def _read(path: Path, array: str | None, variable: str | None) -> np.ndarray:
    """Read the array as it is stored."""
    if array is not None:
        with np.load(path, allow_pickle=False) as archive:
            return archive[array]
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".mat":
        # Since 7.3 a .mat file is HDF5, where MATLAB's columns lie as rows.
        return _read_hdf5(path, variable).T if h5py.is_hdf5(path) else _read_mat(path, variable)
    if path.suffix in (".h5", ".hdf5"):
        return _read_hdf5(path, variable)
    return _read_table(path)


def _read_mat(path: Path, variable: str | None) -> np.ndarray:
    """Read a .mat file of version 4 to 7."""
    kinds = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
    numeric = ("double", "single", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)))
    matrices = {name: shape for name, (shape, kind) in kinds.items() if kind in numeric}
    name = _choose(variable, matrices, {name: kind for name, (_, kind) in kinds.items()})
    return scipy.io.loadmat(path, variable_names=[name])[name]


def _read_hdf5(path: Path, variable: str | None) -> np.ndarray:
    """Read a dataset of an HDF5 file."""
    kinds: dict[str, str] = {}
    matrices: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        matlab = item.attrs.get("MATLAB_class", b"")
        matlab = matlab.decode() if isinstance(matlab, bytes) else str(matlab)
        kinds[name] = matlab or ("group" if isinstance(item, h5py.Group) else str(item.dtype))
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and matlab != "char":
            matrices[name] = item.shape

    with h5py.File(path, "r") as file:
        file.visititems(note)
        dataset = file[_choose(variable and variable.strip("/"), matrices, kinds)]
        assert isinstance(dataset, h5py.Dataset)
        return dataset[()]


def _choose(variable: str | None, matrices: dict[str, tuple[int, ...]], kinds: dict[str, str]) -> str:
    """Return the name of the wanted array, or of the only one with two axes longer than 1."""
    if variable is not None:
        if variable in matrices:
            return variable
        if variable in kinds:
            raise Rejected(
                "no_variable",
                f"'{variable}' is of class {kinds[variable]}, not a matrix of numbers; save the matrix alone",
            )
        raise Rejected("no_variable", f"no variable '{variable}'; it holds {_listed(kinds)}")
    wide = [name for name, shape in matrices.items() if len(shape) == 2 and min(shape) > 1]
    if len(wide) != 1:
        found = "no matrix" if not wide else "several matrices"
        raise Rejected("no_variable", f"{found} of numbers; it holds {_listed(kinds)}; set variable")
    return wide[0]


def _listed(kinds: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in list(kinds.items())[:12]) or "nothing"


def _read_table(path: Path) -> np.ndarray:
    """Read a text table with or without a line of column names; n/a is NaN."""
    kind = Path(path.name.removesuffix(".gz")).suffix
    content = path.read_bytes()
    content = igzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    lines = (line for line in io.BytesIO(content) if line.strip() and not line.lstrip().startswith(b"#"))
    first = next(lines, b"").decode()
    comma = kind == ".csv" or (kind == ".txt" and "," in first)
    separator = "," if comma else "\t" if kind == ".tsv" else None
    return pd.read_csv(
        io.BytesIO(content),
        sep=separator or r"\s+",
        header=0 if _are_names(first.strip().split(separator)) else None,
        comment="#",
        dtype=np.float64,
    ).to_numpy()


def _are_names(words: list[str]) -> bool:
    """Tell names of columns from numbers; pandas and others name columns without names 0, 1, 2, ..."""
    counted = [str(i) for i in range(len(words) + 1)]
    return not any(map(_is_number, words)) or (len(words) > 2 and words in (counted[:-1], counted[1:]))


def _is_number(word: str) -> bool:
    """Tell a number, or what stands for a missing one, from the name of a column."""
    try:
        float(word.strip().strip('"').replace("n/a", "nan"))
    except ValueError:
        return False
    return True
