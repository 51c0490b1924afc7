"""Position in, pair out: the compiled arithmetic of the order, one pair at a time, without state.

The order is a pure function of position. Nothing here holds a permutation: a pass over a data set is a
Feistel network, and any position of any pass costs the same. Compiled functions that may change share this
file, because numba's cache on disk notices a change of this file, but not of another one whose functions it
calls.

The windows of a run are numbered 0 to K-1 in the order of time; window k is a left sequence and the right
sequence that follows it:

    run      |--- first stretch ---|   censored   |----- second stretch -----|
    window 0  [left][gap][right]
    window 1    [left][gap][right]                   stride = volumes from one window to the next
    ...                                            [left][gap][right]          window K-1

The right sequence of a negative is that of some other window (but for `anywhere`), drawn so that every place
of a run is as frequent among negatives as among positives.
"""

import numpy as np

from fmriscale.common.compiled import njit
from fmriscale.common.randomness import fold, permute, uniform

POSITIVE, SAME_RUN, SAME_SUBJECT, SAME_DATASET, OTHER_DATASET, REVERSED, ANYWHERE = range(7)
"""Codes of kinds: 0, and the place of a negative's kind in `config.KINDS` plus one (others: `across`)."""
KIND_BLOCK = 240
"""Negatives of a data set in which the quotas of kinds are exact."""

_POSITIVES, _NEGATIVES, _KIND, _PARTNER, _SHARDS, _BLOCKS, _WITHIN = range(7)
"""Streams of random numbers: each use of the seed has its own."""
_TRIES = 64


# ---------------------------------------------------------------- a pass over the windows of a data set


@njit(cache=True, error_model="numpy", forceinline=True)
def _pass_key(seed_key, stream, dataset, epoch):
    """Return the key of a pass over a data set."""
    return fold(fold(fold(seed_key, stream), dataset), epoch)


@njit(cache=True, error_model="numpy", forceinline=True)
def _shard_windows(index, shard):
    """Return first window and number of windows of a shard."""
    first = index.run_first[index.shard_run[shard]]
    return first, index.run_first[index.shard_run[shard + 1]] - first


@njit(cache=True, error_model="numpy", forceinline=True)
def _dataset_shards(index, dataset):
    """Return first shard and number of shards of a data set."""
    first = index.dataset_shard[dataset]
    return first, index.dataset_shard[dataset + 1] - first


@njit(cache=True, error_model="numpy", forceinline=True)
def _block_sizes(index, dataset, n_open, shards_key, blocks):
    """Fill in how many windows lie in all earlier blocks of a pass."""
    first, n_shards = index.dataset_shard[dataset], len(blocks) - 1
    blocks[0] = 0
    for b in range(n_shards):
        size = 0
        for j in range(n_open):
            shard = first + permute((b - j) % n_shards, n_shards, shards_key)
            n = _shard_windows(index, shard)[1]
            size += (j + 1) * n // n_open - j * n // n_open
        blocks[b + 1] = blocks[b] + size


@njit(cache=True, error_model="numpy", forceinline=True)
def _windowed(index, dataset, place, epoch, stream, n_open, seed_key, memo):
    """Return the window at a place of a pass that keeps to a moving set of `n_open` shards, and its block.

    The shards of a pass are shuffled, and the pass has as many blocks as shards. A block takes its share of
    windows from each open shard, in random order; with n_open = 3, shuffled shards s0 s1 s2 s3 ...

        block     0           1           2           3
        reads     s0 sN sN-1  s1 s0 sN    s2 s1 s0    s3 s2 s1

    So a shard is read during `n_open` blocks on end, and never again in the pass.
    """
    first, n_shards = _dataset_shards(index, dataset)
    n_open = min(n_open, n_shards)
    shards_key = _pass_key(seed_key, _SHARDS, dataset, epoch)
    blocks = memo.blocks[first + dataset : first + dataset + n_shards + 1]
    if memo.epoch[dataset] != epoch:
        _block_sizes(index, dataset, n_open, shards_key, blocks)
        memo.epoch[dataset] = epoch
    b = np.searchsorted(blocks, place, side="right") - 1
    pass_key = _pass_key(seed_key, stream, dataset, epoch)
    rest = permute(place - blocks[b], blocks[b + 1] - blocks[b], fold(fold(pass_key, _BLOCKS), b))
    for j in range(n_open):
        shard = first + permute((b - j) % n_shards, n_shards, shards_key)
        begin, n = _shard_windows(index, shard)
        share_first = j * n // n_open
        size = (j + 1) * n // n_open - share_first
        if rest < size:
            return begin + permute(share_first + rest, n, fold(fold(pass_key, _WITHIN), shard)), b
        rest -= size
    return np.int64(-1), b  # not reached: the sizes add up to the block


@njit(cache=True)
def pass_over_shards(index, dataset, epoch, n_open, seed):
    """Return the shuffled shards of a pass, int64 [N], and the windows in all earlier blocks [N + 1]."""
    first, n_shards = _dataset_shards(index, dataset)
    shards_key = _pass_key(fold(0, seed), _SHARDS, dataset, epoch)
    shards = np.empty(n_shards, np.int64)
    for i in range(n_shards):
        shards[i] = first + permute(i, n_shards, shards_key)
    blocks = np.zeros(n_shards + 1, np.int64)
    _block_sizes(index, dataset, min(n_open, n_shards), shards_key, blocks)
    return shards, blocks


# ---------------------------------------------------------------- windows, starts and partners


@njit(cache=True, error_model="numpy", forceinline=True)
def _run_of(run_first, low, high, window):
    """Return the run, low <= run < high, that holds a window.

    Where runs are alike it is near the guess, from which the search takes steps of 1, 2, 4, ...: pairs are
    drawn and copied 5 % faster than with a search that halves the whole range.
    """
    share = (window - run_first[low]) / (run_first[high] - run_first[low])
    guess, step = min(low + int(share * (high - low)), high - 1), 1
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
    return low + np.searchsorted(run_first[low:high], window, side="right") - 1


@njit(cache=True, error_model="numpy", forceinline=True)
def _window_start(index, run, k):
    """Return the first volume of the left sequence of window k of a run."""
    if index.runs[run].start >= 0:
        return np.int64(index.runs[run].start) + k * index.runs[run].stride
    window = index.run_first[run] + k
    span = index.run_span[run]
    while span + 1 < index.run_span[run + 1] and index.span_first[span + 1] <= window:
        span += 1
    return index.span_start[span] + (window - index.span_first[span]) * index.runs[run].stride


@njit(cache=True, error_model="numpy", forceinline=True)
def distant_shifts(n_windows, stride, gap, near, length):
    """Count the shifts that take a window to its same_run negatives, on the circle of a run's windows.

    The same shifts are allowed wherever the window lies; therefore every place is drawn equally often.
    A shift keeps `near` windows away either way and does not make right overlap left:

        shift   0 ... | near ... | low ... high  | ... n - near | ...
                close | allowed  | right on left | allowed      | close
    """
    back_few = max(gap // stride + 1, near)
    back_many = (2 * length + gap - 1) // stride
    low, high = max(near, n_windows - back_many), n_windows - back_few
    left_out = max(0, high - low + 1)
    return max(0, n_windows - 2 * near + 1 - left_out), low, left_out


@njit(cache=True, error_model="numpy", forceinline=True)
def _same_run(index, run, k, u):
    """Draw another window of the run, far from window k; u is uniform in [0, 1)."""
    own = index.runs[run]
    n_own = own.reach[POSITIVE]
    n, low, left_out = distant_shifts(n_own, own.stride, own.gap, own.near, index.length)
    shift = own.near + int(u * n)
    return (k + shift + (left_out if shift >= low else 0)) % n_own


@njit(cache=True, error_model="numpy", forceinline=True)
def _is_partner(own, other, kind):
    """Tell whether another run can hold the right sequence of this kind; both are of `index.runs`."""
    if kind == SAME_SUBJECT:
        return True
    if kind == SAME_DATASET:
        return other.subject != own.subject
    return other.dataset != own.dataset and other.person != own.person


@njit(cache=True, error_model="numpy", forceinline=True)
def _bounds(index, run, kind):
    """Return the bounds of the runs in `partners` that a kind is drawn from."""
    n_runs = len(index.runs)
    if kind == SAME_SUBJECT:
        s = index.runs[run].subject
        return np.int64(index.subject_first[s]), np.int64(index.subject_first[s + 1])
    if kind == SAME_DATASET:
        d = index.runs[run].dataset
        return n_runs + np.int64(index.dataset_first[d]), n_runs + np.int64(index.dataset_first[d + 1])
    return np.int64(2 * n_runs), np.int64(3 * n_runs)


@njit(cache=True, error_model="numpy", forceinline=True)
def _able(index, first, last, k):
    """Return how many of some listed runs have a window k: those with most windows come first."""
    if index.partners[last - 1].windows > k:  # as for most windows, where runs are about equally long
        return last - first
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if index.partners[middle].windows > k:
            low = middle + 1
        else:
            high = middle
    return low - first


@njit(cache=True, error_model="numpy", forceinline=True)
def _partner(index, run, k, kind, key):
    """Draw one of the runs of this kind that have a window k; each is as likely."""
    first, last = _bounds(index, run, kind)
    n, place = _able(index, first, last, k), 0
    for turn in range(_TRIES + n):
        # Where hardly any run suits, the next one that does is taken.
        place = int(uniform(key, turn) * n) if turn < _TRIES else (place + 1) % n
        other = index.partners[first + place].run
        if other != run and _is_partner(index.runs[run], index.runs[other], kind):
            return other
    return np.int32(-1)  # not reached: `reach` says that there is one


@njit(cache=True, error_model="numpy", forceinline=True)
def _open_partner(index, run, k, kind, partner, epoch, block, n_open, seed_key, key):
    """Exchange a partner for one in the shards that the windowed shuffle has open; keep it if none suits.

    The pass over the partner's data set is in `block` of `epoch`.
    """
    dataset = index.runs[partner].dataset
    first, n_shards = _dataset_shards(index, dataset)
    shards_key = _pass_key(seed_key, _SHARDS, dataset, epoch)
    for turn in range(_TRIES):
        j = int(uniform(key, _TRIES + 2 * turn) * min(n_open, n_shards))
        shard = first + permute((block - j) % n_shards, n_shards, shards_key)
        begin, end = index.shard_run[shard], index.shard_run[shard + 1]
        other = begin + int(uniform(key, _TRIES + 2 * turn + 1) * (end - begin))
        has_k = index.runs[other].reach[POSITIVE] > k
        if has_k and _is_partner(index.runs[run], index.runs[other], kind):
            return np.int32(other)
    return partner


@njit(cache=True, error_model="numpy", forceinline=True)
def _starts_before(index, run, volume):
    """Return how many possible starts of a sequence a run has before a volume."""
    n = 0
    for span in range(index.run_span[run], index.run_span[run + 1]):
        stop = min(volume, index.span_stop[span] - index.length + 1)
        n += max(0, stop - index.span_start[span])
    return n


@njit(cache=True, error_model="numpy", forceinline=True)
def _anywhere(index, run, start, u):
    """Draw any start in any run of the subject, but for those near left and the positive right.

    Left out are those from one length before left to two lengths after its end (and the gap): for 5 volumes
    -5 ... +14, as the published code has it.
    """
    subject = index.runs[run].subject
    first, last = index.subject_first[subject], index.subject_first[subject + 1]
    own = first
    while index.partners[own].run != run:
        own += 1
    base, before = index.subject_starts[first], index.subject_starts[own]
    blocked = before + _starts_before(index, run, start - index.length)
    resumed = before + _starts_before(index, run, start + 3 * index.length + index.runs[run].gap)
    drawn = base + int(u * (index.subject_starts[last] - base - (resumed - blocked)))
    if drawn >= blocked:
        drawn += resumed - blocked
    place = np.searchsorted(index.subject_starts[first : last + 1], drawn, side="right") - 1 + first
    rest, other = drawn - index.subject_starts[place], index.partners[place].run
    for span in range(index.run_span[other], index.run_span[other + 1]):
        n = max(0, index.span_stop[span] - index.length + 1 - index.span_start[span])
        if rest < n:
            return other, np.int64(index.span_start[span] + rest)
        rest -= n
    return other, np.int64(-1)  # not reached: the starts add up


@njit(cache=True, error_model="numpy", forceinline=True)
def _substitute(index, run, k, kinds, turn, key):
    """Return another declared kind for a window that cannot have the kind in turn, drawn by the quotas.

    Where no declared kind is possible at this place of the run, the kind in turn (or the first that the run
    can have at all) is returned and the place is moved.
    """
    for again in range(_TRIES + KIND_BLOCK):
        kind = kinds[int(uniform(key, again) * KIND_BLOCK) if again < _TRIES else again - _TRIES]
        if k < index.runs[run].reach[kind]:
            return kind, k
    for again in range(KIND_BLOCK):
        kind = kinds[(turn + again) % KIND_BLOCK]
        if index.runs[run].reach[kind] > 0:
            break
    return kind, np.int64(index.runs[run].reach[kind] - 1)


# ---------------------------------------------------------------- pairs


@njit(cache=True, error_model="numpy", forceinline=True)
def _pass_of_other(index, mixture, dataset, position):
    """Return epoch and block of a data set's pass at a position that another data set has, to a block."""
    n_block = len(mixture.which)
    block, place = position // n_block, position % n_block
    drawn = (block * mixture.quotas[dataset] + place * mixture.quotas[dataset] // n_block) // 2
    n = index.run_first[index.dataset_first[dataset + 1]] - index.run_first[index.dataset_first[dataset]]
    return drawn // n, drawn % n * _dataset_shards(index, dataset)[1] // n


@njit(cache=True, error_model="numpy", nogil=True)
def draw_places(first, index, mixture, seed, n_open, memo, out):
    """Fill the places of a `Batch` with the pairs at positions `first` and following.

    `n_open` is the number of shards of the windowed shuffle, 0 = an exact permutation of all windows; `memo`
    is scratch of the windowed shuffle. One function, because numba passes arrays to another one slowly (draws
    took 2.8 times as long in two). For each position:

        position -> data set d, and how often d was drawn before        (mixture)
                 -> even: positive, odd: negative; each has its own pass over the windows of d
                 -> a window of the pass = left: run, k                 (exact or windowed)
                 -> a negative's kind in turn, if window k can have it  (else _substitute)
                 -> right:  positive, reversed   run,          k
                            same_run             run,          k shifted
                            anywhere             a run of the subject, any start
                            other kinds          a partner,    k
    """
    seed_key = fold(0, seed)
    partner_key, kind_key = fold(seed_key, _PARTNER), fold(seed_key, _KIND)
    n_block = len(mixture.which)
    for i in range(len(out.kind)):
        position = first + i
        place = position % n_block
        d = mixture.which[place]
        n_before = position // n_block * mixture.quotas[d] + mixture.occurrence[place]
        low, high = index.dataset_first[d], index.dataset_first[d + 1]
        begin, n_windows = index.run_first[low], index.run_first[high] - index.run_first[low]
        epoch, in_pass = (n_before // 2) // n_windows, (n_before // 2) % n_windows
        stream, block = (_NEGATIVES if n_before % 2 else _POSITIVES), np.int64(0)
        if n_open == 0:
            window = begin + permute(in_pass, n_windows, _pass_key(seed_key, stream, d, epoch))
        else:
            window, block = _windowed(index, d, in_pass, epoch, stream, n_open, seed_key, memo)
        run = _run_of(index.run_first, low, high, window)
        k = window - index.run_first[run]
        left_start = _window_start(index, run, k)

        kind = POSITIVE
        if n_before % 2:
            kinds, turn = mixture.kinds[d], (n_before // 2) % KIND_BLOCK
            kind = kinds[turn]
            if k >= index.runs[run].reach[kind]:
                kind, k = _substitute(index, run, k, kinds, turn, fold(kind_key, position))
        key, right_run, right_start = fold(partner_key, position), np.int64(run), np.int64(-1)
        if kind == SAME_RUN:
            k = _same_run(index, run, k, uniform(key, 0))
        elif kind == ANYWHERE:
            right_run, right_start = _anywhere(index, run, left_start, uniform(key, 0))
        elif kind != POSITIVE and kind != REVERSED:
            right_run = _partner(index, run, k, kind, key)
            if n_open > 0 and kind != SAME_SUBJECT:
                e = index.runs[right_run].dataset
                if e != d:
                    epoch, block = _pass_of_other(index, mixture, e, position)
                right_run = _open_partner(index, run, k, kind, right_run, epoch, block, n_open, seed_key, key)
        if kind != ANYWHERE:
            right_start = _window_start(index, right_run, k) + index.length + index.runs[right_run].gap

        out.kind[i], out.label[i] = kind, kind == POSITIVE
        out.dataset[i], out.t_r[i] = mixture.numbers[d], index.runs[run].t_r
        out.run_left[i], out.row_left[i], out.start_left[i] = run, index.runs[run].row, left_start
        out.run_right[i], out.row_right[i] = right_run, index.runs[right_run].row
        out.start_right[i] = right_start
