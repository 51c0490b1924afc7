"""Where the training data of an encoder come from: kept with its weights, for whoever takes them home."""

from collections.abc import Collection
from typing import Any

import numpy as np

from fmriscale.corpus.reader import Corpus


def origins(corpus: Corpus, run_keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return licence, people, runs and hours of each data set that runs are of."""
    used = corpus.runs.loc[corpus.runs["key"].isin(list(run_keys))]
    columns = {name: np.asarray(used[name]) for name in ("dataset", "person", "n_volumes", "t_r")}
    found = {}
    for name in sorted(set(columns["dataset"])):
        own = columns["dataset"] == name
        found[str(name)] = {
            "licence": corpus.manifest["datasets"].get(name, {}).get("licence") or "unknown",
            "n_people": len(set(columns["person"][own])),
            "n_runs": int(own.sum()),
            "hours": round(float(np.dot(columns["n_volumes"][own], columns["t_r"][own])) / 3600, 3),
        }
    return found
