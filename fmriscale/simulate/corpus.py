"""The simulated experiment straight as a corpus: the ROI alone, cleaned as `fmriscale shard` would.

No image is written, so hundreds of experiments take minutes; the signal of the ROI has the same distribution
as that of the images. Of the strategies of cleaning there are motion and high_pass: white matter and CSF lie
outside the ROI.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.config import DenoiseConfig, QualityConfig, SimulateConfig
from fmriscale.corpus.manifest import (
    QUARANTINE_COLUMNS,
    RUN_COLUMNS,
    FeatureSpace,
    segments_of,
    split_of,
    write_manifest,
)
from fmriscale.corpus.writer import EncodedRun, ShardWriter, encode_run
from fmriscale.ingest.clean import Cleaner, standardise
from fmriscale.ingest.denoise import Confounds
from fmriscale.ingest.fingerprint import software
from fmriscale.ingest.geometry import millimetres, world
from fmriscale.simulate import signal
from fmriscale.simulate.anatomy import Anatomy
from fmriscale.simulate.design import Design, label
from fmriscale.simulate.texture import RegionTexture

DATASET = "simulated"
"""Name of the data set in the corpus."""
CLEANED = DenoiseConfig(strategy=["motion", "high_pass"])
AS_MEASURED = DenoiseConfig(detrend=False)


def write_corpus(config: SimulateConfig, place: Anatomy, design: Design, folder: Path) -> None:
    """Write the corpus: one shard, the feature space `roi` (as `mask_img` would make it), the manifest."""
    texture = RegionTexture(place)
    name = f"{DATASET}/{DATASET}-000000.tar"
    with ShardWriter(folder / name, name) as writer:
        for subject in design.subjects:
            for number in range(config.n_runs):
                writer.add(encoded(config, texture, design, subject, number))
        shard = writer.commit()
    runs = pd.DataFrame(writer.rows).reindex(columns=RUN_COLUMNS)
    runs["person"] = DATASET + "/" + runs["subject"]
    runs["split"] = [split_of(person, config.split) for person in runs["person"]]
    positions = millimetres(world(np.argwhere(place.roi), place.affine))
    space = FeatureSpace("roi", config.n_roi_voxels, coordinates=positions)
    hours = round(len(runs) * config.n_volumes * config.t_r / 3600, 4)
    dataset = {
        "kind": "simulated",
        "space": space.name,
        "people": DATASET,
        "weight": None,
        "licence": "CC0",
        "entities": {},
        "denoise": asdict(cleaning(config)),
        "quality": asdict(QualityConfig()),
        "t_r": [config.t_r],
        "n_runs": len(runs),
        "n_subjects": config.n_subjects,
        "hours": hours,
        "n_quarantined": 0,
    }
    manifest = {
        "spaces": {space.name: space.to_dict()},
        "datasets": {DATASET: dataset},
        "split": asdict(config.split),
        "shards": [shard],
        "totals": {
            "n_datasets": 1,
            "n_runs": len(runs),
            "n_people": config.n_subjects,
            "n_quarantined": 0,
            "hours": hours,
            "bytes": 0 if shard is None else shard["bytes"],
        },
        "software": software(),
    }
    write_manifest(folder, manifest, runs, pd.DataFrame(columns=QUARANTINE_COLUMNS))


def cleaning(config: SimulateConfig) -> DenoiseConfig:
    """Return what is done to the signals."""
    return CLEANED if config.clean else AS_MEASURED


def encoded(
    config: SimulateConfig, texture: RegionTexture, design: Design, subject: int, number: int
) -> EncodedRun:
    """Simulate, clean and encode one run; subject and number are counted from 0."""
    events = design.events(subject, number)
    bold_TV, motion_T6 = signal.run(config, texture, subject, number, events)
    raw_TV = bold_TV.astype(float)
    raw_std_V, missing_V = raw_TV.std(axis=0), np.zeros(raw_TV.shape[1], bool)
    table = signal.confounds({}, motion_T6, config.t_r)
    mean_fd = float(table.pop("framewise_displacement").mean())
    # The first volume has no derivative; nilearn's load_confounds takes the second one's.
    denoise, confounds = cleaning(config), Confounds(table.bfill() if config.clean else None)
    cleaned_TV = Cleaner(confounds, denoise, config.t_r)(raw_TV)
    z_TV, std_V = standardise(cleaned_TV, raw_std_V, missing_V)
    named = {
        "dataset": DATASET,
        "subject": label(subject).removeprefix("sub-"),
        "session": "",
        "task": str(events["condition"].iloc[0]),
        "run": f"{number + 1:02d}",
    }
    entities = {"sub": named["subject"], "task": named["task"], "run": named["run"]}
    stem = "_".join(f"{entity}-{value}" for entity, value in entities.items())
    measured: dict[str, Any] = {
        "coverage": 1.0,
        "mean_fd": float(f"{mean_fd:.6g}"),
        "tsnr": float(f"{np.median(raw_TV.mean(axis=0) / raw_std_V):.6g}"),
        "n_censored": 0,
    }
    record = {
        **named,
        "entities": entities,
        "t_r": config.t_r,
        "n_volumes": config.n_volumes,
        "space": "roi",
        "sample_mask": None,
        "events": events.to_dict("records"),
        "source": stem,
        "source_sha256": "",
        "quality": {**measured, "missing_features": []},
        "denoise": {
            "strategy": denoise.strategy,
            "regressors": list(table) if config.clean else [],
            "detrend": denoise.detrend,
            "standardize": "zscore_sample",
        },
    }
    row = {
        "key": f"{DATASET}_{stem}",
        **named,
        "t_r": config.t_r,
        "space": "roi",
        "segments": segments_of(None, config.n_volumes),
        **measured,
        "source": stem,
    }
    return encode_run(row, record, z_TV, raw_TV.mean(axis=0), std_V)
