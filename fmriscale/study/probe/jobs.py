"""The fits of a probe, each independent of the others: a method, a fold, a training size, a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fmriscale.config import MOMENT, ProbeConfig
from fmriscale.model.remote import local_copy

FRESH, SHUFFLED = "fresh", "shuffled"
TITLES = {
    "pretrained": "pre-trained",
    FRESH: "fresh",
    "connectivity": "connectivity",
    "tangent": "tangent connectivity",
    "raw": "raw windows",
    "window_mean": "window means",
    "pca": "PCA",
    "whitening": "whitening",
    "shared": "shared directions",
    "run_mean": "run means",
    "motion": "motion alone",
    SHUFFLED: "shuffled labels",
}
"""What tables call arms and baselines; other encoders go by their own names."""
SHUFFLES = (0, 1, 2)
"""Seeds of the shuffles of the training labels."""


@dataclass(frozen=True)
class Fit:
    """One linear model on the features of one method, or one encoder that learns."""

    method: str
    fold: int
    size: int | None = None
    """People on the training side; None = all there are."""
    seed: int | None = None
    """Of the encoder, of the draw of people, of how an encoder learns; None where nothing is drawn."""

    @property
    def name(self) -> str:
        """Name of its file."""
        size = "" if self.size is None else f"_n{self.size}"
        return f"{self.method}_fold{self.fold}{size}" + ("" if self.seed is None else f"_seed{self.seed}")

    @property
    def file(self) -> str:
        """File of its result in the probe's folder."""
        return f"fits/{self.name}.json"


def judged(config: ProbeConfig) -> str | None:
    """Return the arm that is judged; None where there is no encoder."""
    return "pretrained" if "pretrained" in config.encoders else next(iter(config.encoders), None)


def arms(config: ProbeConfig) -> list[str]:
    """Return the encoders: the one that is judged, the fresh one, the others."""
    main = judged(config)
    return [] if main is None else [main, FRESH, *(name for name in config.encoders if name != main)]


def baselines(config: ProbeConfig, *, motion: bool) -> list[str]:
    """Return the methods without an encoder; motion: whether it is known."""
    if config.rows == "window":
        names = ["connectivity", "pca", "whitening", "raw", "window_mean"]
        names += ["shared"] if config.target == MOMENT else []
    else:
        # The mean of standardised windows over a run is about 0: they have nothing to tell of a run.
        names = ["connectivity", "tangent", "pca"]
    return [*names, "run_mean", *(["motion"] if motion else [])]


def sizes(config: ProbeConfig) -> list[int | None]:
    """Return the sizes of the training side, the full size (the last, None = all) included."""
    return [None] if config.train_sizes is None else [*sorted(config.train_sizes), None]


def fits(config: ProbeConfig, methods: Sequence[str], n_folds: int) -> list[Fit]:
    """Return all fits of a probe; those of a method together, so that its features are made once."""
    return [
        Fit(method, fold, size, seed)
        for method in methods
        for size in sizes(config)
        if size is None or (method not in ("tangent", SHUFFLED) and (method, size) != ("shared", 1))
        for seed in seeds_of(config, method, size)
        for fold in range(n_folds)
    ]


def seeds_of(config: ProbeConfig, method: str, size: int | None) -> Sequence[int | None]:
    """Return the seeds of a method at a size; none (None) where nothing is drawn."""
    if method == SHUFFLED:
        return SHUFFLES
    drawn = size is not None or has_seeds(config, method) or adapts(config, method)
    return config.seeds if drawn else [None]


def adapts(config: ProbeConfig, method: str) -> bool:
    """Tell whether a method is an encoder that learns; labels are shuffled for the one that is judged."""
    return config.train.adapt != "probe" and method in (*arms(config), SHUFFLED)


def has_seeds(config: ProbeConfig, method: str) -> bool:
    """Tell whether an encoder was trained (or drawn) several times."""
    return method == FRESH or "{seed}" in config.encoders.get(method, "")


def encoder_folder(config: ProbeConfig, arm: str, fold: int, seed: int) -> Path:
    """Return the folder of an arm's encoder in a fold; the fresh arm is built like the judged one."""
    given = config.encoders[judged(config) or "" if arm == FRESH else arm]
    return local_copy(given.replace("{fold}", str(fold)).replace("{seed}", str(seed)))
