"""What was decided for the user and may be wrong: said once a data set, on stderr and with --plan."""

from fmriscale.config import DatasetConfig
from fmriscale.ingest.find.companions import CONFOUNDS_MAY_LACK, identity_of
from fmriscale.ingest.find.layouts import extension_of
from fmriscale.ingest.find.names import Traits, take_apart, traits
from fmriscale.ingest.find.sources import RunSource

_FEW = 3


def notes(runs: list[RunSource], dataset: DatasetConfig) -> list[str]:
    """Return a line for each decision."""
    return [*_ids(runs, dataset), *_shared_events(runs)]


def _ids(runs: list[RunSource], dataset: DatasetConfig) -> list[str]:
    pairs = {run.participant_id: run.entities["sub"] for run in runs if run.participant_id}
    if not pairs:
        return []
    shown = [f"{written} is taken for {own}" for written, own in sorted(pairs.items())]
    return [f"{dataset.participants} writes {len(pairs)} ids otherwise than the runs: {_some(shown)}"]


def _shared_events(runs: list[RunSource]) -> list[str]:
    """Tell of events that are called as another run is, and by inheritance apply to this one too."""
    owners: dict[tuple, RunSource] = {}
    of_run: dict[str, Traits] = {}
    for run in runs:
        name = identity_of(run.path, run.entities, extension_of(run.path)).named
        own = traits({k: v for k, v in name.items() if k not in CONFOUNDS_MAY_LACK})
        owners[(run.path.parent, own)] = run
        of_run[run.source] = own
    shown = []
    for run in runs:
        if run.events is None or run.events.parent != run.path.parent:
            continue
        theirs = traits(take_apart(run.events.name, ".tsv").entities)
        owner = owners.get((run.path.parent, theirs))
        if owner is not None and theirs != of_run[run.source]:
            shown.append(f"{run.source} takes {run.events.name} as {owner.path.name} does")
    if not shown:
        return []
    return [f"events apply to {len(shown)} more runs by BIDS inheritance: {_some(shown)}"]


def _some(lines: list[str]) -> str:
    more = f" and {len(lines) - _FEW} more" if len(lines) > _FEW else ""
    return "; ".join(lines[:_FEW]) + more
