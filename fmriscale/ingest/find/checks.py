"""Mistakes in the settings of a data set, whatever its files hold."""

import os
import re
import string
from pathlib import Path

from fmriscale.common.errors import UserError
from fmriscale.common.files import expand
from fmriscale.common.suggest import did_you_mean_path, nearest
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.archives import is_template, template_fields
from fmriscale.ingest.find.forms import form_of
from fmriscale.ingest.find.names import ENTITY_ORDER, LONG_NAMES, RENDERING
from fmriscale.ingest.find.stimulus import stimulus_mistake
from fmriscale.ingest.read.mirror import local_path, mirror_of

FORMS = {  # What a layout may hold
    "fmriprep": ("nifti", "cifti", "gifti"),
    "bids": ("nifti", "cifti", "gifti"),
    "xcpd": ("array", "nifti", "cifti"),
    "hcp": ("nifti", "cifti"),
    "arrays": ("array",),
}

_FEATURES = {
    "nifti": "labels_img or mask_img",
    "cifti": "structures, parcels or a .dlabel.nii as labels_img",
    "gifti": "labels_gii",
    "array": "columns",
}
_FULL_NAMES = LONG_NAMES | {"acquisition": "acq", "direction": "dir", "resolution": "res", "density": "den"}
_FULL_NAMES["description"] = "desc"


def check_dataset(dataset: DatasetConfig) -> Path:
    """Refuse settings that contradict each other or name what does not exist; return the root."""
    if mistakes := setting_mistakes(dataset):
        raise UserError("\n".join(mistakes))
    if dataset.affine_from is not None:
        from fmriscale.ingest.read.nifti import read_grid  # nibabel only where an image is read

        read_grid(expand(dataset.affine_from))
    root = local_path(dataset.root).absolute()
    if (mirror := mirror_of(root)) and not mirror.entries(""):
        raise UserError(f"nothing is at {mirror.shown(root)}; set root to the folder that holds the data")
    try:
        os.scandir(root).close()
    except FileNotFoundError as error:
        raise UserError(f"{root} is no folder; set root{did_you_mean_path(root)}") from error
    except NotADirectoryError as error:
        raise UserError(f"{root} is a file; set root to the folder of the data") from error
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror}); correct its permissions") from error
    return root


def setting_mistakes(dataset: DatasetConfig) -> list[str]:
    """Return what is wrong with the settings whatever lies on disk, each beginning with its key."""
    checks = (_form, _unused, _entities, _pattern, _events, _variable, stimulus_mistake)
    return [mistake for check in checks if (mistake := check(dataset)) is not None]


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
            similar = _FULL_NAMES.get(key) or next(iter(nearest(key, known)), None)
            hint = f"; did you mean '{similar}'?" if similar else f"; known are {', '.join(known)}"
            return f"entities: '{key}' is no BIDS entity{hint}"
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
        parts = list(string.Formatter().parse(str(expand(dataset.events or ""))))
    except ValueError as error:
        return f"events: '{dataset.events}' is no template ({error})"
    unknown = [field for _, field, _, _ in parts if field is not None and field not in known]
    return f"events: no run has {{{unknown[0]}}}; use {', '.join(sorted(known))}" if unknown else None


def _variable(dataset: DatasetConfig) -> str | None:
    """Check the template of a file that holds many runs."""
    if dataset.variable is None or not is_template(dataset.variable):
        return None
    known = (*LONG_NAMES, *ENTITY_ORDER, *RENDERING)
    try:
        unknown = [field for field in template_fields(dataset.variable) if field not in known]
    except ValueError as error:
        return f"variable: '{dataset.variable}' is no template ({error}); write e.g. '{{subject}}/timeseries'"
    return f"variable: no field may be called '{{{unknown[0]}}}'; use {', '.join(known)}" if unknown else None
