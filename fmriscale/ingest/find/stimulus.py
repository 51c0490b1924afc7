"""The stimulus of a run: what everybody saw or heard, and when it began, as the recipe tells it."""

import math
import string

from fmriscale.common.quarantine import Rejected
from fmriscale.config import DatasetConfig
from fmriscale.corpus.assemble import NO_GROUP
from fmriscale.ingest.find.names import ENTITY_ORDER, LONG_NAMES, RENDERING, SHORT_NAMES


def stimulus_mistake(dataset: DatasetConfig) -> str | None:
    """Return what is wrong with the settings, whatever the runs are."""
    entities = {*LONG_NAMES, *ENTITY_ORDER, *RENDERING} - {*SHORT_NAMES}
    known = [*sorted(entities), *dataset.participants_columns]
    for key, given in (("stimulus", dataset.stimulus or ""), ("stimulus_onset", str(dataset.stimulus_onset))):
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(given) if field is not None]
        except ValueError as error:
            return f"{key}: '{given}' is no template ({error})"
        if unknown := [field for field in fields if field not in known]:
            what = f"{key}: no run has {{{unknown[0]}}}"
            return f"{what}; use {', '.join(known)}, or name a column in participants_columns"
        if key == "stimulus_onset" and not fields and not math.isfinite(_seconds(given)):
            return f"stimulus_onset: '{given}' is no number; give seconds, or a template such as '{{onset}}'"
    if dataset.stimulus is None and _seconds(str(dataset.stimulus_onset)) != 0:
        return "stimulus_onset: there is no stimulus; name it, or remove this"
    return None


def stimulus_of_run(
    dataset: DatasetConfig, entities: dict[str, str], participant: dict[str, str]
) -> tuple[str, float]:
    """Return the name of a run's stimulus, "" for none, and its onset, s from the beginning of the run."""
    if dataset.stimulus is None:
        return "", 0.0
    fields = {SHORT_NAMES.get(key, key): label for key, label in entities.items()} | participant
    try:
        name = dataset.stimulus.format(**fields).strip()
        onset = str(dataset.stimulus_onset).format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        templates = f"stimulus: {dataset.stimulus}, stimulus_onset: {dataset.stimulus_onset}"
        raise Rejected("no_stimulus", f"{templates}: the run has no {error}") from error
    if name.lower() in NO_GROUP:
        return "", 0.0
    if not math.isfinite(_seconds(onset)):
        what = f"stimulus_onset '{onset}' of stimulus {name} is no number"
        raise Rejected("no_stimulus", f"{what}; give seconds in {dataset.stimulus_onset}")
    return name, _seconds(onset)


def _seconds(text: str) -> float:
    """Return a number; NaN where a text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
