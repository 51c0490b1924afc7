"""Every setting of fmriscale: typed, documented, with its unit.

One dataclass per recipe (`CorpusConfig`, `PretrainConfig`, `StudyConfig`, `ProbeConfig`, `SimulateConfig`); a
YAML file fills it, dotted options override it (`--train.lr 3e-4`), unknown or mistyped keys are refused by
name. `recipe.py` makes the command line, `--help` and `--print_config` from these definitions.
"""

from fmriscale.config.corpus import (
    MAX_T_R,
    MIN_T_R,
    SPLITS,
    CorpusConfig,
    DatasetConfig,
    DenoiseConfig,
    FeatureConfig,
    QualityConfig,
    SplitConfig,
)
from fmriscale.config.pretrain import (
    KIND_NAMES,
    KINDS,
    POSITIVE_KINDS,
    DataConfig,
    ModelConfig,
    PairConfig,
    PretrainConfig,
    TrackingConfig,
    TrainConfig,
    seconds_of,
)
from fmriscale.config.probe import MOMENT, ProbeConfig, ProbeTrainConfig, WindowConfig
from fmriscale.config.simulate import SimulateConfig
from fmriscale.config.study import FinetuneTrainConfig, StudyConfig, TaskConfig

__all__ = [
    "CorpusConfig",
    "DataConfig",
    "DatasetConfig",
    "DenoiseConfig",
    "FeatureConfig",
    "FinetuneTrainConfig",
    "KINDS",
    "KIND_NAMES",
    "POSITIVE_KINDS",
    "MAX_T_R",
    "MIN_T_R",
    "MOMENT",
    "ModelConfig",
    "PairConfig",
    "PretrainConfig",
    "ProbeConfig",
    "ProbeTrainConfig",
    "QualityConfig",
    "SPLITS",
    "SimulateConfig",
    "SplitConfig",
    "StudyConfig",
    "TaskConfig",
    "TrackingConfig",
    "TrainConfig",
    "WindowConfig",
    "seconds_of",
]
