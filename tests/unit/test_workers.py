"""Work that hangs ends in time, whoever does it."""

import importlib
import os
import threading
import time

import numpy as np
import pandas as pd
import pytest
from scans import corpus, dataset, hanging, write_atlas, write_fmriprep_run

from fmriscale.common.workers import TimedOut, map_in_order
from fmriscale.config import DatasetConfig, DenoiseConfig, FeatureConfig
from fmriscale.ingest.build import build
from fmriscale.ingest.shards import libraries


@pytest.mark.parametrize("jobs", [1, 2])
def test_work_that_hangs_is_named_and_the_rest_goes_on(tmp_path, jobs):
    os.mkfifo(tmp_path / "pipe")
    files = ["/dev/null", str(tmp_path / "pipe"), "/dev/null", "/dev/null"]
    started = time.monotonic()
    results = list(map_in_order(hanging, [(file,) for file in files], jobs, limit=1.5))
    assert isinstance(results[1], TimedOut) and [r for r in results if not isinstance(r, TimedOut)] == [0] * 3
    assert time.monotonic() - started < 60


def test_with_a_limit_errors_and_order_are_as_without():
    assert list(map_in_order(abs, [(-n,) for n in range(5)], 1, limit=60)) == list(range(5))
    with pytest.raises(FileNotFoundError):
        list(map_in_order(hanging, [("/no/such/file",)], 1, limit=60))
    before = threading.active_count()
    results = map_in_order(abs, [(1,), (2,)], 1, limit=60)
    next(results)
    results.close()
    time.sleep(0.1)
    assert threading.active_count() <= before  # nobody waits for work that does not come


def test_workers_share_the_libraries_that_a_recipe_needs(tmp_path):
    study = dataset(tmp_path, tmp_path / "atlas.nii.gz", denoise=DenoiseConfig(strategy=["motion"]))
    assert {"fmriscale.ingest.read.voxels", "nilearn.interfaces.fmriprep"} < set(libraries([study]))
    columns = DatasetConfig(
        name="x", kind="arrays", root="x", features=FeatureConfig(name="x", columns=2), files="*.npy"
    )
    assert libraries([columns]) == []
    for name in libraries([study, columns]):
        importlib.import_module(name)


def test_a_scan_that_is_a_pipe_is_a_line_of_quarantine(tmp_path):
    root, atlas = tmp_path / "in", write_atlas(tmp_path / "atlas.nii.gz")
    write_fmriprep_run(root, "02")
    build(corpus(tmp_path / "c", dataset(root, atlas)))  # the libraries are there from here on
    pipe = write_fmriprep_run(root, "01")
    pipe.unlink()
    os.mkfifo(pipe)
    given = corpus(tmp_path / "c", dataset(root, atlas), read_timeout=3)
    _, quarantine = build(given)
    (line,) = quarantine.to_dict("records")
    assert (line["reason"], line["source"]) == ("timed_out", pipe.relative_to(root).as_posix())
    assert "within 3 s (read_timeout)" in line["detail"]
    pipe.unlink()
    write_fmriprep_run(root, "01")  # the mount is back: the next build reads it
    _, quarantine = build(given)
    assert quarantine.empty
    runs = pd.read_csv(tmp_path / "c/runs.tsv", sep="\t", dtype=str)
    assert np.array_equal(runs.subject, ["01", "02"])
