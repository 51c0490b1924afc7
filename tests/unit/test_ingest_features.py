import nibabel as nib
import numpy as np
import pytest
from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
from scans import AFFINE, SHAPE, brain_like, write_atlas, write_image

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.ingest.read import nifti
from fmriscale.ingest.read.features import load_features, read_brain_mask, reduce_image
from fmriscale.ingest.read.nifti import open_image

OBLIQUE = np.array([[2.61, 0.3, 0, -9.03], [-0.3, 2.63, 0.2, -11.07], [0, -0.2, 2.91, -8.01], [0, 0, 0, 1]])


@pytest.fixture
def atlas(tmp_path):
    return FeatureConfig(name="slabs", labels_img=str(write_atlas(tmp_path / "atlas.nii.gz")))


@pytest.fixture
def roi(tmp_path):
    percent = np.random.default_rng(1).integers(0, 100, SHAPE).astype(np.int16)
    path = write_image(tmp_path / "roi.nii.gz", percent, t_r=None)
    return FeatureConfig(name="roi", mask_img=str(path), mask_threshold=61)


def reduce(path, features, brain=None, min_coverage=0.5):
    return reduce_image(open_image(path), load_features(features), brain, min_coverage)


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["same grid", "oblique grid"])
def test_parcel_means_are_those_of_nilearn(tmp_path, atlas, affine):
    path = write_image(tmp_path / "bold.nii.gz", brain_like(30), affine)
    masker = NiftiLabelsMasker(atlas.labels_img, resampling_target="data", standardize=None)
    signals, covered = reduce(path, atlas, min_coverage=0.0)
    np.testing.assert_allclose(signals, masker.fit_transform(path), rtol=1e-6)
    assert (covered > 0.3).all()
    assert (covered == 1).all() or affine is OBLIQUE


def test_parcel_means_within_a_brain_mask_are_those_of_nilearn(tmp_path, atlas):
    path = write_image(tmp_path / "bold.nii.gz", brain_like(30))
    brain = np.zeros(SHAPE, np.uint8)
    brain[:, :5] = 1
    mask = write_image(tmp_path / "mask.nii.gz", brain, t_r=None)
    masker = NiftiLabelsMasker(atlas.labels_img, mask_img=mask, standardize=None)
    signals, covered = reduce(path, atlas, read_brain_mask(mask, open_image(path)))
    np.testing.assert_allclose(signals, masker.fit_transform(path), rtol=1e-6)
    np.testing.assert_allclose(covered, 4 / 7)  # 4 of the 7 planes of each slab lie in the mask


def test_roi_voxels_are_those_of_nilearn(tmp_path, roi):
    path = write_image(tmp_path / "bold.nii.gz", brain_like(30))
    above = nib.load(roi.mask_img)
    mask = nib.Nifti1Image((above.get_fdata() > 60).astype(np.uint8), above.affine)
    signals, covered = reduce(path, roi)
    np.testing.assert_allclose(signals, NiftiMasker(mask, standardize=None).fit_transform(path))
    assert (covered == 1).all()
    space = load_features(roi).space
    first = np.argwhere(above.get_fdata() > 60)[0]
    assert space.coordinates is not None
    np.testing.assert_allclose(space.coordinates[0], AFFINE[:3, :3] @ first + AFFINE[:3, 3])


@pytest.mark.parametrize("features", ["atlas", "roi"])
@pytest.mark.parametrize("shift", [0.0, 1.5], ids=["on the grid", "half a voxel off"])
def test_left_and_right_storage_agree(tmp_path, request, features, shift):
    features = request.getfixturevalue(features)
    affine = AFFINE.copy()
    affine[:3, 3] += shift
    flip = affine @ np.diag([-1.0, 1, 1, 1])
    flip[:3, 3] += affine[:3, 0] * (SHAPE[0] - 1)
    voxels = brain_like(20)
    ras, ras_covered = reduce(write_image(tmp_path / "ras.nii.gz", voxels, affine), features)
    las, las_covered = reduce(write_image(tmp_path / "las.nii.gz", voxels[::-1], flip), features)
    np.testing.assert_array_equal(ras, las)
    np.testing.assert_array_equal(ras_covered, las_covered)


def test_roi_keeps_its_features_on_any_grid(tmp_path, roi):
    coarse = np.diag([6.0, 6, 6, 1])
    coarse[:3, 3] = AFFINE[:3, 3]
    path = write_image(tmp_path / "bold.nii.gz", brain_like(20, shape=(5, 5, 4)), coarse)
    signals, _ = reduce(path, roi)
    assert signals.shape[1] == load_features(roi).space.n_features


@pytest.mark.parametrize("dtype", [np.int16, ">i2", np.uint8, np.float32, np.float64])
def test_every_stored_type_and_scaling_reads_alike(tmp_path, atlas, dtype):
    voxels = (brain_like(25) - 900).clip(1, 250).astype(dtype)
    image = nib.Nifti1Image(voxels, AFFINE, nib.Nifti1Header(endianness=">" if dtype == ">i2" else "<"))
    image.header.set_data_dtype(dtype)
    image.header.set_slope_inter(0.5, 7.0) if np.dtype(dtype).kind != "f" else None
    image.to_filename(tmp_path / "bold.nii")
    expected = NiftiLabelsMasker(atlas.labels_img, standardize=None).fit_transform(tmp_path / "bold.nii")
    np.testing.assert_allclose(reduce(tmp_path / "bold.nii", atlas)[0], expected, rtol=1e-5)


def test_block_size_changes_nothing(tmp_path, atlas, monkeypatch):
    path = write_image(tmp_path / "bold.nii.gz", brain_like(31))
    whole, _ = reduce(path, atlas)
    monkeypatch.setattr(nifti, "BLOCK_BYTES", 4 * 2 * int(np.prod(SHAPE)))
    np.testing.assert_array_equal(reduce(path, atlas)[0], whole)


def test_voxels_without_data_lower_coverage_but_not_the_mean(tmp_path, atlas):
    voxels = brain_like(20).astype(np.float32)
    full, _ = reduce(write_image(tmp_path / "full.nii.gz", np.repeat(voxels[:, :1], 9, 1)), atlas)
    voxels = np.repeat(voxels[:, :1], 9, 1)
    voxels[:, 5:7], voxels[:, 7:] = 0, np.nan
    half, covered = reduce(write_image(tmp_path / "half.nii.gz", voxels), atlas)
    np.testing.assert_allclose(half, full, rtol=1e-6)
    np.testing.assert_allclose(covered, 4 / 7)


def test_nan_in_some_volumes_is_refused(tmp_path, atlas):
    voxels = brain_like(20).astype(np.float32)
    voxels[4, 4, 4, 3] = np.nan
    with pytest.raises(Rejected, match="not_finite"):
        reduce(write_image(tmp_path / "bold.nii.gz", voxels), atlas)
    voxels[..., 0] = voxels[0, 0, 0, 1]
    voxels[4, 4, 4] = 5.0
    voxels[0, 0, 0, 3] = np.inf  # outside every parcel: no concern of ours
    reduce(write_image(tmp_path / "outside.nii.gz", voxels), atlas)


def test_labels_come_from_either_column_and_centroids_in_mm(tmp_path, atlas):
    def named(text):
        (tmp_path / "names.txt").write_text(text)
        load_features.cache_clear()
        given = FeatureConfig(name="s", labels_img=atlas.labels_img, labels=str(tmp_path / "names.txt"))
        return load_features(given).space

    indexed = named("\n".join(f"{10 * k} part_{k} 0 0" for k in range(6, 0, -1)))
    assert indexed.labels == tuple(f"part_{k}" for k in range(1, 7))
    assert named("\n".join(f"part_{k}" for k in range(1, 7))).labels == indexed.labels
    assert indexed.coordinates is not None
    np.testing.assert_allclose(indexed.coordinates[0], AFFINE[:3, :3] @ (1, 4, 3) + AFFINE[:3, 3])
    with pytest.raises(UserError, match=r"names\.txt: 2 names for the 6 features"):
        named("a\nb")
    with pytest.raises(UserError, match="no name for label 30"):
        named("10 a\n20 b")


def test_a_probability_map_is_no_atlas(tmp_path):
    path = write_image(tmp_path / "p.nii.gz", np.random.default_rng(0).random(SHAPE), t_r=None)
    with pytest.raises(UserError, match="whole numbers"):
        load_features(FeatureConfig(name="p", labels_img=str(path)))
