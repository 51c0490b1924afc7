"""Scans that are called or placed such that BIDS does not say what they are, each with its remedy."""

import re
from collections.abc import Iterable

from fmriscale.ingest.find.names import ENTITY_ORDER, LONG_NAMES, RENDERING, Name, parse_name, take_apart

NO_SERIES = frozenset(
    [
        *("sbref", "boldref", "mask", "brainmask", "dseg", "probseg", "aseg", "aparcaseg", "xfm", "warp"),
        *(
            "epi",
            "fieldmap",
            "magnitude",
            "magnitude1",
            "magnitude2",
            "phase",
            "phase1",
            "phase2",
            "phasediff",
        ),
        *(
            "phasediff",
            "cbv",
            "noRF",
            "m0scan",
            "asl",
            "dwi",
            "pet",
            "mixing",
            "components",
            "boldmap",
            "statmap",
        ),
        *(
            "falff",
            "reho",
            "cbf",
            "att",
            "std",
            "mean",
            "tsnr",
            "fd",
            "dvars",
            "motion",
            "outliers",
            "coverage",
        ),
        *("T1w", "T2w", "T1rho", "T1map", "T2map", "T2star", "T2starw", "T2starmap", "FLAIR", "PDw", "PDmap"),
        *(
            "PDT2",
            "inplaneT1",
            "inplaneT2",
            "angio",
            "UNIT1",
            "R1map",
            "R2map",
            "R2starmap",
            "S0map",
            "M0map",
        ),
        *(
            "M0map",
            "MTRmap",
            "Chimap",
            "MEGRE",
            "MESE",
            "VFA",
            "MP2RAGE",
            "MPM",
            "TB1map",
            "RB1map",
            "TB1EPI",
        ),
    ]
)
"""Suffixes of images that are no time series of the signal: references, masks, field maps, statistics."""

_RUN_LABELS = ("acq", "ce", "dir", "run")
"""Entities under which a name_pattern may keep what has no entity of its own."""


def problem(file: str, extension: str) -> str | None:
    """Say why the name of a scan cannot be taken apart; None for a name of BIDS."""
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
    name, parts = take_apart(file, extension), stem.split("_")
    if "." in name.suffix:
        return f"a dot stands in '{name.suffix}'"
    if "" in name.entities:
        return f"'{name.entities['']}' before its first entity is none"
    keys = [part.partition("-")[0] for part in parts if "-" in part]
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
    """Say what to do about a scan whose name has no task."""
    name = parse_name(file)
    pattern = f", or name it by name_pattern: '(?P<task>(?<=_task-)[^_/]+|{name.suffix})'" if name else ""
    return f"no task in its name, which BIDS asks for; rename it{pattern}"


def remedy(source: str, extension: str) -> str:
    """Say how to rename a scan, or how a recipe reads it, and others called like it, as they are."""
    file = source.rpartition("/")[2]
    if re.match(r"[lr]h\.", file):
        stem, hemi = file[3 : -len(extension)], file[0].upper()
        entities, _, suffix = stem.rpartition("_")
        return f"rename it to {entities}_hemi-{hemi}_{suffix}{extension}"
    if not file.endswith(extension):
        return f"rename it to {file[: -len(extension)]}{extension}"
    name = take_apart(file, extension)
    if "sub" not in name.entities or "" in name.entities or name.suffix not in ("bold", "timeseries"):
        return "rename it"
    folders = ["sub-*", *(["ses-*"] if "/ses-" in source else []), "func"]
    end = "_".join([*(f"desc-{v}" for k, v in name.entities.items() if k == "desc"), name.suffix])
    return (
        f"rename it, or list the data set by files: '{'/'.join(folders)}/*_{end}{extension}' and "
        f"name_pattern: '{pattern(name)}'"
    )


def pattern(name: Name) -> str:
    """Return a name_pattern that reads the names called like one, and leaves the others as they are."""
    short = {short: long for long, short in LONG_NAMES.items()}
    parts = []
    for key, label in name.entities.items():
        if key not in (*ENTITY_ORDER, *RENDERING):
            continue
        if key == "sub" and "task" not in name.entities and "_" in label:  # sub-03_rest: the task, unnamed
            parts.append(f"sub-(?P<subject>[^_/]+)_(?:task-)?(?P<task>{_label(label.partition('_')[2])})")
            continue
        read = f"{key}-(?P<{short.get(key, key)}>{_label(label)})"
        parts.append(read if key == "sub" else f"_{read}" if key == "task" else f"(?:_{read})?")
    return "".join(parts)


def _label(label: str) -> str:
    """Return what matches a label: this one as it is, any other up to the next underscore."""
    return f"{re.escape(label)}|[^_/]+" if "_" in label else "[^_/]+"


MISPLACED = (
    "it lies outside sub-*/[ses-*/]func; move it there, or list the data set by files: a glob, with "
    "name_pattern where names are not those of BIDS"
)
"""What to do about a scan that no folder of functional images holds."""


def contradiction(source: str, entities: dict[str, str], said: Iterable[str]) -> str | None:
    """Say in what the name of a scan contradicts its folders; None where it does not."""
    for key, long in (("sub", "subject"), ("ses", "session")):
        folders = [f.partition("_")[0] for f in source.split("/")[:-1] if f.startswith(f"{key}-")]
        if key in entities and key not in said and folders and folders[-1] != f"{key}-{entities[key]}":
            return (
                f"the folder says {folders[-1]}, the name {key}-{entities[key]}: whose scan it is cannot be "
                f"known; move or rename it, or trust the folders by name_pattern: "
                f"'{key}-(?P<{long}>[^_/]+)[^/]*/'"
            )
    return None


def tell_apart(one: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]]) -> str:
    """Say how two scans of the same key, each a path and entities, are told apart, if they can be."""
    (path, mine), (other_path, theirs) = one, other
    free = next((k for k in _RUN_LABELS if k not in mine and k not in theirs), None)
    for key in sorted({*mine, *theirs} - {*ENTITY_ORDER, *RENDERING}):
        if mine.get(key) != theirs.get(key) and free:
            pattern = f"'^(?:.*_{key}-(?P<{free}>[^_/.]+))?'"
            return f"no key holds their {key}: remove one, or read it by name_pattern: {pattern}"
    in_folders = [re.search(r"(?:^|/)ses-[^/]+/", path) for path in (path, other_path)]
    if "ses" not in {*mine, *theirs} and all(in_folders) and len({m[0] for m in in_folders if m}) == 2:
        pattern = "'ses-(?P<session>[^_/]+)[^/]*/'"
        return f"remove one, or take the session from the folders by name_pattern: {pattern}"
    return "remove one, or tell them apart by name_pattern"
