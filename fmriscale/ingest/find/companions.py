"""The files that belong to ONE run: confounds, brain mask, events. What belongs to another is never taken.

BIDS inherits metadata (JSON, and events) from files whose entities are among the run's. Confounds and masks
are made from one run and are its own: they may lack only the entities that a file of their kind cannot have.
"""

from pathlib import Path
from typing import NamedTuple

from fmriscale.common.quarantine import Rejected
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.names import RENDERING, Companion, Folder, Tree, levels, plain, take_apart, traits

CONFOUNDS_MAY_LACK = (*RENDERING, "hemi", "echo", "part")
"""One table serves every rendering and echo of a run."""

MASK_MAY_LACK = ("hemi", "echo", "part", "den", "desc")
"""One mask serves every echo of a run, but only in its own space and resolution."""

_FEW = 200
"""Files of a folder among which the nearest is looked for, once a run has none of its own."""


class Identity(NamedTuple):
    """By what the companions of a run are known."""

    named: dict[str, str]
    """What the name of its file says; a companion must say the same."""
    known: dict[str, str]
    """That, and what pattern and table add; a companion may say it too."""


def identity_of(path: Path, entities: dict[str, str], extension: str) -> Identity:
    """Return by what the companions of a file are known; the name of the file outdoes what it is called."""
    name = take_apart(path.name, extension)
    named = name.entities
    if not named and name.suffix != "bold":  # a name without entities: only what is known tells runs apart
        named = entities
    return Identity(named, entities | named)


def confounds_file(tree: Tree, path: Path, run: Identity) -> Path | None:
    """Return the fMRIPrep confounds of a run, of either era's suffix."""
    for suffix in ("timeseries", "regressors"):
        if file := own_file(tree.folder(path.parent), run, suffix, ".tsv", "confounds", CONFOUNDS_MAY_LACK):
            return path.parent / file
    return None


def brain_mask_file(tree: Tree, path: Path, run: Identity) -> Path | None:
    """Return the brain mask of a run in the run's own space and resolution."""
    for extension in (".nii.gz", ".nii"):
        if file := own_file(tree.folder(path.parent), run, "mask", extension, "brain", MASK_MAY_LACK):
            return path.parent / file
    return None


def own_file(
    folder: Folder, run: Identity, suffix: str, extension: str, desc: str | None, may_lack: tuple[str, ...]
) -> str | None:
    """Return a run's own file of one kind; `desc` None is a file without that entity."""
    fitting = [
        c
        for c in folder.candidates(traits(run.known), suffix, extension)
        if c.entities.get("desc") == desc and not _differing(c, run, may_lack)
    ]
    # Of run-1 and run-01 the one that is written as the run is; of others the one that says most.
    fitting.sort(key=lambda c: (*_rank(c, run), c.file))
    if len(fitting) > 1 and _rank(fitting[-1], run) == _rank(fitting[-2], run):
        both = " and ".join(c.file for c in fitting[-2:])
        raise Rejected(
            "no_mask" if desc == "brain" else "no_confounds",
            f"{both} fit the run alike; remove the one that is not its own",
        )
    return fitting[-1].file if fitting else None


def _rank(companion: Companion, run: Identity) -> tuple[int, int]:
    """Count a file's entities, and those that are written as the run's are, zeros included."""
    return len(companion.traits), len(companion.entities.items() & run.known.items())


def _differing(companion: Companion, run: Identity, may_lack: tuple[str, ...]) -> list[str]:
    """Return the entities that make a file another run's."""
    differing = []
    for key in {**run.named, **companion.entities}:
        theirs, named, known = (_label(e, key) for e in (companion.entities, run.named, run.known))
        own = theirs == named or (named is None and theirs == known)
        if not (own or key == "desc" or (theirs is None and key in may_lack)):
            differing.append(key)
    return differing


def _label(entities: dict[str, str], key: str) -> str | None:
    return plain(key, entities[key]) if key in entities else None


# ---------------------------------------------------------------- what is missing


def missing_confounds(tree: Tree, path: Path, run: Identity, dataset: DatasetConfig) -> Rejected | None:
    """Return why a run without confounds cannot be made as the recipe says; None where nothing needs them."""
    denoise = dataset.denoise
    if denoise.dummy_volumes == "auto":
        need = "denoise.dummy_volumes: auto reads it; add it or give a number"
    elif denoise.strategy:
        need = "denoise.strategy needs it; add it or empty denoise.strategy"
    elif dataset.quality.max_mean_fd is not None:
        need = "quality.max_mean_fd asks for its framewise displacement; add it or drop the limit"
    else:
        return None
    why = _nearest(tree, path, run, ("timeseries", "regressors"), (".tsv",), "confounds", CONFOUNDS_MAY_LACK)
    own = "_".join(f"{k}-{v}" for k, v in run.named.items() if k and k not in CONFOUNDS_MAY_LACK)
    name = f"{own}_desc-confounds_timeseries.tsv".lstrip("_")
    return Rejected("no_confounds", f"no {name} beside the run{why}; {need}")


def missing_mask(tree: Tree, path: Path, run: Identity, others: str) -> Rejected | None:
    """Return why a run goes without a mask where other runs have theirs; None where no run has one."""
    why = _nearest(tree, path, run, ("mask",), (".nii.gz", ".nii"), "brain", MASK_MAY_LACK)
    if not why and not others:
        return None
    own = "_".join(f"{k}-{v}" for k, v in run.named.items() if k and k not in MASK_MAY_LACK)
    name = f"{own}_desc-brain_mask.nii.gz".lstrip("_")
    return Rejected(
        "no_mask",
        f"no mask of its own, {name}{why or f', where others have theirs ({others})'}: its parcels would "
        "be other voxels; add it, or leave the run out",
    )


def _nearest(
    tree: Tree,
    path: Path,
    run: Identity,
    suffixes: tuple[str, ...],
    extensions: tuple[str, ...],
    desc: str,
    may_lack: tuple[str, ...],
) -> str:
    """Name the file that comes nearest to a run's own and what makes it another's; "" for none."""
    folder = tree.folder(path.parent)
    files = [c for s in suffixes for e in extensions for c in folder.having(s, e)[:_FEW]]
    ranked = [(_differing(c, run, may_lack), c) for c in files if c.entities.get("desc") == desc]
    if not ranked:
        return ""
    differing, nearest = min(ranked, key=lambda r: (len(r[0]), r[1].file))
    told = [
        f"it is of {k}-{nearest.entities[k]}" if k in nearest.entities else f"it has no {k}-{run.named[k]}"
        for k in differing
    ]
    return f" ({nearest.file} is another run's: {', '.join(told)})"


# ---------------------------------------------------------------- events


def events_file(tree: Tree, path: Path, root: Path, run: Identity) -> Path | None:
    """Return the events that apply to a run by BIDS inheritance: in the nearest folder, the most specific."""
    wanted = traits(run.known)
    for level in levels(path.parent, root):
        applying = tree.folder(level).applying_to(wanted, "events", ".tsv")
        if not applying:
            continue
        most = len(take_apart(applying[-1], ".tsv").entities)
        both = [file for file in applying[-2:] if len(take_apart(file, ".tsv").entities) == most]
        if len(both) > 1:
            raise Rejected(
                "bad_events", f"{both[0]} and {both[1]} apply to it alike; remove the one that is not its own"
            )
        return level / applying[-1]
    return None
