"""A secret of the environment or of a URL is in nothing that is written; what listens, listens here alone."""

import base64
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import yaml
from factory import write_corpus
from toystudy import V, add_timbre, events, write_arrays, write_encoder
from web import serving

from fmriscale.common.trust import without_login
from fmriscale.config import PretrainConfig
from fmriscale.config.recipe import flatten, parse, save_config, to_dict

SECRET = "s3cr3t-Q7xV2m9K"
PLANTED = (
    "AWS_SECRET_ACCESS_KEY",
    "HF_TOKEN",
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "CORPUS_PASSWORD",
)
SCRIPT = """
import json, sys
import psutil
from fmriscale import cli
ports = set()
for line in json.load(open(sys.argv[1])):
    code = cli.run(line)
    assert code in (0, 3), (line, code)
    found = psutil.Process().net_connections(kind="inet")
    ports |= {c.laddr.ip for c in found if c.status == "LISTEN"}
print("listening", sorted(ports))
"""


def steps(place: Path, url: str) -> list[str]:
    """Return the command line of each step of the work."""
    nowhere = f"http://somebody:{SECRET}@127.0.0.1:9/?token={SECRET}"
    tiny = "--model.preset tiny --model.d_model 16 --model.n_layers 1 --model.n_heads 2"
    train = "--train.steps 2 --train.global_batch 4 --train.eval_every 0 --train.warmup_steps 1"
    pairs = (
        "--data.pairs.length 5 --data.pairs.min_distance 10 --train.schedule constant --train.precision fp32"
    )
    pretrain = f"pretrain --data.corpus {url} {tiny} {train} {pairs}"
    store = f"--tracking.uri sqlite:///{place}/mlflow.db"
    of_corpus = f"--corpus {place}/corpus --jobs 1 --n_folds 2 {store}"
    probe = f"--encoders {{pretrained:\u00a0{place}/encoder}} --target timbre --rows window"
    study = f"--pretrained {place}/encoder --task.label timbre --train.epochs 1"
    return [
        f"shard --config {place}/shard.yaml",
        f"{pretrain} --out {place}/run {store}",
        f"{pretrain} --out {place}/run2 --tracking.uri {nowhere}",
        f"finetune {study} {of_corpus} --out {place}/study",
        f"probe {probe} --windows.length 5 {of_corpus} --out {place}/probe",
        *(f"report {place}/{out}" for out in ("run", "study", "probe")),
        f"inspect {place}/sharded --report {place}/corpus.html",
        f"publish {place}/run --out {place}/published",
        f"embed {place}/run {place}/corpus --out {place}/x.npz",
    ]


def test_nothing_that_is_written_holds_a_secret(tmp_path):
    place = tmp_path / "work"
    place.mkdir()
    spec = {"subjects": 4, "runs": 2, "n_volumes": 100, "events": events}
    write_corpus(place / "corpus", datasets={"toy": spec}, n_features=V, signal=add_timbre)
    write_encoder(place / "encoder", seed=0)
    recipe = {"datasets": [write_arrays(place / "arrays", 3, 60)], "out": "sharded", "jobs": 1}
    (place / "shard.yaml").write_text(yaml.safe_dump(recipe))
    with serving(place / "corpus") as server:
        url = server.url.replace("//", "//somebody:$CORPUS_PASSWORD@")
        lines = tmp_path / "lines.json"  # beside the folder that is searched: the secret stands there
        words = [line.split(" ") for line in steps(place, url)]
        lines.write_text(json.dumps([[word.replace("\u00a0", " ") for word in line] for line in words]))
        env = {**os.environ, **dict.fromkeys(PLANTED, SECRET), "FMRISCALE_CACHE": str(place / "cache")}
        env |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
        command = [sys.executable, "-c", SCRIPT, str(lines)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=place, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "stdout.txt").write_text(done.stdout)
    (place / "stderr.txt").write_text(done.stderr)
    assert "MLflow at http://127.0.0.1:9/" in done.stderr and "going on without it" in done.stderr
    written = [path for path in place.rglob("*") if path.is_file()]
    kinds = ".tar .tsv .json .jsonl .yaml .html .db .safetensors .npz .md .txt"
    assert set(kinds.split()) <= {path.suffix for path in written}, "each kind of file was looked at"
    forms = [SECRET.encode(), base64.b64encode(f"somebody:{SECRET}".encode()), SECRET.encode("utf-16-le")]
    holding = [str(p.relative_to(place)) for p in written for form in forms if form in unpacked(p)]
    assert not holding
    assert done.stdout.splitlines()[-1].removeprefix("listening ") in ("[]", "['127.0.0.1']")


def unpacked(path: Path) -> bytes:
    """Return the bytes of a file, and what they are decompressed."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data += zlib.decompressobj(31).decompress(data)
    return data


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("https://user:pw@host:5000/x", "https://host:5000/x"),
        ("postgresql://user:p%40w@host/db?password=pw&sslmode=on", "postgresql://host/db"),
        ("https://pw@host", "https://host"),
        ("https://host/x?token=pw#a", "https://host/x"),
        ("see https://user:pw@host and http://u:pw@other/y", "see https://host and http://other/y"),
        *((same, same) for same in ("https://u:$PW@host/x", "hf://org/name@v1", "s3://bucket/a@b", "a@b.c")),
        ("sqlite:////x/mlflow.db", "sqlite:////x/mlflow.db"),
    ],
)
def test_the_login_of_a_url_is_not_recorded(url, recorded):
    assert without_login(url) == recorded


def test_a_recipe_is_recorded_without_the_login_that_it_uses(tmp_path):
    uri = f"https://user:{SECRET}@host:5000"
    line = ["--tracking.uri", uri, "--data.corpus", "c", "--out", str(tmp_path / "run")]
    config = parse(PretrainConfig, line, prog="t")
    assert config.tracking.uri == uri
    assert flatten(to_dict(config))["tracking.uri"] == "https://host:5000"
    save_config(config, tmp_path / "config.yaml")
    assert SECRET not in (tmp_path / "config.yaml").read_text()
