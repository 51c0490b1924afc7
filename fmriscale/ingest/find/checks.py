"""What is wrong in the description of a data set whatever its files hold."""

import difflib
import os
import re
import string
from pathlib import Path

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.archives import is_template, template_fields
from fmriscale.ingest.find.names import ENTITY_ORDER, LONG_NAMES, RENDERING
from fmriscale.ingest.read.mirror import local_path, mirror_of

FORMS = {
    "fmriprep": ("nifti", "cifti", "gifti"),
    "bids": ("nifti", "cifti", "gifti"),
    "xcpd": ("array", "nifti", "cifti"),
    "hcp": ("nifti", "cifti"),
    "arrays": ("array",),
}
"""What a layout may hold."""

_FEATURES = {
    "nifti": "labels_img or mask_img",
    "cifti": "structures, parcels or a .dlabel.nii as labels_img",
    "gifti": "labels_gii",
    "array": "columns",
}
_FULL_NAMES = LONG_NAMES | {
    "acquisition": "acq",
    "direction": "dir",
    "resolution": "res",
    "density": "den",
    "description": "desc",
}


def form_of(dataset: DatasetConfig) -> str:
    """Return what a run's file is, as the features demand: nifti, cifti, gifti or array."""
    features = dataset.features
    if features.columns is not None or (features.parcels or "").endswith(".tsv"):
        return "array"
    if features.labels_gii is not None:
        return "gifti"
    grayordinates = features.structures is not None or features.parcels is not None
    return "cifti" if grayordinates or (features.labels_img or "").endswith(".dlabel.nii") else "nifti"


def check_dataset(dataset: DatasetConfig) -> Path:
    """Refuse settings that contradict each other or name what does not exist."""
    where = f"data set '{dataset.name}'"
    if problems := setting_mistakes(dataset):
        raise UserError("\n".join(f"{where}: {problem}" for problem in problems))
    if dataset.affine_from is not None:
        from fmriscale.ingest.read.nifti import read_grid  # nibabel only where an image is read

        read_grid(expand(dataset.affine_from))
    root = local_path(dataset.root).absolute()
    if (there := mirror_of(root)) and not there.entries(""):
        raise UserError(
            f"{where}: nothing is at {there.shown(root)}; set root to the folder that holds the data"
        )
    try:
        os.scandir(root).close()
    except FileNotFoundError as error:
        raise UserError(f"{where}: {root} is no folder; set root") from error
    except NotADirectoryError as error:
        raise UserError(f"{where}: {root} is a file; set root to the folder that holds the data") from error
    except OSError as error:
        raise UserError(f"{where}: {root} cannot be read ({error.strerror}); mend its permissions") from error
    return root


def setting_mistakes(dataset: DatasetConfig) -> list[str]:
    """Return what is wrong with the settings whatever lies on disk, each beginning with its key."""
    looked = (_form, _unused, _entities, _pattern, _events, _variable)
    return [problem for look in looked if (problem := look(dataset)) is not None]


def _form(dataset: DatasetConfig) -> str | None:
    form, allowed = form_of(dataset), FORMS[dataset.kind]
    if form in allowed:
        return None
    names = " or ".join(_FEATURES[f] for f in allowed)
    return f"kind {dataset.kind} needs features with {names}, not {_FEATURES[form]}"


def _unused(dataset: DatasetConfig) -> str | None:
    """Name a setting that would have no effect."""
    if dataset.affine_from is not None and form_of(dataset) != "nifti":
        return "affine_from is for NIfTI images; remove it"
    if dataset.kind == "hcp" and dataset.files is not None:
        return "kind hcp finds its files by their folders; choose by entities: {desc: ...} instead of files"
    if dataset.kind == "xcpd" and dataset.runs is not None:
        return "runs: XCP-D writes each run by itself, too; remove it"
    if dataset.kind != "arrays":
        for setting, idle in (("orientation", "TV"), ("variable", None)):
            if getattr(dataset, setting) != idle:
                return f"{setting} is for kind arrays; remove it"
    if dataset.participants is None:
        for setting in ("participants_subject", "participants_t_r", "participants_columns"):
            if getattr(dataset, setting):
                return f"{setting} needs participants, the table it is a column of"
    return None


def _entities(dataset: DatasetConfig) -> str | None:
    known = (*ENTITY_ORDER, *RENDERING)
    for key in dataset.entities:
        if key == "hemi":
            return "entities: a run needs both hemispheres; remove hemi"
        if key not in known:
            near = _FULL_NAMES.get(key) or next(iter(difflib.get_close_matches(key, known, n=1)), None)
            meant = f"; did you mean '{near}'?" if near else f"; known are {', '.join(known)}"
            return f"entities: '{key}' is no BIDS entity{meant}"
    return None


def _pattern(dataset: DatasetConfig) -> str | None:
    try:
        groups = re.compile(dataset.name_pattern or "").groupindex
    except re.error as error:
        return f"name_pattern is no regular expression: {error}"
    known = ("id", *LONG_NAMES, *ENTITY_ORDER, *RENDERING)
    if dataset.name_pattern is not None and not groups:
        return "name_pattern has no named group; write e.g. (?P<subject>...)"
    unknown = [g for g in groups if g not in known]
    return f"name_pattern: no group may be called '{unknown[0]}'; use {', '.join(known)}" if unknown else None


def _events(dataset: DatasetConfig) -> str | None:
    known = {"root", "dir", "stem", "array", *LONG_NAMES, *ENTITY_ORDER, *RENDERING} - {"sub", "ses"}
    try:
        fields = [
            f for _, f, _, _ in string.Formatter().parse(str(expand(dataset.events or ""))) if f is not None
        ]
    except ValueError as error:
        return f"events: '{dataset.events}' is no template ({error})"
    unknown = [f for f in fields if f not in known]
    return f"events: no run has {{{unknown[0]}}}; use {', '.join(sorted(known))}" if unknown else None


def _variable(dataset: DatasetConfig) -> str | None:
    """Check the template of a file that holds many runs."""
    if not is_template(dataset.variable):
        return None
    known = (*LONG_NAMES, *ENTITY_ORDER, *RENDERING)
    try:
        fields = template_fields(dataset.variable or "")
    except ValueError as error:
        return f"variable: '{dataset.variable}' is no template ({error}); write e.g. '{{subject}}/timeseries'"
    unknown = [f for f in fields if f not in known]
    return f"variable: no field may be called '{{{unknown[0]}}}'; use {', '.join(known)}" if unknown else None
