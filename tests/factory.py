"""Small real corpora for tests: AR(1) noise in the corpus format, with shards and manifest."""

from pathlib import Path

import numpy as np

from fmriscale import CorpusWriter, FeatureSpace
from fmriscale.config import SplitConfig
from fmriscale.corpus.reader import Corpus


def ar1(rng: np.random.Generator, n_volumes: int, n_features: int, phi: float = 0.8) -> np.ndarray:
    """Return standardised AR(1) noise, float16 [T, V]."""
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
    quality, space, n_features, shards, scale, participant}. Some of these are functions (subject, run) ->
    value: `n_volumes` (or an int), `events` (a list of dicts), `quality` (of the record) and `scale` (mean
    and std of the run before it is standardised). `participant` is a function of the subject and returns the
    kept columns. `signal` is a function (array, record) -> array, which may add to the noise before it is
    standardised. With `split` None, everybody is in train. `quarantine` holds rows of quarantine.tsv.
    """
    datasets = datasets or {"alpha": {}, "beta": {"t_r": 1.5, "n_volumes": 90}}
    rng = np.random.default_rng(seed)
    with CorpusWriter(folder, split=split or SplitConfig(val=0.0, test=0.0)) as corpus:
        for name, spec in datasets.items():
            width = spec.get("n_features", n_features)
            its_space = FeatureSpace(spec.get("space", space), width, labels, coordinates)
            corpus.describe(name, **{k: spec[k] for k in ("weight", "licence", "denoise") if k in spec})
            places = [(s, r) for s in range(spec.get("subjects", 3)) for r in range(spec.get("runs", 2))]
            for members in np.array_split(np.array(places), spec.get("shards", 1)):
                for s, r in members.tolist():
                    _add(corpus, rng, name, s, r, spec, its_space, signal)
                corpus.cut(name)
        for line in quarantine:
            corpus.leave_out(**line)
    return Corpus.open(folder)


def _add(corpus, rng, name: str, s: int, r: int, spec: dict, space: FeatureSpace, signal) -> None:
    """Add one run."""
    n_volumes, mask, width = spec.get("n_volumes", 120), spec.get("sample_mask"), space.n_features
    n_volumes = n_volumes(s, r) if callable(n_volumes) else n_volumes
    subject, run = f"{s + 1:02d}", f"{r + 1:02d}"
    about = {
        "dataset": name,
        "subject": subject,
        "task": "rest",
        "run": run,
        "t_r": spec.get("t_r", 2.0),
        "participant": spec["participant"](s) if "participant" in spec else {},
        "events": spec["events"](s, r) if "events" in spec else [],
        "quality": spec["quality"](s, r) if "quality" in spec else {},
        "source": f"sub-{subject}/run-{run}",
        "source_sha256": "0" * 64,
    }
    x = ar1(rng, n_volumes, width)
    if signal is not None:
        x = signal(x.astype(np.float32), about)
        x = ((x - x.mean(0)) / x.std(0)).astype(np.float16)
    mean, std = spec["scale"](s, r) if "scale" in spec else (100, 2)
    corpus.add(
        x,
        space=space,
        sample_mask=mask,
        missing_features=about["quality"].get("missing_features", ()),
        mean=np.full(width, mean),
        std=np.full(width, std),
        **about,
    )
