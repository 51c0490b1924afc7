"""Parcellated series in text tables with a name over each column, matched by name."""

from pathlib import Path

import numpy as np

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.ingest.read.confounds_table import load_table
from fmriscale.ingest.read.grayordinates import Parcels, parcel_rows
from fmriscale.ingest.read.labels import feature_labels


def load_parcel_table(config: FeatureConfig, path: Path) -> tuple[FeatureSpace, tuple, Parcels]:
    """Take the columns of a table as parcels, in its order."""
    try:
        table = load_table(path)
    except Rejected as why:
        raise UserError(f"{path.parent}/{why.detail}; parcels needs a table with names") from why
    if table.torn:
        raise UserError(f"{path}: names {table.torn[0]} twice; parcels are matched by name")
    names = table.names
    labels = feature_labels(config, range(1, len(names) + 1)) or names
    return FeatureSpace(config.name, len(names), labels), ("parcels", names, labels), Parcels(names)


def read_parcel_table(path: Path, layout: Parcels) -> np.ndarray:
    """Read the series of the wanted parcels [T, V]; one that is not there is NaN."""
    table = load_table(path)
    table.check_torn(lambda _: True)
    rows = parcel_rows(table.names, layout.names)
    values = table.numbers(lambda _: True).to_numpy(np.float64)
    return np.where(rows >= 0, values[:, rows], np.nan)
