"""Files that are not what their name says: read where that is clear, else named as what they are."""

import gzip
import io
import tarfile
import zipfile

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, SHAPE, brain_like, dataset, write_atlas, write_fmriprep_run, write_image

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import FeatureConfig
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.read.arrays import read_array
from fmriscale.ingest.read.cifti import open_series
from fmriscale.ingest.read.content import check_content
from fmriscale.ingest.read.features import load_features, read_brain_mask, reduce_image
from fmriscale.ingest.read.gifti import open_hemisphere
from fmriscale.ingest.read.nifti import open_image
from fmriscale.ingest.run import process_run

ANNEX = b"/annex/objects/MD5E-s26112845--8fac6f530f986b85a0c011c495503d9b.nii.gz\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 26112845\n"
POINTERS = {
    "annex": (ANNEX, "datalad get"),
    "annex on Windows": (b"..\\..\\.git\\annex\\objects\\xx\\yy\\MD5E-s1.nii.gz", "datalad get"),
    "annex as the text of a link": (b"../../.git/annex/objects/xx/yy/MD5E-s1.nii.gz", "datalad get"),
    "lfs": (LFS, r"git lfs pull --include '\*scan"),
    "a link as text": (b"../sub-01/func/scan.nii.gz\n", "text of a link to ../sub-01/func/scan.nii.gz"),
}


def tar(content):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("scan.nii")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zipped(content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("scan.nii", content)
    return packed.getvalue()


def saved(array):
    packed = io.BytesIO()
    np.save(packed, array)
    return packed.getvalue()


MGH = nib.MGHImage(np.zeros((4, 4, 4, 20), np.float32), np.eye(4)).to_bytes()
STRANGERS = {
    "empty": (b"", r"empty \(0 bytes\)"),
    "page": (b"<html><body>403 Forbidden</body></html>", r"a web page \(HTML\)"),
    "page with doctype": (b"\n<!DOCTYPE html>\n<html>", r"a web page \(HTML\)"),
    "error of S3": (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "XML, .*AccessDen"),
    "error of a service": (b'{"message": "Not Found"}', 'JSON, beginning .*"Not Found"'),
    "text": (b"this scan is on the other server\n", "a text, beginning 'this scan is on"),
    "zip": (zipped(b"x" * 99), r"a zip archive; unpack it \(unzip\)"),
    "tar": (tar(b"x" * 99), "a tar archive"),
    "tar.gz": (gzip.compress(tar(b"x" * 99)), "a tar archive in gzip"),
    "page in gzip": (gzip.compress(b"<html></html>"), "web page .* in gzip"),
    "gzip in gzip": (gzip.compress(gzip.compress(b"\x5c\x01\0\0" + bytes(400))), "compressed twice"),
    "xz": (b"\xfd7zXZ\0" + bytes(99), "unxz"),
    "dicom": (bytes(128) + b"DICM" + bytes(200), r"DICOM .*dcm2niix"),
    "mgh": (MGH, "mri_convert scan.mgz scan.nii.gz"),
    "mgz": (gzip.compress(MGH), "an MGH image of FreeSurfer in gzip"),
    "mac": (b"\x00\x05\x16\x07" + bytes(99), "AppleDouble"),
    "npy": (saved(np.zeros(3)), "a NumPy array"),
}


@pytest.mark.parametrize("pointer", POINTERS)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("scan.nii.gz", open_image),
        ("scan.nii", open_image),
        ("scan.dtseries.nii", open_series),
        ("scan.func.gii", lambda path: open_hemisphere(path, "L")),
        *((f"scan{end}", read_array) for end in (".npy", ".tsv", ".csv", ".1D", ".mat", ".h5", ".tsv.gz")),
        ("scan.npz", lambda path: read_array(path, "x")),
    ],
)
def test_pointers_are_not_fetched_whatever_they_stand_for(tmp_path, pointer, name, read):
    content, words = POINTERS[pointer]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Rejected, match=words) as refusal:
        read(tmp_path / name)
    assert refusal.value.reason == "not_fetched"


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_an_image_that_is_none_is_named(tmp_path, stranger, name):
    content, words = STRANGERS[stranger]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Rejected, match=words) as refusal:
        open_image(tmp_path / name)
    assert refusal.value.reason == "unreadable"
    with pytest.raises(UserError, match=f"{name}: .*{words}"):
        load_features(FeatureConfig(name="f", labels_img=str(tmp_path / name)))
    with pytest.raises(Rejected, match=f"brain mask {name}: .*{words}"):
        read_brain_mask(tmp_path / name, open_image(write_image(tmp_path / "bold.nii.gz", brain_like(5))))


@pytest.mark.parametrize(
    ("name", "form", "content", "words"),
    [
        ("x.dtseries.nii", "cifti", b"<html>", "not a CIFTI file: it is a web page"),
        ("x.func.gii", "gifti", b"<html>", "not a GIFTI file: it is a web page"),
        ("x.func.gii", "gifti", gzip.compress(b"<?xml?><GIFTI>"), "named .gii, but .* in gzip; .*gunzip"),
        ("x.func.gii", "gifti", b"hello", "not a GIFTI file: it is a text"),
        ("x.npy", "array", zipped(b"x"), "not a .npy file: it is a zip archive"),
        ("x.npz", "array", saved(np.zeros(3)), "not a .npz file: it is a NumPy array"),
        ("x.tsv", "array", b"<!doctype html>", "not a table: it is a web page"),
        ("x.csv", "array", zipped(b"x"), "not a table: it is a zip archive"),  # .xlsx is one
        ("x.mat", "array", b"1 2 3\n", "not a .mat file: it is a text"),
        ("x.tsv", "array", b"", "empty"),
    ],
    ids=lambda value: "-" if isinstance(value, bytes) else None,  # archives hold the time
)
def test_other_forms_are_named_alike(tmp_path, name, form, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Rejected, match=words):
        check_content(tmp_path / name, form)


def test_an_archive_that_was_not_fetched_is_named_when_it_is_listed(tmp_path):
    (tmp_path / "a.npz").write_bytes(LFS)
    columns = FeatureConfig(name="f", columns=3)
    study = dataset(tmp_path, kind="arrays", files="*.npz", t_r=2.0, features=columns)
    _, (rejection,), _ = find_runs(study)
    assert rejection.reason == "not_fetched" and "git lfs pull" in rejection.detail


def test_a_broken_link_says_whether_datalad_has_the_content(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to("../.git/annex/objects/xx/MD5E.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to("/gone/b.nii.gz")
    for name, words in (("a.nii.gz", "datalad get a.nii.gz"), ("b.nii.gz", r"not here \(/gone/b.nii.gz\)")):
        with pytest.raises(Rejected, match=words) as refusal:
            open_image(tmp_path / name)
        assert refusal.value.reason == "not_fetched"


def as_nifti2(path):
    first = nib.Nifti1Image.from_filename(path)
    second = nib.Nifti2Image(np.asarray(first.dataobj), first.affine)
    second.header.set_xyzt_units("mm", "sec")
    if len(first.shape) == 4:
        second.header.set_zooms(first.header.get_zooms())
    second.to_filename(path)


def unpacked(path):
    path.write_bytes(gzip.decompress(path.read_bytes()))


def renamed(path):
    return path.rename(path.with_name(path.name.removesuffix(".gz")))


@pytest.mark.parametrize("change", [as_nifti2, unpacked, renamed])
def test_what_can_be_told_from_the_content_is_read(tmp_path, change):
    atlas, bold = write_atlas(tmp_path / "atlas.nii.gz"), tmp_path / "bold.nii.gz"
    write_image(bold, brain_like(30))
    features = load_features(FeatureConfig(name="f", labels_img=str(atlas)))
    expected = reduce_image(open_image(bold), features, None, 0.5)[0]
    bold, atlas = change(bold) or bold, change(atlas) or atlas
    load_features.cache_clear()
    features, image = load_features(FeatureConfig(name="f", labels_img=str(atlas))), open_image(bold)
    np.testing.assert_array_equal(reduce_image(image, features, None, 0.5)[0], expected)
    assert image.t_r == 2.0
    mask = write_image(tmp_path / "mask.nii.gz", np.ones(SHAPE, np.uint8), t_r=None)
    assert read_brain_mask(change(mask) or mask, image).all()


def test_a_table_is_read_whether_its_name_says_gzip_or_not(tmp_path):
    table = b"1.5\t2\n3\t4\n"
    for name, content in (("a.tsv", gzip.compress(table)), ("b.tsv.gz", table)):
        (tmp_path / name).write_bytes(content)
        assert read_array(tmp_path / name).tolist() == [[1.5, 2], [3, 4]]


@pytest.mark.parametrize("companion", ["desc-confounds_timeseries.tsv", "bold.json", "events.tsv"])
def test_companions_that_were_not_fetched_are_named(tmp_path, companion):
    write_fmriprep_run(tmp_path, "01", events="onset\tduration\ttrial_type\n1\t1\ta\n")
    (file,) = tmp_path.rglob(f"*{companion}")
    file.write_bytes(ANNEX)
    study = dataset(tmp_path, write_atlas(tmp_path / "atlas.nii.gz"))
    (run,), *_ = find_runs(study)
    result = process_run(run, study)
    assert isinstance(result, Rejection) and result.reason == "not_fetched"
    assert result.detail.startswith(f"{file.name}: ")


NAN = float("nan")


@pytest.mark.parametrize("background", [NAN, -0.0, -1.0])
def test_what_is_no_label_is_background(tmp_path, background):
    path = write_atlas(tmp_path / "atlas.nii.gz")
    labels = np.asarray(nib.Nifti1Image.from_filename(path).dataobj).astype(np.float32)
    plain = load_features(FeatureConfig(name="f", labels_img=str(path)))
    labels[labels == 0] = background
    write_image(path, labels, t_r=None)
    load_features.cache_clear()
    other = load_features(FeatureConfig(name="f", labels_img=str(path)))
    assert other.space == plain.space
    np.testing.assert_array_equal(other.members.index, plain.members.index)
    mask = load_features(FeatureConfig(name="m", mask_img=str(path)))
    assert mask.space.n_features == (labels > 0).sum()


@pytest.mark.parametrize("kind", ["labels_img", "mask_img"])
def test_an_infinite_label_or_an_image_in_colour_is_refused(tmp_path, kind):
    labels = np.ones(SHAPE, np.float32)
    labels[2, 2, 2] = np.inf
    path = write_image(tmp_path / "infinite.nii", labels, t_r=None)
    with pytest.raises(UserError, match="holds infinite values"):
        load_features(FeatureConfig(name="f", **{kind: str(path)}))
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = write_image(tmp_path / "colour.nii", colour, t_r=None)
    with pytest.raises(UserError, match="not real numbers"):
        load_features(FeatureConfig(name="f", **{kind: str(path)}))


def test_the_affine_of_a_small_image_is_kept(tmp_path):
    as_nifti2(path := write_image(tmp_path / "bold.nii.gz", brain_like(5)))
    np.testing.assert_allclose(open_image(path).affine, AFFINE)
