"""Write the simulated experiment as a corpus: the ROI alone, no images, cleaned by motion and high_pass."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from fmriscale.common.console import counted
from fmriscale.config import DenoiseConfig, QualityConfig, SimulateConfig, SplitConfig
from fmriscale.corpus.create import CorpusWriter
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.ingest.clean.confounds import Confounds
from fmriscale.ingest.clean.denoise import Denoiser, standardize
from fmriscale.ingest.fingerprint import software
from fmriscale.ingest.read.geometry import millimetres, world
from fmriscale.simulate import signal
from fmriscale.simulate.anatomy import Anatomy, RegionTexture
from fmriscale.simulate.design import Design, label

DATASET = "simulated"  # Name of the data set in the corpus
CLEANED = DenoiseConfig(strategy=["motion", "high_pass"])
AS_MEASURED = DenoiseConfig(detrend=False)


def write_corpus(config: SimulateConfig, anatomy: Anatomy, design: Design, folder: Path) -> None:
    """Write the corpus, in the feature space `roi` as `mask_img` would make it."""
    texture = RegionTexture(anatomy)
    positions = millimetres(world(np.argwhere(anatomy.roi), anatomy.affine))
    space = FeatureSpace("roi", config.n_roi_voxels, coordinates=positions)
    denoise = CLEANED if config.clean else AS_MEASURED
    with CorpusWriter(folder, split=SplitConfig(**asdict(config.split)), software=software()) as corpus:
        limits = asdict(QualityConfig())
        corpus.describe(DATASET, kind="simulated", licence="CC0", denoise=asdict(denoise), quality=limits)
        for subject in counted(design.subjects, config.n_subjects, "subjects"):
            for number in range(config.n_runs):
                events = design.events(subject, number)
                bold_TV, motion_T6 = signal.run(config, texture, subject, number, events)
                corpus.add(
                    t_r=config.t_r,
                    subject=label(subject),
                    dataset=DATASET,
                    task=str(events["condition"].iloc[0]),
                    run=f"{number + 1:02d}",
                    space=space,
                    events=events.to_dict("records"),
                    **clean(bold_TV.astype(float), motion_T6, denoise, config),
                )


def clean(raw_TV: np.ndarray, motion_T6: np.ndarray, denoise: DenoiseConfig, config: SimulateConfig) -> dict:
    """Clean the signals of a run, and return them as `CorpusWriter.add` takes them, with their figures."""
    mean_V, std_V = raw_TV.mean(axis=0), raw_TV.std(axis=0)
    table = signal.confounds({}, motion_T6, config.t_r)
    mean_fd, tsnr = float(table.pop("framewise_displacement").mean()), np.median(mean_V / std_V)
    # The first volume has no derivative; nilearn's load_confounds takes the second one's.
    confounds = Confounds(table.bfill() if config.clean else None)
    cleaned_TV = Denoiser(confounds, denoise, config.t_r)(raw_TV)
    z_TV, cleaned_std_V = standardize(cleaned_TV, std_V, np.zeros(len(std_V), bool))
    return {
        "bold": z_TV,
        "mean": mean_V,
        "std": cleaned_std_V,
        "quality": {"coverage": 1.0, "mean_fd": float(f"{mean_fd:.6g}"), "tsnr": float(f"{tsnr:.6g}")},
        "denoise": {
            "strategy": denoise.strategy,
            "regressors": list(table) if config.clean else [],
            "detrend": denoise.detrend,
            "standardize": "zscore_sample",
        },
    }
