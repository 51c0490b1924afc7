"""Position in, pair out: the compiled arithmetic of the order, one pair at a time, without state.

The order is a pure function of position. Nothing here holds a permutation: a pass over a data set is a
Feistel network, and any position of any pass costs the same. Compiled functions that may change share this
file, because numba's cache on disk knows when a file has changed, but not when another one has that it calls.

A run's windows are numbered 0..K-1 in the order of time; window k is a left sequence and the right sequence
that follows it. The right sequence of a negative is always the right sequence of some other window (but for
`anywhere`), drawn so that every place of a run is as frequent among negatives as it is among positives.
"""

import numpy as np
from numba import njit

from fmriscale.common.randomness import fold, permute, uniform
from fmriscale.sampling.memory import prefetch
from fmriscale.sampling.tables import (
    ANYWHERE,
    KIND_BLOCK,
    OTHER_DATASET,
    POSITIVE,
    REVERSED,
    SAME_DATASET,
    SAME_RUN,
    SAME_SUBJECT,
)

_POSITIVES, _NEGATIVES, _KIND, _PARTNER, _SHARDS, _BLOCKS, _WITHIN = range(7)
"""Streams of random numbers: each use of the seed has its own."""
_TRIES = 64


# ---------------------------------------------------------------- a pass over the windows of a data set


@njit(cache=True, error_model="numpy", forceinline=True)
def _shard_windows(table, shard):
    """Return first window and number of windows of a shard."""
    first = table.run_first[table.shard_run[shard]]
    return first, table.run_first[table.shard_run[shard + 1]] - first


@njit(cache=True, error_model="numpy", forceinline=True)
def _block_sizes(table, dataset, window, shards_key, blocks):
    """Fill in how many windows lie in all earlier blocks of a pass."""
    first, n_shards = table.dataset_shard[dataset], len(blocks) - 1
    blocks[0] = 0
    for b in range(n_shards):
        size = 0
        for j in range(window):
            shard = first + permute((b - j) % n_shards, n_shards, shards_key)
            n = _shard_windows(table, shard)[1]
            size += (j + 1) * n // window - j * n // window
        blocks[b + 1] = blocks[b] + size


@njit(cache=True, error_model="numpy", forceinline=True)
def windowed(table, dataset, index, epoch, stream, window, seed_key, memo):
    """Return the window at a place of a pass that keeps to a moving set of `window` shards, and its block.

    The shards of a pass are shuffled and the pass has as many blocks as shards. Block b reads from shards
    b, b-1, ..., b-window+1 of the shuffled list (cyclically), from each a `window`-th of its shuffled
    windows, in random order. So a shard is read during `window` blocks on end, and never again in the pass.
    """
    first = table.dataset_shard[dataset]
    n_shards = table.dataset_shard[dataset + 1] - first
    window = min(window, n_shards)
    shards_key = fold(fold(fold(seed_key, _SHARDS), dataset), epoch)
    blocks = memo.blocks[first + dataset : first + dataset + n_shards + 1]
    if memo.epoch[dataset] != epoch:
        _block_sizes(table, dataset, window, shards_key, blocks)
        memo.epoch[dataset] = epoch
    b = np.searchsorted(blocks, index, side="right") - 1
    pass_key = fold(fold(fold(seed_key, stream), dataset), epoch)
    place = permute(index - blocks[b], blocks[b + 1] - blocks[b], fold(fold(pass_key, _BLOCKS), b))
    for j in range(window):
        shard = first + permute((b - j) % n_shards, n_shards, shards_key)
        begin, n = _shard_windows(table, shard)
        slice_first = j * n // window
        size = (j + 1) * n // window - slice_first
        if place < size:
            return begin + permute(slice_first + place, n, fold(fold(pass_key, _WITHIN), shard)), b
        place -= size
    return np.int64(-1), b  # not reached: the sizes add up to the block


@njit(cache=True)
def pass_over_shards(table, dataset, epoch, window, seed):
    """Return the shuffled shards of a pass, int64 [N], and the windows in all earlier blocks [N + 1]."""
    first = table.dataset_shard[dataset]
    n_shards = table.dataset_shard[dataset + 1] - first
    shards_key = fold(fold(fold(fold(0, seed), _SHARDS), dataset), epoch)
    shards = np.empty(n_shards, np.int64)
    for i in range(n_shards):
        shards[i] = first + permute(i, n_shards, shards_key)
    blocks = np.zeros(n_shards + 1, np.int64)
    _block_sizes(table, dataset, min(window, n_shards), shards_key, blocks)
    return shards, blocks


# ---------------------------------------------------------------- windows, starts and partners


@njit(cache=True, error_model="numpy", forceinline=True)
def _run_of(run_first, low, high, guess, window):
    """Return the run, low <= run < high, that holds a window; it is near the guess if runs are alike."""
    step = 1
    if run_first[guess] <= window:
        low = guess
        while low + step < high and run_first[low + step] <= window:
            low, step = low + step, 2 * step
        high = min(high, low + step)
    else:
        high = guess
        while high - step > low and run_first[high - step] > window:
            high, step = high - step, 2 * step
        low = max(low, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        if run_first[middle] <= window:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, error_model="numpy", forceinline=True)
def _window_start(table, run, k):
    """Return the first volume of the left sequence of window k of a run."""
    if table.runs[run].start >= 0:
        return np.int64(table.runs[run].start) + k * table.runs[run].stride
    index = table.run_first[run] + k
    span = table.run_span[run]
    while span + 1 < table.run_span[run + 1] and table.span_first[span + 1] <= index:
        span += 1
    return table.span_start[span] + (index - table.span_first[span]) * table.runs[run].stride


@njit(cache=True, error_model="numpy", forceinline=True)
def distant_shifts(n_windows, stride, gap, near, length):
    """Count the shifts that take a window to its same_run negatives, on the circle of a run's windows.

    The same shifts are allowed wherever the window lies; therefore every place is drawn equally often.
    A shift keeps `near` windows away either way and does not make right overlap left.
    """
    back_few = max(gap // stride + 1, near)
    back_many = (2 * length + gap - 1) // stride
    low, high = max(near, n_windows - back_many), n_windows - back_few
    left_out = max(0, high - low + 1)
    return max(0, n_windows - 2 * near + 1 - left_out), low, left_out


@njit(cache=True, error_model="numpy", forceinline=True)
def _is_partner(own, its, kind):
    """Tell whether another run can hold the right sequence of this kind; both are of `table.runs`."""
    if kind == SAME_SUBJECT:
        return True
    if kind == SAME_DATASET:
        return its.subject != own.subject
    return its.dataset != own.dataset and its.person != own.person


@njit(cache=True, error_model="numpy", forceinline=True)
def _bounds(table, run, kind):
    """Return the bounds of the runs in `partners` that a kind is drawn from."""
    n_runs = len(table.runs)
    if kind == SAME_SUBJECT:
        s = table.runs[run].subject
        return np.int64(table.subject_first[s]), np.int64(table.subject_first[s + 1])
    if kind == SAME_DATASET:
        d = table.runs[run].dataset
        return n_runs + np.int64(table.dataset_first[d]), n_runs + np.int64(table.dataset_first[d + 1])
    return np.int64(2 * n_runs), np.int64(3 * n_runs)


@njit(cache=True, error_model="numpy", forceinline=True)
def _able(table, first, last, k):
    """Return how many of some listed runs have a window k: those with most windows come first."""
    if table.partners[last - 1].windows > k:  # as for most windows, where runs are about equally long
        return last - first
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if table.partners[middle].windows > k:
            low = middle + 1
        else:
            high = middle
    return low - first


@njit(cache=True, error_model="numpy", forceinline=True)
def _partner(table, run, k, kind, key):
    """Draw one of the runs of this kind that have a window k; each is as likely."""
    first, last = _bounds(table, run, kind)
    n, place = _able(table, first, last, k), 0
    for turn in range(_TRIES + n):
        # Where hardly any run suits, the next one that does is taken.
        place = int(uniform(key, turn) * n) if turn < _TRIES else (place + 1) % n
        other = table.partners[first + place].run
        if other != run and _is_partner(table.runs[run], table.runs[other], kind):
            return other
    return np.int32(-1)  # not reached: `reach` says that there is one


@njit(cache=True, error_model="numpy", forceinline=True)
def _nearby(table, run, k, kind, partner, at, window, seed_key, key):
    """Exchange a partner for one in the shards that the windowed shuffle has open; keep it if none suits.

    `at` is the epoch and the block of the partner's data set at this position.
    """
    dataset = table.runs[partner].dataset
    first = table.dataset_shard[dataset]
    n_shards = table.dataset_shard[dataset + 1] - first
    shards_key = fold(fold(fold(seed_key, _SHARDS), dataset), at[0])
    for turn in range(_TRIES):
        j = int(uniform(key, _TRIES + 2 * turn) * min(window, n_shards))
        shard = first + permute((at[1] - j) % n_shards, n_shards, shards_key)
        begin, end = table.shard_run[shard], table.shard_run[shard + 1]
        other = begin + int(uniform(key, _TRIES + 2 * turn + 1) * (end - begin))
        has_k = table.runs[other].reach[POSITIVE] > k
        if has_k and _is_partner(table.runs[run], table.runs[other], kind):
            return np.int32(other)
    return partner


@njit(cache=True, error_model="numpy", forceinline=True)
def _starts_before(table, run, volume):
    """Return how many possible starts of a sequence a run has before a volume."""
    n = 0
    for span in range(table.run_span[run], table.run_span[run + 1]):
        stop = min(volume, table.span_stop[span] - table.length + 1)
        n += max(0, stop - table.span_start[span])
    return n


@njit(cache=True, error_model="numpy", forceinline=True)
def _anywhere(table, run, start, u):
    """Draw any start in any run of the subject, but for those near left and the positive right.

    Left out are those from one length before left to two lengths after its end (and the gap): for 5 volumes
    -5 ... +14, as the published code has it.
    """
    subject = table.runs[run].subject
    first, last = table.subject_first[subject], table.subject_first[subject + 1]
    own = first
    while table.partners[own].run != run:
        own += 1
    base, before = table.subject_starts[first], table.subject_starts[own]
    blocked = before + _starts_before(table, run, start - table.length)
    resumed = before + _starts_before(table, run, start + 3 * table.length + table.runs[run].gap)
    drawn = base + int(u * (table.subject_starts[last] - base - (resumed - blocked)))
    if drawn >= blocked:
        drawn += resumed - blocked
    place = np.searchsorted(table.subject_starts[first : last + 1], drawn, side="right") - 1 + first
    rest, other = drawn - table.subject_starts[place], table.partners[place].run
    for span in range(table.run_span[other], table.run_span[other + 1]):
        n = max(0, table.span_stop[span] - table.length + 1 - table.span_start[span])
        if rest < n:
            return other, np.int64(table.span_start[span] + rest)
        rest -= n
    return other, np.int64(-1)  # not reached: the starts add up


@njit(cache=True, error_model="numpy", forceinline=True)
def _substitute(table, run, k, kinds, turn, key):
    """Return another declared kind for a window that cannot have the kind in turn, drawn by the quotas.

    Where no declared kind is possible at this place of the run, the kind in turn (or the first that the run
    can have at all) is returned and the place is moved.
    """
    for again in range(_TRIES + KIND_BLOCK):
        kind = kinds[int(uniform(key, again) * KIND_BLOCK) if again < _TRIES else again - _TRIES]
        if k < table.runs[run].reach[kind]:
            return kind, k
    for again in range(KIND_BLOCK):
        kind = kinds[(turn + again) % KIND_BLOCK]
        if table.runs[run].reach[kind] > 0:
            break
    return kind, np.int64(table.runs[run].reach[kind] - 1)


# ---------------------------------------------------------------- pairs, and their volumes


@njit(cache=True, error_model="numpy", nogil=True)
def draw_pairs(first, table, mixture, seed, window, memo, out):
    """Fill the arrays of a `Draw` with the pairs at positions `first` and following.

    `window` is the number of shards of the windowed shuffle, 0 = an exact permutation of all windows; `memo`
    is scratch of the windowed shuffle.
    """
    seed_key = fold(0, seed)
    partner_key, kind_key = fold(seed_key, _PARTNER), fold(seed_key, _KIND)
    n_block, n_pairs = len(mixture.which), len(out.kind)
    windows, epochs, blocks, draws, others, firsts, lasts = np.empty((7, n_pairs), np.int64)
    n_others = 0
    for i in range(n_pairs):
        place = (first + i) % n_block
        d = mixture.which[place]
        # Even draws of a data set are positives, odd ones negatives; each has its own pass over the windows.
        draw = (first + i) // n_block * mixture.quotas[d] + mixture.occurrence[place]
        begin, end = table.run_first[table.dataset_first[d]], table.run_first[table.dataset_first[d + 1]]
        n_windows = end - begin
        epoch, index = (draw // 2) // n_windows, (draw // 2) % n_windows
        stream, at = (_NEGATIVES if draw % 2 else _POSITIVES), np.int64(0)
        if window == 0:
            chosen = begin + permute(index, n_windows, fold(fold(fold(seed_key, stream), d), epoch))
        else:
            chosen, at = windowed(table, d, index, epoch, stream, window, seed_key, memo)
        windows[i], epochs[i], blocks[i], draws[i] = chosen, epoch, at, draw
        out.dataset[i] = d
        low, high = table.dataset_first[d], table.dataset_first[d + 1]
        guess = min(low + int((chosen - begin) / n_windows * (high - low)), high - 1)
        prefetch(table.run_first.ctypes.data + table.run_first.itemsize * guess)  # pyright: ignore[reportCallIssue]
        prefetch(table.runs.ctypes.data + table.runs.itemsize * guess)  # pyright: ignore[reportCallIssue]
        out.run_left[i] = guess
    # The table of many runs is not in the cache. What permutes the windows, above, leaves time to ask for the
    # left runs. Short loops over all pairs let the processor wait for many other lines at once; a loop finds
    # there what the loops before it have asked for.
    for i in range(n_pairs):
        low, high = table.dataset_first[out.dataset[i]], table.dataset_first[out.dataset[i] + 1]
        out.run_left[i] = _run_of(table.run_first, low, high, out.run_left[i], windows[i])
    ks = windows
    for i in range(n_pairs):
        run = out.run_left[i]
        ks[i] -= table.run_first[run]  # from here on the number in the run
        out.start_left[i] = _window_start(table, run, ks[i])
        out.row_left[i], out.t_r[i] = table.runs[run].row, table.runs[run].t_r
    for i in range(n_pairs):  # kinds, and which of them need other runs
        run, kind = out.run_left[i], POSITIVE
        out.run_right[i] = run
        if draws[i] % 2:
            kinds, turn = mixture.kinds[out.dataset[i]], (draws[i] // 2) % KIND_BLOCK
            kind = kinds[turn]
            if ks[i] >= table.runs[run].reach[kind]:
                kind, ks[i] = _substitute(table, run, ks[i], kinds, turn, fold(kind_key, first + i))
            if kind in (SAME_SUBJECT, SAME_DATASET, OTHER_DATASET):
                firsts[i], lasts[i] = _bounds(table, run, kind)
                others[n_others] = i
                n_others += 1
        out.kind[i] = kind
    for i in others[:n_others]:  # of these, the first that is tried
        place = int(uniform(fold(partner_key, first + i), 0) * _able(table, firsts[i], lasts[i], ks[i]))
        out.run_right[i] = table.partners[firsts[i] + place].run
    for i in range(n_pairs):  # right as it is where that first run will do, and of positives
        run = out.run_right[i]
        out.start_right[i] = _window_start(table, run, ks[i]) + table.length + table.runs[run].gap
        out.row_right[i] = table.runs[run].row
    for i in range(n_pairs):  # the other negatives, and those for which it will not
        run, kind, k = out.run_left[i], out.kind[i], ks[i]
        if kind in (POSITIVE, REVERSED):
            continue
        key, right_run = fold(partner_key, first + i), np.int64(run)
        if kind == SAME_RUN:
            own = table.runs[run]
            n_own = own.reach[POSITIVE]
            n, low, left_out = distant_shifts(n_own, own.stride, own.gap, own.near, table.length)
            shift = own.near + int(uniform(key, 0) * n)
            k = (k + shift + (left_out if shift >= low else 0)) % n_own
        elif kind == ANYWHERE:
            right_run, out.start_right[i] = _anywhere(
                table, run, np.int64(out.start_left[i]), uniform(key, 0)
            )
        else:
            right_run = _partner(table, run, k, kind, key)
            if window > 0 and kind != SAME_SUBJECT:
                e, at = table.runs[right_run].dataset, (epochs[i], blocks[i])
                if e != out.dataset[i]:  # how far that data set is, to a block
                    block, place = (first + i) // n_block, (first + i) % n_block
                    its = (block * mixture.quotas[e] + place * mixture.quotas[e] // n_block) // 2
                    n_its = (
                        table.run_first[table.dataset_first[e + 1]] - table.run_first[table.dataset_first[e]]
                    )
                    n_shards = table.dataset_shard[e + 1] - table.dataset_shard[e]
                    at = (its // n_its, its % n_its * n_shards // n_its)
                right_run = _nearby(table, run, k, kind, right_run, at, window, seed_key, key)
        if kind != ANYWHERE:
            follows = table.length + table.runs[right_run].gap
            out.start_right[i] = _window_start(table, right_run, k) + follows
        out.run_right[i], out.row_right[i] = right_run, table.runs[right_run].row
