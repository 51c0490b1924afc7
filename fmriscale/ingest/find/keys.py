"""Names of runs in the corpus."""

import hashlib
import re
from collections import defaultdict

from fmriscale.common.quarantine import Rejected
from fmriscale.corpus.writer import MAX_KEY
from fmriscale.ingest.find.names import ENTITY_ORDER, plain

_DROPPED = "[^A-Za-z0-9]"


def make_key(dataset: str, entities: dict[str, str], exact: bool = False) -> str:
    """Name a run: the data set and every entity that tells runs apart, letters and digits only."""
    known = [(k, entities[k]) for k in ENTITY_ORDER if k in entities]
    key = "_".join([dataset, *(f"{k}-{_letters(v, exact)}" for k, v in known)])
    if len(key) > MAX_KEY:
        raise Rejected("no_name", f"its key has {len(key)} characters, {MAX_KEY} fit; shorten the name")
    return key


def _letters(label: str, exact: bool) -> str:
    kept = re.sub(_DROPPED, "", label)
    return kept + hashlib.sha256(label.encode()).hexdigest()[:8] if exact and kept != label else kept


def ambiguous(dataset: str, runs: list[dict[str, str]]) -> set[str]:
    """Return the keys that runs of different entities share because labels lost characters."""
    labels: dict[str, set[tuple]] = defaultdict(set)
    for entities in runs:
        try:
            labels[make_key(dataset, entities)].add(_labels(entities))
        except Rejected:
            continue
    return {key for key, known in labels.items() if len(known) > 1}


def _labels(entities: dict[str, str]) -> tuple:
    return tuple(entities.get(k) for k in ENTITY_ORDER)


def same_run(entities: dict[str, str]) -> tuple:
    """Return what no two runs of a data set may share: 1 and 01 are the same index."""
    return tuple(plain(k, entities[k]) if k in entities else None for k in ENTITY_ORDER)
