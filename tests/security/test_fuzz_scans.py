"""Every reader of scans, tables and sidecars, given damaged files; see test_fuzz.py."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import struct
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io
from fuzzing import fuzzed, one_line, put
from grayordinates import series, surface, volume, voxels, write_func, write_series
from hypothesis import strategies as st
from mutations import damaged, json_text, table
from scans import SHAPE, brain_like, confounds, dataset, write_atlas, write_fmriprep_run

from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.read.arrays import read_array
from fmriscale.ingest.read.cifti import open_series
from fmriscale.ingest.read.events import read_events, read_evs
from fmriscale.ingest.read.gifti import open_hemisphere
from fmriscale.ingest.read.nifti import open_image
from fmriscale.ingest.read.text import read_json
from fmriscale.ingest.run import process_run

# ---------------------------------------------------------------- scans


def _nifti() -> bytes:
    return nib.Nifti1Image(brain_like(12, 1, (4, 3, 2)), np.eye(4)).to_bytes()


@fuzzed(60, data=st.one_of(damaged(_nifti(), 352), damaged(gzip.compress(_nifti(), 1))))
def test_nifti(tmp_path, data):
    with one_line():
        image = open_image(put(tmp_path, "x.nii", data))
        for _ in image.blocks():
            pass


def test_a_header_that_claims_more_than_there_is_costs_nothing(tmp_path):
    data = bytearray(_nifti())
    struct.pack_into("<8h", data, 40, 4, 32767, 32767, 32767, 32767, 1, 1, 1)
    for content in (bytes(data), gzip.compress(bytes(data))):
        with one_line(), pytest.raises(Rejected, match="unreadable"):
            list(open_image(put(tmp_path, "x.nii", content)).blocks())
    bomb = gzip.compress(bytes(50 << 20))  # zeros: a thousand times smaller than what comes out
    with one_line(), pytest.raises(Rejected):
        open_image(put(tmp_path, "x.nii.gz", bomb))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_an_array_that_claims_more_than_there_is_costs_nothing(tmp_path, name):
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 9)}
    np.lib.format.write_array_header_1_0(header, claim)
    if name.endswith("npz"):
        np.savez(path := tmp_path / name, x=np.zeros(3))
        data = path.read_bytes()
    else:
        data = header.getvalue() + bytes(800)
    with one_line(), pytest.raises(Rejected):
        read_array(put(tmp_path, name, data), "y")


def _arrays() -> dict[str, bytes]:
    x = np.random.default_rng(0).normal(size=(9, 4))
    files = {name: io.BytesIO() for name in ("x.npy", "x.npz", "x.mat", "x.h5")}
    np.save(files["x.npy"], x)
    np.savez_compressed(files["x.npz"], x=x)
    scipy.io.savemat(files["x.mat"], {"x": x})
    with h5py.File(files["x.h5"], "w") as file:
        file["x"] = x
    return {name: file.getvalue() for name, file in files.items()}


@pytest.mark.parametrize(("name", "valid"), _arrays().items(), ids=_arrays())
@fuzzed(25, draw=st.data())
def test_arrays(tmp_path, name, valid, draw):
    with one_line():
        read_array(put(tmp_path, name, draw.draw(damaged(valid, 200))), "x")


def _table(separator: str) -> str:
    x = np.random.default_rng(0).normal(size=(9, 4)).round(3)
    return "\n".join([separator.join("abcd"), *(separator.join(map(str, row)) for row in x)])


@pytest.mark.parametrize("name", ["x.tsv", "x.csv"])
@fuzzed(25, draw=st.data())
def test_tables_of_signals(tmp_path, name, draw):
    separator = "\t" if name == "x.tsv" else ","
    with one_line():
        read_array(put(tmp_path, name, draw.draw(table(_table(separator), separator))))


def _grayordinates(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name.endswith(".func.gii"):
            write_func(path, np.random.default_rng(0).normal(size=(6, 5)), 2.0)
        else:
            axis = surface("CORTEX_LEFT", np.arange(10, 20)) + volume("THALAMUS_LEFT", voxels(100, 5))
            write_series(path, series(axis, 6), axis)
        return path.read_bytes()


@fuzzed(25, data=damaged(_grayordinates("x.func.gii"), 2000))
def test_gifti(tmp_path, data):
    with one_line():
        open_hemisphere(put(tmp_path, "x_hemi-L.func.gii", data), "L")


@fuzzed(25, data=damaged(_grayordinates("x.dtseries.nii"), 2000))
def test_cifti(tmp_path, data):
    with one_line():
        open_series(put(tmp_path, "x.dtseries.nii", data))


# ---------------------------------------------------------------- tables and sidecars

EVENTS = "onset\tduration\ttrial_type\tvalue\n0.0\t1.5\tface\t3\n4.0\tn/a\thouse\t4\n8.5\t1\tface\tn/a\n"


@fuzzed(60, data=table(EVENTS))
def test_events(tmp_path, data):
    with one_line():
        for event in read_events(put(tmp_path, "x_events.tsv", data), 2.0, 60.0):
            assert np.isfinite(event["onset"]) and event["duration"] >= 0
    with one_line():
        read_evs((put(tmp_path, "cue.txt", data),))


@fuzzed(40, data=json_text({"RepetitionTime": 2.0, "SliceTiming": [0, 1], "TaskName": "rest"}))
def test_sidecars(tmp_path, data):
    with one_line():
        assert isinstance(read_json(put(tmp_path, "x.json", data)), dict)


PARTICIPANTS = "participant_id\tage\tsex\tt_r\nsub-01\t23\tF\t2.0\nsub-02\tn/a\tM\t2.0\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    voxels_XYZT = brain_like(20, 3, SHAPE)
    write_fmriprep_run(root, "01", voxels=voxels_XYZT, table=confounds(20, 5), events=EVENTS)
    (root / "participants.tsv").write_text(PARTICIPANTS)
    atlas = write_atlas(root / "atlas.nii.gz")
    given = dataset(root, atlas, participants="participants.tsv", participants_columns=["age"])
    denoise = dataclasses.replace(given.denoise, strategy=["motion", "scrub"])
    return dataclasses.replace(given, denoise=denoise)


FILES = ["*_bold.json", "*confounds_timeseries.tsv", "*_events.tsv", "*_mask.nii.gz", "*_bold.nii.gz"]
FILES += ["participants.tsv"]


@pytest.mark.parametrize("glob", FILES)
@fuzzed(8, draw=st.data())
def test_a_data_set_with_one_damaged_file(study, glob, draw):
    path = next(Path(study.root).rglob(glob))
    valid = path.read_bytes()
    try:
        if path.suffix == ".json":
            path.write_bytes(draw.draw(json_text(json.loads(valid))))
        else:
            is_table = path.suffix == ".tsv"
            data = draw.draw(table(valid.decode()) if is_table else damaged(gzip.decompress(valid), 352))
            path.write_bytes(data if is_table else gzip.compress(data, 1))
        os.utime(path, ns=(0, int(hashlib.sha256(path.read_bytes()).hexdigest()[:12], 16)))
        with one_line():
            for run in find_runs(study)[0]:
                result = process_run(run, study)
                assert not isinstance(result, Rejection) or result.reason != "failed", result.detail
    finally:
        path.write_bytes(valid)
