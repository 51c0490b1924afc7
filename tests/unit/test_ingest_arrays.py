import gzip

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from scans import corpus, dataset

from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.read.arrays import read_array
from fmriscale.ingest.read.tables import TableOptions

VALUES = np.random.default_rng(0).normal(100, 5, (12, 4))


def as_text(values=VALUES, separator="\t", header=None):
    lines = [separator.join(f"{v!r}" for v in row) for row in values.tolist()]
    return "\n".join(([header] if header else []) + lines) + "\n"


@pytest.mark.parametrize(
    "name, text",
    [
        ("plain.tsv", as_text()),
        ("named.tsv", as_text(header="V 1\tV 2\tSTG\tn")),
        ("counted.tsv", as_text(header="0\t1\t2\t3")),
        ("named.csv", as_text(separator=",", header='"a","b","c","d"')),
        ("spaces.txt", as_text(separator="   ").replace("\n", "  \n   ")),
        ("comma.txt", as_text(separator=", ")),
        ("comment.1D", "# ni_type = 4*float\n\n" + as_text(separator=" ")),
        ("hash.1D", as_text(header="#1\t#2\t#3\t#4")),
        ("windows.csv", as_text(separator=",").replace("\n", "\r\n")),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_text_tables_read_exactly(tmp_path, name, text, packed):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    np.testing.assert_array_equal(read_array(path), VALUES)


def test_a_missing_value_is_nan_and_a_word_is_damage(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("n/a\t1\nn/a\t2\n")
    np.testing.assert_array_equal(read_array(path), [[np.nan, 1], [np.nan, 2]])
    for text in ("a\tb\n1\tx\n", "1\t2\n1\t2\t3\n", ""):
        path.write_text(text)
        with pytest.raises(Rejected, match="unreadable"):
            read_array(path)
    packed = tmp_path / "x.tsv.gz"
    packed.write_bytes(gzip.compress(as_text().encode())[:-20])
    with pytest.raises(Rejected, match="unreadable"):
        read_array(packed)


@pytest.mark.parametrize("version", ["4", "5"])
def test_matlab_files(tmp_path, version):
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"roi": VALUES, "TR": 2.0, "name": "rest"}, format=version)
    np.testing.assert_array_equal(read_array(path), VALUES)
    np.testing.assert_array_equal(read_array(path, "roi", TableOptions(orientation="VT")), VALUES.T)
    with pytest.raises(Rejected, match=r"no_variable.*'ts'; it holds .*roi \(double\)"):
        read_array(path, variable="ts")


def test_matlab_cells_structs_and_several_matrices(tmp_path):
    path = tmp_path / "x.mat"
    cell = np.empty((1, 2), object)
    cell[0, 0], cell[0, 1] = VALUES, VALUES
    scipy.io.savemat(path, {"runs": cell, "all": {"roi": VALUES}, "a": VALUES, "b": VALUES})
    with pytest.raises(Rejected, match=r"no_variable.*several matrices .*set variable"):
        read_array(path)
    for name, kind in (("runs", "cell"), ("all", "struct")):
        with pytest.raises(Rejected, match=f"'{name}' is of class {kind}, not a matrix of numbers"):
            read_array(path, variable=name)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(Rejected, match="unreadable"):
        read_array(path, variable="b")


def test_matlab_7_3_counts_as_matlab_shows_it(tmp_path):
    path = tmp_path / "x.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["roi"] = VALUES.T  # MATLAB writes columns first
        file["roi"].attrs["MATLAB_class"] = np.bytes_("double")
        file["label"] = np.frombuffer("rest".encode("utf-16le"), np.uint16)[None]
        file["label"].attrs["MATLAB_class"] = np.bytes_("char")
        file["cells"] = np.array([[file["roi"].ref]], dtype=h5py.ref_dtype)
        file["cells"].attrs["MATLAB_class"] = np.bytes_("cell")
    np.testing.assert_array_equal(read_array(path), VALUES)
    with pytest.raises(Rejected, match="'cells' is of class cell"):
        read_array(path, variable="cells")


def test_hdf5_files(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["rest/bold"] = VALUES.astype(np.float32)
        file["rest/time"] = np.arange(12.0)
    wanted = VALUES.astype(np.float32)
    np.testing.assert_array_equal(read_array(path), wanted)
    np.testing.assert_array_equal(read_array(path, variable="/rest/bold"), wanted)
    with pytest.raises(Rejected, match=r"'rest' is of class group"):
        read_array(path, variable="rest")
    with pytest.raises(Rejected, match=r"shape \(12,\) is not \[volumes, features\]"):
        read_array(path, variable="rest/time")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Rejected, match="unreadable"):
        read_array(path)


def test_what_is_no_real_number_is_refused(tmp_path):
    np.save(tmp_path / "c.npy", VALUES.astype(complex))
    with pytest.raises(Rejected, match="complex128, not real numbers"):
        read_array(tmp_path / "c.npy")
    np.save(tmp_path / "o.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(Rejected, match="unreadable"):
        read_array(tmp_path / "o.npy")


def test_orientation_is_declared_and_never_guessed(tmp_path):
    values = np.random.default_rng(1).normal(size=(40, 40))
    for name, stored in (("square", values), ("tall", values[:, :30]), ("wide", values[:30])):
        scipy.io.savemat(tmp_path / f"sub-{name}.mat", {"roi": stored})

    def shard(orientation):
        given = dataset(
            tmp_path,
            kind="arrays",
            files="*.mat",
            t_r=2.0,
            orientation=orientation,
            features=FeatureConfig(name="forty", columns=40),
        )
        _, quarantine = build(corpus(tmp_path / orientation, given))
        return Corpus.open(tmp_path / orientation), quarantine.set_index("source").detail

    opened, details = shard("TV")
    assert opened.runs.subject.tolist() == ["square", "wide"]
    np.testing.assert_allclose(opened.mean_std(0)[0], values.mean(axis=0), atol=1e-6)
    hint = "30 features by orientation TV, 'forty' has 40; is the array transposed? set orientation: VT"
    assert details.to_dict() == {"sub-tall.mat": hint}
    opened, details = shard("VT")
    assert opened.runs.subject.tolist() == ["square", "tall"]
    np.testing.assert_allclose(opened.mean_std(0)[0], values.mean(axis=1), atol=1e-6)
    assert details.index.tolist() == ["sub-wide.mat"] and "set orientation: TV" in details.iloc[0]


def test_parcels_without_a_value_are_missing_and_columns_have_names(tmp_path):
    table = pd.DataFrame(np.random.default_rng(2).normal(size=(40, 6)), columns=list("abcdef"))
    table["c"] = np.nan
    table.to_csv(tmp_path / "sub-01_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    features = FeatureConfig(name="six", columns=6, labels=list("abcdef"))
    build(
        corpus(tmp_path / "out", dataset(tmp_path, kind="arrays", files="*.tsv", t_r=2.0, features=features))
    )
    opened = Corpus.open(tmp_path / "out")
    assert opened.record(0)["quality"]["missing_features"] == [2]
    assert opened.spaces["six"].labels == tuple("abcdef")
