"""The encoder in scikit-learn: what goes in, what comes out, and what is refused by name."""

import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from factory import write_corpus
from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from fmriscale import Encoder, EncoderTransformer
from fmriscale.common.errors import UserError
from fmriscale.config import FeatureConfig, ModelConfig
from fmriscale.ingest.read.features import load_features
from fmriscale.model.classifier import build
from fmriscale.model.presets import resolve_encoder

V, L = 12, 5


def save(folder: Path, spaces: dict[str, int] | None = None, preset="tiny", length=L, **meta) -> Path:
    settings = {} if preset == "paper" else {"d_model": 32, "n_heads": 2}
    config = resolve_encoder(ModelConfig(preset=preset, n_layers=2, **settings), spaces or {"toy": V}, length)
    build(config, 3).encoder.save_pretrained(folder, {"t_r": [2.0, 2.0], **meta})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("encoder"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape)


def test_it_comes_with_the_package_but_not_at_its_import(folder: Path):
    encoder = Encoder.from_pretrained(folder)
    assert not encoder.training and encoder.meta["t_r"] == [2.0, 2.0]
    with pytest.raises(UserError, match="no encoder"):
        Encoder.from_pretrained(str(folder / "nowhere"))
    code = "import sys, fmriscale as f; assert 'Encoder' in dir(f); f.Encoder; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True"


def test_windows_are_embedded_as_the_encoder_does(folder: Path):
    windows = noise(300, L, V)
    encoder = Encoder.from_pretrained(folder)
    half = torch.from_numpy(windows.astype(np.float16))
    for pool in ("mean", "cls"):
        found = EncoderTransformer(folder, pool=pool).fit_transform(windows)
        with torch.no_grad():
            expected = encoder.embed(half, torch.full((300,), 2.0), pool=pool)
        assert found.dtype == np.float32 and found.shape == (300, 32)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
    # Positions are in seconds; windows of another length are read as well.
    assert not np.allclose(
        EncoderTransformer(folder, t_r=1.0, pool="cls").transform(windows), found, atol=1e-3
    )
    assert EncoderTransformer(folder).transform(noise(2, 9, V)).shape == (2, 32)


def test_raw_runs_give_what_the_corpus_gives(folder: Path, tmp_path: Path):
    spec = {"subjects": 1, "runs": 1, "n_volumes": 43}
    corpus = write_corpus(tmp_path / "corpus", datasets={"toy": spec})
    stored = corpus.bold(0)
    raw = stored.astype(np.float64) * np.linspace(0.5, 40, V) + np.linspace(100, 900, V)
    embed = EncoderTransformer(folder, stride=3)
    found = embed.transform(raw)
    starts = range(0, 43 - L + 1, 3)
    cut = np.stack([stored[start : start + L] for start in starts])
    assert found.shape == (len(starts), 32)
    np.testing.assert_allclose(found, embed.transform(cut), atol=0.02)
    # A list of runs: a row each, the mean over its windows. A flat feature is 0, not NaN.
    flat = np.c_[raw[:, :-1], np.full(43, 7.0)]
    rows = embed.transform([raw, flat[:20]])
    np.testing.assert_allclose(rows[0], found.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert rows.shape == (2, 32) and np.isfinite(rows).all()
    standard = (raw - raw.mean(0)) / raw.std(0, ddof=1)
    kept = EncoderTransformer(folder, stride=3, standardize=False).transform(standard)
    np.testing.assert_allclose(kept, found, atol=0.02)


def test_images_go_through_a_masker_or_the_atlas_of_the_space(tmp_path: Path):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    labels = np.zeros((6, 6, 6), np.int16)
    for label in range(1, V + 1):
        labels.flat[8 * label : 8 * label + 5] = label
    atlas = tmp_path / "atlas.nii.gz"
    nib.Nifti1Image(labels, affine).to_filename(atlas)
    image = nib.Nifti1Image(noise(6, 6, 6, 30).astype(np.float32) + 50, affine)
    image.to_filename(tmp_path / "bold.nii.gz")
    space = load_features(FeatureConfig(name="toy", labels_img=str(atlas))).space
    folder = save(tmp_path / "encoder", feature_spaces={"toy": space.to_dict()})
    masker = NiftiLabelsMasker(str(atlas))
    expected = EncoderTransformer(folder).transform(masker.fit_transform(image))
    assert expected.shape == (6, 32)
    for given in (masker, NiftiLabelsMasker(str(atlas)), atlas):
        embed = EncoderTransformer(folder, masker=given).fit()
        for run in (image, tmp_path / "bold.nii.gz"):
            np.testing.assert_allclose(embed.transform(run), expected, atol=1e-3)
        assert embed.transform([image, image]).shape == (2, 32)
    # Another atlas of as many parcels is not this one; a masker of another V is told so.
    nib.Nifti1Image(labels[::-1].copy(), affine).to_filename(tmp_path / "other.nii.gz")
    with pytest.raises(ValueError, match=r"other\.nii\.gz: its 12 parcels are not the 12 of .* 'toy'"):
        EncoderTransformer(folder, masker=tmp_path / "other.nii.gz").fit()
    brain = NiftiMasker(nib.Nifti1Image((labels > 0).astype(np.int8), affine))
    with pytest.raises(ValueError, match="X has 60 features, but EncoderTransformer is expecting 12"):
        EncoderTransformer(folder, masker=brain).fit().transform(image)


def test_what_does_not_suit_is_refused_by_name(folder: Path, tmp_path: Path):
    embed = EncoderTransformer(folder).fit()
    for wrong, said in (
        (noise(3, L, V + 1), f"X has 13 features, but EncoderTransformer is expecting {V} features"),
        (noise(4, V), "a run has 4 volumes, fewer than a window of 5"),
        (noise(V), r"shape \(12,\): give windows"),
        ("bold.nii.gz", "give images a masker"),
        (np.full((1, L, V), np.nan), "NaN, infinity"),
        (np.full((1, L, V), 1e6), "not standardised"),
    ):
        with pytest.raises(ValueError, match=said):
            embed.transform(wrong)
    with pytest.raises(ValueError, match="windows have 6 volumes, but length is 5"):
        EncoderTransformer(folder, length=5).transform(noise(2, 6, V))
    learned = save(tmp_path / "paper", preset="paper")
    assert EncoderTransformer(learned).transform(noise(2, L, V)).shape == (2, 16)
    with pytest.raises(ValueError, match="6 volumes, but the encoder has learned positions for 5"):
        EncoderTransformer(learned).transform(noise(2, 6, V))
    several = save(tmp_path / "several", {"toy": V, "atlas": 7}, t_r=[1.5, 2.0])
    with pytest.raises(ValueError, match=r"name one of them: \['atlas', 'toy'\]"):
        EncoderTransformer(several, t_r=2.0).fit()
    with pytest.raises(ValueError, match="give t_r"):
        EncoderTransformer(several, space="toy").fit()
    assert EncoderTransformer(several, t_r=2.0, space="atlas").transform(noise(2, L, 7)).shape == (2, 32)
    pooled = save(tmp_path / "pooled", config={"data": {"standardize": "subject"}})
    with pytest.raises(ValueError, match="all runs of a subject"):
        EncoderTransformer(pooled).transform(noise(20, V))
    with pytest.raises(ValueError, match="pool is 'max'"):
        EncoderTransformer(folder, pool="max").fit()


def test_it_keeps_to_the_ways_of_scikit_learn(folder: Path):
    embed = EncoderTransformer(str(folder), length=L, pool="cls")
    copy = clone(embed)
    assert copy.get_params() == embed.get_params() and copy is not embed
    given = EncoderTransformer(Encoder.from_pretrained(folder))
    assert clone(given).fit_transform(noise(3, L, V)).shape == (3, 32)
    names = embed.fit().get_feature_names_out()
    assert len(names) == 32 and names[0] == "encodertransformer0"
    frame = embed.set_output(transform="pandas").transform(noise(3, L, V))
    assert isinstance(frame, pd.DataFrame) and list(frame.columns) == list(names)
    # Scikit-learn's own checks, but for those that hand over tables with another number of columns.
    kept, refused = [], []
    for estimator, check in estimator_checks_generator(EncoderTransformer(str(folder))):
        try:
            check(estimator)
            kept.append(check.func.__name__)
        except ValueError as error:
            assert "features as input" in str(error), check
            refused.append(check)
        except SkipTest:
            pass
    assert len(kept) >= 20 and len(refused) <= 15


@pytest.mark.realdata
def test_the_example_of_the_readme_runs(data_root: Path, tmp_path: Path):
    root = data_root / "haxby2001_pymvpa"
    masker = NiftiMasker(
        root / "mask.nii.gz", standardize="zscore_sample", detrend=True, high_pass=0.008, t_r=2.5
    )
    windows, labels, groups = [], [], []
    for number, run in enumerate(sorted(root.glob("haxby2001_openfmri/sub001/BOLD/*"))):
        volumes = masker.fit_transform(run / "bold_1slice.nii.gz")
        for event in pd.read_table(run / "bold_events.tsv").itertuples():
            start = int(np.ceil(event.onset / 2.5 + 1))
            windows.append(volumes[start : start + 9])
            labels.append(event.trial_type)
            groups.append(number)
    space = {"haxby_slice_530": 530}
    save(tmp_path / "encoder", space, length=9, t_r=[2.5, 2.5])

    model = make_pipeline(EncoderTransformer(tmp_path / "encoder"), LogisticRegression(max_iter=1000))
    accuracy = cross_val_score(model, np.stack(windows), labels, groups=groups, cv=GroupKFold(4))
    assert len(windows) == 96 and accuracy.mean() > 2 / 8
