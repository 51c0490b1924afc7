"""Open a corpus and read its runs in place: shards are memory-mapped, nothing is decoded or copied."""

from __future__ import annotations

import mmap
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmriscale.common.errors import DamageError, UserError
from fmriscale.common.files import allow_open_files, expand, printable
from fmriscale.common.suggest import did_you_mean
from fmriscale.common.trust import parse_json
from fmriscale.corpus.manifest import FeatureSpace, details_hash, read_manifest
from fmriscale.corpus.remote import RemoteShards
from fmriscale.corpus.servers import is_url

if TYPE_CHECKING:
    import pandas as pd

NPY_HEADER = 128  # Bytes of the .npy header that the writer makes for every bold array
MEMBER_HEADER = tarfile.BLOCKSIZE + NPY_HEADER
"""Bytes from the start of a run's tar member to its first float16."""


class Corpus:
    """A corpus on local disk or on a server.

    Attributes
    ----------
    folder : Path
        Where it lies; for a corpus on a server, where a copy of its manifest lies.
    remote : RemoteShards or None
        The shards of a corpus on a server.
    manifest : dict
        corpus.json.
    runs : DataFrame
        runs.tsv; the row number is the run's index everywhere.
    spaces : dict of str to FeatureSpace
        Feature spaces by name.

    Examples
    --------
    >>> from fmriscale.corpus.reader import Corpus
    >>> corpus = Corpus.open("demo/corpus")  # doctest: +SKIP
    >>> corpus.runs[["key", "n_volumes", "t_r"]].head()  # doctest: +SKIP
    >>> mean_V, std_V = corpus.mean_std(0)  # doctest: +SKIP
    >>> signals_TV = corpus.bold(0) * std_V + mean_V  # doctest: +SKIP
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], runs: pd.DataFrame, remote: RemoteShards | None = None
    ) -> None:
        self.folder, self.remote, self.manifest, self.runs = folder, remote, manifest, runs
        self.spaces = {n: FeatureSpace.from_dict(n, d) for n, d in manifest["spaces"].items()}
        self._sizes = {shard["path"]: shard["bytes"] for shard in manifest["shards"]}
        self._maps: dict[str, mmap.mmap] = {}

    @classmethod
    def open(cls, where: str | Path, cache: str | None = None, cache_gb: float | None = None) -> Corpus:
        """Open a corpus.

        Parameters
        ----------
        where : str or Path
            Its folder, or its URL.
        cache : str, optional
            Folder for the shards of a corpus on a server; None = FMRISCALE_CACHE or ~/.cache/fmriscale.
        cache_gb : float, optional
            Limit of the cache, GB (10^9 bytes); None = none.

        Returns
        -------
        Corpus
            Nothing but the manifest has been read.

        Raises
        ------
        UserError
            There is no corpus, or its server cannot be reached.
        DamageError
            The files of a manifest on a server do not belong together.
        """
        if is_url(where):
            remote = RemoteShards(str(where), cache, cache_gb)
            return cls(remote.folder, *read_manifest(remote.folder), remote)
        path = expand(where)
        return cls(path, *read_manifest(path))

    def __str__(self) -> str:
        """Name the corpus in messages: its folder, or its URL."""
        return self.remote.shown if self.remote else str(self.folder)

    def locate(self, shard: str) -> Path:
        """Return the file of a shard; that of a server is waited for and then stays in the cache."""
        return self.remote.locate(shard) if self.remote else self.folder / shard

    def want(self, now: Sequence[str], ahead: Sequence[str] = (), reader: str = "") -> None:
        """Have shards fetched from a server in this order; see `RemoteShards.want`."""
        if self.remote:
            self.remote.want(now, ahead, reader)

    def close(self) -> None:
        """End the downloads of a corpus on a server, and let others delete its shards from the cache."""
        if self.remote:
            self.remote.close()

    def forget(self, shard: str) -> None:
        """Drop the map of a shard; it goes when no array refers to it any more."""
        self._maps.pop(shard, None)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that training depends on."""
        return self.manifest["fingerprint"]

    def space(self, name: str | None) -> FeatureSpace:
        """Return a feature space by name.

        Parameters
        ----------
        name : str or None
            Its name; None where the corpus has only one.

        Returns
        -------
        FeatureSpace
            What its columns are.

        Raises
        ------
        UserError
            No such space, or several and none named.
        """
        if name is None and len(self.spaces) == 1:
            return next(iter(self.spaces.values()))
        if name not in self.spaces:
            problem = "has several feature spaces" if name is None else f"has no feature space '{name}'"
            hint = did_you_mean(name or "", self.spaces)
            raise UserError(f"{self}: {problem}; choose from {', '.join(sorted(self.spaces))}{hint}")
        return self.spaces[name]

    def bold(self, index: int) -> np.ndarray:
        """Return the signals of a run, standardised.

        Parameters
        ----------
        index : int
            Row of `runs`.

        Returns
        -------
        ndarray [T, V]
            float16, a read-only view into the mapped shard; censored volumes and missing features are zeros.

        Raises
        ------
        DamageError
            The shard is missing, of another size, or holds something else at the run's offset.
        """
        row = self.runs.iloc[index]
        shape = (int(row.n_volumes), int(row.n_features))
        mapped = self.map(row.shard)
        offset, count = int(row.offset), shape[0] * shape[1]
        if offset + 2 * count > len(mapped):
            raise self.damage(index, f"the shard ends at byte {len(mapped)}")
        name = f"{row.key}.bold.npy".encode()
        start = offset - MEMBER_HEADER
        if start < 0 or bytes(mapped[start : start + len(name)]) != name:
            raise self.damage(index, "another member lies there")
        return np.frombuffer(mapped, np.float16, count, offset).reshape(shape)

    def bytes_before(self, index: int, count: int) -> bytes:
        """Return the bytes of a shard that come before a run's first value."""
        row = self.runs.iloc[index]
        return bytes(self.map(row.shard)[int(row.offset) - count : int(row.offset)])

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        """Return where the first value of each run lies in memory, int64; valid while the corpus is open."""
        import pandas as pd

        codes, shards = pd.factorize(self.runs["shard"].to_numpy()[rows])
        allow_open_files(len(shards) + len(self._maps))
        views = [np.frombuffer(self.map(shard), np.uint8) for shard in shards]
        column = {name: self.runs[name].to_numpy()[rows] for name in ("offset", "n_volumes", "n_features")}
        end = column["offset"] + 2 * column["n_volumes"] * column["n_features"]
        sizes = np.array([len(view) for view in views], np.int64)
        if (outside := (end > sizes[codes]) | (column["offset"] < MEMBER_HEADER)).any():
            index = int(rows[np.argmax(outside)])
            raise self.damage(index, f"the shard ends at byte {sizes[codes[np.argmax(outside)]]}")
        return np.array([view.ctypes.data for view in views], np.int64)[codes] + column["offset"]

    def record(self, index: int) -> dict[str, Any]:
        """Return what is known of a run.

        Parameters
        ----------
        index : int
            Row of `runs`.

        Returns
        -------
        dict
            entities, t_r (s), sample_mask, events (onset and duration in s from the first volume), source,
            quality and so on, as the corpus format has them.

        Raises
        ------
        DamageError
            What follows the run's array in its shard is damaged.
        """
        content = self._members(index)["json"]
        try:
            if isinstance(record := parse_json(content), dict):
                return record
        except ValueError:
            pass
        raise self.damage(index, "json: not readable")

    def mean_std(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what undoes the standardisation of a run: `bold * std + mean`.

        Parameters
        ----------
        index : int
            Row of `runs`.

        Returns
        -------
        mean, std : ndarray [V]
            float32, in the unit of the source.
        """
        members, size = self._members(index), int(self.runs["n_features"].iloc[index])
        for name in ("mean.npy", "std.npy"):  # what its header says would decide how much memory is taken
            if len(members[name]) != NPY_HEADER + 4 * size or b"'<f4'" not in members[name][:NPY_HEADER]:
                raise self.damage(index, f"{name}: not an array of float32 ({size},)")
        mean, std = (np.frombuffer(members[m], "<f4", size, NPY_HEADER) for m in ("mean.npy", "std.npy"))
        return mean.copy(), std.copy()

    def _members(self, index: int) -> dict[str, bytes]:
        """Read the small tar members that follow a run's bold array, by extension."""
        row = self.runs.iloc[index]
        members: dict[str, bytes] = {}
        try:
            with self.locate(row.shard).open("rb") as handle:
                handle.seek(int(row.offset) - MEMBER_HEADER)
                with tarfile.open(fileobj=handle, mode="r:") as tar:
                    for member in tar:
                        key, _, extension = member.name.partition(".")
                        if key != row.key or not member.isreg():
                            break
                        if extension != "bold.npy" and (content := tar.extractfile(member)):
                            members[extension] = content.read()
                        if len(members) == 3:
                            break
        except (OSError, ValueError, tarfile.TarError) as error:
            raise self.damage(index, str(error)) from error
        if len(members) < 3:
            raise self.damage(index, f"only {sorted(members)} follow the array")
        if details_hash(members) != row.details:
            raise self.damage(index, "json, mean.npy or std.npy: another hash than in runs.tsv")
        return members

    def map(self, shard: str) -> mmap.mmap:
        """Map a shard once a process, if it has the size that the manifest tells."""
        if shard not in self._maps:
            path = self.locate(shard)
            try:
                if path.exists() and not path.is_file():  # a pipe would wait for ever
                    raise OSError("not a regular file")
                with path.open("rb") as handle:
                    mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise DamageError(f"{path}: {error}; {self._remedy}") from error
            if len(mapped) != (size := self._sizes.get(shard, len(mapped))):
                what = f"the shard has {len(mapped)} bytes instead of {size}"
                raise DamageError(f"{path}: {what}; {self._remedy}")
            self._maps[shard] = mapped
        return self._maps[shard]

    def damage(self, index: int, what: str) -> DamageError:
        """Name the shard, key and offset of damage, and the remedy."""
        row = self.runs.iloc[index]
        where = f"{self.locate(row.shard)}: run {printable(row.key)} at byte {row.offset}"
        return DamageError(f"{where}: {what}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        """How a shard is repaired."""
        if self.remote:
            return f"delete this file, and it is fetched from {self} again"
        return f"fmriscale verify {self} --repair builds it again"
