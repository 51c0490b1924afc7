"""File names of BIDS, split into entities, suffix and extension; and the keys that runs get from them."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from fmriscale.common.quarantine import Rejected
from fmriscale.corpus.writer import MAX_KEY

ENTITY_ORDER = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part", "chunk")
"""Entities that tell runs apart, in BIDS order."""

RENDERING = ("space", "cohort", "atlas", "seg", "res", "den", "stat", "setting", "feature", "desc")
"""Entities that tell renderings of ONE run apart: space, parcellation, resolution, processing."""

LONG_NAMES = {"subject": "sub", "session": "ses"}  # Names that recipes may use in patterns and templates

SHORT_NAMES = {short: long for long, short in LONG_NAMES.items()}

INDICES = ("run", "echo", "chunk")  # Entities that are numbers: 1 and 01 are the same

_DOTTED_LABEL = re.compile(r"(?!1D\b)\d|.*_")
"""What follows the first dot of a name where that dot is part of a label: acq-2.5mm_bold.nii.gz."""

_OLD_NAMES = [  # Patterns of old file names, and the names that the same files have today
    (re.compile(rule), new)
    for rule, new in (
        (r"_bold((?:_space-[^_.]+)?)_variant-([^_.]+)_preproc(\.nii(?:\.gz)?)$", r"\1_desc-\2_bold\3"),
        (r"_bold((?:_space-[^_.]+)?)_preproc(\.nii(?:\.gz)?)$", r"\1_desc-preproc_bold\2"),
        (r"_bold((?:_space-[^_.]+)?)_brainmask(\.nii(?:\.gz)?)$", r"\1_desc-brain_mask\2"),
        (r"_bold_(space-[^_.]+)\.([LR])\.func\.gii$", r"_\1_hemi-\2.func.gii"),
        (r"_bold_confounds\.tsv$", r"_desc-confounds_regressors.tsv"),
        (r"_bold((?:_[a-z]+-[^_.]+)*_timeseries\.[dp]tseries\.nii)$", r"\1"),
        (r"_bold((?:_[a-z]+-[^_.]+)*)_roi(\.nii(?:\.gz)?)$", r"\1_dseg\2"),
    )
]

EntitySet = frozenset[tuple[str, str]]  # Entities for comparison: indices without leading zeros


class FileName(NamedTuple):
    """A parsed file name."""

    entities: dict[str, str]
    suffix: str
    extension: str


def parse_name(name: str) -> FileName | None:
    """Split `sub-01_task-rest_bold.nii.gz` into entities, suffix and extension; None if not BIDS."""
    stem, dot, extension = current_name(name).partition(".")
    parsed = _split(stem, dot + extension)
    is_odd = not dot or stem.rpartition("_")[2].count("-") > 1 or _DOTTED_LABEL.match(extension)
    labels_fit = all(key and label and "_" not in label for key, label in parsed.entities.items())
    return parsed if labels_fit and not is_odd else None


def split_name(name: str, extension: str) -> FileName:
    """Split any name as far as possible: dots belong to labels; what precedes the first is under ""."""
    name = current_name(name)
    return _split(name[: len(name) - len(extension)], extension)


def _split(stem: str, extension: str) -> FileName:
    *parts, suffix = stem.split("_")
    if "-" in suffix:
        parts, suffix = [*parts, suffix], ""
    entities: dict[str, str] = {}
    key = ""
    for part in parts:
        entity, dash, label = part.partition("-")
        if dash and entity not in entities:
            key, entities[entity] = entity, label
        else:
            entities[key] = f"{entities[key]}_{part}" if key in entities else part
    return FileName(entities, suffix, extension)


def current_name(file: str) -> str:
    """Return what a file of before BIDS derivatives would be called today; any other name unchanged.

    fMRIPrep 1.0 and 1.1 and the ABCD-BIDS pipeline keep `_bold` in the middle of a name.
    """
    if "_bold_" in file:
        for pattern, current in _OLD_NAMES:
            if pattern.search(file):
                return pattern.sub(current, file)
    return file


def entity_set(entities: dict[str, str], without: Iterable[str] = ()) -> EntitySet:
    """Return entities in the form in which they are compared."""
    return frozenset((k, plain_label(k, v)) for k, v in entities.items() if k not in without)


def plain_label(key: str, label: str) -> str:
    """Return an index without leading zeros, any other label as it is."""
    return str(int(label)) if key in INDICES and label.isdecimal() else label


def short_names(fields: dict[str, str]) -> dict[str, str]:
    """Return entities under their BIDS names: `subject` is `sub`."""
    return {LONG_NAMES.get(key, key): label for key, label in fields.items()}


def make_key(dataset: str, entities: dict[str, str], exact: bool = False) -> str:
    """Name a run by data set and entities, letters and digits only; `exact` adds a hash of what is lost."""
    labels = ((k, _letters(entities[k], exact)) for k in ENTITY_ORDER if k in entities)
    key = "_".join([dataset, *(f"{k}-{letters}" for k, letters in labels)])
    if len(key) > MAX_KEY:
        raise Rejected("no_name", f"its key has {len(key)} characters, {MAX_KEY} fit; shorten the name")
    return key


def _letters(label: str, exact: bool) -> str:
    kept = re.sub("[^A-Za-z0-9]", "", label)
    return kept + hashlib.sha256(label.encode()).hexdigest()[:8] if exact and kept != label else kept


def ambiguous_keys(dataset: str, runs: Iterable[dict[str, str]]) -> set[str]:
    """Return the keys that runs of different entities share because labels lost characters."""
    labels: dict[str, set[tuple]] = defaultdict(set)
    for entities in runs:
        try:
            labels[make_key(dataset, entities)].add(tuple(entities.get(k) for k in ENTITY_ORDER))
        except Rejected:
            continue
    return {key for key, known in labels.items() if len(known) > 1}


def run_identity(entities: dict[str, str]) -> EntitySet:
    """Return the entities that no two runs of a data set may share."""
    return frozenset((k, label) for k, label in entity_set(entities) if k in ENTITY_ORDER)
