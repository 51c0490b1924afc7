"""What was decided for the user and may be wrong: said once for each data set, on stderr or with --plan."""

from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.companions import CONFOUNDS_MAY_LACK, entities_of_file
from fmriscale.ingest.find.names import entity_set, split_name
from fmriscale.ingest.find.sources import RunSource

_N_SHOWN = 3


def notes(runs: list[RunSource], dataset: DatasetConfig) -> list[str]:
    """Return a line for each decision."""
    return [*_participant_ids(runs, dataset), *_shared_events(runs), *_other_space(runs, dataset)]


def _participant_ids(runs: list[RunSource], dataset: DatasetConfig) -> list[str]:
    pairs = {run.participant_id: run.entities["sub"] for run in runs if run.participant_id}
    lines = [f"{table_id} is taken for {subject}" for table_id, subject in sorted(pairs.items())]
    start = f"{dataset.participants} writes {len(pairs)} ids otherwise than the runs: "
    return [start + _first(lines)] if lines else []


def _shared_events(runs: list[RunSource]) -> list[str]:
    """Name events that are called as one run is, and by inheritance apply to others too."""
    own = {run.source: entities_of_file(run.path, run.entities) for run in runs}
    own = {source: entity_set(named, without=CONFOUNDS_MAY_LACK) for source, named in own.items()}
    owners = {(run.path.parent, own[run.source]): run for run in runs}
    lines = []
    for run in runs:
        if run.events is None or run.events.parent != run.path.parent:
            continue
        of_events = entity_set(split_name(run.events.name, ".tsv").entities)
        owner = owners.get((run.path.parent, of_events))
        if owner is not None and of_events != own[run.source]:
            lines.append(f"{run.source} takes {run.events.name} as {owner.path.name} does")
    return [f"events apply to {len(lines)} more runs by BIDS inheritance: {_first(lines)}"] if lines else []


def _other_space(runs: list[RunSource], dataset: DatasetConfig) -> list[str]:
    """Name an atlas taken by name that is in another template than the runs."""
    from fmriscale.ingest.read.features import load_features

    atlas = load_features(dataset.features).space.atlas
    others = sorted({run.entities.get("space", "") for run in runs} - {"", atlas.template if atlas else ""})
    if atlas is None or not others:
        return []
    return [
        f"{atlas.name} lies in {atlas.template}, runs in {', '.join(others)}: regions may be off by "
        "millimetres; choose entities: {space: ...}, or an atlas file in that space (see TemplateFlow)"
    ]


def _first(lines: list[str]) -> str:
    more = f" and {len(lines) - _N_SHOWN} more" if len(lines) > _N_SHOWN else ""
    return "; ".join(lines[:_N_SHOWN]) + more
