"""Read signals that are already [T, V]: .npy, .npz, .tsv, .csv, .1D, plain or gzipped."""

from pathlib import Path

import numpy as np
import pandas as pd

from fmriscale.ingest.quality import Rejected

EXTENSIONS = (".npz", ".npy", ".tsv", ".csv", ".1D", ".tsv.gz", ".csv.gz", ".1D.gz")


def read_array(path: Path, array: str | None = None) -> np.ndarray:
    """Read one run.

    Parameters
    ----------
    path : Path
        The file.
    array : str, optional
        Name of the array in an .npz archive.

    Returns
    -------
    ndarray [T, V] of float64

    Raises
    ------
    Rejected
        The file is damaged, empty or not a table of numbers.
    """
    try:
        if array is not None:
            with np.load(path, allow_pickle=False) as archive:
                signals = archive[array]
        elif path.suffix == ".npy":
            signals = np.load(path, allow_pickle=False)
        else:
            signals = _read_table(path)
        signals = np.asarray(signals, dtype=np.float64)
    except Exception as error:  # zip, gzip, numpy and pandas each have their own
        raise Rejected("unreadable", f"not readable as numbers: {error}; copy it again") from error
    if signals.ndim != 2:
        raise Rejected("unreadable", f"shape {signals.shape} is not [volumes, features]")
    return signals


def _read_table(path: Path) -> np.ndarray:
    """Read a text table with or without a line of column names."""
    name = path.name.removesuffix(".gz")
    separator = {".tsv": "\t", ".csv": ","}.get(Path(name).suffix, r"\s+")
    table = pd.read_csv(path, sep=separator, header=None, comment="#", dtype=str)
    first = pd.Series(pd.to_numeric(table.iloc[0], errors="coerce"))
    body = table.iloc[1:] if first.isna().all() else table
    return body.replace("n/a", "nan").to_numpy(dtype=np.float64)
