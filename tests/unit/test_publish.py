"""Weights to take home: a published folder, what its card says, and a stranger who reads it from anywhere."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from factory import write_corpus
from fakehub import hub
from web import serving

from fmriscale import Encoder, EncoderTransformer, cli
from fmriscale.common.errors import EXIT_DAMAGE, DamageError, UserError
from fmriscale.config import DataConfig, ModelConfig, PretrainConfig
from fmriscale.config.recipe import config_hash, to_dict
from fmriscale.model import remote
from fmriscale.model.classifier import build
from fmriscale.model.presets import resolve_encoder
from fmriscale.reports.licences import hub_name, licence_of
from fmriscale.training.origins import origins

V, L = 12, 5
DATASETS = {
    "open": {"subjects": 3, "licence": "CC0"},
    "closed": {"subjects": 2, "runs": 1, "t_r": 1.5, "licence": "CC BY-NC-SA 4.0"},
    "unused": {"licence": "unknown"},
}


def write_run(folder: Path, corpus, datasets=("open", "closed"), **changed) -> Path:
    """Write what a pre-training leaves: encoder/ and metrics.jsonl."""
    config = PretrainConfig(
        out=str(folder), data=DataConfig(corpus=str(corpus), holdout_runs=["open_sub-99"])
    )
    shape = resolve_encoder(ModelConfig(preset="tiny", d_model=16, n_layers=1, n_heads=2), {"toy": V}, L)
    keys = corpus.runs["key"][corpus.runs["dataset"].isin(datasets)].tolist()
    meta = {
        "feature_spaces": {"toy": corpus.spaces["toy"].to_dict()},
        "pairs": to_dict(config)["data"]["pairs"],
        "t_r": [1.5, 2.0],
        "train_runs": keys,
        "datasets": origins(corpus, keys),
        "corpus_fingerprint": corpus.fingerprint,
        "config": to_dict(config),
        "config_hash": config_hash(config),
        "step": 40,
        "fmriscale": "0",
    }
    build(shape, 3).encoder.save_pretrained(folder / "encoder", meta | changed)
    lines = [
        {"event": "eval", "step": step, "loss": 0.6, "acc": 0.5 + step / 100} for step in (0, 20, 40, 60)
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"event": "ev'
    )
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    coordinates = tuple((float(i), 0.0, -2.5) for i in range(V))
    return write_corpus(tmp_path_factory.mktemp("corpus"), datasets=DATASETS, coordinates=coordinates)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "mine", corpus)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Caches of this test alone; a server that does not answer is given up within a second."""
    monkeypatch.setenv("FMRISCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(remote, "FIRST_GIVE_UP", 0.5)
    return tmp_path / "cache"


def publish(*args: str | Path) -> Path:
    """Publish and return the folder."""
    assert cli.run(["publish", *map(str, args)]) == 0
    return Path(args[args.index("--out") + 1])


def header(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


# ---------------------------------------------------------------- what is published


def test_a_folder_holds_the_weights_what_they_mean_and_a_card(run, corpus, tmp_path, capsys):
    results = {"question": "Same site?", "verdict": {"sentence": "No: it is not.", "survives": False}}
    accuracy = {"mean": 0.6, "low": 0.55, "high": 0.65}
    results["arms"] = {"fresh": {"title": "fresh", "by_condition": {"all": {"accuracy": accuracy}}}}
    (tmp_path / "summary.json").write_text(json.dumps(results))
    connectivity = {"title": "connectivity", "auc": accuracy, "mae": accuracy | {"low": None, "high": None}}
    probe = {
        "probe": True,
        "question": "How old?",
        "figures": ["auc", "mae"],
        "verdict": {"sentence": "Open."},
    }
    (tmp_path / "probe.json").write_text(json.dumps(probe | {"methods": {"connectivity": connectivity}}))
    files = [tmp_path / "summary.json", tmp_path / "probe.json"]
    folder = publish(run, "--out", tmp_path / "out", "--results", *files)
    told = capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "cc-by-nc-sa-4.0; trained on data for non-commercial use (CC BY-NC-SA 4.0: closed)" in told
    config, card = json.loads((folder / "config.json").read_text()), (folder / "README.md").read_text()
    meta = config["meta"]
    assert meta["datasets"] == {
        "closed": {"licence": "CC BY-NC-SA 4.0", "n_people": 2, "n_runs": 2, "hours": 0.1},
        "open": {"licence": "CC0", "n_people": 3, "n_runs": 6, "hours": 0.4},
    }
    assert meta["licence"]["license"] == header(folder)["license"] == "cc-by-nc-sa-4.0"
    assert meta["feature_spaces"]["toy"]["coordinates"][1] == [1.0, 0.0, -2.5]
    for words in (
        "| closed | CC BY-NC-SA 4.0 | 2 | 2 | 0.1 |",
        "Next Thought Prediction",
        "steps: 40, of",
        "held out of pre-training (step 40)",
        "| acc | 0.900 |",
        "## Same site?\n\nNo: it is not.",
        "| fresh | 60.0 % [55.0, 65.0] |",
        "## How old?\n\nOpen.",
        "| connectivity | 0.600 [0.550, 0.650] | 0.600 |",
        "Not a medical device",
        "the 5 people of closed, open",
        "arXiv:2305.13226",
        corpus.spaces["toy"].sha256[:12],
    ):
        assert words in card, words
    # Nothing names a place, a machine or a person of the data.
    public = card + json.dumps(config)
    for private in (str(run), str(corpus), "open_sub", "sub-", "tracking"):
        assert private not in public, private
    # A second publication replaces the first; what is not ours is left alone.
    publish(run, "--out", folder, "--licence", "CC BY 4.0")
    assert header(folder)["license_name"] == "cc-by-4.0-of-non-commercial-data"
    (folder / "notes.txt").write_text("mine")
    assert cli.run(["publish", str(run), "--out", str(folder)]) == 2
    assert "holds notes.txt" in capsys.readouterr().err


def test_keys_of_runs_are_hashed_unless_they_are_wanted(run, corpus, tmp_path):
    keys = corpus.runs["key"][corpus.runs["dataset"] != "unused"].tolist()
    hashed, kept = tmp_path / "hashed", tmp_path / "kept"
    for out, options in ((hashed, []), (kept, ["--keep_run_keys"])):
        publish(run, "--out", out, *options)
    seen = Encoder.from_pretrained(hashed).meta["train_runs"]
    assert sorted(seen) == sorted(f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for key in keys)
    assert Encoder.from_pretrained(kept).meta["train_runs"] == keys


def test_a_study_refuses_test_runs_that_published_weights_have_seen(corpus, tmp_path):
    from fmriscale.study.folds import make_folds, refuse_seen_runs

    publish(write_run(tmp_path / "run", corpus, ["open"]), "--out", tmp_path / "out")
    seen = Encoder.from_pretrained(tmp_path / "out").meta["train_runs"]
    for dataset, refused in (("open", True), ("closed", False)):
        runs = corpus.runs[corpus.runs["dataset"] == dataset]
        fold = make_folds(runs, "subject", 2)[0]
        if refused:
            with pytest.raises(UserError, match=f"saw {len(fold.test)} of the {len(fold.test)} runs"):
                refuse_seen_runs(fold, runs, seen, "x")
        else:
            refuse_seen_runs(fold, runs, seen, "x")


def test_an_older_run_gets_its_origins_from_the_corpus_or_is_of_unknown_ones(run, corpus, tmp_path, capsys):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    config = json.loads((old / "encoder/config.json").read_text())
    told = config["meta"].pop("datasets")
    (old / "encoder/config.json").write_text(json.dumps(config))
    assert Encoder.from_pretrained(publish(old, "--out", tmp_path / "a")).meta["datasets"] == told
    config["meta"]["config"]["data"]["corpus"] = str(tmp_path / "gone")
    (old / "encoder/config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert header(publish(old / "encoder", "--out", tmp_path / "b"))["license"] == "unknown"
    assert "licence is not known (no data set is named)" in capsys.readouterr().out


def test_what_cannot_be_published_is_refused_by_name(run, tmp_path, capsys):
    torn = tmp_path / "torn"
    shutil.copytree(run, torn)
    with (torn / "encoder/model.safetensors").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\xff")
    (tmp_path / "no.json").write_text("{}")
    for args, code, words in (
        ([torn], EXIT_DAMAGE, "is not the file that config.json names"),
        ([tmp_path], 2, "no encoder/ with model.safetensors"),
        ([run, "--out", run / "encoder"], 2, "choose another --out"),
        ([run, "--to", "https://hub.example/x"], 2, "give hf://ORGANISATION/NAME"),
        ([run, "--results", tmp_path / "no.json"], 2, "no verdict in it"),
        ([run, "--results", tmp_path / "nowhere.json"], 2, "No such file"),
    ):
        assert cli.run(["publish", *map(str, args)]) == code
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("CC0", "cc0-1.0"),
        ("CC BY-NC-SA 3.0", "cc-by-nc-sa-3.0"),
        ("cc-by-4.0", "cc-by-4.0"),
        ("PDDL", "pddl"),
        ("MIT", "mit"),
        ("data use agreement", None),
        ("none given (raw data CC0)", None),
    ],
)
def test_licences_have_their_names_on_the_hub(written, name):
    assert hub_name(written) == name


@pytest.mark.parametrize(
    ("licences", "field", "warned"),
    [
        (["CC0", "CC0"], "cc0-1.0", []),
        (["CC0", "CC BY-SA 3.0"], "cc-by-sa-3.0", []),
        (["CC BY-SA 3.0", "GPL-3"], "see-data-sets", []),
        (["PDDL", "CC BY-NC-SA 3.0"], "cc-by-nc-sa-3.0", ["non-commercial"]),
        (["on request", "CC BY-NC-SA 3.0"], "non-commercial-data", ["non-commercial", "not known"]),
        (["free for non-commercial use"], "non-commercial-data", ["non-commercial"]),
        (["CC0", "none given (raw data CC0)"], "unknown", ["not known"]),
        ([], "unknown", ["not known"]),
        (["simulated"], "simulated", []),
    ],
)
def test_weights_promise_no_more_than_their_data(licences, field, warned):
    found = licence_of({f"set{i}": {"licence": licence} for i, licence in enumerate(licences)})
    assert found.fields.get("license_name", found.fields["license"]) == field
    assert len(found.warnings) == len(warned)
    assert all(word in line for word, line in zip(warned, found.warnings, strict=True))


# ---------------------------------------------------------------- strangers


STRANGER = """
import sys
import numpy as np
from fmriscale import EncoderTransformer
from fmriscale.common.errors import UserError
windows = np.random.default_rng(1).standard_normal((7, 5, 12)).astype(np.float16)
found = {}
for where in sys.argv[2:]:
    try:
        found[where] = EncoderTransformer(where, t_r=2.0).fit().transform(windows)
    except UserError as error:
        print(error)
np.savez(sys.argv[1], **{str(i): found[where] for i, where in enumerate(found)})
"""


def stranger(*addresses: object, folder: Path, **environment: str) -> tuple[list[np.ndarray], list[str]]:
    """What a process that knows nothing but addresses makes of some windows, and what it is told."""
    out = folder / "vectors.npz"
    command = [sys.executable, "-c", STRANGER, str(out), *map(str, addresses)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        return [found[name] for name in found], done.stdout.splitlines()


@pytest.fixture(scope="module")
def ours(run) -> np.ndarray:
    windows = np.random.default_rng(1).standard_normal((7, L, V)).astype(np.float16)
    return EncoderTransformer(run / "encoder", t_r=2.0).fit_transform(windows)


def test_a_stranger_gets_the_same_vectors_to_the_bit_from_anywhere(run, ours, cache, tmp_path, monkeypatch):
    import s3fs
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test-hush")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*store.get_host_and_port()))
    folder = publish(run, "--out", tmp_path / "published")
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.makedirs("weights", exist_ok=True)
    files.put(str(folder), "weights/mine", recursive=True)
    with serving(folder) as server:
        places = (folder, server.url, "s3://weights/mine")
        found, _ = stranger(*places, folder=tmp_path)
        sent = server.sent["model.safetensors"]
        Encoder.from_pretrained(server.url)
        assert server.sent["model.safetensors"] == sent  # the second time the cache has them
    store.stop()
    offline, _ = stranger(*places, folder=tmp_path, HF_HUB_OFFLINE="1")  # and the servers are gone
    assert len(found) == len(offline) == 3
    for vectors in found + offline:
        np.testing.assert_array_equal(vectors, ours)


def test_the_hub_gives_back_what_was_published(run, ours, cache, tmp_path):
    url = "hf://lab/encoder"
    code = "import sys; from fmriscale import cli; sys.exit(cli.run(sys.argv[1:]))"
    line = [
        sys.executable,
        "-c",
        code,
        "publish",
        str(run),
        "--out",
        str(tmp_path / "p"),
        "--to",
        url,
        "--private",
    ]
    with hub() as server:
        known = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_test"}
        done = subprocess.run(line, capture_output=True, text=True, env=os.environ | known, timeout=120)
        assert done.returncode == 0, done.stderr
        assert f"{url}: {server.url}/lab/encoder" in done.stdout and server.private == {"lab/encoder"}
        (commit,) = server.repositories["lab/encoder"]
        stored = server.repositories["lab/encoder"][commit]
        assert sorted(stored) == ["README.md", "config.json", "model.safetensors"]
        assert f'EncoderTransformer("{url}", t_r=1.5)' in stored["README.md"].decode()
        server.repositories["lab/empty"] = {"0" * 40: {"README.md": b""}}
        wrong = {
            "hf://lab/other": "no such repository for you",
            f"{url}@nowhere": "no revision 'nowhere'",
            "hf://lab/empty": "no encoder of fmriscale",
            "hf://lab": "give hf://ORGANISATION/NAME",
        }
        found, told = stranger(url, f"{url}@{commit}", *wrong, folder=tmp_path, **known)
        assert [words in line for words, line in zip(wrong.values(), told, strict=True)] == [True] * 4, told
    # The server is gone: what has come stays, and what has not is told of in one line.
    offline, told = stranger(url, "hf://lab/other", folder=tmp_path, **known, HF_HUB_OFFLINE="1")
    assert len(found) == 2 and len(offline) == 1
    for vectors in found + offline:
        np.testing.assert_array_equal(vectors, ours)
    assert "hf download lab/other config.json model.safetensors --local-dir FOLDER" in told[0]


def test_servers_that_fail_or_lie_are_named(run, cache, tmp_path, monkeypatch):
    folder = publish(run, "--out", tmp_path / "published")
    with serving(folder) as server:
        server.flips["model.safetensors"] = server.errors["config.json"] = 1
        Encoder.from_pretrained(server.url)  # one wrong answer each is no news
        server.flips["model.safetensors"] = 6  # of HEAD and GET
        with pytest.raises(DamageError, match=r"model\.safetensors: sha256 is .*config\.json says"):
            shutil.rmtree(cache)
            Encoder.from_pretrained(server.url)
        assert not list((cache / "encoders").glob("*/model.safetensors"))
        (folder / "model.safetensors").rename(folder / "aside")
        with pytest.raises(DamageError, match="not on the server"):
            Encoder.from_pretrained(server.url)
        (folder / "config.json").rename(folder / "away")
        with pytest.raises(UserError, match="no encoder"):
            Encoder.from_pretrained(server.url)
        url = server.url
    with pytest.raises(
        UserError, match=r"not in this machine's cache .*download config\.json and model\.safe"
    ):
        Encoder.from_pretrained(url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        Encoder.from_pretrained(url)


def test_new_weights_at_an_address_are_noticed(run, corpus, cache, tmp_path):
    folder = publish(run, "--out", tmp_path / "published")
    with serving(folder) as server:
        first = Encoder.from_pretrained(server.url).meta
        publish(write_run(tmp_path / "again", corpus, step=41), "--out", folder)
        assert (first["step"], Encoder.from_pretrained(server.url).meta["step"]) == (40, 41)


def test_verbs_take_an_address_where_they_take_a_folder(run, corpus, cache, tmp_path):
    folder = publish(run, "--out", tmp_path / "published")
    with serving(folder) as server:
        for where, out in ((str(folder), "a.npz"), (server.url, "b.npz")):
            line = ["embed", where, str(corpus), "--out", str(tmp_path / out), "--length", "20"]
            assert cli.run(line) == 0
        assert server.requests["config.json"] == 1  # a process asks once
    with np.load(tmp_path / "a.npz") as here, np.load(tmp_path / "b.npz") as there:
        assert len(here.files) > 0
        for name in here.files:
            np.testing.assert_array_equal(here[name], there[name])


# ---------------------------------------------------------------- the page


def test_the_examples_of_the_page_run(run, cache, repository, tmp_path, monkeypatch):
    """docs/weights.md: scikit-learn, and the plug-in of another benchmark."""
    folder = publish(run, "--out", tmp_path / "published")
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs/weights.md").read_text(), re.DOTALL)
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(block.replace("hf://org/name", str(folder)), names)
    assert names["accuracy"].mean() > 0.8
    cls, reg, patches = names["model"](names["batch"])
    assert cls is None and reg.shape == (2, 1, 16) and patches.shape == (2, 20, 16)
