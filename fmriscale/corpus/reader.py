"""Open a corpus and read its runs in place: shards are memory-mapped, nothing is decoded or copied."""

import io
import json
import mmap
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.corpus.manifest import FeatureSpace, read_manifest
from fmriscale.errors import DamageError, UserError
from fmriscale.files import expand

NPY_HEADER = 128
"""Bytes of the .npy header that the writer makes for every bold array."""
MEMBER_HEADER = tarfile.BLOCKSIZE + NPY_HEADER
"""Bytes from the start of a run's tar member to its first float16."""


class Corpus:
    """A corpus on local disk.

    Attributes
    ----------
    folder : Path
        Where it lies.
    manifest : dict
        corpus.json.
    runs : DataFrame
        runs.tsv; the row number is the run's index everywhere.
    spaces : dict of str to FeatureSpace
        Feature spaces by name.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], runs: pd.DataFrame) -> None:
        self.folder = folder
        self.manifest = manifest
        self.runs = runs
        self.spaces = {n: FeatureSpace.from_dict(n, d) for n, d in manifest["spaces"].items()}
        self._maps: dict[str, mmap.mmap] = {}

    @classmethod
    def open(cls, folder: str | Path) -> "Corpus":
        """Open a corpus folder.

        Raises
        ------
        UserError
            The folder is not a corpus.
        """
        path = expand(folder)
        return cls(path, *read_manifest(path))

    @property
    def fingerprint(self) -> str:
        """Hash of everything that training depends on."""
        return self.manifest["fingerprint"]

    def space(self, name: str | None) -> FeatureSpace:
        """Return a feature space by name; the name may be left out where there is only one.

        Raises
        ------
        UserError
            No such space, or several and none named.
        """
        if name is None and len(self.spaces) == 1:
            return next(iter(self.spaces.values()))
        if name not in self.spaces:
            problem = "has several feature spaces" if name is None else f"has no feature space '{name}'"
            raise UserError(f"{self.folder}: {problem}; choose from {', '.join(sorted(self.spaces))}")
        return self.spaces[name]

    def bold(self, index: int) -> np.ndarray:
        """Return a run, float16 [T, V], as a read-only view into its mapped shard.

        Raises
        ------
        DamageError
            The shard is missing, too short, or holds something else at the run's offset.
        """
        row = self.runs.iloc[index]
        shape = (int(row.n_volumes), int(row.n_features))
        mapped = self._map(row.shard)
        offset, count = int(row.offset), shape[0] * shape[1]
        if offset + 2 * count > len(mapped):
            raise self._damage(row, f"the shard ends at byte {len(mapped)}")
        name = f"{row.key}.bold.npy".encode()
        start = offset - MEMBER_HEADER
        if start < 0 or bytes(mapped[start : start + len(name)]) != name:
            raise self._damage(row, "another member lies there")
        return np.frombuffer(mapped, np.float16, count, offset).reshape(shape)

    def record(self, index: int) -> dict[str, Any]:
        """Return what is known of a run: entities, t_r, sample_mask, events, source, quality."""
        return json.loads(self._members(index)["json"])

    def mean_std(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation, float32 [V], that undo a run's standardisation."""
        members = self._members(index)
        mean, std = (np.load(io.BytesIO(members[m]), allow_pickle=False) for m in ("mean.npy", "std.npy"))
        return mean, std

    def _members(self, index: int) -> dict[str, bytes]:
        """Read the small tar members that follow a run's bold array, by extension."""
        row = self.runs.iloc[index]
        found: dict[str, bytes] = {}
        try:
            with (self.folder / row.shard).open("rb") as handle:
                handle.seek(int(row.offset) - MEMBER_HEADER)
                with tarfile.open(fileobj=handle, mode="r:") as tar:
                    for member in tar:
                        key, _, extension = member.name.partition(".")
                        if key != row.key:
                            break
                        if extension != "bold.npy" and (content := tar.extractfile(member)):
                            found[extension] = content.read()
                        if len(found) == 3:
                            return found
        except (OSError, tarfile.TarError) as error:
            raise self._damage(row, str(error)) from error
        raise self._damage(row, f"only {sorted(found)} follow the array")

    def _map(self, shard: str) -> mmap.mmap:
        """Map a shard once a process."""
        if shard not in self._maps:
            path = self.folder / shard
            try:
                with path.open("rb") as handle:
                    self._maps[shard] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise DamageError(f"{path}: {error}; shard the corpus again") from error
        return self._maps[shard]

    def _damage(self, row: Any, what: str) -> DamageError:
        """Name the shard, key and offset of damage, and the remedy."""
        where = f"{self.folder / row.shard}: run {row.key} at byte {row.offset}"
        return DamageError(f"{where}: {what}; delete the shard and shard the corpus again")
