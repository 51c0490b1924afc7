import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
from grayordinates import write_func, write_label_gii
from nilearn.maskers import SurfaceLabelsMasker
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from scans import corpus, dataset

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.read.features import load_features
from fmriscale.ingest.read.gifti import open_hemisphere, reduce_hemispheres

N = 60
KEYS = np.repeat([0, 5, 8, 9], [10, 20, 20, 10])
NAMES = {0: "???", 5: "front", 8: "back", 9: "Medial_wall"}


def hemisphere(n_volumes=30, seed=0, n_vertices=N):
    return np.random.default_rng(seed).normal(500, 10, (n_vertices, n_volumes)).astype(np.float32)


@pytest.fixture
def atlas(tmp_path):
    """The same labels on both sides, the right one in another order."""
    left = write_label_gii(tmp_path / "atlas_hemi-L.label.gii", KEYS, NAMES)
    right = write_label_gii(tmp_path / "atlas_hemi-R.label.gii", KEYS[::-1], NAMES)
    return FeatureConfig(name="surface", labels_gii=[str(left), str(right)])


def reduce(left, right, config):
    features = load_features(config)
    sides = (open_hemisphere(left, "L"), open_hemisphere(right, "R"))
    return reduce_hemispheres(sides, features.members, features.space.n_features)


def test_parcel_means_are_those_of_nilearn(tmp_path, atlas):
    left, right = hemisphere(seed=1), hemisphere(seed=2)
    files = [write_func(tmp_path / f"{s}.func.gii", v) for s, v in zip("LR", (left, right), strict=True)]
    signals, covered = reduce(*files, atlas)
    assert load_features(atlas).space.labels == ("L_front", "L_back", "R_front", "R_back")
    assert covered.tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(signals[:, 1], left[30:50].mean(axis=0), rtol=1e-6)

    triangles = np.array([[i, (i + 1) % N, (i + 2) % N] for i in range(N)])
    points = np.random.default_rng(0).normal(size=(N, 3))
    mesh = PolyMesh(left=InMemoryMesh(points, triangles), right=InMemoryMesh(points, triangles))
    ours = {"left": np.where(KEYS == 9, 0, KEYS), "right": np.where(KEYS == 9, 0, KEYS + 100)[::-1]}
    ours["right"] = np.where(ours["right"] == 100, 0, ours["right"])
    masker = SurfaceLabelsMasker(SurfaceImage(mesh, ours), standardize=None).fit()
    expected = masker.transform(SurfaceImage(mesh, {"left": left, "right": right}))
    np.testing.assert_allclose(signals, expected, rtol=1e-5)


def test_labels_that_name_their_side_keep_their_names(tmp_path):
    def write(side):
        names = {0: "x", 1: f"{side}H_a", 2: f"{side}H_b"}
        return str(write_label_gii(tmp_path / f"{side}.label.gii", np.repeat([0, 1, 2], 20), names))

    sides = [write("L"), write("R")]
    space = load_features(FeatureConfig(name="s", labels_gii=sides)).space
    assert space.labels == ("LH_a", "LH_b", "RH_a", "RH_b")


def test_vertices_without_data_lower_coverage_and_not_the_mean(tmp_path, atlas):
    values = np.repeat(hemisphere()[:1], N, axis=0)
    values[10:15], values[15:20] = 0, np.nan
    files = [write_func(tmp_path / f"{s}.func.gii", values) for s in "LR"]
    signals, covered = reduce(*files, atlas)
    np.testing.assert_allclose(signals[:, 0], values[0])
    assert covered.tolist() == [0.5, 1, 1, 0.5]
    values[35, 3] = np.nan
    with pytest.raises(Rejected, match="not_finite"):
        reduce(write_func(tmp_path / "nan.func.gii", values), files[1], atlas)


def test_hemispheres_must_fit_each_other_and_their_labels(tmp_path, atlas):
    good = write_func(tmp_path / "good.func.gii", hemisphere())
    short = write_func(tmp_path / "short.func.gii", hemisphere(29))
    with pytest.raises(Rejected, match="30 volumes on the left, 29 on the right"):
        reduce(good, short, atlas)
    dense = write_func(tmp_path / "dense.func.gii", hemisphere(n_vertices=70))
    with pytest.raises(Rejected, match=r"other_space.*R has 70 vertices, its label file 60; choose"):
        reduce(good, dense, atlas)
    with pytest.raises(UserError, match=r"two files, \[left, right\]; got 1"):
        load_features(FeatureConfig(name="one", labels_gii=[str(tmp_path / "atlas_hemi-L.label.gii")]))
    with pytest.raises(UserError, match="not a readable"):
        load_features(FeatureConfig(name="func", labels_gii=[str(good), str(good)]))


def test_damage_and_one_array_for_all_time(tmp_path, atlas):
    values = hemisphere()
    good = write_func(tmp_path / "good.func.gii", values)
    for number, content in enumerate((good.read_bytes()[:-3000], b"<GIFTI></GIFTI>", b"")):
        bad = tmp_path / f"{number}.func.gii"
        bad.write_bytes(content)
        with pytest.raises(Rejected, match="unreadable"):
            open_hemisphere(bad, "L")
    array = nib.gifti.GiftiDataArray(values, "NIFTI_INTENT_TIME_SERIES", "NIFTI_TYPE_FLOAT32")
    nib.GiftiImage(darrays=[array]).to_filename(tmp_path / "one.func.gii")
    np.testing.assert_array_equal(
        reduce(tmp_path / "one.func.gii", good, atlas)[0], reduce(good, good, atlas)[0]
    )


def test_sides_that_say_so_cannot_be_swapped(tmp_path, atlas):
    for path in (*(atlas.labels_gii or []), write_func(tmp_path / "run.func.gii", hemisphere())):
        image = nib.GiftiImage.from_filename(path)
        image.meta["AnatomicalStructurePrimary"] = "CortexRight" if "hemi-R" in str(path) else "CortexLeft"
        image.to_filename(path)
    assert load_features(atlas).space.n_features == 4
    swapped = FeatureConfig(name="swapped", labels_gii=(atlas.labels_gii or [])[::-1])
    with pytest.raises(UserError, match=r"hemi-R.*is of CortexRight; labels_gii is \[left, right\]"):
        load_features(swapped)
    with pytest.raises(Rejected, match=r"run\.func\.gii is of CortexLeft"):
        open_hemisphere(tmp_path / "run.func.gii", "R")


def test_the_source_of_a_run_is_both_hemispheres(tmp_path, atlas):
    left, content = hemisphere(seed=1), {}
    for subject, right in (("01", hemisphere(seed=2)), ("02", hemisphere(seed=3))):
        for side, values in (("L", left), ("R", right)):
            stem = f"sub-{subject}_task-rest_hemi-{side}_space-fsaverage5_bold"
            path = write_func(tmp_path / f"in/sub-{subject}/func/{stem}.func.gii", values, 1.5)
            content[subject] = content.get(subject, b"") + path.read_bytes()
    _, quarantine = build(corpus(tmp_path / "out", dataset(tmp_path / "in", kind="bids", features=atlas)))
    assert quarantine.empty  # one left side, two right ones: two recordings
    opened = Corpus.open(tmp_path / "out")
    hashes = [opened.record(i)["source_sha256"] for i in range(2)]
    assert hashes == [hashlib.sha256(content[s]).hexdigest() for s in ("01", "02")]


def test_a_corpus_of_surfaces(tmp_path, atlas):
    def write(subject, t_r, **sides):
        for side, values in sides.items():
            stem = f"sub-{subject}_task-rest_hemi-{side}_space-fsaverage5_bold"
            write_func(tmp_path / f"in/sub-{subject}/func/{stem}.func.gii", values, t_r)

    write("01", 1.5, L=hemisphere(seed=1), R=hemisphere(seed=2))
    write("02", 2.0, L=hemisphere(seed=3), R=hemisphere(seed=4))
    sidecar = tmp_path / "in/sub-02/func/sub-02_task-rest_hemi-L_space-fsaverage5_bold.json"
    sidecar.write_text(json.dumps({"RepetitionTime": 3.0}))
    write("03", 0.0015, L=hemisphere(seed=5), R=hemisphere(seed=6))  # seconds where GIFTI wants ms
    write("04", 1.5, L=hemisphere(seed=7), R=hemisphere(29, seed=8))
    _, quarantine = build(corpus(tmp_path / "out", dataset(tmp_path / "in", kind="bids", features=atlas)))
    reasons = dict(zip(quarantine.source.str[4:6], quarantine.reason, strict=True))
    assert reasons == {"02": "t_r_conflict", "03": "no_t_r", "04": "unreadable"}
    opened = Corpus.open(tmp_path / "out")
    assert opened.runs.t_r.tolist() == [1.5]
    expected = hemisphere(seed=2)[::-1][30:50].mean(axis=0)
    assert opened.mean_std(0)[0][3] == pytest.approx(expected.mean())
