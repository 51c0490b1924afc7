"""Small real corpora for tests: AR(1) noise written in the corpus format, shards and manifest."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from webdataset import TarWriter

from fmriscale.config import SplitConfig
from fmriscale.corpus.manifest import (
    QUARANTINE_COLUMNS,
    RUN_COLUMNS,
    FeatureSpace,
    details_hash,
    segments_of,
    split_of,
    write_manifest,
)
from fmriscale.corpus.reader import MEMBER_HEADER, Corpus


def npy(array: np.ndarray) -> bytes:
    """An array as .npy bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def ar1(rng: np.random.Generator, n_volumes: int, n_features: int, phi: float = 0.8) -> np.ndarray:
    """Standardised AR(1) noise, float16 [T, V]."""
    x = rng.standard_normal((n_volumes, n_features))
    for t in range(1, n_volumes):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * x[t]
    return ((x - x.mean(0)) / x.std(0)).astype(np.float16)


def write_corpus(
    folder: Path,
    *,
    datasets: dict[str, dict] | None = None,
    n_features: int = 12,
    split: SplitConfig | None = None,
    space: str = "toy",
    labels=None,
    coordinates=None,
    quarantine=(),
    signal=None,
    seed: int = 0,
) -> Corpus:
    """Write a corpus and open it.

    `datasets` maps a name to {subjects, runs, n_volumes, t_r, weight, licence, denoise, sample_mask, events,
    quality, space, n_features, shards, scale, participant}; n_volumes may be a function (subject, run) ->
    int. `events` is a function (subject, run) -> list of dicts, `quality` one to a record's quality, `scale`
    to (mean, std) of the run before it was standardised, `participant` one of the subject to kept columns;
    `signal` is a function (array, record) -> array that may add to the noise before it is standardised. A
    `split` of None puts everybody in train. `quarantine` are rows of quarantine.tsv.
    """
    datasets = datasets or {"alpha": {}, "beta": {"t_r": 1.5, "n_volumes": 90}}
    rng = np.random.default_rng(seed)
    split = split or SplitConfig(val=0.0, test=0.0)
    rows, shards, described, spaces = [], [], {}, {}
    for name, spec in datasets.items():
        width, its_space = spec.get("n_features", n_features), spec.get("space", space)
        spaces[its_space] = FeatureSpace(its_space, width, labels, coordinates).to_dict()
        given = {k: spec[k] for k in ("licence", "denoise") if k in spec}
        described[name] = {"weight": spec.get("weight"), "space": its_space, **given}
        places = [(s, r) for s in range(spec.get("subjects", 3)) for r in range(spec.get("runs", 2))]
        for number, members in enumerate(np.array_split(np.array(places), spec.get("shards", 1))):
            shard = f"{name}/{name}-{number:06d}.tar"
            path = folder / shard
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as handle:
                tar = TarWriter(
                    handle, encoder=False, mtime=0, user="fmriscale", group="fmriscale", mode=0o444
                )
                offset = 0
                for s, r in members.tolist():
                    run, size = _run(rng, name, s, r, spec, width, its_space, signal)
                    key = run["key"]
                    tar.write({"__key__": key, **run["members"]})
                    person = f"{name}/{run['record']['subject']}"
                    rows.append(
                        {
                            **dict.fromkeys(RUN_COLUMNS, ""),
                            **{k: run["record"][k] for k in ("dataset", "subject", "task", "run", "t_r")},
                            **{k: run["record"][k] for k in ("n_volumes", "space", "source")},
                            **{"key": key, "person": person, "n_features": width},
                            "n_censored": run["n_censored"],
                            **{
                                "split": split_of(person, split),
                                "shard": shard,
                                "offset": offset + MEMBER_HEADER,
                            },
                            "segments": segments_of(spec.get("sample_mask"), run["record"]["n_volumes"]),
                            "sha256": hashlib.sha256(run["members"]["bold.npy"]).hexdigest(),
                            "details": details_hash(run["members"]),
                            **run["figures"],
                        }
                    )
                    offset += size
                tar.close()
            sha = hashlib.sha256(path.read_bytes()).hexdigest()
            shards.append({"path": shard, "sha256": sha, "bytes": path.stat().st_size})
    corpus = {
        "spaces": spaces,
        "datasets": described,
        "shards": shards,
    }
    write_manifest(
        folder,
        corpus,
        pd.DataFrame(rows, columns=RUN_COLUMNS),
        pd.DataFrame(quarantine, columns=QUARANTINE_COLUMNS),
    )
    return Corpus.open(folder)


def _run(rng, name: str, s: int, r: int, spec: dict, width: int, space: str, signal) -> tuple[dict, int]:
    """One run: record, tar members, and the bytes that they take in a tar."""
    n_volumes = spec.get("n_volumes", 120)
    n_volumes = n_volumes(s, r) if callable(n_volumes) else n_volumes
    subject, run, mask = f"{s + 1:02d}", f"{r + 1:02d}", spec.get("sample_mask")
    record = {
        "dataset": name,
        "subject": subject,
        "session": "",
        "task": "rest",
        "run": run,
        "entities": {"sub": subject, "run": run},
        "participant": spec["participant"](s) if "participant" in spec else {},
        "t_r": spec.get("t_r", 2.0),
        "n_volumes": n_volumes,
        "space": space,
        "sample_mask": None if mask is None else list(mask),
        "events": spec["events"](s, r) if "events" in spec else [],
        "source": f"sub-{subject}/run-{run}",
        "source_sha256": "0" * 64,
        "quality": spec["quality"](s, r) if "quality" in spec else {},
        "denoise": {},
    }
    x = ar1(rng, n_volumes, width)
    if signal is not None:
        x = signal(x.astype(np.float32), record)
        x = ((x - x.mean(0)) / x.std(0)).astype(np.float16)
    mean, std = spec["scale"](s, r) if "scale" in spec else (100, 2)
    members = {
        "bold.npy": npy(x),
        "json": json.dumps(record, sort_keys=True).encode(),
        "mean.npy": npy(np.full(width, mean, np.float32)),
        "std.npy": npy(np.full(width, std, np.float32)),
    }
    size = sum(512 + -(-len(m) // 512) * 512 for m in members.values())
    made = {
        "key": f"{name}_sub-{subject}_task-rest_run-{run}",
        "record": record,
        "members": members,
        "n_censored": 0 if mask is None else n_volumes - len(mask),
        "figures": {k: record["quality"].get(k, np.nan) for k in ("coverage", "mean_fd", "tsnr")},
    }
    return made, size
