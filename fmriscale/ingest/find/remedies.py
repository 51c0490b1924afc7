"""Scans whose name or folder is not that of BIDS: what is wrong with it, and how it is corrected."""

import re
from collections.abc import Iterable

from fmriscale.ingest.find.names import ENTITY_ORDER, RENDERING, SHORT_NAMES, FileName, parse_name, split_name

NO_SERIES = frozenset([
    "sbref", "boldref", "mask", "brainmask", "dseg", "probseg", "aseg", "aparcaseg", "xfm", "warp", "epi",
    "fieldmap", "magnitude", "magnitude1", "magnitude2", "phase", "phase1", "phase2", "phasediff", "cbv",
    "noRF", "m0scan", "asl", "dwi", "pet", "mixing", "components", "boldmap", "statmap", "falff", "reho",
    "cbf", "att", "std", "mean", "tsnr", "fd", "dvars", "motion", "outliers", "coverage", "T1w", "T2w",
    "T1rho", "T1map", "T2map", "T2star", "T2starw", "T2starmap", "FLAIR", "PDw", "PDmap", "PDT2",
    "inplaneT1", "inplaneT2", "angio", "UNIT1", "R1map", "R2map", "R2starmap", "S0map", "M0map", "MTRmap",
    "Chimap", "MEGRE", "MESE", "VFA", "MP2RAGE", "MPM", "TB1map", "RB1map", "TB1EPI",
])  # fmt: skip
"""Suffixes of images that are no time series of the signal: references, masks, field maps, statistics."""

MISPLACED = (
    "it lies outside sub-*/[ses-*/]func; move it there, or list the data set by files: a glob, with "
    "name_pattern where names are not those of BIDS"
)

_FREE_ENTITIES = ("acq", "ce", "dir", "run")
"""Entities under which a name_pattern may keep what has no entity of its own."""


def name_problem(file: str, extension: str) -> str | None:
    """Say why the name of a scan cannot be parsed; None for a name of BIDS."""
    if not file.endswith(extension):
        return f"its extension must be {extension}, in small letters"
    if re.match(r"[lr]h\.", file):
        return f"'{file[:3]}' stands before its name"
    stem = file[: -len(extension)]
    if odd := re.search(r"[^_]*[\s\x00-\x1f\x7f][^_]*", stem):
        return f"a blank stands in '{odd[0].strip()}'"
    parsed = parse_name(file)
    if parsed and parsed.extension == extension:
        return None
    name = split_name(file, extension)
    if "." in name.suffix:
        return f"a dot stands in '{name.suffix}'"
    if "" in name.entities:
        return f"'{name.entities['']}' before its first entity is none"
    keys = [part.partition("-")[0] for part in stem.split("_") if "-" in part]
    for key, label in name.entities.items():
        if keys.count(key) > 1:
            return f"it has {key}- twice"
        if "." in key + label:
            return f"a dot stands in the label {key}-{label}"
        if "_" in label:
            return f"an underscore stands in the label {key}-{label}"
        if not label:
            return f"{key}- has no label"
    return f"'{name.suffix}' is no suffix"


def no_task(file: str) -> str:
    """Say how to correct a scan whose name has no task."""
    name = parse_name(file)
    pattern = f", or name it by name_pattern: '(?P<task>(?<=_task-)[^_/]+|{name.suffix})'" if name else ""
    return f"no task in its name, which BIDS asks for; rename it{pattern}"


def rename(source: str, extension: str) -> str:
    """Say how to rename a scan, or which recipe reads it, and others named like it, unchanged."""
    file = source.rpartition("/")[2]
    if re.match(r"[lr]h\.", file):
        entities, _, suffix = file[3 : -len(extension)].rpartition("_")
        return f"rename it to {entities}_hemi-{file[0].upper()}_{suffix}{extension}"
    if not file.endswith(extension):
        return f"rename it to {file[: -len(extension)]}{extension}"
    name = split_name(file, extension)
    if "sub" not in name.entities or "" in name.entities or name.suffix not in ("bold", "timeseries"):
        return "rename it"
    session = "ses-*/" if "/ses-" in source else ""
    desc = f"desc-{name.entities['desc']}_" if "desc" in name.entities else ""
    glob = f"'sub-*/{session}func/*_{desc}{name.suffix}{extension}'"
    return f"rename it, or list the data set by files: {glob} and name_pattern: '{_pattern_for(name)}'"


def _pattern_for(name: FileName) -> str:
    """Return a name_pattern that reads names of this kind, and leaves the others unchanged."""
    parts = []
    for key, label in name.entities.items():
        if key not in (*ENTITY_ORDER, *RENDERING):
            continue
        if key == "sub" and "task" not in name.entities and "_" in label:  # sub-03_rest: an unnamed task
            task = _label_pattern(label.partition("_")[2])
            parts.append(f"sub-(?P<subject>[^_/]+)_(?:task-)?(?P<task>{task})")
            continue
        entity = f"{key}-(?P<{SHORT_NAMES.get(key, key)}>{_label_pattern(label)})"
        parts.append(entity if key == "sub" else f"_{entity}" if key == "task" else f"(?:_{entity})?")
    return "".join(parts)


def _label_pattern(label: str) -> str:
    """Return what matches this label exactly, any other up to the next underscore."""
    return f"{re.escape(label)}|[^_/]+" if "_" in label else "[^_/]+"


def contradiction(source: str, entities: dict[str, str], from_pattern: Iterable[str]) -> str | None:
    """Say how the name of a scan contradicts its folders; entities read by name_pattern cannot."""
    for key in ("sub", "ses"):
        folders = [f.partition("_")[0] for f in source.split("/")[:-1] if f.startswith(f"{key}-")]
        if key not in entities or key in from_pattern or not folders:
            continue
        if folders[-1] != (name := f"{key}-{entities[key]}"):
            what = f"the folder says {folders[-1]}, the name {name}: whose scan it is cannot be known"
            pattern = f"'{key}-(?P<{SHORT_NAMES[key]}>[^_/]+)[^/]*/'"
            return f"{what}; move or rename it, or trust the folders by name_pattern: {pattern}"
    return None


def tell_apart(one: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]]) -> str:
    """Say how to tell apart two scans of the same key, each given by path and entities."""
    (path, entities), (other_path, other_entities) = one, other
    keys = {*entities, *other_entities}
    free = next((k for k in _FREE_ENTITIES if k not in keys), None)
    for key in sorted(keys - {*ENTITY_ORDER, *RENDERING}):
        if entities.get(key) != other_entities.get(key) and free:
            pattern = f"'^(?:.*_{key}-(?P<{free}>[^_/.]+))?'"
            return f"no key holds their {key}: remove one, or read it by name_pattern: {pattern}"
    folders = [re.search(r"(?:^|/)ses-[^/]+/", p) for p in (path, other_path)]
    if "ses" not in keys and all(folders) and len({match[0] for match in folders if match}) == 2:
        pattern = "'ses-(?P<session>[^_/]+)[^/]*/'"
        return f"remove one, or take the session from the folders by name_pattern: {pattern}"
    return "remove one, or tell them apart by name_pattern"
