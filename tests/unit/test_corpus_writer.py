"""`CorpusWriter`: what people write from code is a sound corpus, and what is wrong is refused in one line."""

import io
import subprocess
import sys

import numpy as np
import pytest
from webdataset import TarWriter

from fmriscale import CorpusWriter, FeatureSpace, cli
from fmriscale.common.errors import UserError
from fmriscale.config import SplitConfig
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.writer import EncodedRun, ShardWriter

T, V = 30, 3
REGIONS = FeatureSpace("three", V, labels=("a", "b", "c"), coordinates=((0, 0, 0), (1, 0, 0), (2, 0, 0)))


def signals(seed: int = 0) -> np.ndarray:
    return 500 + 20 * np.random.default_rng(seed).normal(size=(T, V))


def test_what_is_written_is_read_and_verified(tmp_path, capsys):
    bold, mask = signals(), np.arange(T) != 4
    bold[4] = np.nan  # not kept
    split = SplitConfig(val=0.5, test=0.0, group="family")
    with CorpusWriter(tmp_path / "c", split=split) as corpus:
        corpus.describe("mine", licence="CC0", weight=2.0, people="lab")
        key = corpus.add(
            bold,
            1.5,
            "sub-01",
            dataset="mine",
            task="rest",
            run="2",
            space=REGIONS,
            sample_mask=mask,
            events=[{"onset": np.float32(3), "trial_type": "face", "score": np.nan}],
            participant={"age": np.int64(31), "family": "f1"},
            quality={"mean_fd": 0.1},
        )
        broken = signals(1)
        broken[:, 1] = np.nan
        corpus.add(broken, 1.5, "02", dataset="mine", space=REGIONS, missing_features=[1])
        corpus.leave_out("mine", "sub-03", "motion", "moved\ttoo much")
    assert not list(tmp_path.glob(".*"))
    assert key == "mine_sub-01_task-rest_run-2"
    opened = Corpus.open(tmp_path / "c")
    row, record = opened.runs.set_index("key").loc[key], opened.record(0)
    assert (row.person, row.group, row.segments, row.n_censored) == ("lab/01", "lab/f1", "0:4,5:30", 1)
    z = opened.bold(0)
    assert (z[4] == 0).all() and np.allclose(z[mask].astype(float).std(axis=0, ddof=1), 1, atol=1e-3)
    mean, std = opened.mean_std(0)
    np.testing.assert_allclose((z * std + mean)[mask], bold[mask], atol=0.1)
    assert record["events"] == [{"onset": 3.0, "duration": 0.0, "trial_type": "face", "score": None}]
    assert record["participant"] == {"age": 31, "family": "f1"}
    assert (opened.bold(1)[:, 1] == 0).all() and opened.record(1)["quality"]["missing_features"] == [1]
    assert opened.spaces["three"].labels == ("a", "b", "c")
    told = opened.manifest["datasets"]["mine"]
    assert (told["licence"], told["n_runs"], told["t_r"], told["people"]) == ("CC0", 2, [1.5], "lab")
    assert opened.manifest["totals"]["n_quarantined"] == 1
    assert cli.run(["verify", str(tmp_path / "c"), "--jobs", "1"]) == 0
    capsys.readouterr()


def test_given_signals_stay_and_shards_are_cut_by_size(tmp_path):
    z = np.random.default_rng(0).normal(size=(1000, 100)).astype(np.float16)
    with CorpusWriter(tmp_path / "c", shard_mb=1) as corpus:
        for subject in "abcdefgh":
            corpus.add(z, 2.0, subject, dataset="mine", mean=np.ones(100), std=np.ones(100))
    opened = Corpus.open(tmp_path / "c")
    assert [shard["n_runs"] for shard in opened.manifest["shards"]] == [5, 3]
    np.testing.assert_array_equal(opened.bold(7), z)


BAD = {
    "nan": (dict(bold=np.where(signals() > 540, np.nan, signals())), "not finite, first at volume"),
    "constant": (dict(bold=np.c_[signals()[:, :2], np.full(T, 7)]), "1 of 3 features are constant, e.g. 2"),
    "width": (dict(bold=signals()[:, :2]), "2 columns, but feature space 'three' has 3"),
    "text": (dict(bold=np.array([["a"]])), "give real numbers"),
    "flat": (dict(bold=np.arange(9)), r"of shape \[9\]"),
    "milliseconds": (dict(t_r=2000), "t_r of 2000 s is implausible"),
    "taken": (dict(subject="01"), "is added already"),
    "label": (dict(subject="a_b"), "give letters and digits alone"),
    "nobody": (dict(subject=""), "subject is empty"),
    "set": (dict(dataset="My data"), "give lower-case letters"),
    "other space": (dict(space=FeatureSpace("three", V)), "was described otherwise before"),
    "second space": (dict(space=FeatureSpace("more", V)), "is in feature space 'three', this run in 'more'"),
    "names": (dict(dataset="b", space=FeatureSpace("x", V, ("a",))), "1 labels for 3 features"),
    "mask": (dict(sample_mask=[3, 2]), "ascending numbers from 0 to 29"),
    "mask beyond": (dict(sample_mask=[3, 30]), "ascending numbers from 0 to 29"),
    "one volume": (dict(sample_mask=[3]), "1 kept volumes"),
    "onset": (dict(events=[{"onset": 4000, "duration": 1}]), "onset is 4000 s, but the run is 60 s long"),
    "duration": (dict(events=[{"onset": 1, "duration": -1}]), "duration is -1 s"),
    "no onset": (dict(events=[{"duration": 1}]), "onset is 'missing'; give a number"),
    "object": (dict(participant={"age": object()}), "participant: age is a object"),
    "half": (dict(mean=np.ones(V)), "mean and std come together"),
    "std": (dict(mean=np.ones(V), std=-np.ones(V)), "std of shape"),
    "not standardised": (dict(bold=1e3 * signals(), mean=np.ones(V), std=np.ones(V)), "do not fit float16"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_is_refused_and_nothing_is_added(tmp_path, kind):
    changes, words = BAD[kind]
    good = dict(bold=signals(), t_r=2.0, subject="02", dataset="mine", space=REGIONS)
    with CorpusWriter(tmp_path / "c") as corpus:
        corpus.add(**(good | {"subject": "01"}))
        with pytest.raises(UserError, match=words):
            corpus.add(**(good | changes))
        corpus.add(**good)
    assert list(Corpus.open(tmp_path / "c").runs.subject) == ["01", "02"]


def test_a_block_that_raises_leaves_nothing_and_a_corpus_is_not_overwritten(tmp_path):
    with pytest.raises(KeyboardInterrupt), CorpusWriter(tmp_path / "c") as corpus:
        corpus.add(signals(), 2.0, "01", dataset="mine")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no run was added"), CorpusWriter(tmp_path / "c"):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "c").mkdir()
    with CorpusWriter(tmp_path / "c") as corpus:
        corpus.add(signals(), 2.0, "01", dataset="mine")
    with pytest.raises(UserError, match="holds something"), CorpusWriter(tmp_path / "c"):
        pass
    with pytest.raises(UserError, match="used in a with block"):
        corpus.add(signals(), 2.0, "02", dataset="mine")


def test_shards_are_those_of_webdataset_s_writer(tmp_path):
    members = {"bold.npy": bytes(700), "json": b"{}", "mean.npy": b"m" * 512, "std.npy": b""}
    keys = ["a_sub-1", "a_sub-" + "2" * 80]
    with ShardWriter(tmp_path / "a.tar", "a/a.tar") as writer:
        for key in keys:
            writer.add(EncodedRun(key, {}, members))
        writer.commit()
    reference = io.BytesIO()
    tar = TarWriter(reference, encoder=False, mtime=0, user="fmriscale", group="fmriscale", mode=0o444)
    for key in keys:
        tar.write({"__key__": key, **members})
    tar.close()
    assert (tmp_path / "a.tar").read_bytes() == reference.getvalue()
    assert EncodedRun("a_sub-1", {}, members).size == 1536 + 1024 + 1024 + 512


def test_writing_a_corpus_brings_neither_torch_nor_neuroimaging(tmp_path):
    code = (
        "import sys, numpy; from fmriscale import CorpusWriter\n"
        f"with CorpusWriter({str(tmp_path / 'c')!r}) as corpus:\n"
        "    corpus.add(numpy.random.default_rng(0).normal(size=(20, 3)), 2.0, '1', dataset='a')\n"
        "print(sorted({'torch', 'webdataset', 'nibabel', 'nilearn', 'scipy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
