"""A run whose header places no voxel is no run, unless the recipe says whose affine it has."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, SHAPE, brain_like, corpus, dataset, write_atlas, write_fmriprep_run, write_image

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import FeatureConfig
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.fingerprint import fingerprints
from fmriscale.ingest.plan import make_plan
from fmriscale.ingest.read.features import load_features
from fmriscale.ingest.run import process_run

NAME = "sub-01/func/sub-01_task-rest_bold.nii.gz"


def unplace(path, sform=0, qform=0, **header):
    """Take the orientation of an image away."""
    image = nib.Nifti1Image.from_filename(path)
    voxels = np.asarray(image.dataobj)
    image.header["sform_code"], image.header["qform_code"] = sform, qform
    for name, value in header.items():
        image.header[name] = value
    other = nib.Nifti1Image(voxels, None, image.header)
    other.header["sform_code"], other.header["qform_code"] = sform, qform
    other.to_filename(path)
    assert nib.Nifti1Image.from_filename(path).header["sform_code"] == sform
    return path


def study_of(root, **settings):
    return dataset(root, write_atlas(root / "atlas.nii.gz"), kind="bids", **settings)


def process(study):
    (run,), *_ = find_runs(study)
    return process_run(run, study)


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({}, "qform_code and sform_code"),
        ({"sform": 1, "srow_x": 0, "srow_y": 0, "srow_z": 0}, "places no voxel"),
        ({"sform": 1, "srow_x": np.nan}, "places no voxel"),
    ],
)
def test_a_run_that_nothing_places_is_quarantined_or_takes_the_affine_of_an_image(tmp_path, flaw, words):
    write_image(tmp_path / NAME, brain_like(40))
    whole = process(study_of(tmp_path))
    assert not isinstance(whole, Rejection) and "affine_from" not in json.loads(whole.members["json"])
    unplace(tmp_path / NAME, **flaw)
    result = process(study_of(tmp_path))
    assert isinstance(result, Rejection) and result.reason == "no_orientation"
    assert words in result.detail and "affine_from" in result.detail
    reference = write_image(tmp_path / "reference.nii.gz", np.zeros(SHAPE, np.uint8), t_r=None)
    given = process(study_of(tmp_path, affine_from=str(reference)))
    assert not isinstance(given, Rejection)
    assert given.members["bold.npy"] == whole.members["bold.npy"]
    assert json.loads(given.members["json"])["affine_from"] == "reference.nii.gz"


def test_a_run_with_an_orientation_keeps_it(tmp_path):
    write_image(tmp_path / NAME, brain_like(40))
    moved = AFFINE.copy()
    moved[0, 3] += 3
    reference = write_image(tmp_path / "reference.nii.gz", np.zeros(SHAPE, np.uint8), moved, t_r=None)
    own, given = process(study_of(tmp_path)), process(study_of(tmp_path, affine_from=str(reference)))
    assert not isinstance(own, Rejection) and not isinstance(given, Rejection)
    assert own.members == given.members


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (4, 4)])
def test_either_form_is_enough(tmp_path, sform, qform):
    image = nib.Nifti1Image(brain_like(40), AFFINE)
    image.set_qform(AFFINE, 1)
    image.header["sform_code"], image.header["qform_code"] = sform, qform
    image.header.set_xyzt_units("mm", "sec")
    (tmp_path / NAME).parent.mkdir(parents=True)
    image.to_filename(tmp_path / NAME)
    assert not isinstance(process(study_of(tmp_path, t_r=2.0)), Rejection)


def test_the_grid_of_the_named_image_must_be_that_of_the_run(tmp_path):
    unplace(write_image(tmp_path / NAME, brain_like(40)))
    smaller = write_image(tmp_path / "small.nii.gz", np.zeros((4, 4, 4), np.uint8), t_r=None)
    result = process(study_of(tmp_path, affine_from=str(smaller)))
    assert isinstance(result, Rejection) and result.reason == "no_orientation"
    assert "small.nii.gz (affine_from) has (4, 4, 4) voxels, the run (8, 9, 7)" in result.detail


def test_a_brain_mask_without_orientation(tmp_path):
    path = write_fmriprep_run(tmp_path, "01")
    (mask,) = path.parent.glob("*brain_mask.nii.gz")
    study = dataset(tmp_path, write_atlas(tmp_path / "atlas.nii.gz"))
    whole = process(study)
    unplace(mask)
    result = process(study)
    assert isinstance(result, Rejection) and result.reason == "no_orientation"
    assert f"brain mask {mask.name}" in result.detail
    reference = write_image(tmp_path / "reference.nii.gz", np.zeros(SHAPE, np.uint8), t_r=None)
    unplace(path)
    given = process(dataclasses.replace(study, affine_from=str(reference)))
    assert not isinstance(given, Rejection) and not isinstance(whole, Rejection)
    assert given.members["bold.npy"] == whole.members["bold.npy"]


@pytest.mark.parametrize("kind", ["labels_img", "mask_img"])
def test_an_atlas_or_mask_without_orientation_is_refused(tmp_path, kind):
    path = unplace(write_atlas(tmp_path / "atlas.nii.gz"))
    with pytest.raises(UserError, match=r"atlas\.nii\.gz: qform_code and sform_code .* are 0"):
        load_features(FeatureConfig(name="f", **{kind: str(path)}))


def test_affine_from_is_an_image_that_says_where_its_voxels_lie(tmp_path):
    write_image(tmp_path / NAME, brain_like(40))
    (tmp_path / "page.nii").write_bytes(b"<html>")
    unplaced = unplace(write_image(tmp_path / "u.nii.gz", np.zeros(SHAPE, np.uint8), t_r=None))
    for path, words in (
        (tmp_path / "no.nii.gz", "no such file; affine_from needs it"),
        (tmp_path / "page.nii", "web page"),
        (unplaced, "give affine_from an image that says it"),
    ):
        with pytest.raises(UserError, match=words):
            find_runs(study_of(tmp_path, affine_from=str(path)))
    columns = FeatureConfig(name="c", columns=3)
    with pytest.raises(UserError, match="affine_from is for NIfTI images"):
        find_runs(dataset(tmp_path, kind="arrays", features=columns, affine_from="x.nii"))


def test_another_affine_builds_the_shard_again(tmp_path):
    unplace(write_image(tmp_path / NAME, brain_like(40)))
    reference = write_image(tmp_path / "reference.nii.gz", np.zeros(SHAPE, np.uint8), t_r=None)
    recipe = corpus(tmp_path / "out", study_of(tmp_path, affine_from=str(reference)))
    before = fingerprints(make_plan(recipe)[0])
    assert fingerprints(make_plan(recipe)[0]) == before
    write_image(reference, np.ones((*SHAPE, 2), np.int16))
    assert fingerprints(make_plan(recipe)[0]) != before
