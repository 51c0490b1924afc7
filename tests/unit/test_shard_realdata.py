"""Real scans: Haxby 2001 in two layouts, ABIDE and Alice arrays, a raw studyforrest run; nothing vanishes."""

import dataclasses

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
from scans import corpus, dataset

from fmriscale.config import CorpusConfig, DenoiseConfig, FeatureConfig, QualityConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.plan import make_plan

pytestmark = pytest.mark.realdata


@pytest.fixture
def recipe(repository, data_root, monkeypatch):
    """Read a recipe of configs/ against the real data."""
    monkeypatch.setenv("FMRISCALE_DATA", str(data_root.absolute()))
    return lambda name: parse(CorpusConfig, ["--config", str(repository / "configs" / name)])


def test_haxby_in_both_spaces(recipe, data_root, tmp_path):
    build(dataclasses.replace(recipe("corpus_haxby.yaml"), out=str(tmp_path), jobs=1))
    opened = Corpus.open(tmp_path)
    runs = opened.runs
    assert runs.groupby("dataset").size().to_dict() == {"haxby_brain": 12, "haxby_slice": 12}
    assert set(runs.person) == {"haxby/01"} and set(runs.t_r) == {2.5} and set(runs.n_volumes) == {121}
    assert {s.n_features for s in opened.spaces.values()} == {129, 530}
    for i in (0, 12):
        events = opened.record(i)["events"]
        assert len(events) == 8 and events[0]["trial_type"] == "scissors"

    # one slice: the published concatenation of all runs holds the same numbers
    whole = nib.Nifti1Image.from_filename(data_root / "haxby2001_pymvpa/bold.nii.gz")
    mask = data_root / "haxby2001_pymvpa/mask.nii.gz"
    masker = NiftiMasker(mask, standardize=None).fit()
    third = masker.transform(whole.slicer[..., 242:363])
    mean, _ = opened.mean_std(14)
    np.testing.assert_allclose(mean, third.mean(axis=0), rtol=1e-5)
    masker = NiftiMasker(mask, standardize="zscore_sample", detrend=True, high_pass=0.008, t_r=2.5).fit()
    np.testing.assert_allclose(opened.bold(14), masker.transform(whole.slicer[..., 242:363]), atol=3e-3)


def test_every_abide_scan_lands_or_is_quarantined(recipe, data_root, tmp_path):
    full = recipe("corpus_abide.yaml")
    table = pd.read_csv(data_root / "abide1_cc200/participants.tsv", sep="\t")
    plan, rejections = make_plan(full)[:2]
    assert sum(len(s.runs) for s in plan) == len(table) == 1035 and not rejections
    assert len(full.datasets) == 24 and {d.people for d in full.datasets} == {"abide"}

    sites = ["abide_caltech", "abide_leuven_1", "abide_maxmun_b"]
    few = [d for d in full.datasets if d.name in sites]
    manifest, quarantine = build(dataclasses.replace(full, datasets=few, out=str(tmp_path), jobs=1))
    table = table[table.site.isin(["Caltech", "Leuven_1", "MaxMun_b"])].set_index("SUB_ID")
    runs = Corpus.open(tmp_path).runs
    assert set(runs.subject.astype(int)) == set(table.index[table.n_zero_roi <= 10])
    assert set(quarantine.reason) == {"low_coverage"} and len(runs) + len(quarantine) == len(table)
    assert manifest["datasets"]["abide_leuven_1"]["t_r"] == [1.656]
    for i, run in enumerate(runs.itertuples()):
        row = table.loc[int(str(run.subject))]
        assert (run.n_volumes, run.t_r) == (row.n_tr, row.tr_s)
        assert len(Corpus.open(tmp_path).record(i)["quality"]["missing_features"]) == row.n_zero_roi


def test_untouched_1d_files(data_root, tmp_path):
    given = dataset(
        data_root / "abide1_cc200",
        kind="arrays",
        files="samples_1D/*.1D.gz",
        name_pattern=r"samples_1D/(?P<id>.+)_rois_cc200",
        features=FeatureConfig(name="cc200", columns=200),
        participants="participants.tsv",
        participants_key="file_id",
        participants_subject="SUB_ID",
        participants_t_r="tr_s",
        denoise=DenoiseConfig(detrend=False),
    )
    build(corpus(tmp_path, given))
    runs = Corpus.open(tmp_path).runs
    assert len(runs) == 24 and runs.t_r.nunique() > 4


def test_a_raw_bids_run_with_an_atlas(data_root, tmp_path):
    root = data_root / "studyforrest_objloc_bids"
    atlas = str(data_root / "atlases/Schaefer2018_100Parcels_7Networks_order_FSLMNI152_2mm.nii.gz")
    labels = atlas.replace("_FSLMNI152_2mm.nii.gz", ".txt")
    features = FeatureConfig(name="schaefer100", labels_img=atlas, labels=labels)
    # the run is in its own space: many parcels lie outside the brain, the means of the rest are still means
    given = dataset(
        root,
        kind="bids",
        features=features,
        denoise=DenoiseConfig(detrend=False),
        quality=QualityConfig(max_missing=0.6),
    )
    build(corpus(tmp_path, given))
    opened = Corpus.open(tmp_path)
    row, record = opened.runs.iloc[0], opened.record(0)
    assert (row.key, row.t_r, row.n_volumes) == ("toy_sub-01_task-oneback_run-1", 2.0, 156)
    assert {e["trial_type"] for e in record["events"]} >= {"face", "house"}
    assert (opened.spaces["schaefer100"].labels or [""])[0] == "7Networks_LH_Vis_1"

    func = root / "sub-01/func"
    masker = NiftiLabelsMasker(
        atlas,
        mask_img=func / "sub-01_task-oneback_run-1_desc-brain_mask.nii.gz",
        resampling_target="data",
        standardize="zscore_sample",
        keep_masked_labels=False,
    )
    expected = masker.fit_transform(func / "sub-01_task-oneback_run-1_bold.nii.gz")
    present = np.setdiff1d(np.arange(100), record["quality"]["missing_features"])
    assert len(present) > 40
    column = {int(label): i for i, label in masker.region_ids_.items() if i != "background"}
    ours = opened.bold(0)[:, present].astype(float)
    np.testing.assert_allclose(ours, expected[:, [column[p + 1] for p in present]], atol=3e-3)

    build_strict = dataclasses.replace(given, quality=QualityConfig())
    _, quarantine = build(corpus(tmp_path / "strict", build_strict))
    assert quarantine.reason.tolist() == ["low_coverage"] and "in its own" in quarantine.detail[0]


def test_a_raw_bids_run_with_its_own_mask_and_a_grid_of_parcels(recipe, data_root, tmp_path):
    func = data_root / "studyforrest_objloc_bids/sub-01/func"
    bold = func / "sub-01_task-oneback_run-1_bold.nii.gz"
    brain = nib.Nifti1Image.from_filename(func / "sub-01_task-oneback_run-1_desc-brain_mask.nii.gz")
    inside = np.asarray(brain.dataobj) > 0
    cells = np.ravel_multi_index(
        np.indices(inside.shape) // np.array([10, 10, 5])[:, None, None, None], (8, 8, 7)
    )
    sizes = np.bincount(cells[inside], minlength=cells.max() + 1)
    grid = np.where(inside & (sizes[cells] >= 100), cells + 1, 0).astype(np.int32)
    nib.Nifti1Image(grid, brain.affine).to_filename(tmp_path / "grid.nii.gz")

    roi = recipe("corpus_studyforrest.yaml").datasets[0]
    parcels = FeatureConfig(name="grid", labels_img=str(tmp_path / "grid.nii.gz"))
    parcellated = dataclasses.replace(roi, name="parcels", features=parcels)
    _, quarantine = build(corpus(tmp_path / "corpus", roi, parcellated))
    assert quarantine.empty
    opened = Corpus.open(tmp_path / "corpus")
    assert opened.runs.dataset.tolist() == ["parcels", "studyforrest_objloc"]
    assert opened.runs.n_features.tolist() == [len(np.unique(grid)) - 1, inside.sum()]
    assert opened.runs.t_r.tolist() == [2.0, 2.0] and opened.runs.coverage.min() > 0.98
    clean = {"standardize": "zscore_sample", "detrend": True, "high_pass": 0.008, "t_r": 2.0}
    masker = NiftiLabelsMasker(tmp_path / "grid.nii.gz", **clean)
    np.testing.assert_allclose(opened.bold(0), masker.fit_transform(bold), atol=5e-3)
    plane = np.zeros_like(inside)
    plane[..., 17] = inside[..., 17]
    expected = NiftiMasker(nib.Nifti1Image(plane.astype(np.uint8), brain.affine), **clean).fit_transform(bold)
    np.testing.assert_allclose(opened.bold(1)[:, plane[inside]], expected, atol=5e-3)


def test_alice_listening_to_a_story(recipe, data_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the events lie beside the recipe, wherever it is read from
    _, quarantine = build(dataclasses.replace(recipe("corpus_alice.yaml"), out=str(tmp_path), jobs=1))
    assert quarantine.source.tolist() == ["6mm/s33-timecourses.txt"]
    opened = Corpus.open(tmp_path)
    assert len(opened.runs) == 27 and set(opened.runs.t_r) == {2.0} and set(opened.runs.n_volumes) == {362}
    assert opened.spaces["alice_rois_6mm"].labels == ("LATL", "RATL", "LPTL", "LIPL", "LPreM", "LIFG")
    moments = opened.record(0)["events"]
    assert [e["onset"] for e in moments] == list(range(0, 720, 30)) and moments[-1]["moment"] == "m24"
    table = np.loadtxt(data_root / "alice_rois/6mm/s18-timecourses.txt")
    np.testing.assert_allclose(opened.mean_std(0)[0], table.mean(axis=0), rtol=1e-6)
