"""The jobs of a study, each independent of the others.

Cells (arms x folds x seeds x sizes: one training each), the baselines of every fold, a last fit on everybody.
"""

from dataclasses import dataclass
from pathlib import Path

from fmriscale.config import StudyConfig
from fmriscale.model.remote import local_copy


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

    @property
    def file(self) -> str:
        """File of its result in the study's folder."""
        return f"cells/{self.name}.json"


@dataclass(frozen=True)
class Baselines:
    """The baselines and controls of one fold that train no encoder."""

    fold: int

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"baselines_fold{self.fold}"

    @property
    def file(self) -> str:
        """File of their scores in the study's folder."""
        return f"baselines/fold{self.fold}.json"


@dataclass(frozen=True)
class Final:
    """A fit of the study's recipe on all subjects, that nothing tests: the model to keep."""

    name = "final"
    file = "model/fit.json"


Job = Cell | Baselines | Final


def arms(config: StudyConfig) -> list[str]:
    """Return the arms of a study: fresh; where something is pre-trained, pretrained and then the controls."""
    return ["fresh"] if config.pretrained is None else ["fresh", "pretrained", *config.controls]


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


def final_cell(config: StudyConfig) -> Cell:
    """Return the cell whose start, seed and order the final fit has."""
    return Cell("fresh" if config.pretrained is None else "pretrained", 0, config.seeds[0])


def jobs(config: StudyConfig) -> list[Job]:
    """Return everything that a study computes before its summary."""
    baselines = [Baselines(fold) for fold in range(config.n_folds)]
    return [*baselines, *cells(config), *([Final()] if config.keep_model else [])]


def encoder_folder(config: StudyConfig, arm: str, fold: int) -> Path | None:
    """Return the folder of an arm's encoder in a fold, if any; fresh is built like the pre-trained one."""
    given = config.controls.get(arm, config.pretrained)
    return None if given is None else local_copy(given.replace("{fold}", str(fold)))
