"""Inner loops over the columns of large [T, V] signals, compiled; import this only where there are such.

They do what numpy does, sum by sum in its order, so that results do not depend on the size. But they process
a block of columns while it is in cache, and convert numbers on the way.
"""

import numpy as np

from fmriscale.common.compiled import njit

WIDTH = 128  # Columns that are processed together

_NORMAL = 0x3F10_0000_0000_0000  # Bits of 2**-14, the smallest normal float16, as a float64

_STEP, _STEP_BITS = 2.0**28, 0x41B0_0000_0000_0000
"""Where float64 numbers are 2**-24 apart, as float16 numbers below the normal ones are; and its bits."""


@njit(cache=True, error_model="numpy")
def column_stats(
    signals: np.ndarray, low: np.ndarray, high: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> None:
    """Write extremes, mean and standard deviation (over n) of each column of finite signals [T, V]."""
    n, n_columns = signals.shape
    for start in range(0, n_columns, WIDTH):
        stop = min(start + WIDTH, n_columns)
        lowest, highest = signals[0, start:stop].copy(), signals[0, start:stop].copy()
        total, squares = np.zeros(stop - start), np.zeros(stop - start)
        for t in range(n):
            row = signals[t, start:stop]
            for i in range(row.size):
                lowest[i] = row[i] if row[i] < lowest[i] else lowest[i]
                highest[i] = row[i] if row[i] > highest[i] else highest[i]
            for i in range(row.size):
                total[i] += row[i]
        for i in range(total.size):
            total[i] /= n
        for t in range(n):
            row = signals[t, start:stop]
            for i in range(row.size):
                deviation = row[i] - total[i]
                squares[i] += deviation * deviation
        low[start:stop], high[start:stop], mean[start:stop] = lowest, highest, total
        std[start:stop] = np.sqrt(squares / n)


@njit(cache=True, error_model="numpy")
def detrend(series: np.ndarray) -> None:
    """Remove mean and linear trend from series [K, W] in place, as `denoise.detrend` does."""
    n, width = series.shape
    middle, norm = (n - 1) / 2, 0.0
    mean, slope = np.zeros(width), np.zeros(width)
    for t in range(n):
        norm += (t - middle) ** 2
        row = series[t]
        for i in range(width):
            mean[i] += row[i]
    for i in range(width):
        mean[i] /= n
    for t in range(n):
        row = series[t]
        for i in range(width):
            row[i] -= mean[i]
            slope[i] += (t - middle) * row[i]
    for i in range(width):
        slope[i] /= max(0.5, norm)
    for t in range(n):
        row = series[t]
        for i in range(width):
            row[i] -= (t - middle) * slope[i]


@njit(cache=True, error_model="numpy")
def standardize_to_half(
    cleaned: np.ndarray,
    raw_std: np.ndarray,
    missing: np.ndarray,
    std: np.ndarray,
    bits: np.ndarray,
    rows: np.ndarray,
    start: int,
) -> None:
    """Standardize [K, W] as `denoise.standardize` does, in place; write float16 to `bits` [N, V] (uint16)."""
    n, width = cleaned.shape
    mean, again, scale = cleaned[0].copy(), np.empty(width), np.empty(width)
    for t in range(1, n):
        row = cleaned[t]
        for i in range(width):
            mean[i] += row[i]
    for i in range(width):
        mean[i] /= n
        again[i] = 0.0
        scale[i] = 0.0
    for t in range(n):
        row = cleaned[t]
        for i in range(width):
            row[i] -= mean[i]
            again[i] += row[i]
    for i in range(width):
        again[i] /= n
    for t in range(n):
        row = cleaned[t]
        for i in range(width):
            deviation = row[i] - again[i]
            scale[i] += deviation * deviation
    for i in range(width):
        spread = np.sqrt(scale[i] / (n - 1))
        std[i] = 0.0 if missing[i] or spread <= 1e-6 * raw_std[i] else spread
        scale[i] = std[i] if std[i] != 0.0 else np.inf
    for t in range(n):
        row = cleaned[t]
        for i in range(width):
            row[i] /= scale[i]
        to_half(row, mean, bits[rows[t], start : start + width])


@njit(cache=True, error_model="numpy")
def to_half(values: np.ndarray, scratch: np.ndarray, bits: np.ndarray) -> None:
    """Round float64 numbers, none NaN, to float16 as numpy does: to the nearest, at halves to even."""
    for i in range(values.size):
        scratch[i] = abs(values[i]) + _STEP
    words, steps = values.view(np.int64), scratch.view(np.int64)
    for i in range(values.size):
        size = words[i] & 0x7FFF_FFFF_FFFF_FFFF
        normal = ((size + 0x1FF_FFFF_FFFF + ((size >> 42) & 1)) >> 42) - (1008 << 10)
        normal = normal if normal < 0x7C00 else 0x7C00
        half = normal if size >= _NORMAL else steps[i] - _STEP_BITS
        bits[i] = np.uint16(half | ((words[i] >> 48) & 0x8000))
