"""The form of a run's file (nifti, cifti, gifti, array), as the features demand, and names of such files."""

from itertools import chain
from pathlib import Path

from fmriscale.config import DatasetConfig
from fmriscale.ingest.read.arrays import EXTENSIONS

FILE_ENDS = {  # How the files of a form end
    "nifti": (".nii.gz", ".nii"),
    "cifti": (".dtseries.nii",),
    "gifti": (".func.gii",),
    "array": EXTENSIONS,
}

_KNOWN = sorted({".ptseries.nii", *chain(*FILE_ENDS.values())}, key=len, reverse=True)
_GRAYORDINATES = (".dtseries.nii", ".ptseries.nii", ".dscalar.nii", ".dlabel.nii")


def form_of(dataset: DatasetConfig) -> str:
    """Return what a run's file is, as the features demand."""
    features = dataset.features
    if features.columns is not None or (features.parcels or "").endswith(".tsv"):
        return "array"
    if features.labels_gii is not None:
        return "gifti"
    grayordinates = features.structures is not None or features.parcels is not None
    return "cifti" if grayordinates or (features.labels_img or "").endswith(".dlabel.nii") else "nifti"


def file_ends(dataset: DatasetConfig) -> tuple[str, ...]:
    """Return how the names of a data set's files end; parcels are read from .ptseries.nii."""
    form = form_of(dataset)
    if form == "array" and dataset.kind == "xcpd":
        return (".tsv",)
    return (".ptseries.nii",) if form == "cifti" and dataset.features.parcels is not None else FILE_ENDS[form]


def is_of_form(name: str, form: str) -> bool:
    """Return whether a file has a form by its name; grayordinates end in .nii as volumes do."""
    return form != "nifti" or not name.endswith(_GRAYORDINATES)


def extension_of(path: Path) -> str:
    """Return the extension of a file of any form; of another file what stands behind its last dot."""
    return next((end for end in _KNOWN if path.name.endswith(end)), path.suffix)


def stem_of(path: Path) -> str:
    """Return a file's name without that extension."""
    return path.name[: len(path.name) - len(extension_of(path))]
