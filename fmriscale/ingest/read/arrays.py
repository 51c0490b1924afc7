"""Read signals that are stored as [T, V] or [V, T]: NumPy, text tables, MATLAB and HDF5 files."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fmriscale.common.quarantine import Rejected
from fmriscale.ingest.read.content import reading
from fmriscale.ingest.read.tables import TableOptions, read_table

if TYPE_CHECKING:
    import h5py

LARGE = 2**21  # Numbers from which on signals are worth compiled loops, whose import takes a second

TABLES = (".tsv", ".csv", ".txt", ".1D")
EXTENSIONS = (".npz", ".npy", ".mat", ".h5", ".hdf5", *TABLES, *(f"{table}.gz" for table in TABLES))


def read_array(path: Path, variable: str | None = None, options: TableOptions | None = None) -> np.ndarray:
    """Return the signals [T, V] of one run: float64, or as they are stored where they are large."""
    options = options or TableOptions()
    with reading(path, "array"):
        signals = _read(path, variable, options)
    if signals.dtype.kind not in "biuf":
        raise Rejected("unreadable", f"holds {signals.dtype}, not real numbers")
    if signals.ndim != 2:
        raise Rejected("unreadable", f"shape {signals.shape} is not [volumes, features]")
    signals = signals if options.orientation == "TV" else signals.T
    return signals if is_large(signals) else np.asarray(signals, dtype=np.float64)


def is_large(signals: np.ndarray) -> bool:
    """Return whether signals [T, V] are worth compiled loops, which go along rows."""
    is_native = signals.dtype in (np.float32, np.float64) and signals.flags.c_contiguous
    return is_native and signals.size >= LARGE and signals.shape[1] >= 64


def _read(path: Path, variable: str | None, options: TableOptions) -> np.ndarray:
    """Read an array as it is stored."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return archive[variable or ""]
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".mat":
        import h5py

        # Since 7.3 a .mat file is HDF5, where MATLAB's columns lie as rows.
        return _read_hdf5(path, variable).T if h5py.is_hdf5(path) else _read_mat(path, variable)
    if path.suffix in (".h5", ".hdf5"):
        return _read_hdf5(path, variable)
    return read_table(path, options)


def _read_mat(path: Path, variable: str | None) -> np.ndarray:
    """Read a .mat file of version 4 to 7."""
    import scipy.io

    contents = scipy.io.whosmat(path)
    numeric = ("double", "single", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)))
    matrices = {name: shape for name, shape, kind in contents if kind in numeric}
    name = _choose(variable, matrices, {name: kind for name, _, kind in contents})
    return scipy.io.loadmat(path, variable_names=[name])[name]


def _read_hdf5(path: Path, variable: str | None) -> np.ndarray:
    """Read a dataset of an HDF5 file."""
    import h5py

    variable = variable and variable.strip("/")
    kinds: dict[str, str] = {}
    matrices: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: "h5py.Group | h5py.Dataset") -> None:
        matlab = item.attrs.get("MATLAB_class", b"")
        matlab = matlab.decode() if isinstance(matlab, bytes) else str(matlab)
        kinds[name] = matlab or ("group" if isinstance(item, h5py.Group) else str(item.dtype))
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and matlab != "char":
            matrices[name] = item.shape

    with h5py.File(path, "r") as file:
        if variable and variable in file:  # a file of a thousand people is not listed for each
            item = file[variable]
            assert not isinstance(item, h5py.Datatype)
            note(variable, item)
        else:
            file.visititems(note)
        dataset = file[_choose(variable, matrices, kinds)]
        assert isinstance(dataset, h5py.Dataset)
        return dataset[()]


def _choose(variable: str | None, matrices: dict[str, tuple[int, ...]], kinds: dict[str, str]) -> str:
    """Return the name of the wanted array, or of the only one with two axes longer than 1."""
    contents = ", ".join(f"{name} ({kind})" for name, kind in list(kinds.items())[:12]) or "nothing"
    if variable in matrices:
        return variable
    if variable in kinds:
        what = f"'{variable}' is of class {kinds[variable]}, not a matrix of numbers"
        raise Rejected("no_variable", f"{what}; save the matrix alone")
    if variable is not None:
        raise Rejected("no_variable", f"no variable '{variable}'; it holds {contents}")
    wide = [name for name, shape in matrices.items() if len(shape) == 2 and min(shape) > 1]
    if len(wide) != 1:
        what = "several matrices" if wide else "no matrix"
        raise Rejected("no_variable", f"{what} of numbers; it holds {contents}; set variable")
    return wide[0]
