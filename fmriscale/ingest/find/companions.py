"""The files that belong to ONE run: metadata, confounds, brain mask, events; never those of another run.

BIDS inherits metadata (JSON, and events) from files whose entities are among the run's. Confounds and masks
are made from one run and are its own: they may lack only the entities that a file of their kind cannot have.
"""

from pathlib import Path
from typing import Any, NamedTuple

from fmriscale.common.quarantine import Rejected
from fmriscale.config import DatasetConfig
from fmriscale.ingest.find import hcp
from fmriscale.ingest.find.choice import Scan
from fmriscale.ingest.find.forms import extension_of, stem_of
from fmriscale.ingest.find.names import RENDERING, SHORT_NAMES, entity_set, plain_label, split_name
from fmriscale.ingest.find.tree import NamedFile, Tree, levels
from fmriscale.ingest.read.mirror import local_path

CONFOUNDS_MAY_LACK = (*RENDERING, "hemi", "echo", "part")
"""One table serves every rendering and echo of a run."""

_FEW = 200
"""Files of a folder among which the nearest is looked for, once a run has none of its own."""


class Kind(NamedTuple):
    """A kind of file of which each run has its own."""

    suffixes: tuple[str, ...]
    extensions: tuple[str, ...]
    desc: str | None  # none is a file without that entity
    may_lack: tuple[str, ...]  # entities of the run that its name may lack
    reason: str = "no_confounds"  # why a run is rejected that has two


CONFOUNDS = Kind(("timeseries", "regressors"), (".tsv",), "confounds", CONFOUNDS_MAY_LACK)
"""Of fMRIPrep, by the suffix of today and of before 20.2."""

MASK = Kind(("mask",), (".nii.gz", ".nii"), "brain", ("hemi", "echo", "part", "den", "desc"), "no_mask")
"""One mask serves every echo of a run, but only in its own space and resolution."""

OUTLIERS = Kind(("outliers",), (".tsv",), None, CONFOUNDS_MAY_LACK)
MOTION = OUTLIERS._replace(suffixes=("motion",))
"""Of XCP-D."""


class Identity(NamedTuple):
    """The entities by which a run's companions are recognised."""

    named: dict[str, str]  # those in the name of its file; a companion must have the same
    known: dict[str, str]  # those, and what pattern and table add; a companion may have it too

    @classmethod
    def of(cls, path: Path, entities: dict[str, str], array: str | None = None) -> "Identity":
        """Take it from the name of a file, then from pattern and table; of an array from these alone."""
        name = split_name(path.name, extension_of(path))
        # Of a file whose name has no entities, only what else is known tells runs apart.
        is_unnamed = not name.entities and name.suffix != "bold"
        return (
            cls(entities, entities) if array or is_unnamed else cls(name.entities, entities | name.entities)
        )

    def file_name(self, kind: Kind, end: str) -> str:
        """Return what the run's own file of a kind would be called."""
        own = (f"{k}-{v}_" for k, v in self.named.items() if k and k not in kind.may_lack)
        return "".join(own) + end


def own_file(tree: Tree, path: Path, run: Identity, kind: Kind) -> Path | None:
    """Return a run's own file of one kind; `Rejected` where two fit alike."""
    folder, wanted = tree.folder(path.parent), entity_set(run.known)
    for suffix in kind.suffixes:
        for extension in kind.extensions:
            candidates = folder.candidates(wanted, suffix, extension)
            fitting = [
                f for f in candidates if f.entities.get("desc") == kind.desc and not _differing(f, run, kind)
            ]
            if not fitting:
                continue
            # Of run-1 and run-01 the one that is written as the run is; of others the one with most entities.
            fitting.sort(key=lambda f: (*_rank(f, run), f.file))
            if len(fitting) > 1 and _rank(fitting[-1], run) == _rank(fitting[-2], run):
                both = " and ".join(f.file for f in fitting[-2:])
                raise Rejected(kind.reason, f"{both} fit the run alike; remove the one that is not its own")
            return path.parent / fitting[-1].file
    return None


def _rank(file: NamedFile, run: Identity) -> tuple[int, int]:
    """Count a file's entities, and those that are written as the run's are, zeros included."""
    return len(file.entity_set), len(file.entities.items() & run.known.items())


def _differing(file: NamedFile, run: Identity, kind: Kind) -> list[str]:
    """Return the entities that make a file another run's."""
    differing = []
    for key in {**run.named, **file.entities}:
        labels = (entities.get(key) for entities in (file.entities, run.named, run.known))
        own, named, known = (None if label is None else plain_label(key, label) for label in labels)
        is_same = own == named or (named is None and own == known)
        if not (is_same or key == "desc" or (own is None and key in kind.may_lack)):
            differing.append(key)
    return differing


def _nearest(tree: Tree, path: Path, run: Identity, kind: Kind) -> str:
    """Name the file that comes nearest to a run's own and what makes it another's; "" for none."""
    folder = tree.folder(path.parent)
    files = [f for s in kind.suffixes for e in kind.extensions for f in folder.having(s, e)[:_FEW]]
    ranked = [(_differing(f, run, kind), f) for f in files if f.entities.get("desc") == kind.desc]
    if not ranked:
        return ""
    differing, nearest = min(ranked, key=lambda r: (len(r[0]), r[1].file))
    reasons = [
        f"it is of {k}-{nearest.entities[k]}" if k in nearest.entities else f"it has no {k}-{run.named[k]}"
        for k in differing
    ]
    return f" ({nearest.file} is another run's: {', '.join(reasons)})"


# ---------------------------------------------------------------- by layout


def find_companions(scan: Scan, form: str, dataset: DatasetConfig, root: Path, tree: Tree) -> dict[str, Any]:
    """Return the fields of a run's `RunSource` that name files beside its image."""
    path, run = scan.path, Identity.of(scan.path, scan.entities, scan.array)
    events = _events_file(scan, run, dataset, root, tree)
    if dataset.kind == "xcpd":
        return {"events": events, **_mask(tree, path, run, form), **_xcpd_companions(tree, path, run)}
    if form == "array":
        return {"events": events}
    if dataset.kind == "hcp":
        return {"events": events, **hcp.companions(tree, path, form, with_evs=events is None)}
    fields = {"events": events, "sidecars": _sidecars(tree, path, root, run, form)}
    fields |= _mask(tree, path, run, form)
    if dataset.kind == "fmriprep":
        fields["confounds"] = own_file(tree, path, run, CONFOUNDS) or _no_confounds(tree, path, run, dataset)
    return fields


def _mask(tree: Tree, path: Path, run: Identity, form: str) -> dict[str, Path | None]:
    return {"brain_mask": own_file(tree, path, run, MASK) if form == "nifti" else None}


def _sidecars(tree: Tree, path: Path, root: Path, run: Identity, form: str) -> tuple[Path, ...]:
    """Return the JSON files that apply by BIDS inheritance, the most specific last."""
    own_end = f".{path.name.split('.')[-2]}.json"  # fMRIPrep writes .dtseries.json beside .json
    wanted = entity_set(run.known | ({"hemi": "L"} if form == "gifti" else {}))
    sidecars = [
        level / file
        for extension in ((".json",) if form == "nifti" else (own_end, ".json"))
        for level in reversed(levels(path.parent, root))
        for file in tree.folder(level).applying_to(wanted, "bold", extension)
    ]
    beside = path.parent / f"{stem_of(path)}.json"
    if beside not in sidecars and beside.name in tree.folder(path.parent).files:
        sidecars.append(beside)  # whatever the image is called
    return tuple(sidecars)


def _xcpd_companions(tree: Tree, path: Path, run: Identity) -> dict[str, Any]:
    """Return what XCP-D writes beside a series; the .json of another rendering states the same t_r."""
    outliers = own_file(tree, path, run, OUTLIERS)
    if outliers is None:
        raise Rejected(
            "no_confounds",
            f"no {run.file_name(OUTLIERS, 'outliers.tsv')} beside the run, which says what volumes are left; "
            "add it, or, if nothing was censored, list the data set by kind bids or by kind arrays and files",
        )
    motion = own_file(tree, path, run, MOTION) or own_file(tree, path, run, MOTION._replace(desc="filtered"))
    folder, own = tree.folder(path.parent), entity_set(run.known, without=CONFOUNDS_MAY_LACK)
    sidecars = [
        file.file
        for suffix in ("timeseries", "bold")
        for file in folder.having(suffix, ".json")
        if entity_set(file.entities, without=CONFOUNDS_MAY_LACK) == own
        and file.entities.get("stat", "mean") == "mean"
    ]
    if (beside := f"{path.name.partition('.')[0]}.json") in folder.files:
        sidecars = [beside]
    return {
        "outliers": outliers,
        "motion": motion,
        "sidecars": tuple(path.parent / file for file in sidecars[:1]),
    }


# ---------------------------------------------------------------- what is missing


def _no_confounds(tree: Tree, path: Path, run: Identity, dataset: DatasetConfig) -> None:
    """Reject a run without confounds where the recipe needs them."""
    if dataset.denoise.dummy_volumes == "auto":
        need = "denoise.dummy_volumes: auto reads it; add it or give a number"
    elif dataset.denoise.strategy:
        need = "denoise.strategy needs it; add it or empty denoise.strategy"
    elif dataset.quality.max_mean_fd is not None:
        need = "quality.max_mean_fd asks for its framewise displacement; add it or drop the limit"
    else:
        return
    name = run.file_name(CONFOUNDS, "desc-confounds_timeseries.tsv")
    nearest = _nearest(tree, path, run, CONFOUNDS)
    raise Rejected("no_confounds", f"no {name} beside the run{nearest}; {need}")


def check_no_mask(tree: Tree, path: Path, run: Identity, other: Path | None) -> None:
    """Reject a run without a mask where another run (`other`) has one."""
    nearest = _nearest(tree, path, run, MASK)
    if nearest or other:
        name = run.file_name(MASK, "desc-brain_mask.nii.gz")
        where = nearest or f", where others have theirs ({other.name if other else ''})"
        raise Rejected(
            "no_mask",
            f"no mask of its own, {name}{where}: its parcels would be other voxels; add it, or leave "
            "the run out",
        )


# ---------------------------------------------------------------- events


def _events_file(scan: Scan, run: Identity, dataset: DatasetConfig, root: Path, tree: Tree) -> Path | None:
    """Return the events file: by the recipe's template, else by BIDS inheritance."""
    if dataset.events is None:
        return _inherited_events(tree, scan.path.parent, root, run)
    fields = {SHORT_NAMES.get(k, k): v for k, v in scan.entities.items()}
    fields |= {"root": str(root), "dir": str(scan.path.parent)}
    fields |= {"stem": stem_of(scan.path), "array": scan.array or ""}
    try:
        path = Path(str(local_path(dataset.events)).format(**fields)).absolute()
    except (KeyError, IndexError, ValueError) as error:
        raise Rejected("no_events", f"the template events: {dataset.events} needs {error}") from error
    tree.folder(path.parent)  # a file on a server is known once its folder is listed
    if path.is_dir():
        folders = [f"{k}-{run.known[k]}" for k in ("sub", "ses") if k in run.known]
        return _inherited_events(tree, path.joinpath(*folders, "func"), path, run)
    if not path.is_file():
        detail = f"{path.name} is not where events: {dataset.events} says; add it, or mend events"
        raise Rejected("no_events", detail)
    return path


def _inherited_events(tree: Tree, folder: Path, root: Path, run: Identity) -> Path | None:
    """Return the events that apply by BIDS inheritance: in the nearest folder, the most specific."""
    for level in levels(folder, root):
        applying = tree.folder(level).applying_to(entity_set(run.known), "events", ".tsv")
        n_entities = [len(split_name(file, ".tsv").entities) for file in applying[-2:]]
        if len(n_entities) == 2 and n_entities[0] == n_entities[1]:
            both = " and ".join(applying[-2:])
            raise Rejected("bad_events", f"{both} apply to it alike; remove the one that is not its own")
        if applying:
            return level / applying[-1]
    return None
