"""Files that hold several runs: archives of arrays by a template, and runs end to end."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from scans import T_R, brain_like, confounds, corpus, dataset, write_atlas, write_fmriprep_run, write_image

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DenoiseConfig, FeatureConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.run import process_run

COLUMNS = FeatureConfig(name="four", columns=4)
SIGNALS = {f"sub-0{n}": np.random.default_rng(n).normal(100, 5, (40, 4)) for n in (1, 2, 3)}


def arrays(root, **settings):
    return dataset(root, **({"kind": "arrays", "features": COLUMNS, "t_r": 2.0} | settings))


def write_h5(path, named):
    with h5py.File(path, "w") as file:
        for name, values in named.items():
            file[name] = values
    return path


def standardised(values):
    values = (
        values
        - np.polynomial.polynomial.polyval(
            np.arange(len(values)), np.polynomial.polynomial.polyfit(np.arange(len(values)), values, 1)
        ).T
    )
    return values / values.std(axis=0, ddof=1)


@pytest.mark.parametrize(
    ("template", "entities"),
    [
        ("{subject}/timeseries", {"sub": "01"}),
        ("/{subject}/timeseries/", {"sub": "01"}),
        ("{sub}/{ses}/{task}/ts", {"sub": "01", "ses": "a", "task": "rest"}),
        ("data/{subject}_run-{run}", {"sub": "01", "run": "1"}),
        ("{task}/{subject}/{task}_ts", {"sub": "01", "task": "rest"}),
        ("{subject}", {"sub": "01"}),
    ],
)
def test_every_array_that_fits_a_template_is_a_run(tmp_path, template, entities):
    def name_of(subject):
        given = {"ses": "ses-a", "session": "ses-a", "task": "rest", "run": "1"}
        return template.strip("/").format(**given, subject=subject, sub=subject)

    named = {name_of(s): values for s, values in SIGNALS.items()}
    write_h5(tmp_path / "all.h5", named | {"atlas_labels": np.arange(4)} if "/" in template else named)
    runs, rejected, _ = find_runs(arrays(tmp_path, files="all.h5", variable=template))
    assert not rejected
    assert [r.entities["sub"] for r in runs] == ["01", "02", "03"]
    assert runs[0].entities == entities
    assert runs[1].source == f"all.h5:{name_of('sub-02')}"


@pytest.mark.parametrize("end", ["h5", "hdf5", "npz", "mat", "7.3"])
def test_one_file_of_all_subjects_gives_the_signals_of_each(tmp_path, end):
    template = "{subject}_ts" if end in ("npz", "mat") else "{subject}/ts"
    named = {template.format(subject=s.replace("-", "")): v for s, v in SIGNALS.items()}
    if end == "npz":
        np.savez(tmp_path / "all.npz", **named, notes=np.arange(3))
    elif end == "mat":
        scipy.io.savemat(tmp_path / "all.mat", named)
    else:
        as_matlab = {n: v.T for n, v in named.items()} if end == "7.3" else named
        write_h5(tmp_path / f"all.{'mat' if end == '7.3' else end}", as_matlab)
    out = tmp_path / "corpus"
    build(corpus(out, arrays(tmp_path, files="all.*", variable=template)))
    runs = Corpus.open(out)
    assert [runs.record(n)["subject"] for n in range(3)] == ["sub01", "sub02", "sub03"]
    for n, values in enumerate(SIGNALS.values()):
        np.testing.assert_allclose(runs.bold(n), standardised(values), atol=2e-3)


def test_a_group_that_is_called_like_a_run_but_holds_none_is_told(tmp_path):
    write_h5(tmp_path / "all.h5", {"s1/ts": SIGNALS["sub-01"], "s2/tsx": SIGNALS["sub-02"], "meta": 1})
    found = find_runs(arrays(tmp_path, files="all.h5", variable="{subject}/ts"))
    assert [r.source for r in found.runs] == ["all.h5:s1/ts"]
    (line,) = found.rejections
    assert (line.reason, line.source) == ("no_variable", "all.h5:s2") and "tsx" in line.detail
    assert (found.counts.listed, found.counts.quarantined) == (2, 1)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("{person}/ts", "no field may be called '{person}'; use subject"),
        ("{subject/ts", "is no template"),
        ("{subject:03d}/ts", "takes no format"),
        ("{subject}/nothing", "no array fits|holds nothing that fits"),
    ],
)
def test_templates_that_cannot_be_are_refused(tmp_path, variable, message):
    write_h5(tmp_path / "all.h5", {"s1/ts": SIGNALS["sub-01"]})
    with pytest.raises(UserError, match=message):
        find_runs(arrays(tmp_path, files="all.h5", variable=variable))


def test_a_damaged_archive_is_a_line(tmp_path):
    write_h5(tmp_path / "a.h5", {"s1/ts": SIGNALS["sub-01"]})
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:500])
    runs, (line,), _ = find_runs(arrays(tmp_path, files="*.h5", variable="{subject}/ts"))
    assert [r.entities["sub"] for r in runs] == ["s1"]
    assert (line.source, line.reason) == ("b.h5", "unreadable")


# ---------------------------------------------------------------- runs end to end

LENGTHS = [40, 30, 50]
CLEANING = DenoiseConfig(strategy=["motion"], motion="basic", low_pass=0.1, dummy_volumes=2)


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """One file of three runs, and the three as files of their own."""
    root = tmp_path_factory.mktemp("joined")
    atlas = write_atlas(root / "atlas.nii.gz")
    ends = np.cumsum(LENGTHS)
    voxels, table = brain_like(int(ends[-1])), confounds(int(ends[-1]))
    events = pd.DataFrame(
        {"onset": np.arange(12) * 20.0, "duration": 1, "name": [f"e{n}" for n in range(12)]}
    )
    write_fmriprep_run(
        root / "whole", "1", voxels=voxels, table=table, events=events.to_csv(sep="\t", index=False)
    )
    for n, (end, length) in enumerate(zip(ends, LENGTHS, strict=True), 1):
        part, start = slice(end - length, end), (end - length) * T_R
        own = events[(events.onset >= start) & (events.onset < end * T_R)]
        own = own.assign(onset=own.onset - start).to_csv(sep="\t", index=False)
        write_fmriprep_run(root / "parts", "1", n, voxels=voxels[..., part], table=table[part], events=own)
    for file in (root / "whole/sub-1/func").iterdir():  # the file that is cut has no run
        file.rename(file.with_name(file.name.replace("_run-01", "")))
    return root, atlas


def members(run, given):
    result = process_run(run, given)
    assert not isinstance(result, Rejection), result
    told = json.loads(result.members["json"])
    apart = ("source", "source_sha256", "run", "entities")
    return {**result.members, "json": {k: v for k, v in told.items() if k not in apart}}


def test_a_cut_run_is_what_it_would_be_in_a_file_of_its_own(joined):
    root, atlas = joined
    whole = dataset(root / "whole", atlas, denoise=CLEANING, runs=LENGTHS)
    parts = dataset(root / "parts", atlas, denoise=CLEANING)
    cut, rejected, _ = find_runs(whole)
    single, *_ = find_runs(parts)
    assert not rejected
    assert [r.key for r in cut] == [f"toy_sub-1_task-rest_run-{n}" for n in (1, 2, 3)]
    assert [r.source[-9:] for r in cut] == [".gz[0:40]", "gz[40:70]", "z[70:120]"]
    for ours, theirs in zip(cut, single, strict=True):
        assert members(ours, whole) == members(theirs, parts)
    assert [e["name"] for e in members(cut[1], whole)["json"]["events"]] == ["e4", "e5", "e6"]


def test_runs_that_add_up_to_another_length_are_quarantined_with_both_numbers(joined):
    root, atlas = joined
    given = dataset(root / "whole", atlas, runs=[40, 30, 40])
    for run in find_runs(given)[0]:
        result = process_run(run, given)
        assert isinstance(result, Rejection) and result.reason == "other_length"
        assert "runs adds up to 110 volumes, the file has 120" in result.detail
    with pytest.raises(ValueError, match="volumes of each run"):
        dataset(root, atlas, runs=[40, 0])


def test_the_runs_of_a_file_are_one_file_in_the_count_and_no_duplicates(joined, tmp_path):
    root, atlas = joined
    given = dataset(root / "whole", atlas, runs=LENGTHS)
    found = find_runs(given)
    assert (found.counts.listed, found.counts.in_runs) == (3, 3)
    build(corpus(tmp_path / "corpus", given))
    made = Corpus.open(tmp_path / "corpus")
    assert [made.record(n)["n_volumes"] for n in range(3)] == LENGTHS


def test_confounds_and_events_of_each_run_are_taken_by_its_number(joined, tmp_path):
    root, atlas = joined
    path = write_image(
        tmp_path / "sub-1/func/sub-1_task-rest_desc-preproc_bold.nii.gz", brain_like(sum(LENGTHS))
    )
    for file in (root / "parts/sub-1/func").glob("*run-*_desc-confounds*"):
        (path.parent / file.name).write_bytes(file.read_bytes())
    for file in (root / "parts/sub-1/func").glob("*_events.tsv"):
        (path.parent / file.name).write_bytes(file.read_bytes())
    given = dataset(tmp_path, atlas, runs=LENGTHS, denoise=DenoiseConfig(strategy=["motion"]))
    runs, rejected, _ = find_runs(given)
    assert not [r for r in rejected if r.reason != "unused_events"]
    assert [r.confounds and r.confounds.name[16:22] for r in runs] == ["run-01", "run-02", "run-03"]
    told = members(runs[1], given)["json"]
    assert [(e["name"], e["onset"]) for e in told["events"]] == [("e4", 0.0), ("e5", 20.0), ("e6", 40.0)]


@pytest.mark.parametrize("orientation", ["TV", "VT"])
def test_arrays_are_cut_along_time(tmp_path, orientation):
    values = np.random.default_rng(0).normal(100, 5, (70, 4))
    np.save(tmp_path / "sub-01_task-rest.npy", values if orientation == "TV" else values.T)
    given = arrays(tmp_path, files="*.npy", orientation=orientation, runs=[40, 30])
    runs, *_ = find_runs(given)
    np.save(tmp_path / "sub-01_task-rest.npy", values[40:] if orientation == "TV" else values[40:].T)
    alone = arrays(tmp_path, files="*.npy", orientation=orientation)
    np.save(tmp_path / "sub-01_task-rest.npy", values if orientation == "TV" else values.T)
    second = members(runs[1], given)["bold.npy"]
    np.save(tmp_path / "sub-01_task-rest.npy", values[40:] if orientation == "TV" else values[40:].T)
    assert second == members(find_runs(alone)[0][0], alone)["bold.npy"]


def test_a_name_with_a_run_is_cut_into_chunks(tmp_path):
    np.save(tmp_path / "sub-01_task-rest_run-2.npy", np.zeros((70, 4)))
    runs, *_ = find_runs(arrays(tmp_path, files="*.npy", runs=[40, 30]))
    assert [r.key for r in runs] == [f"toy_sub-01_task-rest_run-2_chunk-{n}" for n in (1, 2)]
