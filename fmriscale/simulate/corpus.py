"""The simulated experiment straight as a corpus: the ROI alone, cleaned as `fmriscale shard` would.

No image is written, so hundreds of experiments take minutes; the signal of the ROI has the same distribution
as that of the images. Of the strategies of cleaning there are motion and high_pass: white matter and CSF lie
outside the ROI.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from fmriscale.config import DenoiseConfig, QualityConfig, SimulateConfig, SplitConfig
from fmriscale.corpus.create import CorpusWriter
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.ingest.clean.confounds import Confounds
from fmriscale.ingest.clean.denoise import Denoiser, standardize
from fmriscale.ingest.fingerprint import software
from fmriscale.ingest.read.geometry import millimetres, world
from fmriscale.simulate import signal
from fmriscale.simulate.anatomy import Anatomy
from fmriscale.simulate.design import Design, label
from fmriscale.simulate.texture import RegionTexture

DATASET = "simulated"
"""Name of the data set in the corpus."""
CLEANED = DenoiseConfig(strategy=["motion", "high_pass"])
AS_MEASURED = DenoiseConfig(detrend=False)


def write_corpus(config: SimulateConfig, place: Anatomy, design: Design, folder: Path) -> None:
    """Write the corpus, in the feature space `roi` as `mask_img` would make it."""
    texture = RegionTexture(place)
    positions = millimetres(world(np.argwhere(place.roi), place.affine))
    space = FeatureSpace("roi", config.n_roi_voxels, coordinates=positions)
    with CorpusWriter(folder, split=SplitConfig(**asdict(config.split)), software=software()) as corpus:
        corpus.describe(
            DATASET,
            kind="simulated",
            licence="CC0",
            denoise=asdict(cleaning(config)),
            quality=asdict(QualityConfig()),
        )
        for subject in design.subjects:
            for number in range(config.n_runs):
                add_run(corpus, config, texture, design, space, subject, number)


def cleaning(config: SimulateConfig) -> DenoiseConfig:
    """Return what is done to the signals."""
    return CLEANED if config.clean else AS_MEASURED


def add_run(
    corpus: CorpusWriter,
    config: SimulateConfig,
    texture: RegionTexture,
    design: Design,
    space: FeatureSpace,
    subject: int,
    number: int,
) -> None:
    """Simulate, clean and add one run; subject and number are counted from 0."""
    events = design.events(subject, number)
    bold_TV, motion_T6 = signal.run(config, texture, subject, number, events)
    raw_TV = bold_TV.astype(float)
    raw_std_V, missing_V = raw_TV.std(axis=0), np.zeros(raw_TV.shape[1], bool)
    table = signal.confounds({}, motion_T6, config.t_r)
    mean_fd = float(table.pop("framewise_displacement").mean())
    # The first volume has no derivative; nilearn's load_confounds takes the second one's.
    denoise, confounds = cleaning(config), Confounds(table.bfill() if config.clean else None)
    cleaned_TV = Denoiser(confounds, denoise, config.t_r)(raw_TV)
    z_TV, std_V = standardize(cleaned_TV, raw_std_V, missing_V)
    corpus.add(
        z_TV,
        config.t_r,
        label(subject),
        dataset=DATASET,
        task=str(events["condition"].iloc[0]),
        run=f"{number + 1:02d}",
        space=space,
        events=events.to_dict("records"),
        mean=raw_TV.mean(axis=0),
        std=std_V,
        quality={
            "coverage": 1.0,
            "mean_fd": float(f"{mean_fd:.6g}"),
            "tsnr": float(f"{np.median(raw_TV.mean(axis=0) / raw_std_V):.6g}"),
        },
        denoise={
            "strategy": denoise.strategy,
            "regressors": list(table) if config.clean else [],
            "detrend": denoise.detrend,
            "standardize": "zscore_sample",
        },
    )
