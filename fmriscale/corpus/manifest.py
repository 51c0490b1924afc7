"""The manifest of a corpus: what its shards hold, where each run lies, and how subjects are split."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import fsync_folder, printable, write_durably
from fmriscale.common.suggest import did_you_mean_path
from fmriscale.common.trust import inside, parse_json, understood
from fmriscale.config import SplitConfig

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1

RECIPE = "recipe.yaml"  # The recipe that a corpus was made with, kept in its folder

RUN_COLUMNS = [
    *("key", "dataset", "subject", "session", "task", "run", "person"),
    *("t_r", "n_volumes", "n_features", "space", "split", "segments"),
    *("shard", "offset", "sha256", "details", "coverage", "mean_fd", "tsnr", "n_censored", "source"),
]
"""Columns of runs.tsv; `offset` is the byte of the shard at which the run's float16 data start, `sha256`
the hash of `bold.npy`, `details` the first digits of the hash of the run's other members."""

OPTIONAL_COLUMNS = ["group", "stimulus", "stimulus_onset"]
"""Columns that only some corpora have: whom a person must not be parted from (`split.group`); what everybody
saw or heard ("" = nothing that others share), and its time zero, s from the run's first volume."""

QUARANTINE_COLUMNS = ["dataset", "source", "reason", "detail"]

REBUILD = "rebuild the corpus, or take whole what its maker has"
_MOST = 2**30  # Most volumes or features: products of two stay whole in 64 bits
_SEGMENTS = re.compile(r"(\d{1,10}:\d{1,10}(,\d{1,10}:\d{1,10})*)?", re.ASCII)

_NUMBERS = {
    **dict.fromkeys(("t_r", "coverage", "mean_fd", "tsnr", "stimulus_onset"), "float64"),
    **dict.fromkeys(("n_volumes", "n_features", "offset", "n_censored"), "int64"),
}


@dataclass(frozen=True)
class PublishedAtlas:
    """An atlas that a recipe took by its name: the space that it lies in, and the hash of its image."""

    name: str
    template: str
    sha256: str


@dataclass(frozen=True)
class FeatureSpace:
    """What the V features of a run are.

    Attributes
    ----------
    name : str
        Name in the corpus.
    n_features : int
        V.
    labels : tuple of str, optional
        One name a feature.
    coordinates : tuple of (float, float, float), optional
        One position a feature, mm.
    atlas : PublishedAtlas, optional
        Where the features come from, if the recipe named an atlas.

    Examples
    --------
    >>> from fmriscale import FeatureSpace
    >>> ears = ((-50.0, -20.0, 6.0), (50.0, -20.0, 6.0))  # mm
    >>> FeatureSpace("two_regions", 2, labels=("left", "right"), coordinates=ears).sha256[:12]
    '5681360dfda9'
    """

    name: str
    n_features: int
    labels: tuple[str, ...] | None = None
    coordinates: tuple[tuple[float, float, float], ...] | None = None
    atlas: PublishedAtlas | None = None

    @property
    def sha256(self) -> str:
        """Hash of everything but the names: equal hashes mean interchangeable columns."""
        content = [self.n_features, self.labels, self.coordinates]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the form kept in corpus.json."""
        return {
            "n_features": self.n_features,
            "labels": self.labels,
            "coordinates": self.coordinates,
            "sha256": self.sha256,
            **({} if self.atlas is None else {"atlas": asdict(self.atlas)}),
        }

    @classmethod
    def from_dict(cls, name: str, content: dict[str, Any]) -> FeatureSpace:
        """Read the form kept in corpus.json."""
        labels = None if content["labels"] is None else tuple(content["labels"])
        positions = content["coordinates"]
        coordinates = None if positions is None else tuple((x, y, z) for x, y, z in positions)
        atlas = PublishedAtlas(**content["atlas"]) if "atlas" in content else None
        return cls(name, content["n_features"], labels, coordinates, atlas)


def split_of(person: str, split: SplitConfig) -> str:
    """Assign a person to train, val or test by a hash, so that adding people moves nobody."""
    digest = hashlib.sha256(f"{split.salt}|{person}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < split.test:
        return "test"
    return "val" if draw < split.test + split.val else "train"


def segments_of(sample_mask: Sequence[int] | np.ndarray | None, n_volumes: int) -> str:
    """Return the contiguous uncensored stretches of a run as `0:120,125:233` (half open)."""
    kept = np.arange(n_volumes) if sample_mask is None else np.asarray(sample_mask, dtype=np.int64)
    stretches = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
    return ",".join(f"{part[0]}:{part[-1] + 1}" for part in stretches if part.size)


def parse_segments(text: str) -> list[tuple[int, int]]:
    """Read what `segments_of` wrote."""
    pairs = (part.split(":") for part in text.split(",") if part)
    return [(int(start), int(stop)) for start, stop in pairs]


def stretches_of(segments: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the uncensored stretches of many runs (`segments` of runs.tsv) at once: run, start, stop [S]."""
    texts = segments.tolist()
    counts = np.fromiter((text.count(":") for text in texts), np.int64, len(texts))
    joined = ",".join(filter(None, texts)).replace(":", ",")
    bounds = np.array(joined.split(",") if joined else [], dtype="S").astype(np.int64).reshape(-1, 2)
    return np.repeat(np.arange(len(texts)), counts), bounds[:, 0], bounds[:, 1]


def columns_of(runs: pd.DataFrame) -> list[str]:
    """Return the columns of a table of runs: those that every corpus has, and the optional ones it has."""
    return [*RUN_COLUMNS, *(column for column in OPTIONAL_COLUMNS if column in runs)]


def fingerprint_of(corpus: dict[str, Any], runs: pd.DataFrame) -> str:
    """Hash what training depends on: the runs' content, place, split and meaning; not the software."""
    columns = ["key", "dataset", "person", "t_r", "n_volumes", "space", "split", "segments", "sha256"]
    columns += columns_of(runs)[len(RUN_COLUMNS) :]
    content = {
        "format": FORMAT,
        "spaces": {name: space["sha256"] for name, space in sorted(corpus["spaces"].items())},
        "runs": runs[columns].astype(str).to_numpy().tolist(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def render_manifest(
    corpus: dict[str, Any], runs: pd.DataFrame, quarantine: pd.DataFrame
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return corpus.json with its fingerprint, and the manifest's files as text."""
    order = ["dataset", "subject", "session", "task", "run", "key"]
    runs = runs.loc[:, columns_of(runs)].sort_values(order, kind="stable").reset_index(drop=True)
    quarantine = quarantine.loc[:, QUARANTINE_COLUMNS].sort_values(QUARANTINE_COLUMNS)
    corpus = {"format": FORMAT, "fingerprint": fingerprint_of(corpus, runs), **corpus}
    return corpus, {
        "runs.tsv": runs.to_csv(sep="\t", index=False, lineterminator="\n"),
        "quarantine.tsv": quarantine.to_csv(sep="\t", index=False, lineterminator="\n"),
        "corpus.json": json.dumps(corpus, indent=1, sort_keys=True) + "\n",
    }


def write_manifest(
    folder: Path, corpus: dict[str, Any], runs: pd.DataFrame, quarantine: pd.DataFrame
) -> dict[str, Any]:
    """Write what `render_manifest` makes of the same arguments; return corpus.json."""
    corpus, files = render_manifest(corpus, runs, quarantine)
    install(folder, files)
    return corpus


def install(
    folder: Path, files: dict[str, str], moves: Mapping[Path, Path] | None = None, gone: Collection[Path] = ()
) -> None:
    """Put a new manifest and its shards in place; cut short, the folder is the old corpus, or none.

    What needs space on the disk comes first; corpus.json goes, all else is renamed, and it comes back last.
    """
    moves = moves or {}
    targets = [folder / name for name in files]
    temporary = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in targets]
    gone = [path for path in gone if path.exists()]
    unchanged = all(p.is_file() and p.read_bytes() == files[p.name].encode() for p in targets)
    if unchanged and not moves and not gone:
        return
    try:
        for path, text in zip(temporary, files.values(), strict=True):
            write_durably(path, text)
        (folder / "corpus.json").unlink(missing_ok=True)
        fsync_folder(folder)
        for new, target in moves.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            new.replace(target)
        for path in gone:
            path.unlink()
        for parent in {path.parent for path in (*moves.values(), *gone)}:
            fsync_folder(parent)
        for path, target in zip(temporary, targets, strict=True):
            if target.name == "corpus.json":
                fsync_folder(folder)
            path.replace(target)
        fsync_folder(folder)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def hashed_key(key: str) -> str:
    """Return what a published encoder has in place of a run's key, for comparison with the keys of others."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def details_hash(members: dict[str, bytes]) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of all members but the signals."""
    rest = b"".join(members[name] for name in ("json", "mean.npy", "std.npy"))
    return hashlib.sha256(rest).hexdigest()[:16]


def require_corpus(folder: Path) -> None:
    """Refuse a folder that holds no corpus."""
    if not (folder / "corpus.json").is_file():
        hint = did_you_mean_path(folder) or "; build one with fmriscale-shard"
        raise UserError(f"{folder}: not a corpus (no corpus.json){hint}")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of a corpus as text, exactly as it stands."""
    import pandas as pd

    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def read_manifest(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read corpus.json and runs.tsv."""
    require_corpus(folder)
    import pandas as pd

    path, table = folder / "corpus.json", folder / "runs.tsv"
    try:
        corpus = parse_json(path.read_text())
    except ValueError as error:
        raise DamageError(f"{path}: not readable as JSON ({error}); {REBUILD}") from error
    found = corpus.get("format") if isinstance(corpus, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: format {found}, this version reads {FORMAT}; re-shard")
    text: Any = {c: "str" for c in [*RUN_COLUMNS, *OPTIONAL_COLUMNS] if c not in _NUMBERS}
    empty = {c: [""] for c in _NUMBERS}
    try:
        runs = pd.read_csv(table, sep="\t", dtype=text, keep_default_na=False, na_values=empty)
        runs = runs.loc[:, columns_of(runs)].astype({c: kind for c, kind in _NUMBERS.items() if c in runs})
    except (OSError, ValueError, KeyError) as error:
        raise DamageError(f"{table}: {' '.join(str(error).split())}; {REBUILD}") from error
    with understood(path, REBUILD):
        check_corpus_json(corpus, path)
    with understood(table, REBUILD):
        _check_runs(corpus, runs, table)
    return corpus, runs


def check_corpus_json(corpus: dict[str, Any], path: Path) -> None:
    """Refuse a shard outside of the corpus; raise what Python does where something is missing."""
    for shard in corpus["shards"]:
        inside(shard["path"], path, REBUILD)
        if shard["bytes"] + shard["n_runs"] < 0 or not isinstance(shard["sha256"], str):
            raise ValueError(f"sizes or sha256 of {shard['path']}")
    for name, space in corpus["spaces"].items():
        if not 1 <= FeatureSpace.from_dict(name, space).n_features <= _MOST or len(space["sha256"]) != 64:
            raise ValueError(f"n_features or sha256 of {name}")
    if not isinstance(corpus["fingerprint"], str):
        raise TypeError("fingerprint")
    for name, entry in corpus["datasets"].items():
        _ = float(entry.get("weight") or 0), float(entry["hours"]), [float(t_r) for t_r in entry["t_r"]]
        if not isinstance(entry.get("licence", ""), str):
            raise TypeError(f"licence of {name}")
    _ = int(corpus["totals"]["n_quarantined"])


def _check_runs(corpus: dict[str, Any], runs: pd.DataFrame, table: Path) -> None:
    """Refuse runs at places or of sizes that cannot be: compiled code reads memory as these numbers say."""
    listed = {shard["path"] for shard in corpus["shards"]}
    for shard in runs.shard.unique():
        if inside(shard, table, REBUILD) not in listed:
            raise DamageError(f"{table}: its shard {shard} is not in corpus.json; {REBUILD}")
    if unknown := sorted(set(runs.dataset) - corpus["datasets"].keys()):
        raise DamageError(f"{table}: its data set {printable(unknown[0])} is not in corpus.json; {REBUILD}")
    width = runs.space.map({name: space["n_features"] for name, space in corpus["spaces"].items()})
    n_volumes, offset, t_r = (runs[name].to_numpy() for name in ("n_volumes", "offset", "t_r"))
    sound = (n_volumes >= 1) & (n_volumes <= _MOST) & (runs.n_features.to_numpy() == width.to_numpy())
    sound &= (offset >= 0) & (offset < 2**62) & np.isfinite(t_r) & (t_r > 0)
    well_formed = {text: _SEGMENTS.fullmatch(text) is not None for text in runs.segments.unique()}
    sound &= runs.segments.map(well_formed).to_numpy(bool)
    if sound.all():
        run, start, stop = stretches_of(runs.segments)
        np.logical_and.at(sound, run, (start <= stop) & (stop <= n_volumes[run]))
    if not sound.all():
        wrong = runs.iloc[int(np.argmin(sound))]
        what = f"run {printable(wrong.key)} of {wrong.n_volumes} volumes and {wrong.n_features} features"
        place = f"space {printable(wrong.space)}, segments {printable(wrong.segments)[:80]}"
        last = f"t_r {wrong.t_r:g}, offset {wrong.offset}: impossible"
        raise DamageError(f"{table}: {what} in {place}, {last}; {REBUILD}")
