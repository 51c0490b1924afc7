"""The hash of all inputs of a shard: equal hashes mean that it need not be built again."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from fmriscale.common.files import expand
from fmriscale.common.version import __version__
from fmriscale.config import DatasetConfig
from fmriscale.config.paths import absolute, map_paths
from fmriscale.config.settings import PathKind
from fmriscale.ingest.plan import Shard
from fmriscale.ingest.read.features import load_features
from fmriscale.ingest.read.mirror import by_url, local_path

SOFTWARE = ("isal", "nibabel", "nilearn", "numpy", "scipy")
"""Packages whose versions shape the numbers or bytes of a corpus."""

MANIFEST_ONLY = ("people", "weight", "licence", "stimulus", "stimulus_onset")
"""Fields of a data set that are in the manifest and change no shard; the first stimulus of a data set builds
its shards again all the same, because their states must then tell when each run's first volume was."""

_CHUNK = 256
"""Files that a thread looks at in one go; many threads, as a network file system answers each slowly."""


def software() -> dict[str, str]:
    """Return the versions that a corpus depends on."""
    versions = {name: importlib.metadata.version(name) for name in SOFTWARE}
    return {"fmriscale": __version__, **versions}


def fingerprints(shards: Iterable[Shard]) -> list[str]:
    """Hash settings, software, runs, and path below the root, size and time of every input of each shard."""
    shards = list(shards)
    inputs = [sorted({file for run in shard.runs for file in run.inputs()}) for shard in shards]
    every = sorted({file for files in inputs for file in files})
    chunks = [every[first : first + _CHUNK] for first in range(0, len(every), _CHUNK)]
    with ThreadPoolExecutor(16) as threads:
        stamps_of = threads.map(lambda files: list(map(_stamp, files)), chunks)
        stamps = dict(zip(every, chain.from_iterable(stamps_of), strict=True))
    datasets = {shard.dataset.name: shard.dataset for shard in shards}
    versions, settings = software(), {name: _settings(dataset) for name, dataset in datasets.items()}
    prints = []
    for shard, files in zip(shards, inputs, strict=True):
        root = local_path(shard.dataset.root).absolute()
        names = [f.relative_to(root).as_posix() if f.is_relative_to(root) else by_url(str(f)) for f in files]
        content = {
            "settings": settings[shard.dataset.name],
            "runs": [[r.key, r.source, r.array, r.t_r, r.entities, r.participant] for r in shard.runs],
            "files": [[name, *stamps[file]] for name, file in zip(names, files, strict=True)],
            "software": versions,
        }
        prints.append(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())
    return prints


def _settings(dataset: DatasetConfig) -> dict[str, Any]:
    """Return the settings of a data set; files of the feature space by name, size and time."""
    settings = map_paths(dataset, _stamped)
    for field in ("root", *MANIFEST_ONLY):
        del settings[field]
    if dataset.stimulus is not None:
        settings["stimulus"] = True
    if atlas := load_features(dataset.features).space.atlas:
        settings["features"]["labels_img"] = asdict(atlas)
    return settings


def _stamped(path: str, kind: PathKind) -> str | list[Any]:
    """Return name, size and time of a file; a template as an absolute path."""
    if kind is PathKind.TEMPLATE:
        return absolute(path, kind)
    return [Path(path).name, *_stamp(expand(path))]


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and modification time in ns; -1 where the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
