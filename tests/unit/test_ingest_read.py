"""What decides about a run beside its data: motion, space, and geometry kept between runs."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import scipy.io
from grayordinates import series, whole_brain, write_func, write_label_gii, write_series
from nilearn.image import resample_to_img
from scans import AFFINE, SHAPE, brain_like, dataset, write_atlas, write_image

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig, QualityConfig
from fmriscale.ingest.find.sources import RunSource
from fmriscale.ingest.read.features import load_features, map_to_grid, reduce_image
from fmriscale.ingest.read.nifti import open_image
from fmriscale.ingest.signals import read_signals


def test_motion_of_the_hcp_is_its_relative_rms(tmp_path):
    axis = whole_brain()
    path = write_series(tmp_path / "rfMRI_REST1_LR_Atlas.dtseries.nii", series(axis, 40), axis)
    features = FeatureConfig(name="all", structures=["all"], template=str(path))
    motion = tmp_path / "Movement_RelativeRMS.txt"
    moved = np.abs(np.random.default_rng(0).normal(size=40)) * 0.1
    np.savetxt(motion, moved)
    run = RunSource(path, path.name, {"sub": "1"}, dataset="toy", form="cifti", motion=motion)
    given = dataset(tmp_path, kind="hcp", features=features)
    signals = read_signals(run, given)
    assert signals.confounds.mean_fd == pytest.approx(moved.mean(), rel=1e-6)
    assert signals.motion_measure == "relative RMS displacement" and signals.t_r == 0.72
    still = dataset(tmp_path, kind="hcp", features=features, quality=QualityConfig(max_mean_fd=0.01))
    with pytest.raises(Rejected, match="motion"):
        read_signals(run, still)
    np.savetxt(motion, moved[1:])
    with pytest.raises(Rejected, match=r"confounds_length.*39 rows, the image 40 volumes"):
        read_signals(run, given)


def test_a_run_of_unnamed_space_that_misses_the_atlas_is_told_why(tmp_path):
    atlas = write_atlas(tmp_path / "atlas.nii.gz")
    moved = AFFINE.copy()
    moved[0, 3] += 3 * 4  # half the slabs lie outside
    path = write_image(tmp_path / "sub-1_task-rest_bold.nii.gz", brain_like(30), moved)
    given = dataset(tmp_path, atlas, kind="bids")
    with pytest.raises(Rejected, match=r"low_coverage.*tells no space: it may be in its own"):
        read_signals(RunSource(path, path.name, {"sub": "1"}, dataset="toy"), given)
    lenient = dataset(tmp_path, atlas, kind="bids", quality=QualityConfig(min_volumes=9, max_missing=0.9))
    assert (
        read_signals(RunSource(path, path.name, {"sub": "1"}, dataset="toy"), lenient).covered < 0.5
    ).sum() > 2


@pytest.mark.parametrize(
    "step, shape", [(1.7, (14, 16, 12)), (4.3, (6, 6, 5))], ids=["finer run", "coarser run"]
)
def test_an_atlas_of_another_resolution_is_resampled_as_nilearn_does(tmp_path, step, shape):
    atlas = write_atlas(tmp_path / "atlas.nii.gz")
    affine = np.diag([-step, step, step, 1.0])
    affine[:3, 3] = AFFINE[:3, 3] + [step * shape[0] + 0.31, 0.17, -0.23]
    path = write_image(tmp_path / "bold.nii.gz", brain_like(5, shape=shape), affine)
    image, features = open_image(path), load_features(FeatureConfig(name="a", labels_img=str(atlas)))
    placed = map_to_grid(features.members, image)
    resampled = resample_to_img(
        atlas, nib.Nifti1Image.from_filename(path).slicer[..., 0], interpolation="nearest", copy_header=True
    )
    expected = np.asarray(resampled.dataobj).astype(int).ravel(order="F")
    ours = np.zeros(int(np.prod(shape)), int)
    ours[placed.voxels] = 10 * (placed.feature + 1)
    np.testing.assert_array_equal(ours, expected)
    assert len(np.unique(expected)) > 4


@pytest.mark.parametrize("kind", ["f4", "i2"])
def test_a_mean_is_the_sum_of_voxels_in_the_order_of_the_file(tmp_path, kind):
    rng, shape = np.random.default_rng(0), (20, 21, 22)
    labels = np.sort(rng.integers(0, 30, size=shape), axis=0)  # neighbours are often alike
    atlas = write_image(tmp_path / "atlas.nii.gz", labels.astype(np.int16), t_r=None)
    volumes = (1000 * rng.normal(size=(*shape, 4)) ** 3).astype(kind)
    image = open_image(write_image(tmp_path / "bold.nii.gz", volumes))
    features = load_features(FeatureConfig(name="a", labels_img=str(atlas)))
    signals, covered = reduce_image(image, features, None, 0.5)
    in_parcel, parcel = labels.ravel(order="F") > 0, labels.ravel(order="F")
    sums = np.zeros((4, 30))
    for t in range(4):
        np.add.at(sums[t], parcel[in_parcel], volumes[..., t].ravel(order="F")[in_parcel].astype(float))
    np.testing.assert_array_equal(signals, sums[:, 1:] / np.bincount(parcel)[1:])
    assert (covered == 1).all()


def test_geometry_is_worked_out_once_however_runs_alternate(tmp_path):
    features = load_features(FeatureConfig(name="a", labels_img=str(write_atlas(tmp_path / "atlas.nii.gz"))))
    images = []
    for k in range(12):
        affine = AFFINE + 0.1 * k * np.eye(4)
        affine[3, 3] = 1
        images.append(open_image(write_image(tmp_path / f"{k}.nii.gz", brain_like(2), affine)))
    first = [map_to_grid(features.members, image) for image in images]
    for _ in range(2):
        again = [map_to_grid(features.members, image) for image in reversed(images)][::-1]
        assert all(a is b for a, b in zip(again, first, strict=True))


def test_a_threshold_takes_what_reaches_it(tmp_path):
    percent = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 100
    path = str(write_image(tmp_path / "stg.nii.gz", percent.astype(np.uint8), t_r=None))

    def taken(threshold=None):
        return load_features(FeatureConfig(name="stg", mask_img=path, mask_threshold=threshold))

    assert taken(23).space.n_features == (percent >= 23).sum()
    assert taken().space.n_features == (percent > 0).sum()
    bold = write_image(tmp_path / "bold.nii.gz", brain_like(9))
    signals, _ = reduce_image(open_image(bold), taken(23), None, 0.5)
    np.testing.assert_array_equal(signals, brain_like(9)[percent >= 23].T)
    with pytest.raises(UserError, match=r"reaches mask_threshold 100; its largest value is 99"):
        taken(100)
    with pytest.raises(UserError, match="would take the whole image"):
        taken(0.0)


def test_damage_anywhere_is_a_rejection_or_a_readable_run(tmp_path, caplog):
    axis = whole_brain()
    dense = write_series(tmp_path / "a.dtseries.nii", series(axis, 40), axis)
    template = write_series(tmp_path / "template.dtseries.nii", series(axis, 2), axis)
    grayordinates = FeatureConfig(name="all", structures=["all"], template=str(template))
    packed = tmp_path / "b.dtseries.nii.gz"
    packed.write_bytes(gzip.compress(dense.read_bytes()))
    sides = [write_func(tmp_path / f"{s}.func.gii", np.ones((50, 40))) for s in "LR"]
    labels = [str(write_label_gii(tmp_path / f"{s}.label.gii", np.ones(50), {1: s})) for s in "LR"]
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.ones((40, 6))}, do_compression=True)
    volume = dataset(tmp_path, write_atlas(tmp_path / "atlas.nii.gz"), kind="bids")
    cifti = dataset(tmp_path, kind="bids", features=grayordinates)
    gifti = dataset(tmp_path, kind="bids", t_r=2.0, features=FeatureConfig(name="two", labels_gii=labels))
    array = dataset(tmp_path, kind="arrays", t_r=2.0, features=FeatureConfig(name="six", columns=6))
    cases = [
        *((write_image(tmp_path / name, brain_like(40)), "nifti", volume) for name in ("c.nii", "c.nii.gz")),
        *((dense, "cifti", cifti), (packed, "cifti", cifti), (sides[0], "gifti", gifti)),
        (tmp_path / "a.mat", "array", array),
    ]
    rng, rejected = np.random.default_rng(0), 0
    for path, form, given in cases:
        sound = path.read_bytes()
        run = RunSource(path, path.name, {"sub": "1"}, dataset="toy", form=form, right=sides[1])
        read_signals(run, given)
        for end in np.minimum(np.repeat([400, 900, len(sound)], 12), len(sound)):
            content = np.frombuffer(sound, np.uint8).copy()
            content[rng.integers(end, size=2)] = rng.integers(256, size=2)
            path.write_bytes(content[: rng.integers(end) if rng.random() < 0.2 else None].tobytes())
            try:
                read_signals(run, given)
            except Rejected:
                rejected += 1
        path.write_bytes(sound)
    assert 60 < rejected < 36 * len(cases) and not caplog.records
