"""Corpora of which is known what can be told from them, and probes of them in this process."""

import json
from pathlib import Path

import numpy as np
from factory import ar1

from fmriscale import CorpusWriter, FeatureSpace
from fmriscale.cli import run
from fmriscale.config import SplitConfig

V = 12
SPACE = FeatureSpace("toy", V)
PATTERN = np.random.default_rng(3).standard_normal((2, V))


def noise(rng, n_volumes=120, scale=1.0):
    return scale * ar1(rng, n_volumes, V).astype(np.float32)


def coupled(x, strength=1.2):
    """Features 0 to 3 share a signal: a mark of connectivity, that no mean shows."""
    shared = np.random.default_rng(int(1e6 * abs(x[0, 0])) % 2**31).standard_normal(len(x))
    x[:, :4] += strength * shared[:, None]
    return x


def write_people(folder: Path, people, group=None) -> Path:
    """Write a run (or several) a person; people: dicts of participant columns, `coupled`, and `runs`."""
    rng = np.random.default_rng(0)
    with CorpusWriter(folder, split=SplitConfig(val=0.0, test=0.0, group=group)) as corpus:
        for number, person in enumerate(people):
            participant = {k: v for k, v in person.items() if k not in ("coupled", "runs", "mean")}
            for n in range(person.get("runs", 1)):
                x = noise(rng)
                x = coupled(x) if person.get("coupled") else x
                x = ((x - x.mean(0)) / x.std(0)).astype(np.float16)
                about = {"dataset": "toy", "subject": f"{number + 1:03d}", "run": f"{n + 1}", "t_r": 2.0}
                mean, std = np.full(V, person.get("mean", 100.0)), np.full(V, 2.0)
                about |= {"source": f"{number}-{n}", "source_sha256": "0" * 64}
                corpus.add(x, space=SPACE, mean=mean, std=std, participant=participant, **about)
    return folder


def write_films(folder: Path, n_people=6, films=("a", "b"), n_volumes=100, shared=1.0, t_r=2.0) -> Path:
    """Write people who see films: a course in time that all share, and events that say when it is loud."""
    rng = np.random.default_rng(1)
    course = {film: rng.standard_normal((n_volumes, V)) for film in films}
    loud = {film: np.repeat(rng.permutation(n_volumes // 10) % 2, 10) for film in films}
    with CorpusWriter(folder, split=SplitConfig(val=0.0, test=0.0)) as corpus:
        for number in range(n_people):
            for film in films:
                lead = number % 3  # volumes before the film starts
                x = noise(rng, n_volumes + lead)
                x[lead:] += shared * course[film] + 1.5 * PATTERN[0] * loud[film][:, None]
                x = ((x - x.mean(0)) / x.std(0)).astype(np.float16)
                events = [
                    {"onset": (lead + k) * t_r, "duration": t_r, "loud": int(loud[film][k]), "level": k / 10}
                    for k in range(n_volumes)
                ]
                corpus.add(
                    x,
                    space=SPACE,
                    dataset="films",
                    subject=f"{number + 1:02d}",
                    task=film,
                    t_r=t_r,
                    mean=np.full(V, 100.0),
                    std=np.full(V, 2.0),
                    events=events,
                    stimulus=film,
                    stimulus_onset=lead * t_r,
                    source=f"{number}{film}",
                    source_sha256="0" * 64,
                )
    return folder


def options(out: Path, corpus: Path, **changed):
    """The command line of a probe; changed: settings, with __ for dots."""
    chosen = {"out": out, "corpus": corpus, "jobs": 1, "tracking.enabled": False, "windows.length": 20}
    chosen |= {k.replace("__", "."): v for k, v in changed.items()}
    return ["probe", *(part for k, v in chosen.items() for part in (f"--{k}", str(v)))]


def probe(out: Path, corpus: Path, **changed):
    """Run a probe and return its summary."""
    code = run(options(out, corpus, **changed))
    assert code == 0, code
    return json.loads((out / "summary.json").read_text())


def figures(summary, figure=None):
    """The judged figure (or another) by method."""
    figure = figure or summary["figures"][0]
    return {name: content[figure]["mean"] for name, content in summary["methods"].items()}
