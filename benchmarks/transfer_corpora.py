"""The corpora of benchmarks/transfer.py: the commands that make them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fmriscale.common.files import expand

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILM_PARTS = {"forrest_a": (1, 2, 3), "forrest_b": (4, 5, 6), "forrest_c": (7, 8)}
"""Runs of the film by data set, so that folds can leave parts of the film out."""
ALICE_HALVES = {"alice_a": slice(0, 181), "alice_b": slice(181, 362)}
"""Volumes of the two halves of the Alice story."""


def film_corpus(work: Path) -> list[str]:
    """Write the recipe of the film in three parts, with its labels volume by volume; return the command."""
    source = expand("$FMRISCALE_DATA/studyforrest_avmovie_shen267")
    labels = work / "film_labels"
    labels.mkdir(parents=True, exist_ok=True)
    for run in range(1, 9):
        table = pd.read_csv(source / f"stimulus_run-{run}.tsv", sep="\t")
        events = {
            "onset": 2.0 * table["volume"],
            "duration": 2.0,
            "music": np.where(table["music"] > 0, "yes", "no"),
            "loudness": np.log10(table["audio_rms"] + 1e-4).round(4),
        }
        pd.DataFrame(events).to_csv(labels / f"run-{run}_events.tsv", sep="\t", index=False)
    return film_in_parts(work / "corpus_film.yaml", f"{labels.resolve()}/run-{{run}}_events.tsv")


def places_corpus(work: Path) -> list[str]:
    """Write the recipe of the film in three parts, with the places of its shots; return the command."""
    return film_in_parts(work / "corpus_film_places.yaml", "{root}/locations_run-{run}_events.tsv")


def film_in_parts(path: Path, events: str) -> list[str]:
    """Write the recipe of the film, each part a data set; return the command that shards it."""
    recipe = yaml.safe_load((CONFIGS / "corpus_studyforrest_movie.yaml").read_text())
    one = recipe["datasets"][0]
    recipe["datasets"] = [
        {
            **one,
            "name": name,
            "files": f"run-[{''.join(map(str, runs))}].npz",
            "events": events,
            "stimulus": "forrest_gump_{run}",
        }
        for name, runs in FILM_PARTS.items()
    ]
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return ["shard", "--config", str(path)]


def alice_corpus(work: Path) -> list[str]:
    """Write each half of every Alice run as an array of its own, and their recipe; return the command."""
    recipe = yaml.safe_load((CONFIGS / "corpus_alice.yaml").read_text())
    one = {name: value for name, value in recipe["datasets"][0].items() if name != "events"}
    files = sorted(expand("$FMRISCALE_DATA/alice_rois").glob("6mm/*-timecourses.txt"))
    recipe["datasets"] = []
    for name, half in ALICE_HALVES.items():
        folder = work / "alice" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            np.savetxt(folder / file.name, np.loadtxt(file)[half], "%.6g")
        own = {"name": name, "root": str(folder), "files": "*-timecourses.txt", "stimulus": name}
        recipe["datasets"].append({**one, **own, "people": "alice"})
    path = work / "corpus_alice.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return ["shard", "--config", str(path)]


def recipe_of(verb: str, name: str, *more: str) -> Callable[[Path], list[str]]:
    """Return what gives the command of a corpus that has a recipe in configs/; everybody may train."""
    everybody = ["--split.val", "0", "--split.test", "0"]
    return lambda _: [verb, "--config", str(CONFIGS / f"{name}.yaml"), *everybody, *more]


CORPORA: dict[str, Callable[[Path], list[str]]] = {
    "film": film_corpus,
    "film_places": places_corpus,
    "films": recipe_of("shard", "corpus_films"),
    "abide": recipe_of("shard", "corpus_abide"),
    "alice": alice_corpus,
    "haxby": recipe_of("shard", "corpus_haxby"),
    "timbre": recipe_of("simulate", "simulate_timbre", "--form", "corpus"),
    "listeners": recipe_of("simulate", "simulate_listeners"),
}
"""The command that makes a corpus, by name; it gets the folder as --out."""


def write_toy(folder: Path) -> None:
    """Write a film and a story of noise, part of which people share."""
    from fmriscale import CorpusWriter
    from fmriscale.config import SplitConfig

    rng = np.random.default_rng(0)
    with CorpusWriter(folder, split=SplitConfig(val=0.0, test=0.0)) as corpus:
        for name, n_people in (("film", 3), ("story", 4)):
            shared = rng.standard_normal((80, 12))
            for person in range(n_people):
                signals = (shared + rng.standard_normal((80, 12))).astype(np.float32)
                about = {"dataset": name, "task": "watch", "space": "toy", "stimulus": name}
                corpus.add(signals, 2.0, f"{name}{person}", **about)
