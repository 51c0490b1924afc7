"""Every kind of damage is found and named; repair gives the same bytes back or leaves the old ones."""

import hashlib
import json
import shutil
import struct

import numpy as np
import pandas as pd
import pytest
from scans import brain_like, corpus, dataset, write_atlas, write_fmriprep_run, write_image

from fmriscale import cli
from fmriscale.corpus.reader import MEMBER_HEADER
from fmriscale.ingest.build import build

SHARD = "toy/toy-000001.tar"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    for subject in ("01", "02", "03"):
        for run in (1, 2):
            write_fmriprep_run(root, subject, run)
    return dataset(root, write_atlas(root / "atlas.nii.gz"))


@pytest.fixture(scope="module")
def sound(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    build(corpus(folder, sources, shard_runs=2))
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    """A copy, to be damaged."""
    shutil.copytree(sound, tmp_path / "c")
    return tmp_path / "c"


def verify(folder, capsys, *options):
    code = cli.run(["verify", str(folder), "--jobs", "1", *options])
    return code, capsys.readouterr().out


def rows(folder):
    return pd.read_csv(folder / "runs.tsv", sep="\t").set_index("shard", drop=False).loc[SHARD]


def flip(path, byte, value=None):
    content = bytearray(path.read_bytes())
    content[byte] = content[byte] ^ 1 if value is None else value
    path.write_bytes(bytes(content))


def test_a_sound_corpus_is_clean_and_stays_untouched(folder, capsys):
    (folder / "notes.txt").write_text("what a user keeps here is no damage")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    code, out = verify(folder, capsys, "--jobs", "2")
    assert (code, out.count("\n")) == (0, 1) and "6 runs in 3 shards" in out and "no damage" in out
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_any_flipped_byte_of_a_shard_is_found_and_placed(folder, capsys):
    path, lines = folder / SHARD, rows(folder)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    starts = [*(lines.offset - MEMBER_HEADER), len(content)]
    for byte in [0, 130, 600, len(content) - 1, *rng.integers(0, len(content), 40)]:
        flip(path, byte)
        code, out = verify(folder, capsys)
        assert code == 4 and SHARD in out.splitlines()[0]
        at = int(out.split("byte ")[1].split(":")[0])
        run = np.searchsorted(starts, byte, "right") - 1  # the damage lies in the run that is named
        assert starts[run] <= at <= byte or at == starts[run] or at - byte < 512
        path.write_bytes(content)
    assert verify(folder, capsys)[0] == 0


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / SHARD).unlink(), [SHARD, "No such file"]),
        (lambda f: (f / SHARD).write_bytes(b""), [SHARD, "byte 0", "0 bytes long"]),
        (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:6000]), ["byte 6000", "ends inside"]),
        (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes() + b"x"), ["bytes long"]),
        (lambda f: shutil.copy(f / "toy/toy-000000.tar", f / SHARD), ["toy_sub-02_task-rest_run-01: byte 0"]),
        (lambda f: shutil.copy(f / SHARD, f / "toy/more.tar"), ["toy/more.tar", "does not belong"]),
        (lambda f: (f / "toy/.x.tar.1.tmp").touch(), ["toy/.x.tar.1.tmp", "does not belong"]),
        (lambda f: (f / "runs.tsv").write_text("key\n"), ["runs.tsv", "not readable"]),
        (lambda f: (f / "quarantine.tsv").unlink(), ["quarantine.tsv", "writes the manifest again"]),
        (lambda f: (f / "corpus.json").write_text("{"), ["corpus.json", "not readable"]),
        (lambda f: swap(f / "runs.tsv", "train", "val"), ["runs.tsv", "fingerprint"]),
        (lambda f: swap(f / "runs.tsv", f"{SHARD}\t640", f"{SHARD}\t64"), [f"{SHARD}: run", "byte"]),
        (lambda f: swap(f / "runs.tsv", f"{SHARD}\t640", f"{SHARD}\tx"), [SHARD, "not readable"]),
    ],
)  # fmt: skip
def test_damage_is_named(folder, capsys, harm, words):
    harm(folder)
    code, out = verify(folder, capsys)
    assert code == 4
    for word in words:
        assert word in out


def test_a_value_that_is_not_finite_is_placed_to_the_byte(folder, capsys):
    path, row = folder / SHARD, rows(folder).iloc[1]
    for i, value in enumerate(struct.pack("<e", np.inf)):
        flip(path, row.offset + 46 + i, value)
    out = verify(folder, capsys)[1]
    assert f"{SHARD}: run {row.key}: byte {row.offset + 46}: bold.npy" in out


def test_content_that_never_was_right_is_found_though_all_hashes_agree(folder, capsys):
    # A shard whose values are not finite, hashed and listed as if they were fine.
    path, row = folder / SHARD, rows(folder).iloc[0]
    for i, value in enumerate(struct.pack("<e", np.nan)):
        flip(path, row.offset + i, value)
    size = 2 * row.n_volumes * row.n_features
    bold = path.read_bytes()[row.offset - 128 : row.offset + size]
    swap(folder / "runs.tsv", row.sha256, hashlib.sha256(bold).hexdigest())
    old = json.loads((folder / "corpus.json").read_text())["shards"][1]["sha256"]
    swap(folder / "corpus.json", old, hashlib.sha256(path.read_bytes()).hexdigest())
    code, out = verify(folder, capsys)
    assert code == 4 and f"byte {row.offset}: bold.npy: a value that is not finite" in out


def swap(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_repair_builds_damaged_shards_alone_to_the_same_bytes(folder, sound, capsys):
    flip(folder / SHARD, 5000)
    (folder / "toy/toy-000002.tar").unlink()
    whole = (folder / "toy/toy-000000.tar").stat().st_mtime_ns
    code, out = verify(folder, capsys, "--repair")
    assert code == 0 and out.count(": repaired") == 2 and "no damage" in out
    for shard in sorted((sound / "toy").iterdir()):
        assert (folder / "toy" / shard.name).read_bytes() == shard.read_bytes()
    assert (folder / "toy/toy-000000.tar").stat().st_mtime_ns == whole
    assert not list((folder / ".build").glob("*.tar"))


def test_repair_leaves_the_old_bytes_where_sources_changed_or_vanished(sources, tmp_path, capsys):
    shutil.copytree(sources.root, tmp_path / "in")
    given = dataset(tmp_path / "in", tmp_path / "in/atlas.nii.gz")
    folder = tmp_path / "c"
    build(corpus(folder, given, shard_runs=2))
    for shard in (SHARD, "toy/toy-000002.tar"):
        flip(folder / shard, 5000)
    damaged = {p: p.read_bytes() for p in (folder / "toy").iterdir()}
    write_image(next((tmp_path / "in/sub-02/func").glob("*run-02*bold.nii.gz")), brain_like(40, seed=99))
    next((tmp_path / "in/sub-03/func").glob("*run-01*bold.nii.gz")).unlink()
    code, out = verify(folder, capsys, "--repair")
    assert code == 4
    assert f"{SHARD}: not repaired: its sources have changed since" in out
    assert "toy_sub-03_task-rest_run-01 is gone" in out
    assert {p: p.read_bytes() for p in (folder / "toy").iterdir()} == damaged
    shutil.rmtree(tmp_path / "in")
    code, out = verify(folder, capsys, "--repair")
    assert code == 4 and out.count("is no folder") == 2
    (folder / "recipe.yaml").unlink()
    assert "recipe.yaml is gone" in verify(folder, capsys, "--repair")[1]


def test_verify_says_what_it_needs(tmp_path, capsys):
    assert cli.run(["verify", str(tmp_path)]) == 2
    assert cli.run(["verify"]) == 2
    assert cli.run(["verify", str(tmp_path), "--mend"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
