"""A pre-trained encoder as a scikit-learn transformer, for pipelines with nilearn and scikit-learn.

Shapes: N rows, T volumes of a run, L volumes of a window, V features, D width.
"""

from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from fmriscale.config import FeatureConfig
from fmriscale.ingest.read.features import load_features
from fmriscale.model.encoder import Encoder
from fmriscale.model.pooling import n_parts
from fmriscale.model.presets import Pool
from fmriscale.model.vectors import window_vectors


class EncoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn windows or runs of fMRI into the vectors that a pre-trained encoder makes of them.

    Nothing is fitted: `fit` reads the encoder. What goes in:

    - windows, array [N, L, V]: a row a window. They are taken as they are: cut them from runs that are
      standardised (mean 0, deviation 1 of every feature over the run), as pre-training had them.
    - a run, array [T, V] or a 4D image: cut into windows, a row a window.
    - a list of runs: a row a run, the mean over its windows.

    Parameters
    ----------
    encoder : str, Path or Encoder
        encoder/ folder of a pre-training run (or model/ of a study), published weights (hf://org/name,
        https://..., s3://...), or what `Encoder.from_pretrained` gave.
    t_r : float, optional
        Repetition time of what goes in, s; None = that of pre-training, where it was one.
    pool : {"mean", "cls", "bins"}
        The vector of a window: the mean over its volumes' tokens; CLS; or the means of five bins of time.
    length : int, optional
        L of the windows that runs are cut into; None = the encoder's own.
    stride : int, optional
        Volumes from one window of a run to the next; None = length.
    standardize : bool
        Standardise runs over time as pre-training had them.
    masker : nilearn masker, str or Path, optional
        Turns images into [T, V]: any nilearn masker whose features are those of the encoder, or the
        labels_img (atlas) that the encoder's feature space is made of.
    space : str, optional
        Feature space, where the encoder reads several.

    Attributes
    ----------
    encoder_ : Encoder
        In evaluation mode.
    n_features_in_ : int
        V.
    masker_ : nilearn masker or None
        Ready for use.

    Examples
    --------
    >>> from fmriscale import EncoderTransformer
    >>> embed = EncoderTransformer("demo/pretrain/encoder").fit()  # doctest: +SKIP
    >>> embed.transform(windows_NLV).shape  # a row a window: [N, D]  # doctest: +SKIP
    >>> embed.transform([run_TV, other_TV]).shape  # a row a run: [2, D]  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder: str | Path | Encoder,
        *,
        t_r: float | None = None,
        pool: Pool = "mean",
        length: int | None = None,
        stride: int | None = None,
        standardize: bool = True,
        masker: Any = None,
        space: str | None = None,
    ) -> None:
        self.encoder = encoder
        self.t_r = t_r
        self.pool: Pool = pool
        self.length = length
        self.stride = stride
        self.standardize = standardize
        self.masker = masker
        self.space = space

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Read the encoder and make the masker ready.

        Parameters
        ----------
        X, y : any
            Nothing is learnt from them.

        Returns
        -------
        EncoderTransformer
            Itself.

        Raises
        ------
        ValueError
            A setting that does not suit the encoder.
        UserError, DamageError
            No encoder, or a damaged one.
        """
        if issparse(X):
            raise TypeError("X is sparse; give an array")
        given = self.encoder
        encoder = given if isinstance(given, Encoder) else Encoder.from_pretrained(given)
        spaces = encoder.config.spaces
        if self.space is None and len(spaces) > 1:
            raise ValueError(f"the encoder reads several feature spaces, name one of them: {sorted(spaces)}")
        self.space_ = self.space or next(iter(spaces))
        if self.space_ not in spaces:
            raise ValueError(f"the encoder reads {sorted(spaces)}, no feature space '{self.space_}'")
        if self.pool not in get_args(Pool):
            raise ValueError(f"pool is '{self.pool}'; choose mean, cls or bins")
        if min(self.length or 1, self.stride or 1) < 1:
            raise ValueError("length and stride must be at least 1")
        self.n_features_in_ = spaces[self.space_]
        self.length_ = self.length or encoder.config.length
        self._check_length(encoder, self.length_)
        self.t_r_ = self._repetition_time(encoder)
        self.encoder_ = encoder.eval()
        self.masker_ = self._ready_masker()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the vectors of windows or runs.

        Parameters
        ----------
        X : array [N, L, V], array [T, V], image, or list of runs
            Windows, one run, or several; see the class.

        Returns
        -------
        ndarray [N, D]
            float32, a row a window; of a list of runs a row a run. With `pool` bins five times as wide.

        Raises
        ------
        ValueError
            Another number of features or volumes than the encoder reads, a run shorter than a window,
            values that are not finite, or an image where no masker is given.
        """
        if not hasattr(self, "encoder_"):
            self.fit()
        if isinstance(X, np.ndarray) and X.ndim == 3:
            self._check_features(X)
            if self.length is not None and X.shape[1] != self.length:
                raise ValueError(f"windows have {X.shape[1]} volumes, but length is {self.length}")
            self._check_length(self.encoder_, X.shape[1])
            return self._embed(X)
        if isinstance(X, list | tuple):
            rows = [self._embed(self._windows(run)).mean(axis=0) for run in X]
            return np.stack(rows) if rows else np.empty((0, self._n_features_out), np.float32)
        return self._embed(self._windows(X))

    @property
    def _n_features_out(self) -> int:
        return n_parts(self.pool) * self.encoder_.config.d_model

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that there is nothing to fit, and what may go in."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.three_d_array = True
        return tags

    def _check_features(self, volumes: np.ndarray) -> None:
        if volumes.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"X has {volumes.shape[-1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input (feature space '{self.space_}')"
            )

    def _check_length(self, encoder: Encoder, length: int) -> None:
        if encoder.config.positions == "learned" and length != encoder.config.length:
            raise ValueError(
                f"windows have {length} volumes, but the encoder has learned positions for "
                f"{encoder.config.length}: give windows of {encoder.config.length} volumes"
            )

    def _repetition_time(self, encoder: Encoder) -> float:
        """Return the repetition time, s; any will do where positions are learned."""
        if self.t_r is not None:
            return float(self.t_r)
        low, high = encoder.meta.get("t_r", (1.0, 1.0) if encoder.config.positions == "learned" else (0, 1))
        if low != high and encoder.config.positions == "rotary":
            raise ValueError("give t_r: the encoder reads time in seconds, and was trained on several t_r")
        return float(low)

    def _ready_masker(self) -> Any:
        """Return the masker, fitted; made from the labels_img where that was given."""
        masker: Any = self.masker
        if masker is None:
            return None
        if isinstance(masker, str | Path):
            from nilearn.maskers import NiftiLabelsMasker

            self._check_atlas(masker)
            masker = NiftiLabelsMasker(str(masker), resampling_target="data")
        try:
            check_is_fitted(masker)
        except NotFittedError:
            masker = clone(masker).fit()
        return masker

    def _check_atlas(self, labels_img: str | Path) -> None:
        """Refuse an atlas whose parcels are not where those of the encoder's feature space are."""
        known = self.encoder_.meta.get("feature_spaces", {}).get(self.space_, {}).get("coordinates")
        space = load_features(FeatureConfig(name=self.space_, labels_img=str(labels_img))).space
        given = [list(xyz) for xyz in space.coordinates or ()]
        if known is not None and given != [list(xyz) for xyz in known]:
            raise ValueError(
                f"{labels_img}: its {len(given)} parcels are not the {self.n_features_in_} of the "
                f"encoder's feature space '{self.space_}'"
            )

    def _windows(self, run: Any) -> np.ndarray:
        """Cut a run, an array [T, V] or an image, into windows [N, L, V]."""
        if not isinstance(run, np.ndarray):
            if self.masker_ is None:
                raise ValueError(
                    f"{type(run).__name__} is no array [T, V]: give images a masker (a nilearn masker, or "
                    "the labels_img of the encoder's feature space)"
                )
            run = np.asarray(self.masker_.transform(str(run) if isinstance(run, Path) else run))
        if run.ndim != 2:
            raise ValueError(f"shape {run.shape}: give windows [N, L, V], a run [T, V], or a list of runs")
        self._check_features(run)
        if len(run) < self.length_:
            raise ValueError(f"a run has {len(run)} volumes, fewer than a window of {self.length_}")
        run_TV = self._standardised(run) if self.standardize else run
        starts = range(0, len(run) - self.length_ + 1, self.stride or self.length_)
        return np.stack([run_TV[start : start + self.length_] for start in starts])

    def _standardised(self, run_TV: np.ndarray) -> np.ndarray:
        """Do what was done to the runs of pre-training; features without variance are 0."""
        how = self.encoder_.meta.get("config", {}).get("data", {}).get("standardize", "run")
        if how == "none":
            return run_TV
        if how == "subject":  # which one run cannot tell
            raise ValueError(
                "pre-training standardised over all runs of a subject: do so, and set standardize=False"
            )
        centred_TV = run_TV.astype(np.float64) - run_TV.mean(axis=0, dtype=np.float64)
        std_V = centred_TV.std(axis=0, ddof=1)
        flat_V = std_V <= 1e-6 * np.abs(run_TV).max(axis=0)
        return np.where(flat_V, 0.0, centred_TV / np.where(flat_V, 1.0, std_V))

    def _embed(self, windows_NLV: np.ndarray) -> np.ndarray:
        # float16 as in a corpus: from its volumes come the same vectors.
        with np.errstate(over="ignore"):
            windows_NLV = windows_NLV.astype(np.float16)
        if not np.isfinite(windows_NLV).all():
            raise ValueError("X holds NaN, infinity, or values beyond 65,504, which are not standardised")
        return window_vectors(self.encoder_, windows_NLV, self.t_r_, self.space_, self.pool)
