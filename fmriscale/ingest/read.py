"""One run as read from its files: signals [T, V], coverage, repetition time and confounds.

What can be told from headers and tables is told before the data are read.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from fmriscale.config import DatasetConfig
from fmriscale.ingest.arrays import read_array
from fmriscale.ingest.denoise import Confounds, dropped_volumes, read_confounds
from fmriscale.ingest.features import load_features, read_brain_mask, reduce_image
from fmriscale.ingest.quality import Rejected, check_length, check_motion
from fmriscale.ingest.sources import RunSource
from fmriscale.ingest.volumes import open_image

MAX_T_R = 30.0
"""A repetition time above this, s, is milliseconds taken for seconds."""


@dataclasses.dataclass(frozen=True)
class Signals:
    """A run as read, dummy volumes dropped."""

    values: np.ndarray
    """[T, V] float64."""
    covered: np.ndarray
    """[V] share of each feature's voxels that hold data."""
    t_r: float
    confounds: Confounds
    is_image: bool


def read_signals(run: RunSource, dataset: DatasetConfig) -> Signals:
    """Read one run of whatever form.

    Raises
    ------
    Rejected
        The run is damaged, or fits neither the feature space nor the quality limits.
    """
    return _read_array(run, dataset) if dataset.kind == "arrays" else _read_image(run, dataset)


def _read_image(run: RunSource, dataset: DatasetConfig) -> Signals:
    """Read a NIfTI image."""
    dropped = dropped_volumes(run.confounds, dataset.denoise)
    image = open_image(run.path)
    t_r = decide_t_r(dataset.t_r, sidecar_t_r(run.sidecars), image.t_r)
    check_length(image.n_volumes - dropped, dataset.quality)
    confounds = Confounds()
    if dataset.kind == "fmriprep":
        confounds = read_confounds(run.confounds, dataset.denoise, image.n_volumes)
    check_motion(confounds.mean_fd, dataset.quality)
    if confounds.sample_mask is not None:
        check_length(len(confounds.sample_mask), dataset.quality, "uncensored volumes")
    features = load_features(dataset.features)
    if features.index is None:
        raise Rejected("n_features", "an image needs features with labels_img or mask_img, not columns")
    _check_space(run, dataset)
    brain = read_brain_mask(run.brain_mask, image) if run.brain_mask else None
    values, covered = reduce_image(image, features, brain, dataset.quality.min_coverage)
    return Signals(values[dropped:], covered, t_r, confounds, is_image=True)


def _read_array(run: RunSource, dataset: DatasetConfig) -> Signals:
    """Read an array [T, V]; a column that is zero throughout is a feature without data."""
    t_r = decide_t_r(dataset.t_r, run.t_r, None)
    values = read_array(run.path, run.array)[dropped_volumes(None, dataset.denoise) :]
    check_length(len(values), dataset.quality)
    expected = load_features(dataset.features).space.n_features
    if values.shape[1] != expected:
        raise Rejected(
            "n_features",
            f"{values.shape[1]} columns, features '{dataset.features.name}' have {expected}"
            + ("; is the array transposed?" if values.shape[0] == expected else ""),
        )
    covered = (values != 0).any(axis=0).astype(np.float64)
    return Signals(values, covered, t_r, Confounds(), is_image=False)


def _check_space(run: RunSource, dataset: DatasetConfig) -> None:
    """Where both file names say their space, they must say the same."""
    atlas = Path(dataset.features.labels_img or dataset.features.mask_img or "").name
    named = dict(p.split("-", 1) for p in atlas.split(".")[0].split("_") if "-" in p)
    theirs, ours = named.get("tpl") or named.get("space"), run.entities.get("space")
    if theirs and ours and theirs != ours:
        raise Rejected(
            "other_space",
            f"the run is in space {ours}, {atlas} in {theirs}; choose entities: {{space: {theirs}}} "
            f"or an atlas in {ours}",
        )


# ---------------------------------------------------------------- repetition time


def sidecar_t_r(sidecars: tuple[Path, ...]) -> float | None:
    """Return RepetitionTime, s, of the most specific JSON file that states it."""
    t_r = None
    for path in sidecars:
        try:
            stated = json.loads(path.read_text()).get("RepetitionTime")
        except (OSError, ValueError, AttributeError) as error:
            raise Rejected("unreadable", f"{path.name}: not readable as JSON ({error}); mend it") from error
        t_r = t_r if stated is None else stated
    if t_r is not None and not isinstance(t_r, int | float):
        raise Rejected("no_t_r", f"RepetitionTime '{t_r}' is not a number; mend the sidecar or set t_r")
    return t_r


def decide_t_r(recipe: float | None, stated: float | None, header: float | None) -> float:
    """Return the repetition time of a run, s.

    Parameters
    ----------
    recipe : float or None
        `t_r` of the data set; settles every doubt.
    stated : float or None
        From the sidecar or the participants table.
    header : float or None
        From the image header.

    Raises
    ------
    Rejected
        Nobody states it, two contradict each other by more than 1 %, or it is implausible.
    """
    t_r = next((float(v) for v in (recipe, stated, header) if v is not None), None)
    if t_r is None:
        raise Rejected("no_t_r", "no sidecar, header or table states the repetition time; set t_r")
    if recipe is None and stated and header and abs(stated - header) > 0.01 * max(abs(stated), header):
        raise Rejected(
            "t_r_conflict", f"the sidecar says {stated:g} s, the image header {header:g} s; set t_r"
        )
    if not 0 < t_r <= MAX_T_R:
        raise Rejected("no_t_r", f"a repetition time of {t_r:g} s is implausible; set t_r in seconds")
    return round(t_r, 6)
