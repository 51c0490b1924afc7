import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from grayordinates import (
    GRID,
    GRID_AFFINE,
    N_VERTICES,
    parcel_axis,
    series,
    surface,
    volume,
    voxels,
    whole_brain,
    write_dlabel,
    write_series,
)
from nibabel.cifti2.cifti2_axes import ScalarAxis
from nilearn.maskers import NiftiLabelsMasker
from scans import confounds, corpus, dataset

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.config import DenoiseConfig, FeatureConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.read.cifti import open_series
from fmriscale.ingest.read.features import load_features
from fmriscale.ingest.read.grayordinates import FS_LR_91K, reduce_series

NAMES = {3: "L_front", 7: "R_front", 9: "L_back", 12: "deep"}


def reduce(path, config):
    features = load_features(config)
    return reduce_series(open_series(path), features.members, features.space.n_features)


@pytest.fixture
def run(tmp_path):
    axis = whole_brain()
    values = series(axis, 40)
    return write_series(tmp_path / "run.dtseries.nii", values, axis), values, axis


@pytest.fixture
def labels(tmp_path):
    """Labels over the whole cortex, medial wall as 0, right before left and every vertex backwards."""
    backwards = np.arange(N_VERTICES)[::-1]
    axis = surface("CORTEX_RIGHT", backwards) + volume("THALAMUS_LEFT", voxels(110, 20)[::-1])
    axis = axis + surface("CORTEX_LEFT", backwards)
    right = np.where(backwards < 10, 0, 7)
    left = np.select([backwards < 10, backwards < 30], [0, 3], 9)
    keys = np.r_[right, np.full(20, 12), left]
    path = write_dlabel(tmp_path / "labels.dlabel.nii", keys, axis, NAMES)
    return FeatureConfig(name="labels", labels_img=str(path))


def test_labels_in_another_order_and_extent_match_by_vertex_and_voxel(run, labels):
    path, values, _ = run
    signals, covered = reduce(path, labels)
    space = load_features(labels).space
    assert space.labels == ("L_front", "R_front", "L_back", "deep") and space.coordinates is None
    expected = [values[:, 0:20], values[:, 40:80], values[:, 20:40], values[:, 90:110]]
    np.testing.assert_allclose(signals, np.stack([e.mean(axis=1) for e in expected], 1), rtol=1e-6)
    np.testing.assert_array_equal(covered, 1.0)


def test_rows_in_another_order_change_nothing(tmp_path, run, labels):
    path, values, axis = run
    shuffled = np.random.default_rng(1).permutation(len(axis))
    # nibabel writes a structure as one piece: shuffle within the pieces, and the pieces
    pieces = [shuffled[np.isin(shuffled, np.flatnonzero(axis.name == name))] for name in set(axis.name)]
    order = np.concatenate(sorted(pieces, key=len))
    other = write_series(tmp_path / "other.dtseries.nii", values[:, order], axis[order])
    for got, wanted in zip(reduce(other, labels), reduce(path, labels), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_voxel_parcels_are_those_of_nilearn_however_the_grid_is_stored(tmp_path, run):
    path, values, axis = run
    deep = axis[axis.volume_mask]
    keys = np.repeat([1, 2, 3], [20, 10, 25])
    atlas = write_dlabel(tmp_path / "deep.dlabel.nii", keys, deep, {1: "a", 2: "b", 3: "c"})
    config = FeatureConfig(name="deep", labels_img=str(atlas))
    signals, covered = reduce(path, config)
    image, labels_img = np.zeros((*GRID, 40), np.float32), np.zeros(GRID, np.int32)
    image[tuple(deep.voxel.T)] = values[:, axis.volume_mask].T
    labels_img[tuple(deep.voxel.T)] = keys
    masker = NiftiLabelsMasker(nib.Nifti1Image(labels_img, GRID_AFFINE), standardize=None)
    expected = masker.fit_transform(nib.Nifti1Image(image, GRID_AFFINE))
    np.testing.assert_allclose(signals, expected, rtol=1e-6)
    centroid = (deep.voxel[:20] @ GRID_AFFINE[:3, :3].T + GRID_AFFINE[:3, 3]).mean(axis=0)
    np.testing.assert_allclose((load_features(config).space.coordinates or ())[0], centroid, atol=1e-3)

    flip = GRID_AFFINE @ np.diag([-1.0, 1, 1, 1])
    flip[:3, 3] += GRID_AFFINE[:3, 0] * (GRID[0] - 1)
    mirrored = deep.voxel * [-1, 1, 1] + [GRID[0] - 1, 0, 0]
    left, right = (
        volume(f"THALAMUS_{s}", mirrored[deep.name == f"CIFTI_STRUCTURE_THALAMUS_{s}"], flip)
        for s in ("LEFT", "RIGHT")
    )
    other = write_series(tmp_path / "ras.dtseries.nii", values[:, axis.volume_mask], left + right)
    np.testing.assert_array_equal(reduce(other, config)[0], signals)
    np.testing.assert_array_equal(covered, 1.0)


def test_vertices_without_data_lower_coverage_and_not_the_mean(tmp_path, run, labels):
    _, values, axis = run
    values = values.copy()
    values[:, 0:20] = values[:, :1]
    values[:, 0:5], values[:, 5:10] = 0, np.nan
    path = write_series(tmp_path / "holes.dtseries.nii", values, axis)
    signals, covered = reduce(path, labels)
    np.testing.assert_allclose(signals[:, 0], values[:, 10])
    assert covered.tolist() == [0.5, 1, 1, 1]
    values[3, 30] = np.nan
    with pytest.raises(Rejected, match=r"not_finite.*1 of the 100 vertices"):
        reduce(write_series(tmp_path / "nan.dtseries.nii", values, axis), labels)
    cortex = axis[axis.surface_mask]
    cortex_only = write_series(tmp_path / "cortex.dtseries.nii", series(cortex, 9), cortex)
    assert reduce(cortex_only, labels)[1].tolist() == [1, 1, 1, 0]


def test_another_surface_is_refused(tmp_path, labels):
    axis = surface("CORTEX_LEFT", np.arange(60), 60) + surface("CORTEX_RIGHT", np.arange(60), 60)
    path = write_series(tmp_path / "dense.dtseries.nii", series(axis, 9), axis)
    with pytest.raises(Rejected, match=r"other_space.*60 vertices in the run, 50 in the features"):
        reduce(path, labels)
    deep = volume("THALAMUS_RIGHT", voxels(0, 30))
    path = write_series(tmp_path / "deep.dtseries.nii", series(deep, 9), deep)
    with pytest.raises(Rejected, match=r"other_space.*none of the features"):
        reduce(path, labels)


def test_structures_of_fs_lr_91k(tmp_path):
    assert sum(FS_LR_91K.values()) == 91282
    left = surface("CORTEX_LEFT", np.arange(2796, 32492), 32492)
    pallidum = volume("PALLIDUM_RIGHT", voxels(0, 260))
    values = series(left + pallidum, 12)
    path = write_series(tmp_path / "run.dtseries.nii", values, left + pallidum)
    config = FeatureConfig(name="some", structures=["pallidum_right", "CIFTI_STRUCTURE_CORTEX_LEFT"])
    signals, covered = reduce(path, config)
    pieces = [values[:, 29696:], values[:, :29696]]
    i, j, k = voxels(0, 260).T
    pieces[0] = pieces[0][:, np.lexsort((i, j, k))]
    np.testing.assert_array_equal(signals, np.hstack(pieces))
    assert covered.min() == 1

    backwards = np.arange(259, -1, -1)
    other = write_series(
        tmp_path / "other.dtseries.nii", np.hstack([values[:, 29696:][:, backwards], values[:, :29696]]),
        volume("PALLIDUM_RIGHT", voxels(0, 260)[backwards]) + left,
    )  # fmt: skip
    np.testing.assert_array_equal(reduce(other, config)[0], signals)
    with pytest.raises(Rejected, match=r"PUTAMEN_LEFT has 0 .* 1060 in fsLR 91k; set features.template"):
        reduce(path, FeatureConfig(name="more", structures=["PUTAMEN_LEFT"]))
    with pytest.raises(UserError, match=r"structures \['CORTEX'\] must be \[all\] or"):
        load_features(FeatureConfig(name="wrong", structures=["CORTEX"]))
    assert load_features(FeatureConfig(name="whole", structures=["all"])).space.n_features == 91282


def test_structures_of_a_template(tmp_path, run):
    path, values, axis = run
    config = FeatureConfig(name="own", structures=["CORTEX_RIGHT", "THALAMUS_LEFT"], template=str(path))
    space = load_features(config).space
    assert space.n_features == 70 and space.labels is not None
    assert (space.labels[0], space.labels[-1]) == ("CORTEX_RIGHT_10", "THALAMUS_LEFT_2_2_3")
    np.testing.assert_array_equal(reduce(path, config)[0], values[:, 40:110])
    fewer = axis[np.r_[0:100]]
    part = write_series(tmp_path / "part.dtseries.nii", values[:, :100], fewer)
    signals, covered = reduce(part, config)
    np.testing.assert_array_equal(signals[:, :60], values[:, 40:100])
    assert (covered[:60] == 1).all() and (covered[60:] == 0).all()
    with pytest.raises(UserError, match="each once, some of CORTEX_LEFT, CORTEX_RIGHT, THALAMUS_LEFT"):
        load_features(FeatureConfig(name="n", structures=["BRAIN_STEM"], template=str(path)))


def test_parcels_match_by_name(tmp_path):
    names = ["V1", "V2", "A1", "STG"]
    reference = write_series(tmp_path / "ref.ptseries.nii", series(parcel_axis(names), 9), parcel_axis(names))
    config = FeatureConfig(name="parcels", parcels=str(reference))
    values = series(parcel_axis(names), 15)
    assert load_features(config).space.labels == tuple(names)

    def given(order):
        axis = parcel_axis([names[i] for i in order])
        return write_series(tmp_path / "run.ptseries.nii", values[:, order], axis)

    np.testing.assert_array_equal(reduce(given([0, 1, 2, 3]), config)[0], values)
    np.testing.assert_array_equal(reduce(given([3, 1, 0, 2]), config)[0], values)
    signals, covered = reduce(given([3, 0, 2]), config)
    assert covered.tolist() == [1, 0, 1, 1] and not signals[:, 1].any()
    names[1] = "MT"
    with pytest.raises(Rejected, match=r"other_space.*parcel 'MT'"):
        reduce(given([0, 1, 2, 3]), config)
    dense = write_series(tmp_path / "run.dtseries.nii", series(whole_brain(), 9), whole_brain())
    with pytest.raises(Rejected, match=r"other_space.*give a \.ptseries\.nii"):
        reduce(dense, config)
    with pytest.raises(UserError, match=r"dtseries\.nii: holds grayordinates"):
        load_features(FeatureConfig(name="p", parcels=str(dense)))


def test_header_and_damage(tmp_path, run, labels):
    path, values, axis = run
    assert open_series(path).t_r == pytest.approx(0.72)
    hertz = write_series(tmp_path / "hz.dtseries.nii", values, axis, unit="HERTZ")
    assert open_series(hertz).t_r is None
    whole = path.read_bytes()
    packed = tmp_path / "run.dtseries.nii.gz"
    packed.write_bytes(gzip.compress(whole, mtime=0))
    np.testing.assert_array_equal(reduce(packed, labels)[0], reduce(path, labels)[0])
    middle = bytearray(packed.read_bytes())
    middle[len(middle) // 2] ^= 255
    for number, content in enumerate((whole[:-100], whole[:900], b"no image", b"")):
        short = tmp_path / f"{number}.dtseries.nii"
        short.write_bytes(content)
        with pytest.raises(Rejected, match="unreadable"):
            reduce(short, labels)
    for number, content in enumerate((packed.read_bytes()[:-50], bytes(middle))):
        short = tmp_path / f"{number}.dtseries.nii.gz"
        short.write_bytes(content)
        with pytest.raises(Rejected, match="unreadable"):
            reduce(short, labels)
    scalars = tmp_path / "s.dscalar.nii"
    nib.Cifti2Image(values[:2], (ScalarAxis(["a", "b"]), axis)).to_filename(scalars)
    with pytest.raises(Rejected, match=r"unreadable.*not a series in time"):
        open_series(scalars)
    with pytest.raises(UserError, match="holds no labels"):
        load_features(FeatureConfig(name="x", labels_img=str(path.rename(tmp_path / "x.dlabel.nii"))))


def test_memory_does_not_grow_with_the_run(tmp_path):
    axis = surface("CORTEX_LEFT", np.arange(30000), 30000)
    keys = np.arange(30000) % 100
    names = {k: f"p{k}" for k in range(1, 100)}
    atlas = write_dlabel(tmp_path / "a.dlabel.nii", keys, axis, names)
    config = FeatureConfig(name="a", labels_img=str(atlas))
    values = series(axis, 700)
    path = write_series(tmp_path / "long.dtseries.nii", values, axis)
    load_features(config)
    tracemalloc.start()
    signals, _ = reduce(path, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(signals[:, 0], values[:, 1::100].mean(axis=1), rtol=1e-6)
    assert peak < 60e6 < values.nbytes  # 84 MB


def test_a_corpus_of_grayordinates(tmp_path, labels):
    axis = whole_brain()
    for subject in ("01", "02", "03"):
        stem = tmp_path / f"in/sub-{subject}/func/sub-{subject}_task-rest"
        path = stem.with_name(f"{stem.name}_space-fsLR_den-91k_bold.dtseries.nii")
        write_series(path, series(axis, 50, int(subject)), axis, t_r=0.8)
        path.with_name(path.name.replace("dtseries.nii", "json")).write_text('{"RepetitionTime": 0.8}')
        table = confounds(50 if subject != "02" else 49)
        table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    path.write_bytes(path.read_bytes()[:-9])
    denoise = DenoiseConfig(strategy=["motion"], dummy_volumes=2)
    given = dataset(tmp_path / "in", kind="fmriprep", features=labels, denoise=denoise)
    _, quarantine = build(corpus(tmp_path / "out", given))
    assert quarantine.reason.tolist() == ["confounds_length", "unreadable"]
    opened = Corpus.open(tmp_path / "out")
    run = opened.runs.iloc[0]
    assert (run.t_r, run.n_volumes, run.coverage) == (0.8, 48, 1.0)
    assert run.mean_fd == pytest.approx(confounds(50)["framewise_displacement"][2:].mean(), rel=1e-5)
    assert opened.record(0)["quality"]["motion_measure"] == "framewise displacement"
    assert opened.spaces["labels"].labels == ("L_front", "R_front", "L_back", "deep")
    expected = series(axis, 50, 1)[2:, 40:80].mean(axis=1)
    assert opened.mean_std(0)[0][1] == pytest.approx(expected.mean())
