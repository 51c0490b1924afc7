"""Carpet plots: a run as a picture, one line a feature and one column a volume, as small PNG files."""

import io

import numpy as np
from PIL import Image

MOST_ROWS, MOST_COLUMNS = 110, 480  # Pixels of a carpet
MARK = 5  # Pixels of the line above a carpet that marks censored volumes
LIMIT = 2.5  # Standard deviations drawn as black or white
GREYS = 13
CENSORED, NOTHING = GREYS, GREYS + 1
"""Colours beyond the greys: a censored volume; a missing feature, or room between (see-through)."""
CENSORED_COLOUR = (224, 122, 47)


def carpet(bold: np.ndarray, kept: np.ndarray) -> bytes:
    """Draw a run."""
    n_volumes, n_features = bold.shape
    rows = np.unique(np.linspace(0, n_features - 1, min(MOST_ROWS, n_features)).round().astype(int))
    values = bold[:, rows].astype(np.float32)
    missing = ~values.any(axis=0)
    starts = (np.arange(min(MOST_COLUMNS, n_volumes)) * n_volumes) // min(MOST_COLUMNS, n_volumes)
    n_kept = np.add.reduceat(kept.astype(np.int64), starts)
    n_here = np.diff(np.r_[starts, n_volumes])
    # Censored volumes are rows of zeros: they add nothing to the sums.
    means = np.add.reduceat(values, starts, axis=0) / np.maximum(n_kept, 1)[:, None]

    share = (np.clip(means, -LIMIT, LIMIT) + LIMIT) / (2 * LIMIT)
    picture = np.rint(share * (GREYS - 1)).astype(np.uint8).T
    picture[missing] = NOTHING
    picture[:, n_kept == 0] = CENSORED
    if kept.all():
        return _png(picture)
    mark = np.full((MARK, len(starts)), NOTHING, np.uint8)
    mark[: MARK - 2, n_kept < n_here] = CENSORED
    return _png(np.vstack([mark, picture]))


def _png(picture: np.ndarray) -> bytes:
    """Encode colour numbers as a PNG with a palette of 4 bits."""
    greys = np.linspace(24, 244, GREYS).round().astype(int)
    palette = [(g, g, g) for g in greys.tolist()] + [CENSORED_COLOUR, (128, 128, 128)]
    image = Image.fromarray(picture, mode="L").convert("P")
    image.putdata(picture.ravel().tolist())
    image.putpalette([channel for colour in palette for channel in colour])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, bits=4, transparency=NOTHING)
    return buffer.getvalue()
