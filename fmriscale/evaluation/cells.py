"""The cells of a study: arms x folds x seeds, each an independent training."""

from dataclasses import dataclass

from fmriscale.config import StudyConfig


@dataclass(frozen=True)
class Cell:
    """One training of the study."""

    arm: str
    """fresh or pretrained."""
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell's file and MLflow run."""
        return f"{self.arm}_fold{self.fold}_seed{self.seed}"


def cells(config: StudyConfig) -> list[Cell]:
    """Return all cells of a study, seeds outermost so that an early look compares arms."""
    arms = ["fresh"] if config.pretrained is None else ["fresh", "pretrained"]
    folds = range(config.n_folds)
    return [Cell(arm, fold, seed) for seed in config.seeds for fold in folds for arm in arms]
