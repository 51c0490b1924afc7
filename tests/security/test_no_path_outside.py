"""Nothing that comes from others leads to a file outside of its folder, here or in the cache."""

import io
import json
import os
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from factory import write_corpus
from fakehub import hub
from web import serving

from fmriscale import cli
from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.trust import inside
from fmriscale.config import PretrainConfig, ProbeConfig, StudyConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.corpus.servers import open_folder
from fmriscale.corpus.writer import read_members
from fmriscale.model import remote
from fmriscale.model.remote import local_folder
from fmriscale.study.work import FINISHED, finished_text
from fmriscale.training.data import open_loader

OUTSIDE = [
    *("../outside.tar", "alpha/../../outside.tar", "/etc/hostname", "..", ".", "", "alpha//x.tar", "./x.tar"),
    *("C:\\x.tar", "C:/x.tar", "c:x.tar", "..\\outside.tar", "\\\\host\\x.tar", "a\0b.tar"),
    *("https://host/x.tar", "s3://bucket/x.tar", "file:///etc/hostname"),
]
SHARD = "alpha/alpha-000000.tar"

_opened: list[str] | None = None


def _note(event: str, args: tuple) -> None:
    if event == "open" and _opened is not None:
        _opened.append(os.fsdecode(args[0]) if isinstance(args[0], str | bytes | Path) else "")


sys.addaudithook(_note)


@contextmanager
def opened():
    """Yield the list of all files that Python opens within."""
    global _opened
    _opened = names = []
    try:
        yield names
    finally:
        _opened = None


@pytest.fixture
def folder(tmp_path):
    return write_corpus(tmp_path / "c", datasets={"alpha": {}}).folder


def rename_shard(folder: Path, name: object) -> None:
    """Have the manifest of a corpus name another file: that of the shard is moved there, if it can be."""
    corpus = json.loads((folder / "corpus.json").read_text())
    corpus["shards"][0]["path"] = name
    (folder / "corpus.json").write_text(json.dumps(corpus))
    (folder.parent / "outside.tar").write_bytes((folder / SHARD).read_bytes())
    if isinstance(name, str) and name.isprintable():
        text = (folder / "runs.tsv").read_text()
        (folder / "runs.tsv").write_text(text.replace(SHARD, name))


@pytest.mark.parametrize("name", [*OUTSIDE, 5, None, ["x.tar"], {"a": 1}, True])
def test_a_name_that_leads_out_is_refused_in_one_line(name):
    with pytest.raises(DamageError, match=r"^corpus\.json: .* is no path below .*; copy it again"):
        inside(name, "corpus.json", "copy it again")


@pytest.mark.parametrize("name", ["a.tar", "alpha/alpha-000000.tar", "ä/..b/c..tar", "ab:c/x~.tar"])
def test_a_name_below_the_folder_is_taken_as_it_is(name):
    assert inside(name, "corpus.json", "") == name


@pytest.mark.parametrize("name", [*OUTSIDE, 5, None])
def test_neither_reading_nor_verify_opens_a_shard_outside_of_the_corpus(folder, name, capsys):
    rename_shard(folder, name)
    with opened() as files:
        with pytest.raises(DamageError) as refused:
            Corpus.open(folder)
        assert cli.run(["verify", str(folder), "--jobs", "1"]) == 4
        assert cli.run(["verify", str(folder), "--jobs", "1", "--repair"]) == 4
        assert cli.run(["inspect", str(folder)]) == 4
    assert f"{folder / 'corpus.json'}: " in str(refused.value) and "\n" not in str(refused.value)
    said = capsys.readouterr()
    assert "corpus.json: " in said.out and "is no path below its own folder" in said.out
    assert said.err.count("\n") == 1
    assert not [
        file for file in files if "outside" in file or file == "/etc/hostname" or file.endswith(".tar")
    ]


def test_training_refuses_a_run_whose_shard_lies_outside(folder):
    (folder.parent / "outside.tar").write_bytes((folder / SHARD).read_bytes())
    table = folder / "runs.tsv"  # corpus.json stays as it was
    table.write_text(table.read_text().replace(SHARD, "../outside.tar"))
    config = parse(
        PretrainConfig, ["--data.corpus", str(folder), "--out", str(folder.parent / "run")], prog="t"
    )
    with opened() as files, pytest.raises(DamageError, match=r"runs\.tsv: '\.\./outside\.tar' is no path"):
        open_loader(Corpus.open(config.data.corpus), config, None, "train")  # type: ignore[arg-type]
    assert not [file for file in files if "outside" in file]


def test_a_shard_that_corpus_json_does_not_list_is_refused(folder):
    table = folder / "runs.tsv"
    table.write_text(table.read_text().replace(SHARD, "alpha/other.tar"))
    with pytest.raises(DamageError, match=r"alpha/other\.tar is not in corpus\.json"):
        Corpus.open(folder)


def test_a_pipe_in_the_place_of_a_shard_is_not_waited_for(folder, capsys):
    (folder / SHARD).unlink()
    os.mkfifo(folder / SHARD)
    with pytest.raises(DamageError, match="not a regular file"):
        Corpus.open(folder).bold(0)
    assert cli.run(["verify", str(folder), "--jobs", "1"]) == 4
    assert "not a regular file" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/hostname", "https://host/x.tar"])
def test_a_corpus_on_a_server_puts_nothing_outside_of_the_cache(folder, tmp_path, monkeypatch, name):
    rename_shard(folder, name)
    monkeypatch.setenv("FMRISCALE_CACHE", str(tmp_path / "cache"))
    with serving(folder) as server, pytest.raises(DamageError) as refused:
        Corpus.open(server.url)
    assert str(refused.value).startswith(f"{server.url}/corpus.json: ")
    assert not server.requests[name]
    assert {p.name for p in tmp_path.iterdir()} == {"c", "outside.tar", "cache"}
    assert {p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()} <= {"lock"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_a_device_in_a_shard_is_not_followed(folder, tmp_path, kind):
    member = tarfile.TarInfo("alpha_sub-01.json")
    member.type, member.linkname = kind, "/etc/hostname"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(member)
    with opened() as files, pytest.raises(DamageError, match="no file but a link or a device"):
        list(read_members(tmp_path / "x.tar"))
    assert "/etc/hostname" not in files
    corpus = Corpus.open(folder)  # the json of its first run becomes one
    offset = int(corpus.runs.offset.iloc[0]) + 2 * 120 * 12
    shard = bytearray((folder / SHARD).read_bytes())
    start = offset + -offset % 512
    header = tarfile.TarInfo.frombuf(shard[start : start + 512], "utf-8", "strict")
    header.type, header.linkname, header.size = kind, "/etc/hostname", 0
    shard[start : start + 512] = header.tobuf(tarfile.USTAR_FORMAT)
    (folder / SHARD).write_bytes(shard)
    with opened() as files, pytest.raises(DamageError):
        Corpus.open(folder).record(0)
    assert "/etc/hostname" not in files


def test_names_of_tar_members_are_compared_and_never_used_as_paths(folder, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("../../evil.json", "/evil.bold.npy"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    before = set(tmp_path.rglob("*"))
    assert list(read_members(tmp_path / "x.tar"))
    assert set(tmp_path.rglob("*")) == before


def test_the_cache_does_not_follow_what_it_noted_last_out_of_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("FMRISCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/config.json").write_text("{}")
    url = "https://host.invalid/encoder"
    note = remote.cache_folder(None) / "encoders" / f"last-{remote.hashlib.sha256(url.encode()).hexdigest()}"
    note.parent.mkdir(parents=True)
    for place in ("../../evil", str(tmp_path / "evil")):
        note.write_text(place)
        with pytest.raises(UserError, match="not in this machine's cache"):
            local_folder(url)


def test_only_two_files_of_a_hub_repository_are_fetched(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    with hub() as server:
        files = {"config.json": b"{}", "model.safetensors": b"x", "../../evil": b"x", "setup.py": b"x"}
        server.repositories["org/name"] = {"a" * 40: files}
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        folder = local_folder("hf://org/name")
        assert not [line for line in server.requests if "evil" in line or "setup" in line]
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


LINKS = (
    "../evil",
    "%2e%2e%2fevil",
    "/etc/passwd",
    "a%2f..%2f..%2fevil",
    "a%5c..%5cevil",
    "https://host/evil",
)


@pytest.mark.parametrize("link", LINKS)
def test_links_of_a_server_lead_only_down(tmp_path, link):
    with serving(tmp_path) as server:
        folder = open_folder(server.url)
        real = folder._response

        @contextmanager
        def answer(method, name, *range_):
            with real(method, name, *range_) as response:
                response._content = f'<a href="{link}"><a href="sub-01.tsv">'.encode()
                yield response

        (tmp_path / "sub-01.tsv").write_text("x")
        folder._response = answer
        assert folder._links("") == ["sub-01.tsv"]


def test_keys_of_a_store_lead_only_down():
    files = fsspec.filesystem("memory")
    for name in ("sub-01/func/a.nii", "sub-01/../../evil.nii", "sub-01//evil.nii", "sub-01/a\\evil.nii"):
        files.store[f"/trust/ds/{name}"] = fsspec.implementations.memory.MemoryFile(files, name, b"x")
    entries = open_folder("memory://trust/ds").entries("", below=True)
    assert [entry.name for entry in entries if not entry.is_folder] == ["sub-01/func/a.nii"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (
            StudyConfig,
            ["--pretrained", "e", "--controls", "{../evil: x}", "--task.group", "d", "--model", "{}"],
        ),
        (ProbeConfig, ["--target", "t", "--encoders", "{../evil: x}"]),
    ],
)
def test_a_study_or_a_probe_names_no_result_outside_of_its_folder(kind, options):
    with pytest.raises(UserError, match="lower-case letters, digits and _"):
        parse(kind, ["--out", "x", "--corpus", "c", *options], prog="t")


@pytest.mark.parametrize("text", ["[]", "5", '{"hash": "h"}', "[" * 100_000, '{"told": 3}', "\x00"])
def test_a_study_that_is_resumed_takes_no_note_of_the_wrong_shape(tmp_path, text):
    (tmp_path / FINISHED).write_text(text)
    assert finished_text(tmp_path, "h") is None
