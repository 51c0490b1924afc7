"""The same recording under two names: the first in corpus order stays."""

from collections.abc import Iterable

from fmriscale.common.quarantine import Rejection
from fmriscale.corpus.building import ShardState


def find_duplicates(states: Iterable[ShardState]) -> dict[str, Rejection]:
    """Return the runs to take out, by key: a function of what the shards hold, not of how they were built."""
    first: dict[tuple[str, ...], dict] = {}
    found = {}
    for row in (row for state in states for row in state.rows):
        same_source = ("source", row["space"], row["source_sha256"], row["array"])
        same_signals = ("signals", row["space"], row["sha256"])
        other = first.get(same_source) or first.get(same_signals)
        if other is None:
            first[same_source] = first[same_signals] = row
            continue
        what = "file" if same_source in first else "signals"
        detail = f"the same {what} as {other['key']} ({other['source']}), which stays; remove one of them"
        found[row["key"]] = Rejection(row["dataset"], row["source"], "duplicate_content", detail)
    return found
