"""Find damage in a corpus: shards are hashed, and every member of every run is read."""

from __future__ import annotations

import hashlib
import io
import mmap
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmriscale.common.errors import DamageError
from fmriscale.common.files import printable
from fmriscale.common.trust import inside, parse_json
from fmriscale.corpus.manifest import (
    QUARANTINE_COLUMNS,
    REBUILD,
    RUN_COLUMNS,
    check_corpus_json,
    columns_of,
    details_hash,
    fingerprint_of,
    read_table,
)
from fmriscale.corpus.reader import MEMBER_HEADER, NPY_HEADER
from fmriscale.corpus.writer import npy_header

if TYPE_CHECKING:
    import pandas as pd

MEMBERS = ("bold.npy", "json", "mean.npy", "std.npy")  # Members of a run, in their order
MANIFEST = ("corpus.json", "runs.tsv", "quarantine.tsv")


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it should be."""

    file: str  # Path below the corpus
    what: str
    key: str = ""  # The run it belongs to; "" = none
    offset: int | None = None  # Byte of the file

    def __str__(self) -> str:
        run = f"run {self.key}" if self.key else ""
        byte = "" if self.offset is None else f"byte {self.offset}"
        return printable(": ".join(filter(None, (self.file, run, byte, self.what))))


class _Broken(Exception):
    """A member that cannot be read on; `offset` says where."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset, self.what = offset, what


def check_shard(folder: Path, summary: dict[str, Any], rows: list[dict[str, Any]]) -> list[Damage]:
    """Hash a shard and read every member of its runs."""
    name = summary["path"]
    try:
        if (folder / name).exists() and not (folder / name).is_file():  # a pipe would wait for ever
            return [Damage(name, "not a regular file")]
        with (folder / name).open("rb") as handle:
            return list(_check_shard(handle, summary, rows))
    except OSError as error:
        return [Damage(name, error.strerror or str(error))]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        return [Damage("runs.tsv", f"what it says of {name} is not readable: {error!r}")]


def _check_shard(handle: Any, summary: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[Damage]:
    name, whole = summary["path"], True
    sound = hashlib.file_digest(handle, "sha256").hexdigest() == summary["sha256"]
    size = handle.seek(0, io.SEEK_END)
    if size != summary["bytes"]:
        whole = False
        yield Damage(name, f"{size} bytes long, corpus.json says {summary['bytes']}", offset=size)
    if len(rows) != summary["n_runs"]:
        whole = False
        yield Damage(name, f"{len(rows)} runs in runs.tsv, corpus.json says {summary['n_runs']}")
    if size == 0:
        return
    with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end: int | None = 0
        for row in sorted(rows, key=lambda r: int(r["offset"])):
            start = int(row["offset"]) - MEMBER_HEADER
            try:
                if end is not None and start != end:
                    raise _Broken(end, f"runs.tsv says that the run starts at byte {start}")
                end = _check_run(data, start, row)
            except _Broken as broken:
                whole = False
                yield Damage(name, broken.what, row["key"], broken.offset)
                end = None  # the next run starts where runs.tsv says
        if end is not None and any(data[end:]):
            whole = False
            yield Damage(name, "bytes that belong to no run", offset=end)
    if whole and not sound:
        yield Damage(name, "another sha256 than in corpus.json, though every run is whole", offset=0)


def _check_run(data: mmap.mmap, start: int, row: dict[str, Any]) -> int:
    """Check the members of a run; return the byte after the last."""
    n_volumes, n_features = int(row["n_volumes"]), int(row["n_features"])
    members, offsets, end = dict[str, bytes](), dict[str, int](), start
    for extension in MEMBERS:
        offsets[extension] = end + tarfile.BLOCKSIZE
        members[extension], end = _member(data, end, f"{row['key']}.{extension}")
    if hashlib.sha256(members["bold.npy"]).hexdigest() != row["sha256"]:
        what = "bold.npy: another sha256 than in runs.tsv"
        raise _Broken(_first_odd(members["bold.npy"], offsets["bold.npy"], np.float16), what)
    if details_hash(members) != row["details"]:
        raise _Broken(offsets["json"], "json, mean.npy or std.npy: another hash than in runs.tsv")
    shapes = {"bold.npy": (n_volumes, n_features), "mean.npy": (n_features,), "std.npy": (n_features,)}
    for extension, shape in shapes.items():
        kind = np.float16 if extension == "bold.npy" else np.float32
        _check_array(members[extension], offsets[extension], extension, kind, shape)
    _check_record(members["json"], offsets["json"], row)
    return end


def _member(data: mmap.mmap, start: int, name: str) -> tuple[bytes, int]:
    """Return the content of the tar member that starts at a byte, and the byte after it."""
    first = start + tarfile.BLOCKSIZE
    try:
        member = tarfile.TarInfo.frombuf(data[start:first], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _Broken(start, f"the tar header of {name} is damaged: {error}") from error
    if member.name != name:
        raise _Broken(start, f"the tar member is {member.name!r}, not {name!r}")
    last = first + member.size
    after = last + -last % tarfile.BLOCKSIZE
    if after > len(data):
        raise _Broken(len(data), f"the shard ends inside {name}")
    if any(data[last:after]):
        raise _Broken(last, f"the padding after {name} is not empty")
    return data[first:last], after


def _first_odd(content: bytes, offset: int, kind: type) -> int:
    """Return the byte of the first value of a .npy member that is not finite, else of the member."""
    whole = len(content[NPY_HEADER:]) // np.dtype(kind).itemsize
    odd = np.flatnonzero(~np.isfinite(np.frombuffer(content[NPY_HEADER:], kind, whole)))
    return offset + (NPY_HEADER + np.dtype(kind).itemsize * int(odd[0]) if odd.size else 0)


def _check_array(content: bytes, offset: int, name: str, kind: type, shape: tuple[int, ...]) -> None:
    """Check header and values of a .npy member."""
    values = np.frombuffer(content[NPY_HEADER:], np.uint8)
    n_bytes = np.prod(shape) * np.dtype(kind).itemsize
    if content[:NPY_HEADER] != npy_header(kind, shape) or values.size != n_bytes:
        raise _Broken(offset, f"{name}: not an array of {np.dtype(kind)} {shape}")
    if not np.isfinite(values.view(kind)).all():
        raise _Broken(_first_odd(content, offset, kind), f"{name}: a value that is not finite")


def _check_record(content: bytes, offset: int, row: dict[str, Any]) -> None:
    """Check that a run's JSON can be read and says what runs.tsv says."""
    try:
        record = parse_json(content)
        cells = {k: str(record[k]) for k in ("dataset", "subject", "t_r", "n_volumes", "space", "source")}
    except (ValueError, KeyError, TypeError) as error:
        raise _Broken(offset, f"json: not readable: {error!r}") from error
    for name, value in cells.items():
        if value != row[name]:
            raise _Broken(offset, f"json: {name} is {value!r}, runs.tsv says {row[name]!r}")


def check_manifest(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, list[Damage]]:
    """Check corpus.json, runs.tsv and quarantine.tsv against each other, and look for strange files."""
    import pandas as pd

    rows = pd.DataFrame(columns=RUN_COLUMNS)
    try:
        corpus = parse_json((folder / "corpus.json").read_text())
        damages = list(_elsewhere(corpus))
        check_corpus_json(corpus, folder / "corpus.json")
        fingerprint, shards = corpus["fingerprint"], {s["path"]: s["bytes"] for s in corpus["shards"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {"shards": []}, rows, [Damage("corpus.json", f"not readable: {error!r}")]
    try:
        text = read_table(folder / "runs.tsv")
        rows = text.loc[:, columns_of(text)]
        if fingerprint_of(corpus, rows) != fingerprint:
            damages.append(Damage("runs.tsv", "another fingerprint than in corpus.json"))
    except (OSError, ValueError, KeyError) as error:
        damages.append(Damage("runs.tsv", f"not readable: {error}"))
    else:
        damages += _contradictions(corpus, rows, set(shards))
    try:
        quarantine, count = read_table(folder / "quarantine.tsv"), corpus["totals"]["n_quarantined"]
        if list(quarantine.columns) != QUARANTINE_COLUMNS or len(quarantine) != count:
            damages.append(Damage("quarantine.tsv", "not the rows that corpus.json counts"))
    except (OSError, ValueError, KeyError) as error:
        damages.append(Damage("quarantine.tsv", f"not readable: {error}"))
    return corpus, rows, [*damages, *_strange_files(folder, shards)]


def _elsewhere(corpus: dict[str, Any]) -> Iterator[Damage]:
    """Take shards outside of the corpus off its list, so that nothing reads them."""
    within = []
    for shard in corpus["shards"]:
        try:
            inside(shard["path"], "corpus.json", REBUILD)
            within.append(shard)
        except DamageError as error:
            yield Damage("corpus.json", str(error).removeprefix("corpus.json: "))
    corpus["shards"] = within


def _contradictions(corpus: dict[str, Any], rows: pd.DataFrame, shards: set[str]) -> Iterator[Damage]:
    """Compare runs.tsv with corpus.json."""
    for key in rows.key[rows.key.duplicated()]:
        yield Damage("runs.tsv", "the key stands there twice", key)
    for key, shard in zip(rows.key, rows.shard, strict=True):
        if shard not in shards:
            yield Damage("runs.tsv", f"its shard {shard} is not in corpus.json", key)
    for name, space in corpus["spaces"].items():
        wrong = rows[(rows.space == name) & (rows.n_features != str(space["n_features"]))]
        for key in wrong.key:
            yield Damage("runs.tsv", f"space {name} has {space['n_features']} features", key)
    for key in rows.key[~rows.space.isin(list(corpus["spaces"]))]:
        yield Damage("runs.tsv", "its feature space is not in corpus.json", key)


def _strange_files(folder: Path, shards: dict[str, int]) -> Iterator[Damage]:
    """Name files among the shards that are none; what a user keeps beside them is not looked at."""
    datasets = {shard.partition("/")[0] for shard in shards}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        among = name.parts[0] in datasets or path.suffix == ".tar"
        if name.parts[0] != ".build" and among and name.as_posix() not in shards:
            yield Damage(name.as_posix(), "does not belong to the corpus; move it away")
