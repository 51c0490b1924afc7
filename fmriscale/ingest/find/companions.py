"""The files that belong to ONE run: metadata, confounds, brain mask, events; never those of another run.

BIDS inherits metadata (JSON, and events) from files whose entities are among the run's. Confounds and masks
are made from one run and are its own: they may lack only the entities that a file of their kind cannot have.
"""

from itertools import product
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

_FEW = 200  # Files of a folder among which the nearest is looked for, once a run has none of its own


class Kind(NamedTuple):
    """A kind of file of which each run has its own."""

    suffixes: tuple[str, ...]
    extensions: tuple[str, ...]
    desc: str | None  # None = a file without that entity
    may_lack: tuple[str, ...]  # entities of the run that its name may lack
    reason: str = "no_confounds"  # of a run that has two


CONFOUNDS = Kind(("timeseries", "regressors"), (".tsv",), "confounds", CONFOUNDS_MAY_LACK)
"""Of fMRIPrep, by the suffix of today and of before 20.2."""

MASK = Kind(("mask",), (".nii.gz", ".nii"), "brain", ("hemi", "echo", "part", "den", "desc"), "no_mask")
"""One mask serves every echo of a run, but only in its own space and resolution."""

OUTLIERS = Kind(("outliers",), (".tsv",), None, CONFOUNDS_MAY_LACK)
MOTION = OUTLIERS._replace(suffixes=("motion",))  # Of XCP-D


class RunFiles:
    """Finds the files that belong to a run, by its entities.

    What its name has (`named`), a companion must have as well; what pattern and table add (`known`), it may.
    """

    def __init__(self, tree: Tree, path: Path, entities: dict[str, str], array: str | None = None) -> None:
        self.tree, self.path, self.folder = tree, path, tree.folder(path.parent)
        self.named = entities if array else entities_of_file(path, entities)
        self.known = entities | self.named

    def own(self, kind: Kind) -> Path | None:
        """Return the run's own file of one kind; `Rejected` where two fit alike."""
        for suffix, extension in product(kind.suffixes, kind.extensions):
            candidates = self.folder.candidates(entity_set(self.known), suffix, extension)
            fitting = [f for f in candidates if f.entities.get("desc") == kind.desc]
            # Of run-1 and run-01 the one that is written as the run is; of others the one with most entities.
            own = (f for f in fitting if not self._differing(f, kind))
            written = self.known.items()
            ranked = sorted((len(f.entity_set), len(f.entities.items() & written), f.file) for f in own)
            if len(ranked) > 1 and ranked[-1][:2] == ranked[-2][:2]:
                both = f"{ranked[-2][2]} and {ranked[-1][2]}"
                raise Rejected(kind.reason, f"{both} fit the run alike; remove the one that is not its own")
            if ranked:
                return self.path.parent / ranked[-1][2]
        return None

    def _differing(self, file: NamedFile, kind: Kind) -> list[str]:
        """Return the entities that make a file another run's."""
        differing = []
        for key in {**self.named, **file.entities}:
            labels = (entities.get(key) for entities in (file.entities, self.named, self.known))
            own, named, known = (None if label is None else plain_label(key, label) for label in labels)
            is_same = own == named or (named is None and own == known)
            if not (is_same or key == "desc" or (own is None and key in kind.may_lack)):
                differing.append(key)
        return differing

    def nearest(self, kind: Kind) -> str:
        """Name the file that comes nearest to the run's own and what makes it another's; "" for none."""
        kinds = product(kind.suffixes, kind.extensions)
        files = [f for suffix, extension in kinds for f in self.folder.having(suffix, extension)[:_FEW]]
        ranked = [(self._differing(f, kind), f) for f in files if f.entities.get("desc") == kind.desc]
        if not ranked:
            return ""
        differing, nearest = min(ranked, key=lambda r: (len(r[0]), r[1].file))
        own = nearest.entities
        reasons = (f"is of {k}-{own[k]}" if k in own else f"has no {k}-{self.named[k]}" for k in differing)
        return f" ({nearest.file} is another run's: it {', it '.join(reasons)})"

    def expected(self, kind: Kind, end: str) -> str:
        """Return what the run's own file of a kind would be called."""
        own = (f"{k}-{v}_" for k, v in self.named.items() if k and k not in kind.may_lack)
        return "".join(own) + end

    def sidecars(self, root: Path, form: str) -> tuple[Path, ...]:
        """Return the JSON files that apply by BIDS inheritance, the most specific last."""
        own_end = f".{self.path.name.split('.')[-2]}.json"  # fMRIPrep writes .dtseries.json beside .json
        wanted = entity_set(self.known | ({"hemi": "L"} if form == "gifti" else {}))
        sidecars = [
            level / file
            for extension in ((".json",) if form == "nifti" else (own_end, ".json"))
            for level in reversed(levels(self.path.parent, root))
            for file in self.tree.folder(level).applying_to(wanted, "bold", extension)
        ]
        beside = self.path.parent / f"{stem_of(self.path)}.json"
        if beside not in sidecars and beside.name in self.folder.files:
            sidecars.append(beside)  # whatever the image is called
        return tuple(sidecars)

    def events(self, folder: Path, root: Path) -> Path | None:
        """Return the events that apply by BIDS inheritance: in the nearest folder, the most specific."""
        for level in levels(folder, root):
            applying = self.tree.folder(level).applying_to(entity_set(self.known), "events", ".tsv")
            n_entities = [len(split_name(file, ".tsv").entities) for file in applying[-2:]]
            if len(n_entities) == 2 and n_entities[0] == n_entities[1]:
                both = " and ".join(applying[-2:])
                raise Rejected("bad_events", f"{both} apply to it alike; remove the one that is not its own")
            if applying:
                return level / applying[-1]
        return None


def entities_of_file(path: Path, entities: dict[str, str]) -> dict[str, str]:
    """Return the entities in the name of a file; those given where it has none."""
    name = split_name(path.name, extension_of(path))
    return name.entities if name.entities or name.suffix == "bold" else entities


def find_companions(scan: Scan, form: str, dataset: DatasetConfig, root: Path, tree: Tree) -> dict[str, Any]:
    """Return the fields of a run's `RunSource` that name files beside its image."""
    run = RunFiles(tree, scan.path, scan.entities, scan.array)
    fields: dict[str, Any] = {"events": _events_file(scan, run, dataset, root)}
    if dataset.kind == "hcp":
        return fields | hcp.companions(tree, scan.path, form, with_evs=fields["events"] is None)
    if form == "nifti":
        fields["brain_mask"] = run.own(MASK)
    if dataset.kind == "xcpd":
        return fields | _xcpd_companions(run)
    if form != "array":
        fields["sidecars"] = run.sidecars(root, form)
    if dataset.kind == "fmriprep":
        fields["confounds"] = run.own(CONFOUNDS) or _no_confounds(run, dataset)
    return fields


def _events_file(scan: Scan, run: RunFiles, dataset: DatasetConfig, root: Path) -> Path | None:
    """Return the events file: by the recipe's template, else by BIDS inheritance."""
    if dataset.events is None:
        return run.events(scan.path.parent, root)
    fields = {SHORT_NAMES.get(k, k): v for k, v in scan.entities.items()}
    fields |= {"root": str(root), "dir": str(scan.path.parent)}
    fields |= {"stem": stem_of(scan.path), "array": scan.array or ""}
    try:
        path = Path(str(local_path(dataset.events)).format(**fields)).absolute()
    except (KeyError, IndexError, ValueError) as error:
        raise Rejected("no_events", f"the template events: {dataset.events} needs {error}") from error
    run.tree.folder(path.parent)  # a file on a server is known once its folder is listed
    if path.is_dir():
        folders = [f"{k}-{run.known[k]}" for k in ("sub", "ses") if k in run.known]
        return run.events(path.joinpath(*folders, "func"), path)
    if not path.is_file():
        detail = f"{path.name} is not where events: {dataset.events} says; add it, or correct events"
        raise Rejected("no_events", detail)
    return path


def _xcpd_companions(run: RunFiles) -> dict[str, Any]:
    """Return what XCP-D writes beside a series; the .json of another rendering states the same t_r."""
    outliers = run.own(OUTLIERS)
    if outliers is None:
        what = f"no {run.expected(OUTLIERS, 'outliers.tsv')} beside the run, which says what volumes are left"
        remedy = "add it, or, if nothing was censored, list the data set by kind bids, or as arrays by files"
        raise Rejected("no_confounds", f"{what}; {remedy}")
    own = entity_set(run.known, without=CONFOUNDS_MAY_LACK)
    sidecars = [
        file.file
        for suffix in ("timeseries", "bold")
        for file in run.folder.having(suffix, ".json")
        if entity_set(file.entities, without=CONFOUNDS_MAY_LACK) == own
        and file.entities.get("stat", "mean") == "mean"
    ]
    if (beside := f"{run.path.name.partition('.')[0]}.json") in run.folder.files:
        sidecars = [beside]
    motion = run.own(MOTION) or run.own(MOTION._replace(desc="filtered"))
    beside = tuple(run.path.parent / file for file in sidecars[:1])
    return {"outliers": outliers, "motion": motion, "sidecars": beside}


def _no_confounds(run: RunFiles, dataset: DatasetConfig) -> None:
    """Reject a run without confounds where the recipe needs them."""
    if dataset.denoise.dummy_volumes == "auto":
        need = "denoise.dummy_volumes: auto reads it; add it or give a number"
    elif dataset.denoise.strategy:
        need = "denoise.strategy needs it; add it or empty denoise.strategy"
    elif dataset.quality.max_mean_fd is not None:
        need = "quality.max_mean_fd asks for its framewise displacement; add it or drop the limit"
    else:
        return
    name = run.expected(CONFOUNDS, "desc-confounds_timeseries.tsv")
    raise Rejected("no_confounds", f"no {name} beside the run{run.nearest(CONFOUNDS)}; {need}")


def check_no_mask(run: RunFiles, other: Path | None) -> None:
    """Reject a run without a mask where there is a mask of another run, such as `other`."""
    nearest = run.nearest(MASK)
    if nearest or other:
        name = run.expected(MASK, "desc-brain_mask.nii.gz")
        where = nearest or f", where others have theirs ({other.name if other else ''})"
        remedy = "its parcels would be other voxels; add it, or leave the run out"
        raise Rejected("no_mask", f"no mask of its own, {name}{where}: {remedy}")
