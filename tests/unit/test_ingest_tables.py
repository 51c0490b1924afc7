"""Text tables of signals: what is a name, an index or a number, and what cannot be told."""

import numpy as np
import pandas as pd
import pytest
from scans import corpus, dataset

from fmriscale.common.quarantine import Rejected
from fmriscale.config import FeatureConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.ingest.read.arrays import read_array
from fmriscale.ingest.read.tables import TableOptions

X = np.random.default_rng(0).normal(1000, 20, (40, 6))
WHOLE = np.rint(X).astype(int)
LABELS = [2001, 2002, 2101, 2102, 2111, 2112]
WORDS = list("abcdef")


def table(columns=None, index=None, values=X, **options):
    """Text as pandas writes it; no index and no header unless given."""
    frame = pd.DataFrame(values, columns=columns, index=index)
    return frame.to_csv(**({"index": index is not None, "header": columns is not None} | options))


def ended(text, end):
    """Put something at the end of every line."""
    return text.replace("\n", f"{end}\n")


def read(tmp_path, text, name="x.csv", n_features=6, **options):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_array(tmp_path / name, options=TableOptions(n_features, **options))


SECONDS = np.arange(40) * 0.72
SCRUBBED = np.delete(np.arange(45), [3, 4, 9, 20, 30])

READS = {
    "atlas labels": (table(LABELS), "x.csv"),
    "tens": (table(range(10, 70, 10)), "x.csv"),
    "left and right in turn": (table([10, 49, 11, 50, 12, 51]), "x.csv"),
    "labels as floats": (table([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]), "x.csv"),
    "labels and words": (table(["roi", 2, 3, 4, 5, 6]), "x.csv"),
    "0 to V-1": (table(range(6)), "x.csv"),
    "1 to V": (table(range(1, 7)), "x.csv"),
    "labels, tabs": (table(LABELS, sep="\t"), "x.tsv"),
    "labels, blanks": (table(LABELS, sep=" "), "x.txt"),
    "names with a hash": ("Region #1,Region #2,c,d,e,f\n" + table(), "x.csv"),
    "index and labels": (table(LABELS, range(40)), "x.csv"),
    "index from 1": (table(LABELS, range(1, 41)), "x.csv"),
    "index and 0 to V-1": (table(range(6), range(40)), "x.csv"),
    "index alone": (table(None, range(40)), "x.csv"),
    "Unnamed: 0": (table(WORDS, range(40), index_label="Unnamed: 0"), "x.csv"),
    "seconds": (table(WORDS, SECONDS, index_label="time"), "x.csv"),
    "seconds, unnamed": (table(WORDS, SECONDS), "x.csv"),
    "seconds, no header": (table(None, SECONDS), "x.csv"),
    "frames that are left": (table(WORDS, SCRUBBED, index_label="frame"), "x.csv"),
    "words as index": (table(LABELS, [f"vol{i}" for i in range(40)]), "x.csv"),
    "as R writes": (table(LABELS, range(1, 41), index_label=False), "x.csv"),
    "as R writes, quoted": (table(WORDS, range(1, 41), index_label=False, sep=" ", quoting=2), "x.txt"),
    "decimal commas": (table(LABELS, sep=";", decimal=","), "x.csv"),
    "decimal commas and index": (table(LABELS, range(40), sep=";", decimal=","), "x.csv"),
    "decimal commas, tabs": (table(WORDS, sep="\t", decimal=","), "x.tsv"),
    "decimal commas, blanks": (table(sep=" ", decimal=","), "x.txt"),
    "sep=": ("sep=;\r\n" + ended(table(LABELS, sep=";", decimal=","), "\r"), "x.csv"),
    "byte order mark": (b"\xef\xbb\xbf" + ended(table(LABELS), "\r").encode(), "x.csv"),
    "byte order mark, no header": (b"\xef\xbb\xbf" + table().encode(), "x.csv"),
    "UTF-16": (table(WORDS, sep="\t").encode("utf-16"), "x.txt"),
    "quotes": (table(LABELS, quoting=1), "x.csv"),
    "trailing commas": (ended(table(LABELS), ","), "x.csv"),
    "trailing commas but for the header": (ended(table(LABELS), ",").replace(",\n", "\n", 1), "x.csv"),
    "trailing tabs": (ended(table(sep="\t"), "\t"), "x.tsv"),
    "leading tabs": ("\t" + ended(table(sep="\t").rstrip("\n"), "").replace("\n", "\n\t"), "x.tsv"),
    "index and trailing commas": (ended(table(LABELS, range(40)), ","), "x.csv"),
    "commas in .tsv": (table(LABELS), "x.tsv"),
    "tabs in .csv": (table(LABELS, sep="\t"), "x.csv"),
    "blanks in .csv": (table(LABELS, sep=" "), "x.csv"),
    "tabs and blanks": (table(sep=" ").replace(" ", "\t", 1), "x.tsv"),
    "commas and blanks": (table(LABELS).replace(",", ", "), "x.csv"),
}


@pytest.mark.parametrize("case", READS)
def test_names_and_index_are_no_signals(tmp_path, case):
    text, name = READS[case]
    np.testing.assert_array_equal(read(tmp_path, text, name), X)


@pytest.mark.parametrize(
    "text",
    [
        table(None, LABELS, values=X.T),
        table(range(40), LABELS, values=X.T),
        table(range(40), values=X.T),
        table(SECONDS, WORDS, values=X.T),
        table(None, WORDS, values=X.T),
        ended(table(values=X.T), ","),
    ],
    ids=["labels", "labels and volumes", "volumes", "names and seconds", "names", "trailing commas"],
)
def test_features_may_come_first(tmp_path, text):
    np.testing.assert_array_equal(read(tmp_path, text, orientation="VT"), X)


def test_whole_numbers_are_labels_only_where_that_is_sure(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, table(values=WHOLE)), WHOLE)
    np.testing.assert_array_equal(read(tmp_path, table(range(6), values=WHOLE)), WHOLE)
    many = np.rint(np.random.default_rng(1).normal(1000, 20, (40, 60))).astype(int)
    for names in (None, range(980, 1040)):
        np.testing.assert_array_equal(read(tmp_path, table(names, values=many), n_features=60), many)
    with pytest.raises(Rejected, match=r"2001, 2002, 2101, .*column names .* or a volume; set header: true"):
        read(tmp_path, table(LABELS, values=WHOLE))
    np.testing.assert_array_equal(read(tmp_path, table(LABELS, values=WHOLE), header=True), WHOLE)
    np.testing.assert_array_equal(
        read(tmp_path, table(LABELS, values=WHOLE), header=False), np.vstack([LABELS, WHOLE])
    )


REFUSED = {
    "a count where a feature should be": (
        table(values=np.c_[np.arange(40), X[:, 1:]]),
        6,
        "index_column: tr",
    ),
    "seconds where a feature should be": (table(values=np.c_[SECONDS, X[:, 1:]]), 6, "index_column: false"),
    "columns count the index": (table(WORDS, range(40)), 7, "index_column: true and features.columns: 6"),
    "two lines of names": ("a,b,c,d,e,f\n" + table(LABELS), 6, "delete one of the two lines"),
    "one feature under a 0": (table([0], values=X[:, :1]), 1, "header: true"),
    "a word among numbers": (table().replace(",", ",x,", 1), 6, "line 1 holds both 'x' and"),
    "a comma of either kind": ("1,5\n2,5\n3,7\n4,1\n", 1, "decimal comma"),
    "commas between thousands": (("\t".join(["1,002.5"] * 6) + "\n") * 9, 6, "1,002.5"),
    "names alone": ("a,b\n", 2, "unreadable"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_with_both(tmp_path, case):
    text, n_features, words = REFUSED[case]
    with pytest.raises(Rejected, match=words):
        read(tmp_path, text, n_features=n_features)


def test_an_index_column_may_be_declared_to_be_a_signal(tmp_path):
    text = table(values=np.c_[SECONDS, X[:, 1:]])
    assert read(tmp_path, text, index_column=False).shape == (40, 6)
    np.testing.assert_array_equal(read(tmp_path, text, n_features=5, index_column=True), X[:, 1:])
    assert read(tmp_path, table(values=np.c_[X[:, :1], X])).shape == (40, 7), "no index: left to the count"


def test_one_feature(tmp_path):
    one = X[:, :1]
    for text in (table(["seed"], values=one), table(["seed"], range(40), values=one), table(values=one)):
        np.testing.assert_array_equal(read(tmp_path, text, n_features=1), one)
    np.testing.assert_array_equal(read(tmp_path, table(values=one, decimal=","), "x.txt", 1), one)


def test_settings_of_the_recipe_reach_the_table(tmp_path):
    (tmp_path / "sub-01_ts.csv").write_text(table(LABELS, values=WHOLE))
    given = {"kind": "arrays", "files": "*.csv", "t_r": 2.0, "features": FeatureConfig(name="six", columns=6)}
    _, quarantine = build(corpus(tmp_path / "a", dataset(tmp_path, **given)))
    assert quarantine.reason.tolist() == ["unreadable"]
    build(corpus(tmp_path / "b", dataset(tmp_path, **given, header=True)))
    assert Corpus.open(tmp_path / "b").runs.n_volumes.tolist() == [40]
