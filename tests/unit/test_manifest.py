"""The manifest: splits that never move, segments, feature spaces, and a corpus that reads back."""

import json
import tarfile

import numpy as np
import pytest
import webdataset
from factory import write_corpus
from hypothesis import given
from hypothesis import strategies as st

from fmriscale.common.errors import DamageError, UserError
from fmriscale.config import SplitConfig
from fmriscale.corpus.manifest import FeatureSpace, parse_segments, segments_of, split_of
from fmriscale.corpus.reader import Corpus


def test_split_depends_on_the_person_alone_and_has_the_shares():
    split = SplitConfig(val=0.2, test=0.1)
    people = [f"abide/{i}" for i in range(5000)]
    drawn = {person: split_of(person, split) for person in people}
    counts = {s: sum(v == s for v in drawn.values()) / 5000 for s in ("train", "val", "test")}
    assert counts["val"] == pytest.approx(0.2, abs=0.02)
    assert counts["test"] == pytest.approx(0.1, abs=0.02)
    larger = SplitConfig(val=0.3, test=0.1)  # a larger val takes people from train, never from test
    assert all((drawn[p] == "test") == (split_of(p, larger) == "test") for p in people)
    other = SplitConfig(val=0.2, test=0.1, salt="another")
    assert any(drawn[p] != split_of(p, other) for p in people)


@given(st.sets(st.integers(0, 60)))
def test_segments_are_the_stretches_of_the_mask(kept):
    text = segments_of(sorted(kept), 61)
    covered = [i for start, stop in parse_segments(text) for i in range(start, stop)]
    assert covered == sorted(kept)
    stops = [b for _, b in parse_segments(text)]
    starts = [a for a, _ in parse_segments(text)]
    assert all(b < a for b, a in zip(stops, starts[1:], strict=False))  # never two that touch


def test_no_mask_is_one_segment():
    assert segments_of(None, 233) == "0:233"


def test_space_hash_knows_columns_not_names():
    a = FeatureSpace("a", 2, ("L", "R"), ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0)))
    same = FeatureSpace("b", 2, ("L", "R"), ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0)))
    swapped = FeatureSpace("a", 2, ("R", "L"), a.coordinates)
    assert a.sha256 == same.sha256 != swapped.sha256
    assert FeatureSpace.from_dict("a", json.loads(json.dumps(a.to_dict()))) == a


def test_fingerprint_follows_content(tmp_path):
    first = write_corpus(tmp_path / "a", seed=1)
    again = write_corpus(tmp_path / "b", seed=1)
    other = write_corpus(tmp_path / "c", seed=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_tars_are_plain_webdataset(tmp_path):
    corpus = write_corpus(tmp_path)
    shard = tmp_path / corpus.runs.shard[0]
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert [s["__key__"] for s in samples] == corpus.runs.key[corpus.runs.dataset == "alpha"].tolist()
    for i, sample in enumerate(samples):
        assert np.array_equal(sample["bold.npy"], corpus.bold(i))
        assert sample["json"] == corpus.record(i)


def test_what_is_no_corpus_is_said_plainly(tmp_path):
    write_corpus(tmp_path)
    manifest = json.loads((tmp_path / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(UserError, match="format 99, this version reads 1"):
        Corpus.open(tmp_path)
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(DamageError, match="not readable as JSON"):
        Corpus.open(tmp_path)
    (tmp_path / "corpus.json").write_text(json.dumps(manifest))
    (tmp_path / "runs.tsv").write_text("key\tdataset\nx\ty\n")
    with pytest.raises(DamageError, match=r"runs\.tsv.*rebuild"):
        Corpus.open(tmp_path)
    (tmp_path / "corpus.json").write_text("[]")
    with pytest.raises(UserError, match="format None"):
        Corpus.open(tmp_path)


@pytest.mark.parametrize("member", ["json", "mean.npy", "std.npy"])
def test_a_flipped_byte_beside_the_signals_is_damage(tmp_path, member):
    corpus = write_corpus(tmp_path)
    shard = tmp_path / corpus.runs["shard"].iloc[0]
    with tarfile.open(shard) as tar:
        place = tar.getmember(f"{corpus.runs.key.iloc[0]}.{member}")
    damaged = bytearray(shard.read_bytes())
    damaged[place.offset_data + place.size - 3] ^= 1  # a digit, or a low bit of the last number
    shard.write_bytes(bytes(damaged))
    for read in (corpus.record, corpus.mean_std):
        with pytest.raises(DamageError, match=rf"{corpus.runs.key.iloc[0]}.*another hash.*--repair"):
            read(0)
    assert corpus.record(1)
