"""Every reader, given damaged files: a value or one line, never another error, code, or a path outside.

Valid files are mutated (tests/mutations.py), the same ones in every run. FMRISCALE_FUZZ=N takes N random
mutations of each instead of a few fixed ones.
"""

import contextlib
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from factory import write_corpus
from fuzzing import fuzzed, one_line, put
from hypothesis import strategies as st
from mutations import damaged, json_text, reshaped, table

from fmriscale.common.errors import UserError
from fmriscale.config import CorpusConfig, DataConfig, ModelConfig, PairConfig, PretrainConfig, StudyConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.verify import check_manifest, check_shard
from fmriscale.model.classifier import build
from fmriscale.model.encoder import Encoder
from fmriscale.model.presets import resolve_encoder
from fmriscale.reports.metrics import read_metrics
from fmriscale.reports.publish import read_summary
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training.archive import Archive
from fmriscale.training.checkpoint import _first_difference, _read_manifest
from fmriscale.training.metrics import MetricsFile
from fmriscale.training.slices import ParameterSlice

# ---------------------------------------------------------------- corpora


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    alpha = {"subjects": 3, "n_volumes": 40, "sample_mask": [*range(18), *range(20, 40)]}
    alpha["events"] = lambda subject, run: [{"onset": 1.0}]
    sets = {"alpha": alpha, "beta": {"subjects": 2, "n_volumes": 30}}
    return write_corpus(tmp_path_factory.mktemp("corpus") / "c", datasets=sets, n_features=4).folder


def read_all(folder: Path) -> None:
    """Open a corpus, read its runs and their records, and a batch of pairs; then verify it."""
    with one_line():
        opened = Corpus.open(folder)
        for index in range(min(3, len(opened.runs))):
            opened.bold(index).astype(np.float64).sum()
            opened.record(index)
            opened.mean_std(index)
        data = DataConfig(corpus=str(folder), pairs=PairConfig(length=4, gap=1, min_distance=2))
        loader = NTPLoader(opened, data, "train", 0, 8)
        loader.batch(0, 8)
    with one_line():
        manifest, rows, damages = check_manifest(folder)
        for shard in manifest["shards"]:
            damages += check_shard(folder, shard, rows[rows.shard == shard["path"]].to_dict("records"))
        assert all("\n" not in str(damage) for damage in damages)


@contextlib.contextmanager
def changed(path: Path, data: bytes):
    """Put other content into a file for a while."""
    valid = path.read_bytes()
    try:
        path.unlink()  # a map of the old file stays what it is
        path.write_bytes(data)
        yield
    finally:
        path.unlink()
        path.write_bytes(valid)


@fuzzed(40, draw=st.data())
def test_corpus_json(corpus, draw):
    path = corpus / "corpus.json"
    with changed(path, draw.draw(json_text(json.loads(path.read_text())))):
        read_all(corpus)


@fuzzed(40, draw=st.data())
def test_runs_tsv(corpus, draw):
    path = corpus / "runs.tsv"
    with changed(path, draw.draw(table(path.read_text()))):
        read_all(corpus)


@fuzzed(25, draw=st.data())
def test_shards(corpus, draw):
    path = corpus / "alpha/alpha-000000.tar"
    with changed(path, draw.draw(damaged(path.read_bytes()))):
        read_all(corpus)


@fuzzed(25, draw=st.data())
def test_the_record_of_a_run_whose_hashes_are_right(corpus, draw):
    """Whoever writes a shard writes its hashes too."""
    row = Corpus.open(corpus).runs.iloc[0]
    path, table_ = corpus / row.shard, corpus / "runs.tsv"
    shard = bytearray(path.read_bytes())
    start = int(row.offset) + 2 * int(row.n_volumes) * int(row.n_features)
    start += -start % 512
    size = int(shard[start + 124 : start + 135], 8)
    record = draw.draw(json_text(json.loads(shard[start + 512 : start + 512 + size])))[:size].ljust(size)
    shard[start + 512 : start + 512 + size] = record
    rest = start + 512 + size + -size % 512
    other = [bytes(shard[rest + 512 : rest + 512 + 144]), bytes(shard[rest + 1536 : rest + 1536 + 144])]
    details = hashlib.sha256(b"".join([bytes(record), *other])).hexdigest()[:16]
    text = table_.read_text().replace(row.details, details)
    with changed(path, bytes(shard)), changed(table_, text.encode()):
        read_all(corpus)


# ---------------------------------------------------------------- encoders, checkpoints, recipes, records


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    shape = resolve_encoder(ModelConfig(preset="tiny", d_model=16, n_layers=1, n_heads=2), {"toy": 4}, 5)
    build(shape, 0).encoder.save_pretrained(folder, {"feature_spaces": {}, "step": 4, "train_runs": ["a"]})
    return folder


@fuzzed(40, draw=st.data())
def test_config_of_an_encoder(encoder, draw):
    path = encoder / "config.json"
    with changed(path, draw.draw(json_text(json.loads(path.read_text())))), one_line():
        Encoder.from_pretrained(encoder)


@fuzzed(40, draw=st.data())
def test_weights_whose_hash_is_right(encoder, draw):
    path, config = encoder / "model.safetensors", json.loads((encoder / "config.json").read_text())
    data = draw.draw(st.one_of(damaged(path.read_bytes(), 1000), with_header(path.read_bytes())))
    config["weights_sha256"] = hashlib.sha256(data).hexdigest()
    text = json.dumps(config).encode()
    with changed(path, data), changed(encoder / "config.json", text), one_line():
        Encoder.from_pretrained(encoder)


@st.composite
def with_header(draw, valid: bytes) -> bytes:
    """Draw a safetensors file whose header has another shape."""
    size = struct.unpack("<Q", valid[:8])[0]
    header = json.dumps(draw(reshaped(json.loads(valid[8 : 8 + size])))).encode()
    return struct.pack("<Q", len(header)) + header + valid[8 + size :]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of one rank with the slices of one parameter."""
    folder = tmp_path_factory.mktemp("run") / "step_0000005"
    folder.mkdir()
    kinds = ("weight", "exp_avg", "exp_avg_sq")
    header = {"__metadata__": {"starts": json.dumps({"w": 0})}}
    for i, kind in enumerate(kinds):
        header[f"{kind}/w"] = {"dtype": "F32", "shape": [6], "data_offsets": [24 * i, 24 * i + 24]}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + np.arange(18, dtype=np.float32).tobytes()
    (folder / "rank_00000.safetensors").write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    state = {"step": 5, "world_size": 1, "config": {}, "data": {}, "adam_step": 5, "scaler": None}
    manifest = {"version": 2, "state": state, "files": {"rank_00000.safetensors": entry}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@fuzzed(40, draw=st.data())
def test_manifest_of_a_checkpoint(checkpoint, draw):
    data = draw.draw(json_text(json.loads((checkpoint / "manifest.json").read_text())))
    with changed(checkpoint / "manifest.json", data), one_line():
        manifest, problem = _read_manifest(checkpoint)
        assert problem or _first_difference(checkpoint, list(manifest["files"].items())) is not None


@fuzzed(40, draw=st.data())
def test_slices_of_a_checkpoint(checkpoint, draw):
    path = checkpoint / "rank_00000.safetensors"
    data = draw.draw(st.one_of(damaged(path.read_bytes(), 400), with_header(path.read_bytes())))
    with changed(path, data), one_line():
        archive = Archive([path])
        assert archive.fetch("weight", ParameterSlice("w", 1, 4)).shape == (4,)


RECIPES = [("corpus_haxby", CorpusConfig), ("pretrain_demo", PretrainConfig), ("haxby", StudyConfig)]


@pytest.mark.parametrize(("name", "kind"), RECIPES)
@fuzzed(25, draw=st.data())
def test_recipes(repository, tmp_path, name, kind, draw):
    text = (repository / "configs" / f"{name}.yaml").read_bytes()
    path = put(tmp_path, "recipe.yaml", draw.draw(damaged(text)))
    with one_line(per_mistake=True):
        parse(kind, ["--config", str(path)], prog="fmriscale")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n"
for _old, _new in zip("abcdefgh", "bcdefghi", strict=True):
    BOMB += f"{_new}: &{_new} [{', '.join([f'*{_old}'] * 9)}]\n"
ATTACKS = [BOMB, "x: " + "[" * 2000, "- " * 2000, "{" * 2000, "x: " + "9" * 5000, "? [1]\n: 2\n", "\x00"]
ATTACKS += ["!!python/object/apply:os.system ['true']\n", "a: !!binary x\n", "datasets: !!set {a, b}\n"]


@pytest.mark.parametrize("text", ATTACKS)
def test_recipes_that_are_attacks(tmp_path, text):
    path = put(tmp_path, "recipe.yaml", text.encode())
    with one_line(), pytest.raises(UserError):
        parse(CorpusConfig, ["--config", str(path)], prog="fmriscale")


STEP = {"loss": 0.7, "finite": True, "seen": {"a": 8}, "pairs_per_s": 9.0, "lr": 0.1}
LINES: list[dict] = [{"step": n, **STEP} for n in (1, 2, 3)]
LINES += [{"event": "eval", "step": 3, "loss": 0.6, "acc": 0.5, "acc_by_kind": {"positive": 0.5}}]


@fuzzed(60, draw=st.data())
def test_metrics(tmp_path, draw):
    lines = [json.dumps(line).encode() for line in LINES]
    n = draw.draw(st.integers(0, 3))
    lines[n] = draw.draw(json_text(LINES[n]))
    path = put(tmp_path, "metrics.jsonl", b"\n".join(lines) + b"\n")
    with one_line():
        read_metrics(path)
    with one_line():
        MetricsFile(path, 2).close()


@fuzzed(25, data=json_text({"verdict": "Yes", "scores": {"a": [1.0]}}))
def test_summaries(tmp_path, data):
    with one_line():
        read_summary(put(tmp_path, "summary.json", data))
