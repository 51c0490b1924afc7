"""Every reader, given damaged files: a value or one line, never another error, code, or a path outside.

Valid files are mutated (tests/mutations.py), the same ones in every run. FMRISCALE_FUZZ=N takes N random
mutations of each instead of a few fixed ones.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io
from factory import write_corpus
from grayordinates import series, surface, volume, voxels, write_func, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import damaged, json_text, reshaped, table
from scans import SHAPE, brain_like, confounds, dataset, write_atlas, write_fmriprep_run

from fmriscale.common.errors import UserError, shown
from fmriscale.common.quarantine import Rejected, Rejection
from fmriscale.config import CorpusConfig, DataConfig, ModelConfig, PairConfig, PretrainConfig, StudyConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.verify import check_manifest, check_shard
from fmriscale.ingest.find.sources import find_runs
from fmriscale.ingest.read.arrays import read_array
from fmriscale.ingest.read.cifti import open_series
from fmriscale.ingest.read.events import read_events, read_evs
from fmriscale.ingest.read.gifti import open_hemisphere
from fmriscale.ingest.read.nifti import open_image
from fmriscale.ingest.read.text import read_json
from fmriscale.ingest.run import process_run
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

MORE = int(os.environ.get("FMRISCALE_FUZZ", "0"))
MEMORY = 3 << 30  # Bytes that a reader may ask for beyond what the process has
TOUCHED = 400 << 20  # Bytes that it may really take

_opened: list[str] | None = None


def _note(event: str, args: tuple) -> None:
    if _opened is not None and event in ("open", "subprocess.Popen", "os.system", "socket.connect"):
        _opened.append(f"{event} {args[0]}")


sys.addaudithook(_note)


def fuzzed(examples: int, **strategies: st.SearchStrategy) -> Callable:
    """Run a test on so many mutations, the same in every run."""

    def decorate(test: Callable) -> Callable:
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
        options = {"max_examples": MORE or examples, "derandomize": not MORE, "database": None}
        return settings(deadline=None, suppress_health_check=checks, **options)(given(**strategies)(test))

    return decorate


@contextlib.contextmanager
def one_line(per_mistake: bool = False):
    """Accept a `UserError` or a rejection of one line, in bounded memory; refuse every other error."""
    global _opened
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    before, _opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    try:
        yield
    except UserError as error:
        lines = shown(error).splitlines()  # as it is printed
        assert lines and (per_mistake or len(lines) == 1), f"not one line: {error}"
        assert all(line.isprintable() for line in lines)
    except Rejected as why:
        assert why.reason and "\n" not in why.detail
    finally:
        names, _opened = _opened, None
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    odd = [name for name in names if not name.startswith("open") or "outside" in name or "hostname" in name]
    assert not odd
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert taken < TOUCHED, f"{taken >> 20} MiB"


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- scans


def _nifti() -> bytes:
    return nib.Nifti1Image(brain_like(12, 1, (4, 3, 2)), np.eye(4)).to_bytes()


@fuzzed(60, data=st.one_of(damaged(_nifti(), 352), damaged(gzip.compress(_nifti(), 1))))
def test_nifti(tmp_path, data):
    with one_line():
        image = open_image(put(tmp_path, "x.nii", data))
        for _ in image.blocks():
            pass


def test_a_header_that_claims_more_than_there_is_costs_nothing(tmp_path):
    data = bytearray(_nifti())
    struct.pack_into("<8h", data, 40, 4, 32767, 32767, 32767, 32767, 1, 1, 1)
    for content in (bytes(data), gzip.compress(bytes(data))):
        with one_line(), pytest.raises(Rejected, match="unreadable"):
            list(open_image(put(tmp_path, "x.nii", content)).blocks())
    bomb = gzip.compress(bytes(50 << 20))  # zeros: a thousand times smaller than what comes out
    with one_line(), pytest.raises(Rejected):
        open_image(put(tmp_path, "x.nii.gz", bomb))


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_an_array_that_claims_more_than_there_is_costs_nothing(tmp_path, name):
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 9)}
    np.lib.format.write_array_header_1_0(header, claim)
    if name.endswith("npz"):
        np.savez(path := tmp_path / name, x=np.zeros(3))
        data = path.read_bytes()
    else:
        data = header.getvalue() + bytes(800)
    with one_line(), pytest.raises(Rejected):
        read_array(put(tmp_path, name, data), "y")


def _arrays() -> dict[str, bytes]:
    x = np.random.default_rng(0).normal(size=(9, 4))
    files = {name: io.BytesIO() for name in ("x.npy", "x.npz", "x.mat", "x.h5")}
    np.save(files["x.npy"], x)
    np.savez_compressed(files["x.npz"], x=x)
    scipy.io.savemat(files["x.mat"], {"x": x})
    with h5py.File(files["x.h5"], "w") as file:
        file["x"] = x
    return {name: file.getvalue() for name, file in files.items()}


@pytest.mark.parametrize(("name", "valid"), _arrays().items(), ids=_arrays())
@fuzzed(25, draw=st.data())
def test_arrays(tmp_path, name, valid, draw):
    with one_line():
        read_array(put(tmp_path, name, draw.draw(damaged(valid, 200))), "x")


def _table(separator: str) -> str:
    x = np.random.default_rng(0).normal(size=(9, 4)).round(3)
    return "\n".join([separator.join("abcd"), *(separator.join(map(str, row)) for row in x)])


@pytest.mark.parametrize("name", ["x.tsv", "x.csv"])
@fuzzed(25, draw=st.data())
def test_tables_of_signals(tmp_path, name, draw):
    separator = "\t" if name == "x.tsv" else ","
    with one_line():
        read_array(put(tmp_path, name, draw.draw(table(_table(separator), separator))))


def _grayordinates(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name.endswith(".func.gii"):
            write_func(path, np.random.default_rng(0).normal(size=(6, 5)), 2.0)
        else:
            axis = surface("CORTEX_LEFT", np.arange(10, 20)) + volume("THALAMUS_LEFT", voxels(100, 5))
            write_series(path, series(axis, 6), axis)
        return path.read_bytes()


@fuzzed(25, data=damaged(_grayordinates("x.func.gii"), 2000))
def test_gifti(tmp_path, data):
    with one_line():
        open_hemisphere(put(tmp_path, "x_hemi-L.func.gii", data), "L")


@fuzzed(25, data=damaged(_grayordinates("x.dtseries.nii"), 2000))
def test_cifti(tmp_path, data):
    with one_line():
        open_series(put(tmp_path, "x.dtseries.nii", data))


# ---------------------------------------------------------------- tables and sidecars

EVENTS = "onset\tduration\ttrial_type\tvalue\n0.0\t1.5\tface\t3\n4.0\tn/a\thouse\t4\n8.5\t1\tface\tn/a\n"


@fuzzed(60, data=table(EVENTS))
def test_events(tmp_path, data):
    with one_line():
        for event in read_events(put(tmp_path, "x_events.tsv", data), 2.0, 60.0):
            assert np.isfinite(event["onset"]) and event["duration"] >= 0
    with one_line():
        read_evs((put(tmp_path, "cue.txt", data),))


@fuzzed(40, data=json_text({"RepetitionTime": 2.0, "SliceTiming": [0, 1], "TaskName": "rest"}))
def test_sidecars(tmp_path, data):
    with one_line():
        assert isinstance(read_json(put(tmp_path, "x.json", data)), dict)


PARTICIPANTS = "participant_id\tage\tsex\tt_r\nsub-01\t23\tF\t2.0\nsub-02\tn/a\tM\t2.0\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    voxels_XYZT = brain_like(20, 3, SHAPE)
    write_fmriprep_run(root, "01", voxels=voxels_XYZT, table=confounds(20, 5), events=EVENTS)
    (root / "participants.tsv").write_text(PARTICIPANTS)
    atlas = write_atlas(root / "atlas.nii.gz")
    given = dataset(root, atlas, participants="participants.tsv", participants_columns=["age"])
    denoise = dataclasses.replace(given.denoise, strategy=["motion", "scrub"])
    return dataclasses.replace(given, denoise=denoise)


FILES = ["*_bold.json", "*confounds_timeseries.tsv", "*_events.tsv", "*_mask.nii.gz", "*_bold.nii.gz"]
FILES += ["participants.tsv"]


@pytest.mark.parametrize("glob", FILES)
@fuzzed(8, draw=st.data())
def test_a_data_set_with_one_damaged_file(study, glob, draw):
    path = next(Path(study.root).rglob(glob))
    valid = path.read_bytes()
    try:
        if path.suffix == ".json":
            path.write_bytes(draw.draw(json_text(json.loads(valid))))
        else:
            is_table = path.suffix == ".tsv"
            data = draw.draw(table(valid.decode()) if is_table else damaged(gzip.decompress(valid), 352))
            path.write_bytes(data if is_table else gzip.compress(data, 1))
        os.utime(path, ns=(0, int(hashlib.sha256(path.read_bytes()).hexdigest()[:12], 16)))
        with one_line():
            for run in find_runs(study)[0]:
                result = process_run(run, study)
                assert not isinstance(result, Rejection) or result.reason != "failed", result.detail
    finally:
        path.write_bytes(valid)


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
