"""The order of pairs in plain Python: slow, and easy to check. The compiled order must equal it."""

import math

import numpy as np

from fmriscale.config import KINDS, PairConfig

WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x):
    """Apply the finaliser of SplitMix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def key_of(*parts):
    """Fold integers into a key."""
    key = 0
    for part in parts:
        key = mix((key + GOLDEN + mix(part)) & WORD)
    return key


def uniform(key, index):
    """Return a number in [0, 1)."""
    return (mix((mix((index + GOLDEN) & WORD) + key) & WORD) >> 11) * 2.0**-53


def permute(index, n, key):
    """Permute an index by six Feistel rounds over side * side numbers, repeated until it is below n."""
    side = math.isqrt(n - 1) + 1
    while True:
        left, right = divmod(index, side)
        for turn in range(6):
            drawn = (mix((right + key + (turn + 1) * GOLDEN) & WORD) >> 32) * side >> 32
            left, right = right, (left + drawn) % side
        index = left * side + right
        if index < n:
            return index


def windows_of(run, pairs: PairConfig):
    """Return every left start of a run, by trying all volumes."""
    starts = []
    for part in run["segments"].split(","):
        a, b = map(int, part.split(":"))
        starts += [s for s in range(a, b, pairs.stride) if s + 2 * pairs.length + pairs.gap <= b]
    return starts


def draw(runs, datasets, quotas, which, occurrence, kinds, pairs: PairConfig, seed, position):
    """Return one pair of an exact order: (left run, start, right run, start, kind); runs are dictionaries."""
    block, place = divmod(position, len(which))
    d = which[place]
    turn = block * quotas[d] + occurrence[place]
    windows = [
        (r, k)
        for r, run in enumerate(runs)
        if run["dataset"] == datasets[d]
        for k in range(len(run["windows"]))
    ]
    epoch, index = divmod(turn // 2, len(windows))
    run, k = windows[permute(index, len(windows), key_of(seed, turn % 2, d, epoch))]
    start = runs[run]["windows"][k]
    follows = pairs.length + pairs.gap
    if turn % 2 == 0:
        return run, start, run, start + follows, 0
    key, turns = key_of(seed, 3, position), kinds[d]
    kind = turns[(turn // 2) % len(turns)]
    for again in range(64):  # if this window cannot have the kind, another is drawn by the quotas
        if able(runs, run, k, KINDS[kind - 1], pairs):
            break
        kind = turns[int(uniform(key_of(seed, 2, position), again) * len(turns))]
    if KINDS[kind - 1] == "reversed":
        return run, start, run, start + follows, kind
    if KINDS[kind - 1] == "same_run":
        own, shifts = runs[run]["windows"], distant_shifts(len(runs[run]["windows"]), pairs)
        q = (k + shifts[int(uniform(key, 0) * len(shifts))]) % len(own)
        return run, start, run, own[q] + follows, kind
    inside, apart = partners(runs[run], KINDS[kind - 1])
    long = [i for i, r in enumerate(runs) if inside(r) and len(r["windows"]) > k]
    long.sort(key=lambda i: -len(runs[i]["windows"]))
    for again in range(64):
        other = long[int(uniform(key, again) * len(long))]
        if apart(runs[other]):
            return run, start, other, runs[other]["windows"][k] + follows, kind
    raise AssertionError("no partner in 64 tries")


def distant_shifts(n, pairs: PairConfig):
    """Return the shifts on a circle of n windows that are far from the positive and do not overlap left."""
    near = max(1, -(-pairs.min_distance // min(pairs.stride, 2 * pairs.length + pairs.gap + 1)))
    overlapping = {
        n - back
        for back in range(1, 2 * pairs.length + pairs.gap)
        if pairs.gap < back * pairs.stride < 2 * pairs.length + pairs.gap
    }
    return [s for s in range(near, n - near + 1) if s not in overlapping]


def partners(own, kind):
    """Return two functions of a run: is it in the set to draw from, and may it be the partner?"""
    subject = (own["dataset"], own["subject"])
    if kind == "same_subject":
        return lambda r: (r["dataset"], r["subject"]) == subject, lambda r: r is not own
    if kind == "same_dataset":
        return lambda r: r["dataset"] == own["dataset"], lambda r: r["subject"] != own["subject"]
    return lambda r: True, lambda r: r["dataset"] != own["dataset"] and r["person"] != own["person"]


def able(runs, run, k, kind, pairs: PairConfig):
    """Return whether window k of a run can have a negative of this kind."""
    if kind == "reversed":
        return True
    if kind == "same_run":
        return bool(distant_shifts(len(runs[run]["windows"]), pairs))
    inside, apart = partners(runs[run], kind)
    return any(inside(r) and apart(r) and len(r["windows"]) > k for r in runs)


def records(corpus, pairs: PairConfig):
    """Return the runs that hold a pair, in the order of data set and place on disk."""
    table = corpus.runs.sort_values(["dataset", "shard", "offset"])
    found = [
        {**run, "row": row, "windows": windows_of(run, pairs)} for row, run in table.to_dict("index").items()
    ]
    return [run for run in found if run["windows"]]


def as_rows(runs, pairs):
    """Return reference pairs as arrays, with rows of the corpus in place of runs."""
    left, start, right, right_start, kind = np.array(pairs).T
    rows = np.array([run["row"] for run in runs])
    return rows[left], start, rows[right], right_start, kind
