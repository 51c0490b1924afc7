"""Names and contents that no table could hold: quarantine.tsv and runs.tsv stay one line a run."""

import os

import numpy as np
import pandas as pd
import pytest
from scans import corpus, dataset

from fmriscale.common.files import printable
from fmriscale.common.quarantine import Rejection
from fmriscale.config import FeatureConfig
from fmriscale.ingest.build import build

ODD = {
    b"a\tb": "a\\tb",
    b"a\nb": "a\\nb",
    b"a\r\nb": "a\\r\\nb",
    b"a\x1b[31mb": "a\\x1b[31mb",
    b"a\x7fb": "a\\x7fb",
    "a\u2028b".encode(): "a\\u2028b",
    "a\u202eb".encode(): "a\\u202eb",  # turns the direction of writing round
    b"S\xe9ance": "S\\xe9ance",  # Latin-1: no UTF-8
    "Séance 1, côté 脳".encode(): "Séance 1, côté 脳",
}


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_printed_is_escaped(name):
    assert printable(os.fsdecode(name)) == ODD[name]


def test_tables_hold_one_line_a_run_whatever_files_are_called(tmp_path):
    rng = np.random.default_rng(0)
    for number, name in enumerate(ODD):
        folder = tmp_path / "in" / os.fsdecode(name)
        folder.mkdir(parents=True)
        np.save(folder / f"sub-{number}_bold.npy", rng.normal(size=(40, 3)))
        (folder / f"sub-{number}{number}_bold.npy").write_bytes(b"an\x1b[1m error\tof\r\nthe server")
    columns = FeatureConfig(name="f", columns=3)
    study = dataset(
        tmp_path / "in", kind="arrays", files="**/*.npy", t_r=2.0, features=columns,
        name_pattern=r"sub-(?P<subject>\d+)",
    )  # fmt: skip
    _, quarantine = build(corpus(tmp_path / "out", study))
    for table, expected in (("runs.tsv", len(ODD)), ("quarantine.tsv", len(ODD))):
        text = (tmp_path / "out" / table).read_bytes().decode()
        lines = text.removesuffix("\n").split("\n")
        assert len(lines) == 1 + expected and '"' not in text
        assert len({line.count("\t") for line in lines}) == 1
        assert all(character.isprintable() or character in "\t\n" for character in text)
        sources = pd.read_csv(tmp_path / "out" / table, sep="\t").source
        assert sorted(source.partition("/")[0] for source in sources) == sorted(ODD.values())
    assert (quarantine.reason == "unreadable").all()


def test_a_rejection_is_one_line():
    line = Rejection("toy", "a\nb", "failed", "x\x00y \x1b\n z")
    assert (line.source, line.detail) == ("a\\nb", "x\\x00y \\x1b z")
