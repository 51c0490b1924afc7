"""Layouts of other pipelines: XCP-D, fMRIPrep 1.0, ABCD-BIDS, HALFpipe; images that are no series yet."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scans import AFFINE, SHAPE, T_R, brain_like, confounds, dataset, grow, write_atlas, write_image

from fmriscale.common.errors import UserError
from fmriscale.common.quarantine import Rejection
from fmriscale.config import DenoiseConfig, FeatureConfig
from fmriscale.corpus.writer import EncodedRun
from fmriscale.ingest.build import build
from fmriscale.ingest.clean.confounds import confounds_mistakes, read_confounds
from fmriscale.ingest.find.names import parse_name
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.run import process_run

VOLUMES = FeatureConfig(name="f", labels_img="atlas.nii.gz")
DENSE = FeatureConfig(name="f", structures=["all"])
PARCELS = FeatureConfig(name="f", parcels="any.ptseries.nii")
COLUMNS = FeatureConfig(name="f", columns=3)


def record(result) -> dict:
    assert isinstance(result, EncodedRun), result
    return json.loads(result.members["json"])


def bold(result) -> np.ndarray:
    assert isinstance(result, EncodedRun), result
    return np.frombuffer(result.members["bold.npy"][128:], np.float16).reshape(-1, 3).astype(float)


# ---------------------------------------------------------------- XCP-D

SCAN = "sub-01/func/sub-01_task-rest"


def write_xcpd(root, n_kept_rows=None, moved=(5, 6, 20), version="stat-mean_", atlas="atlas", columns=None):
    """Write a run of 40 volumes; its series lacks those that moved, unless told otherwise."""
    values = np.random.default_rng(3).normal(0, 1, (40, 3))
    left = np.delete(np.arange(40), moved) if n_kept_rows is None else np.arange(n_kept_rows)
    (root / SCAN).parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(values[left], columns=columns or ["LH_Vis_1", "LH_Vis_2", "RH_Lim"])
    stem = root / f"{SCAN}_space-fsLR_{atlas}-4S156Parcels_{version}timeseries"
    table.to_csv(f"{stem}.tsv", sep="\t", index=False, na_rep="n/a")
    stem.with_name(f"{stem.name}.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    flags = pd.DataFrame({"framewise_displacement": np.isin(np.arange(40), moved).astype(int)})
    flags.to_csv(root / f"{SCAN}_outliers.tsv", sep="\t", index=False)
    motion = pd.DataFrame({"trans_x": 0.0, "framewise_displacement": np.r_[np.nan, np.full(39, 0.25)]})
    motion.to_csv(root / f"{SCAN}_motion.tsv", sep="\t", index=False, na_rep="n/a")
    return values


def xcpd(root, **settings):
    return dataset(root, **({"kind": "xcpd", "features": COLUMNS} | settings))


@pytest.mark.parametrize(
    ("version", "atlas"), [("", "atlas"), ("stat-mean_", "seg"), ("stat-mean_", "atlas")]
)
@pytest.mark.parametrize("is_whole", [False, True], ids=["censored", "interpolated"])
def test_series_of_xcp_d_keep_their_time_and_their_censoring(tmp_path, version, atlas, is_whole):
    values = write_xcpd(tmp_path, 40 if is_whole else None, version=version, atlas=atlas)
    (run,), rejected, _ = find_runs(xcpd(tmp_path))
    assert not rejected
    result = process_run(run, xcpd(tmp_path, denoise=DenoiseConfig(detrend=False)))
    told, kept = record(result), np.delete(np.arange(40), (5, 6, 20))
    assert (told["n_volumes"], told["t_r"]) == (40, 2.0)
    assert told["sample_mask"] == kept.tolist()
    assert told["quality"]["mean_fd"] == 0.25
    assert told["quality"]["motion_measure"] == "framewise displacement"
    expected = values[kept] - values[kept].mean(axis=0)
    expected /= expected.std(axis=0, ddof=1)
    np.testing.assert_allclose(bold(result)[kept], expected, atol=2e-3)
    assert not bold(result)[[5, 6, 20]].any()


def test_parcels_of_a_table_are_matched_by_name_and_absent_ones_are_missing(tmp_path):
    write_xcpd(tmp_path / "a")
    write_xcpd(tmp_path / "b", columns=["RH_Lim", "LH_Vis_1", "LH_Vis_2"])
    file = next((tmp_path / "a/sub-01/func").glob("*_timeseries.tsv"))
    features = FeatureConfig(name="f", parcels=str(file))
    results = []
    for root in (tmp_path / "a", tmp_path / "b"):
        (run,), *_ = find_runs(xcpd(root, features=features))
        results.append(bold(process_run(run, xcpd(root, features=features))))
    np.testing.assert_array_equal(results[1], results[0][:, [1, 2, 0]])
    table = pd.read_csv(next((tmp_path / "b/sub-01/func").glob("*_timeseries.tsv")), sep="\t")
    table.assign(RH_Lim="n/a").to_csv(
        next((tmp_path / "b/sub-01/func").glob("*_timeseries.tsv")), sep="\t", index=False
    )
    from fmriscale.config import QualityConfig

    loose = xcpd(tmp_path / "b", features=features, quality=QualityConfig(max_missing=0.5, min_volumes=10))
    (run,), *_ = find_runs(loose)
    told = record(process_run(run, loose))
    assert told["quality"]["missing_features"] == [2]
    table.rename(columns={"RH_Lim": "Other"}).to_csv(
        next((tmp_path / "b/sub-01/func").glob("*_timeseries.tsv")), sep="\t", index=False
    )
    result = process_run(run, loose)
    assert isinstance(result, Rejection) and "'Other'" in result.detail


def test_what_xcp_d_wrote_of_another_run_is_never_taken(tmp_path):
    write_xcpd(tmp_path, n_kept_rows=33)
    (run,), *_ = find_runs(xcpd(tmp_path))
    result = process_run(run, xcpd(tmp_path))
    assert isinstance(result, Rejection) and result.reason == "confounds_length"
    assert "40 rows, 37 of them kept, the series 33" in result.detail
    (tmp_path / f"{SCAN}_outliers.tsv").rename(tmp_path / f"{SCAN}_run-2_outliers.tsv")
    _, (line,), _ = find_runs(xcpd(tmp_path))
    assert line.reason == "no_confounds" and "sub-01_task-rest_outliers.tsv" in line.detail


def test_the_other_files_of_xcp_d_are_no_scans_and_joined_runs_are_told(tmp_path):
    stem = "sub-01/func/sub-01_task-imagery"
    grow(
        tmp_path,
        *(
            f"{stem}{run}{file}"
            for run in ("", "_run-01", "_run-02")
            for file in (
                "_space-fsLR_seg-4S156Parcels_stat-mean_timeseries.{tsv,json}",
                "_space-fsLR_seg-4S156Parcels_den-91k_stat-mean_timeseries.ptseries.nii",
                "_space-fsLR_seg-4S156Parcels_stat-{coverage,alff,reho}_bold.{tsv,json}",
                "_space-fsLR_seg-4S156Parcels_stat-pearsoncorrelation_relmat.tsv",
                "_space-fsLR_seg-4S156Parcels_stat-pearsoncorrelation_desc-26volumes_relmat.tsv",
                "_space-fsLR_den-91k_desc-{denoised,denoisedSmoothed,interpolated}_bold.{dtseries.nii,json}",
                "_space-fsLR_den-91k_desc-linc_qc.tsv",
                "_space-MNI152NLin6Asym_res-2_desc-{denoised,denoisedSmoothed}_bold.{nii.gz,json}",
                "_space-MNI152NLin6Asym_res-2_stat-{alff,reho}_boldmap.{nii.gz,json}",
                "_{motion,outliers,design}.{tsv,json}",
            )
        ),
    )
    for features in (COLUMNS, PARCELS, DENSE, VOLUMES):
        found = find_runs(xcpd(tmp_path, features=features))
        assert [run.entities["run"] for run in found.runs] == ["01", "02"]
        (line,) = found.rejections
        assert line.reason == "duplicate_content" and "entities: {run: ''}" in line.detail
        (joined,), *_ = find_runs(xcpd(tmp_path, features=features, entities={"run": ""}))
        assert joined.outliers == tmp_path / f"{stem}_outliers.tsv"
    assert all("denoised_" in run.source for run in found.runs)


def test_denoised_series_are_not_denoised_again(tmp_path):
    given = xcpd(tmp_path, denoise=DenoiseConfig(strategy=["motion"]))
    (mistake,) = confounds_mistakes(given)
    assert mistake.endswith("kind xcpd is denoised already; leave it out")


# ---------------------------------------------------------------- names of before BIDS derivatives

OLD = "sub-01_task-rest_run-01_bold"


@pytest.mark.parametrize(
    ("old", "today"),
    [
        (f"{OLD}_space-MNI_preproc.nii.gz", "sub-01_task-rest_run-01_space-MNI_desc-preproc_bold.nii.gz"),
        (f"{OLD}_preproc.nii.gz", "sub-01_task-rest_run-01_desc-preproc_bold.nii.gz"),
        (f"{OLD}_space-T1w_brainmask.nii.gz", "sub-01_task-rest_run-01_space-T1w_desc-brain_mask.nii.gz"),
        (f"{OLD}_space-X_variant-aroma_preproc.nii", "sub-01_task-rest_run-01_space-X_desc-aroma_bold.nii"),
        (f"{OLD}_space-fsaverage5.L.func.gii", "sub-01_task-rest_run-01_space-fsaverage5_hemi-L.func.gii"),
        (f"{OLD}_confounds.tsv", "sub-01_task-rest_run-01_desc-confounds_regressors.tsv"),
        (f"{OLD}_timeseries.dtseries.nii", "sub-01_task-rest_run-01_timeseries.dtseries.nii"),
        (
            "sub-1_task-rest_bold_atlas-HCP_desc-filtered_timeseries.ptseries.nii",
            "sub-1_task-rest_atlas-HCP_desc-filtered_timeseries.ptseries.nii",
        ),
    ],
)
def test_old_names_mean_what_the_names_of_today_mean(old, today):
    assert parse_name(old) == parse_name(today) is not None


def test_fmriprep_1_0_is_read_with_its_own_mask_and_confounds(tmp_path):
    func = tmp_path / "sub-01/func"
    write_atlas(tmp_path / "atlas.nii.gz")
    write_image(func / f"{OLD}_space-MNI_preproc.nii.gz", brain_like(40))
    write_image(func / f"{OLD}_space-MNI_brainmask.nii.gz", np.ones(SHAPE, np.uint8), t_r=None)
    grow(func, f"{OLD}_space-T1w_{{preproc,brainmask}}.nii.gz", f"{OLD}_space-T1w_label-aseg_roi.nii.gz")
    modern = confounds(40).rename(
        columns=lambda c: c.replace("framewise_displacement", "FramewiseDisplacement")
    )
    names = {"csf": "CSF", "white_matter": "WhiteMatter", "std_dvars": "stdDVARS"}
    names |= {f"trans_{a}": a.upper() for a in "xyz"} | {f"rot_{a}": f"Rot{a.upper()}" for a in "xyz"}
    names |= {"cosine00": "Cosine00", "cosine01": "Cosine01"}
    old = modern.rename(columns=names)[["FramewiseDisplacement", *names.values()]]
    old["vx-wisestdDVARS"] = old["stdDVARS"]
    old.to_csv(func / f"{OLD}_confounds.tsv", sep="\t", index=False, na_rep="n/a")
    denoise = DenoiseConfig(
        strategy=["motion", "wm_csf", "high_pass", "scrub"], motion="basic", detrend=False
    )
    given = dataset(tmp_path, tmp_path / "atlas.nii.gz", entities={"space": "MNI"}, denoise=denoise)
    (run,), rejected, _ = find_runs(given)
    assert not rejected
    assert run.brain_mask and run.brain_mask.name == f"{OLD}_space-MNI_brainmask.nii.gz"
    told = record(process_run(run, given))
    assert told["t_r"] == T_R and "trans_x" in told["denoise"]["regressors"]
    assert run.confounds is not None
    table = confounds(40)
    today = run.confounds.with_name("today_desc-confounds_timeseries.tsv")
    columns = ["framewise_displacement", *names]
    table[columns].to_csv(today, sep="\t", index=False, na_rep="n/a")
    ours, theirs = (read_confounds(file, denoise, 40) for file in (run.confounds, today))
    assert ours.regressors is not None and ours.regressors.equals(theirs.regressors)
    assert ours.mean_fd == theirs.mean_fd


def test_abcd_bids_single_runs_or_what_is_joined_but_not_both(tmp_path):
    stem = "sub-NDARX/ses-b/func/sub-NDARX_ses-b_task-rest"
    grow(
        tmp_path,
        f"{stem}_bold_desc-filtered_timeseries.dtseries.nii",
        f"{stem}_bold_atlas-{{HCP2016,Gordon2014}}FreeSurferSubcortical_desc-filtered_timeseries.ptseries.nii",
        f"{stem}_desc-filtered{{,withoutliers}}_motion_mask.mat",
        f"{stem}_run-{{1,2}}_bold_timeseries.dtseries.nii",
        f"{stem}_run-{{1,2}}_desc-{{filtered,includingFD}}_motion.tsv",
        f"{stem}_run-{{1,2}}_space-MNI_bold.nii.gz",
    )
    abcd = {"kind": "bids"}
    runs, (line,), _ = find_runs(dataset(tmp_path, features=DENSE, **abcd))
    assert [r.key for r in runs] == [f"toy_sub-NDARX_ses-b_task-rest_run-{n}" for n in (1, 2)]
    assert line.reason == "duplicate_content" and "entities: {run: ''}" in line.detail
    cut = {"entities": {"run": ""}, "runs": [383, 383]}
    runs, rejected, _ = find_runs(dataset(tmp_path, features=DENSE, **abcd, **cut))
    assert not rejected
    assert [(r.entities["run"], r.source.partition(".nii")[2]) for r in runs] == [
        ("1", "[0:383]"),
        ("2", "[383:766]"),
    ]
    runs, rejected, _ = find_runs(dataset(tmp_path, features=VOLUMES, **abcd))
    assert len(runs) == 2 and not rejected
    with pytest.raises(UserError, match=r"choose with entities: \{atlas: Gordon2014FreeSurferSubcortical\}"):
        find_runs(dataset(tmp_path, features=PARCELS, **abcd))


def test_halfpipe_settings_are_renderings_that_the_recipe_chooses(tmp_path):
    grow(
        tmp_path,
        "sub-01/func/sub-01_task-rest_setting-{standard,smooth}_bold.{nii.gz,json}",
        "sub-01/func/sub-01_task-rest_stat-tsnr_boldmap.nii.gz",
        "sub-01/func/task-rest/sub-01_task-rest_feature-corr_atlas-{a,b}_timeseries.{tsv,json}",
        "sub-01/func/task-rest/sub-01_task-rest_feature-seed_seed-pcc_stat-z_statmap.nii.gz",
        "sub-02/func/task-rest/sub-02_task-rest_setting-standard_bold.{nii.gz,json}",
    )
    with pytest.raises(
        UserError, match=r"choose with entities: \{setting: smooth\} or \{setting: standard\}"
    ):
        find_runs(dataset(tmp_path, features=VOLUMES, kind="bids"))
    runs, rejected, _ = find_runs(
        dataset(tmp_path, features=VOLUMES, kind="bids", entities={"setting": "standard"})
    )
    assert [r.key for r in runs] == ["toy_sub-01_task-rest", "toy_sub-02_task-rest"]
    assert not rejected and runs[1].sidecars
    tables = {"files": "sub-*/func/task-*/*_timeseries.tsv", "entities": {"atlas": "a", "feature": "corr"}}
    (run,), *_ = find_runs(dataset(tmp_path, features=COLUMNS, kind="arrays", **tables))
    assert run.key == "toy_sub-01_task-rest"


def test_chunks_are_runs_of_their_own(tmp_path):
    grow(tmp_path, "sub-01/func/sub-01_task-rest_run-1_part-mag_chunk-{01,2}_bold.nii.gz")
    runs, rejected, _ = find_runs(dataset(tmp_path, features=VOLUMES, kind="bids"))
    assert [r.key for r in runs] == [f"toy_sub-01_task-rest_run-1_part-mag_chunk-{c}" for c in ("01", "2")]
    assert not rejected


# ---------------------------------------------------------------- images that are no series yet


def follow(detail: str) -> None:
    """Do what a line says."""
    command = detail[detail.index("python -c") :].split(" and list")[0].split(" and set")[0]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)


@pytest.mark.parametrize("names", [["f{:04d}.nii", 1], ["rest_{}.nii.gz", 8]], ids=["padded", "plain"])
def test_volumes_one_by_one_are_joined_by_the_command_of_the_line(tmp_path, names):
    voxels, (name, first) = brain_like(5), names
    write_atlas(tmp_path / "atlas.nii.gz")
    folder = tmp_path / "data" / "sub 01"
    for n in range(5):
        write_image(folder / name.format(first + n), voxels[..., n], t_r=None)
    settings = {"kind": "bids", "name_pattern": "sub (?P<subject>[^/]+)/", "t_r": 2.0}
    given = dataset(tmp_path / "data", tmp_path / "atlas.nii.gz", files="*/*.nii*", **settings)
    with pytest.raises(UserError, match="5 files of one volume each; join them: python -c") as refused:
        find_runs(given)
    follow(str(refused.value))
    (joined,) = folder.glob("*_4D.nii.gz")
    np.testing.assert_allclose(nib.Nifti1Image.from_filename(joined).get_fdata(), voxels, atol=0.01)
    found = find_runs(given)
    assert [r.path for r in found.runs] == [joined] and found.counts.listed == 2


def test_a_single_volume_is_called_one(tmp_path):
    from fmriscale.common.quarantine import Rejected
    from fmriscale.ingest.read.nifti import open_image

    path = write_image(tmp_path / "sub-01_task-rest_bold.nii.gz", brain_like(1)[..., 0], t_r=None)
    with pytest.raises(Rejected, match="a single volume, such as a mean"):
        open_image(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Spm99AnalyzeImage, nib.AnalyzeImage])
def test_pairs_are_converted_by_the_command_of_the_line(tmp_path, kind):
    voxels = brain_like(40)
    func = tmp_path / "sub-01" / "func"
    func.mkdir(parents=True)
    kind(voxels, AFFINE).to_filename(func / "sub-01_task-rest_bold.img")
    tree = dataset(tmp_path, features=VOLUMES, kind="bids")
    with pytest.raises(
        UserError, match=r"no scan in .* can be a run: .*half of a \.hdr/\.img pair"
    ) as refused:
        find_runs(tree)
    globbed = dataset(tmp_path, features=VOLUMES, kind="bids", files="sub-*/func/*.img")
    with pytest.raises(UserError, match=r"set files: 'sub-\*/func/\*.nii.gz'") as all_refused:
        find_runs(globbed)
    for why in (refused, all_refused):
        follow(str(why.value))
        (converted,) = func.glob("*.nii.gz")
        np.testing.assert_array_equal(np.asarray(nib.Nifti1Image.from_filename(converted).dataobj), voxels)
        runs, (line,), _ = find_runs(tree)
        assert len(runs) == 1 and line.reason == "unreadable"
        converted.unlink()


def test_the_build_of_a_corpus_from_xcp_d(tmp_path):
    from scans import corpus

    from fmriscale.corpus.reader import Corpus

    write_xcpd(tmp_path / "in")
    build(corpus(tmp_path / "out", xcpd(tmp_path / "in")))
    assert Corpus.open(tmp_path / "out").record(0)["sample_mask"][:6] == [0, 1, 2, 3, 4, 7]
