"""Large arrays go through compiled loops: what comes out does not tell."""

import dataclasses

import numpy as np
import pytest
from scipy.signal import detrend as scipy_detrend

from fmriscale.config import DatasetConfig, DenoiseConfig, FeatureConfig
from fmriscale.corpus.writer import EncodedRun
from fmriscale.ingest.clean import columns, quality
from fmriscale.ingest.clean import denoise as clean
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.read import arrays
from fmriscale.ingest.run import process_run

RNG = np.random.default_rng(0)
VALUES = (1000 + RNG.normal(size=(40, 150)) * RNG.uniform(0.1, 50, 150)).astype(np.float32)
VALUES[:, 3], VALUES[:, 5], VALUES[:, 7] = 0, np.nan, 12.5


def encoded(folder, values, suffix, denoise, monkeypatch, large) -> EncodedRun:
    """Process an array with the limit of large signals below or above its size."""
    monkeypatch.setattr(arrays, "LARGE", 1 if large else 2**40)
    features = FeatureConfig(name="columns", columns=150)
    study = DatasetConfig(
        name="x", kind="arrays", root=str(folder), features=features, files=f"*{suffix}", t_r=2.0,
        orientation="VT" if values.shape[0] == 150 else "TV", denoise=denoise,
    )  # fmt: skip
    study = dataclasses.replace(study, quality=dataclasses.replace(study.quality, min_volumes=10))
    np.save(folder / f"sub-01{suffix}", values)
    (run,), *_ = find_runs(study)
    result = process_run(run, study)
    assert isinstance(result, EncodedRun), result
    return result


@pytest.mark.parametrize(
    "denoise",
    [
        DenoiseConfig(),
        DenoiseConfig(detrend=False),
        DenoiseConfig(high_pass=0.01, dummy_volumes=3),
        DenoiseConfig(resample_t_r=1.0),
    ],
    ids=["detrend", "as they are", "Butterworth", "resampled"],
)
@pytest.mark.parametrize(
    "values",
    [VALUES, VALUES.astype(float), VALUES.astype(">f4"), np.asfortranarray(VALUES), VALUES.T.copy()],
    ids=["float32", "float64", "other byte order", "columns first", "VT"],
)
def test_large_arrays_give_the_bytes_of_small_ones(tmp_path, values, denoise, monkeypatch):
    large, small = (encoded(tmp_path, values, ".npy", denoise, monkeypatch, size) for size in (True, False))
    assert large.row == small.row and large.members == small.members
    assert large.members["bold.npy"].count(b"\0") < len(large.members["bold.npy"]) / 5


def test_large_float32_is_not_copied(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", VALUES)
    assert arrays.read_array(tmp_path / "a.npy").dtype == np.float64
    monkeypatch.setattr(arrays, "LARGE", 1)
    assert arrays.read_array(tmp_path / "a.npy").dtype == np.float32


def test_float16_numbers_are_rounded_as_numpy_rounds_them():
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(float)
    between = (halves[1:] + halves[:-1]) / 2
    values = np.concatenate(
        [
            halves,
            between,
            np.nextafter(between, 9e9),
            np.nextafter(between, 0),
            [65519.9, 65520, 1e10, np.inf],
        ]
    )
    values = np.concatenate([values, -values, RNG.normal(size=9999)])
    bits = np.empty(values.size, np.uint16)
    columns.to_half(values, np.empty(values.size), bits)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(bits, values.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("n", [1, 2, 3, 200])
def test_detrending_is_that_of_scipy(n):
    series = 1e4 + np.linspace(0, 50, n)[:, None] + RNG.normal(size=(n, 7))
    wanted = scipy_detrend(series, axis=0) if n > 1 else np.zeros((1, 7))
    np.testing.assert_allclose(clean.detrend(series), wanted, atol=1e-8)
    columns.detrend(series)
    np.testing.assert_allclose(series, wanted, atol=1e-8)


def test_a_value_that_is_no_number_is_found_among_many(monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", 1)
    values = np.delete(VALUES, 5, axis=1)
    values[11, 100] = -np.inf
    with pytest.raises(quality.Rejected, match="1 of 40 volumes"):
        quality.drop_empty(values, np.ones(149))
