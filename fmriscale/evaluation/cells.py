"""The cells of a study: arms x folds x seeds x sizes, each an independent training."""

from dataclasses import dataclass
from pathlib import Path

from fmriscale.config import StudyConfig
from fmriscale.files import expand


@dataclass(frozen=True)
class Cell:
    """One training of the study."""

    arm: str
    """fresh, pretrained, or the name of a control."""
    fold: int
    seed: int
    size: int | None = None
    """Units (subjects or runs) on the training side; None = all there are."""

    @property
    def name(self) -> str:
        """Name of the cell's file and MLflow run."""
        size = "" if self.size is None else f"_n{self.size}"
        return f"{self.arm}_fold{self.fold}_seed{self.seed}{size}"


def arms(config: StudyConfig) -> list[str]:
    """Return the arms of a study: fresh, pretrained if there is one, then the controls."""
    return ["fresh", *(["pretrained"] if config.pretrained is not None else []), *config.controls]


def sizes(config: StudyConfig) -> list[int | None]:
    """Return the sizes of the training side, the full size (the last, None = all) included."""
    return [None] if config.train_sizes is None else [*sorted(config.train_sizes)]


def cells(config: StudyConfig) -> list[Cell]:
    """Return all cells of a study, seeds outermost so that an early look compares arms."""
    return [
        Cell(arm, fold, seed, size)
        for seed in config.seeds
        for size in sizes(config)
        for fold in range(config.n_folds)
        for arm in arms(config)
    ]


def encoder_folder(config: StudyConfig, arm: str, fold: int) -> Path | None:
    """Return the folder of the encoder that an arm starts from in a fold.

    The fresh arm has the pre-trained one's, for its architecture; None where nothing is pre-trained.
    """
    given = config.controls.get(arm, config.pretrained)
    return None if given is None else expand(given.replace("{fold}", str(fold)))
