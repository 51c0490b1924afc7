"""One run as read from its files: signals [T, V], coverage, repetition time and confounds.

What headers and tables can show to be wrong rejects a run before its data are read.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fmriscale.common.files import expand
from fmriscale.common.quarantine import Rejected
from fmriscale.config import DatasetConfig, QualityConfig
from fmriscale.ingest.clean import confounds as motion
from fmriscale.ingest.clean.confounds import Censoring, Confounds
from fmriscale.ingest.clean.quality import check_length, check_motion
from fmriscale.ingest.find.sources import RunSource
from fmriscale.ingest.read import gifti, grayordinates
from fmriscale.ingest.read.arrays import read_array
from fmriscale.ingest.read.cifti import open_series
from fmriscale.ingest.read.content import check_fetched
from fmriscale.ingest.read.cuts import volumes_of
from fmriscale.ingest.read.features import Features, load_features, read_brain_mask, reduce_image
from fmriscale.ingest.read.gifti import open_hemisphere, reduce_hemispheres
from fmriscale.ingest.read.grayordinates import read_parcel_table, reduce_series
from fmriscale.ingest.read.nifti import open_image
from fmriscale.ingest.read.tables import TableOptions
from fmriscale.ingest.read.timing import decide_t_r, read_sidecars, recipe_t_r, start_time, stated_t_r


@dataclasses.dataclass(frozen=True)
class Signals:
    """A run as read, dummy volumes dropped."""

    values: np.ndarray  # [T, V] float64, or float32 where they are large and stored so
    covered: np.ndarray  # [V] share of each feature's voxels that hold data
    t_r: float  # repetition time, s
    confounds: Confounds
    dropped: int  # dummy volumes
    is_image: bool
    motion_measure: str | None  # what `confounds.mean_fd` is the mean of
    affine_from: str | None  # name of the image whose affine the run was given; None = it has its own
    start_time: float | None  # of the first volume, s after the acquisition began; None = not known


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run whose header is read."""

    n_volumes: int
    t_r: float | None  # repetition time, s, where the header states it
    reduce: Callable[[], tuple[np.ndarray, np.ndarray]]  # reads the data: values [T, V] and coverage [V]
    affine_from: str | None = None


def read_signals(run: RunSource, dataset: DatasetConfig) -> Signals:
    """Read one run of whatever form."""
    features, quality = load_features(dataset.features), dataset.quality
    for file in run.inputs():
        if file not in (run.path, run.right, run.brain_mask):  # these are checked where they are opened
            check_fetched(file, f"{file.name}: ")
    dropped = motion.dropped_volumes(run.confounds, dataset.denoise, run.cut)
    opened = _OPEN[run.form](run, dataset, features)
    censoring = Censoring(run.outliers, opened.n_volumes) if run.outliers else None
    n_volumes = censoring.n_volumes if censoring else opened.n_volumes
    t_r, start = _times(run, dataset, opened.t_r, n_volumes)
    check_length(opened.n_volumes - dropped, quality)
    confounds = _read_motion(run, dataset, n_volumes, dropped)
    if censoring is not None:
        confounds = dataclasses.replace(confounds, sample_mask=censoring.sample_mask(dropped))
    check_motion(confounds.mean_fd, quality)
    if confounds.sample_mask is not None:
        check_length(len(confounds.sample_mask), quality, "uncensored volumes")
    _check_space(run, dataset)
    values, covered = opened.reduce()
    if censoring is not None:
        values = censoring.lay_out(values)
    if run.form == "nifti" and dataset.kind != "hcp" and "space" not in run.entities:
        _check_own_space(covered, quality)
    measure = "relative RMS displacement" if dataset.kind == "hcp" else "framewise displacement"  # both in mm
    return Signals(
        values=values[dropped:],
        covered=covered,
        t_r=t_r,
        confounds=confounds,
        dropped=dropped,
        is_image=run.form != "array" and dataset.kind != "xcpd",
        motion_measure=None if confounds.mean_fd is None else measure,
        affine_from=opened.affine_from,
        start_time=start,
    )


def _times(
    run: RunSource, dataset: DatasetConfig, header_t_r: float | None, n_volumes: int
) -> tuple[float, float | None]:
    """Return repetition time and `Signals.start_time` (s) by recipe, table, sidecars and header."""
    sidecar = read_sidecars(run.sidecars)
    recipe = recipe_t_r(dataset.t_r, run.entities.get("task", ""))
    in_file = run.cut.of if run.cut else n_volumes
    stated = stated_t_r(sidecar, in_file, settled=isinstance(recipe, int | float))
    t_r = decide_t_r(recipe, stated if run.t_r is None else run.t_r, header_t_r)
    return t_r, start_time(sidecar, n_volumes * t_r)


def _open_nifti(run: RunSource, dataset: DatasetConfig, features: Features) -> Opened:
    image = open_image(run.path, expand(dataset.affine_from) if dataset.affine_from else None)
    image = image.cut(volumes_of(run.cut, image.n_volumes))

    def reduce() -> tuple[np.ndarray, np.ndarray]:
        brain = read_brain_mask(run.brain_mask, image) if run.brain_mask else None
        return reduce_image(image, features, brain, dataset.quality.min_coverage)

    return Opened(image.n_volumes, image.t_r, reduce, image.affine_from)


def _open_cifti(run: RunSource, dataset: DatasetConfig, features: Features) -> Opened:
    series, members = open_series(run.path), features.members
    assert isinstance(members, grayordinates.Members)
    series = series.cut(volumes_of(run.cut, series.n_volumes))
    n_features = features.space.n_features
    return Opened(series.n_volumes, series.t_r, lambda: reduce_series(series, members, n_features))


def _open_gifti(run: RunSource, dataset: DatasetConfig, features: Features) -> Opened:
    members = features.members
    assert run.right is not None and isinstance(members, gifti.SurfaceMembers)
    left, right = open_hemisphere(run.path, "L"), open_hemisphere(run.right, "R")
    left, right = (side.cut(volumes_of(run.cut, side.values.shape[1])) for side in (left, right))
    both, n_features = (left, right), features.space.n_features
    return Opened(left.values.shape[1], left.t_r, lambda: reduce_hemispheres(both, members, n_features))


def _open_array(run: RunSource, dataset: DatasetConfig, features: Features) -> Opened:
    """Read an array; a column that is zero throughout is a feature without data."""
    values = _read_columns(run, dataset, features)
    values = values[volumes_of(run.cut, len(values))]
    return Opened(len(values), None, lambda: (values, _hold_data(values)))


def _hold_data(values: np.ndarray) -> np.ndarray:
    """Return 1 for each column that is not zero throughout, else 0."""
    covered = (values[:1] != 0).any(axis=0)
    (left,) = np.nonzero(~covered)
    covered[left] = (values[:, left] != 0).any(axis=0)
    return covered.astype(np.float64)


def _read_columns(run: RunSource, dataset: DatasetConfig, features: Features) -> np.ndarray:
    """Read the columns of an array, by name where the feature space has them from a table."""
    if isinstance(features.members, grayordinates.NamedParcels):
        return read_parcel_table(run.path, features.members)
    expected = features.space.n_features
    options = TableOptions(expected, dataset.orientation, dataset.header, dataset.index_column)
    values = read_array(run.path, run.array or dataset.variable, options)
    if values.shape[1] != expected:
        other = "VT" if dataset.orientation == "TV" else "TV"
        hint = f"; is the array transposed? set orientation: {other}" if len(values) == expected else ""
        what = f"{values.shape[1]} features by orientation {dataset.orientation}"
        raise Rejected("n_features", f"{what}, '{features.space.name}' has {expected}{hint}")
    return values


_OPEN = {"nifti": _open_nifti, "cifti": _open_cifti, "gifti": _open_gifti, "array": _open_array}


def count_volumes(run: RunSource, dataset: DatasetConfig) -> int:
    """Return how many volumes a run has, dummy volumes included."""
    if run.cut is not None:
        return run.cut.n_volumes
    return _OPEN[run.form](run, dataset, load_features(dataset.features)).n_volumes


def _read_motion(run: RunSource, dataset: DatasetConfig, n_volumes: int, dropped: int) -> Confounds:
    """Read head motion: fMRIPrep's confounds, XCP-D's motion table, or the relative RMS table of the HCP."""
    if dataset.kind == "fmriprep":
        return motion.read_confounds(run.confounds, dataset.denoise, n_volumes, run.cut, dropped)
    if run.motion is None:
        return Confounds()
    if dataset.kind == "xcpd":
        return Confounds(mean_fd=motion.read_mean_fd(run.motion, n_volumes, dropped))
    try:
        moved = np.loadtxt(run.motion, ndmin=1)
    except (OSError, ValueError) as error:
        raise Rejected("unreadable", f"{run.motion.name}: {error}; copy it again") from error
    if run.cut is not None and moved.ndim == 1:
        moved = moved[run.cut.rows(len(moved), run.motion.name)]
    if moved.shape != (n_volumes,):
        what = f"{run.motion.name} has {len(moved)} rows, the image {n_volumes} volumes"
        raise Rejected("confounds_length", f"{what}; both must come from one preprocessing")
    return Confounds(mean_fd=float(moved[dropped:].mean()))


def _check_space(run: RunSource, dataset: DatasetConfig) -> None:
    """Reject a run whose file name has another space than that of the atlas, where both have one."""
    features = dataset.features
    file = Path(features.labels_img or features.mask_img or (features.labels_gii or [""])[0]).name
    entities = dict(p.split("-", 1) for p in file.split(".")[0].split("_") if "-" in p)
    atlas_space, run_space = entities.get("tpl") or entities.get("space"), run.entities.get("space")
    if not atlas_space or not run_space:
        return
    # fsaverage5 and fsaverage den-10k are one surface; the number of vertices tells others apart.
    atlas_template, run_template = (re.sub(r"(?<=fsaverage)\d$", "", s) for s in (atlas_space, run_space))
    if atlas_template != run_template:
        remedy = f"choose entities: {{space: {atlas_space}}} or an atlas in {run_space}"
        raise Rejected("other_space", f"the run is in space {run_space}, {file} in {atlas_space}; {remedy}")


def _check_own_space(covered: np.ndarray, quality: QualityConfig) -> None:
    """Reject a run whose name has no space and whose voxels miss the features."""
    absent = covered < quality.min_coverage
    if absent.mean() > quality.max_missing:
        what = f"{absent.sum()} of {absent.size} features have coverage below {quality.min_coverage:g}"
        space = "the name of the run tells no space: it may be in its own, where no standard atlas fits"
        allowed = f"quality.max_missing allows {quality.max_missing:.0%}"
        raise Rejected("low_coverage", f"{what}, {allowed}; {space}")
