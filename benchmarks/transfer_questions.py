"""What benchmarks/transfer.py asks: arms of pre-training, and questions, as plain settings.

A question is a recipe of `fmriscale probe`. Its folds decide what the encoders of its arms may see: nobody
and no data set that a fold tests. Recipes of pre-training were chosen on training people alone
(docs/benchmark.md).
"""

from dataclasses import dataclass, field
from typing import Any

import yaml
from transfer_corpora import ALICE_HALVES, CONFIGS, FILM_PARTS

LIMITS = {"n_people": "person", "n_stimuli": "stimulus"}
"""Settings of an arm that make the data smaller, and the columns that they count."""
WEIGHTED, ONCE = "weighted", "once"
"""Settings of an arm: what it starts from is weighted by how much people share it (transfer.weighted); it is
trained with the first seed alone."""
Settings = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A question, and the encoders that are asked it."""

    title: str
    corpus: str
    probe: Settings
    """Settings of `fmriscale probe`."""
    arms: dict[str, Settings]
    """Settings of pre-training by arm; the first is the one that is judged."""
    pretrain_on: tuple[str, ...]
    """Data sets that encoders are pre-trained on."""
    to_beat: str
    """What was reached before, in words."""
    unseen: tuple[str, ...] = ("person", "dataset")
    """Columns of runs: a run whose value a fold tests is kept out of pre-training."""
    pretrain_corpus: str | None = None
    """Corpus of `pretrain_on`, where it is not the one that is asked."""


# ---------------------------------------------------------------- arms


def pretraining(name: str) -> Settings:
    """Return the model, the pairs and the training of a recipe in configs/."""
    recipe = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    parts = {"model": recipe["model"], "train": recipe["train"], "data.pairs": recipe["data"]["pairs"]}
    return {f"{part}.{setting}": value for part, own in parts.items() for setting, value in own.items()}


SMALL: Settings = {"model.preset": "tiny", "model.d_model": 64, "model.n_layers": 2, "model.n_heads": 4}
TRAINED: Settings = {
    "train.lr": 1e-3,
    "train.schedule": "cosine",
    "train.warmup_steps": 20,
    "train.weight_decay": 0.01,
    "train.eval_every": 0,
}
PAIRS: Settings = {"data.pairs.length": 10, "data.pairs.stride": 2}
CONTRAST: Settings = {
    **SMALL,
    **TRAINED,
    **PAIRS,
    "model.start": "identity",
    "model.init_projection": "shared",
    "model.input_dropout": 0.2,
    "train.steps": 300,
    "train.pool": "bins",
    "train.ntp_weight": 0,
    "train.contrastive_weight": 1,
    "train.contrastive_people": 16,
    "train.contrastive_windows": 20,
}
WITHIN: Settings = {
    **SMALL,
    **TRAINED,
    **PAIRS,
    "model.start": "identity",
    "model.init_projection": "whiten",
    "model.input_dropout": 0.2,
    "train.steps": 300,
    "train.pool": "bins",
    "train.pair": "siamese",
    "train.global_batch": 64,
    "train.max_micro_batch": 64,
}
SHIFTED: Settings = {"data.stimulus_clock": "shifted"}
START: Settings = {"train.steps": 1, "train.warmup_steps": 0, "train.lr": 1e-12}
"""What training across people starts from: shared directions of what pre-trains, which need no labels."""
MIXED: Settings = {
    **{"train.ntp_weight": 0.3, "train.connectivity_weight": 0.3, ONCE: True},
    **{name: WITHIN[name] for name in ("train.pair", "train.global_batch", "train.max_micro_batch")},
}
"""What is learned beside the other people: pairs within a person, and connectivity."""
ACROSS_ARMS = {
    "across_people": CONTRAST,
    "within_person": WITHIN,
    "shifted_clock": CONTRAST | SHIFTED,
    "start": CONTRAST | START,
    "weighted_start": CONTRAST | START | {WEIGHTED: True},
    "mixed": CONTRAST | MIXED,
}
GENTLE: Settings = {"train.steps": 100, "train.lr": 1e-4}
"""One film or story is learned by heart: more than this made the transfer to another one worse."""
REST: Settings = {
    **TRAINED,
    "model.preset": "tiny",
    "model.d_model": 128,
    "model.n_layers": 2,
    "train.steps": 300,
    "train.warmup_steps": 50,
    "train.pair": "siamese",
    "train.pool": "mean",
    "train.global_batch": 64,
    "train.max_micro_batch": 64,
    "data.pairs.length": 64,
    "data.pairs.stride": 4,
    "data.pairs.min_distance": 15,
    "data.mixture": "proportional",
}
TAUGHT: Settings = {
    **REST,
    **{"train.ntp_weight": 0, "train.connectivity_weight": 1, "data.pairs.negatives": {"reversed": 1.0}},
}
REST_NTP: Settings = {
    **REST,
    **{"data.pairs.length": 32, "data.pairs.gap": 10, "data.pairs.negatives": {"other_dataset": 1.0}},
}
REST_ARMS = {
    "taught_by_connectivity": TAUGHT,
    "within_person": REST_NTP,
    "mixed": TAUGHT | {"train.ntp_weight": 0.5, ONCE: True},
}

SHUFFLED: Settings = {"data.volume_order": "shuffled", "data.access": "memory"}
SHORTER: Settings = CONTRAST | {"train.steps": 100, ONCE: True}
SCALED = {
    "people": {n: SHORTER | {"n_people": n} for n in (2, 3, 5, 7)},
    "stimuli": {n: SHORTER | {"n_stimuli": n} for n in (1, 2, 4)},
    "width": {n: SHORTER | {"model.d_model": n} for n in (16, 32, 128)},
}
"""Arms by what is scaled and how much of it there is; beside all of it, width 64."""
SCALE_ARMS: dict[str, Settings] = {"full": SHORTER, "start": CONTRAST | START | {ONCE: True}} | {
    f"{what}_{n}": arm for what, of in SCALED.items() for n, arm in of.items()
}

# ---------------------------------------------------------------- questions

ADAPTED: Settings = {"train.adapt": "full", "train.lr": 3e-4, "train.epochs": 20}
WINDOWS: Settings = {"rows": "window", "windows.length": 10, "pool": "bins"}
FILM: Settings = {**WINDOWS, "windows.stride": 10, "windows.delay": 4.0, "n_folds": 3}
BOTH: Settings = {**FILM, "folds_by": ["subject", "dataset"], "train_sizes": [2, 5]}
SITES: Settings = {"rows": "run", "windows.length": 64, "windows.stride": 32, "folds_by": "dataset"}
TEN = ("caltech", "cmu_a", "nyu", "sdsu", "stanford", "trinity", "um_1", "um_2", "usm", "yale")
SAMPLES = tuple(f"abide_{name}" for name in TEN)
ABIDE: Settings = {**SITES, "n_folds": 3, "datasets": list(SAMPLES)}


STORY: Settings = {**WINDOWS, "n_folds": 3, "target": "moment", "folds_by": "subject", "space": "shen293"}
STORY_ARMS = {
    name: arm | (GENTLE if name in ("across_people", "shifted_clock", "mixed") else {})
    for name, arm in ACROSS_ARMS.items()
}


def as_in(name: str) -> dict[str, Settings]:
    """Return the arms of a recipe in configs/: as it is, and on volumes in random order."""
    return {"within_person": pretraining(name), "shuffled_order": pretraining(name) | SHUFFLED}


def abide(title: str, to_beat: str, **settings: Any) -> Question:
    """Return a question about the people of ABIDE, at sites that no encoder and no probe has seen."""
    return Question(title, "abide", {**ABIDE, **settings}, REST_ARMS, SAMPLES, to_beat)


QUESTIONS: dict[str, Question] = {
    "film_music": Question(
        "studyforrest: is there music? (people and parts of the film never seen)",
        "film",
        {**BOTH, "target": "music"},
        ACROSS_ARMS,
        tuple(FILM_PARTS),
        "logistic regression: AUC .606",
    ),
    "film_loudness": Question(
        "studyforrest: is it loud? (people and parts of the film never seen)",
        "film",
        {**BOTH, "target": "loudness", "quantiles": 2},
        ACROSS_ARMS,
        tuple(FILM_PARTS),
        "logistic regression: AUC .770",
    ),
    "film_place": Question(
        "studyforrest: inside or outside? (people and parts of the film never seen)",
        "film_places",
        {**BOTH, "target": "int_or_ext"},
        ACROSS_ARMS,
        tuple(FILM_PARTS),
        "logistic regression: AUC .515",
        pretrain_corpus="film",
    ),
    "film_moments": Question(
        "studyforrest: which moment of a part of the film that no encoder has seen?",
        "film",
        {
            **{**FILM, "windows.delay": 0.0},
            **{"target": "moment", "folds_by": "subject", "datasets": ["forrest_c"], "train_sizes": [2, 5]},
        },
        ACROSS_ARMS,
        tuple(FILM_PARTS),
        "",
    ),
    "film_scaling": Question(
        "studyforrest: the moment of an unseen part, by people, runs of the film, and width of pre-training",
        "film",
        {
            **{**FILM, "windows.delay": 0.0},
            **{"target": "moment", "folds_by": "subject", "datasets": ["forrest_c"], "train_sizes": [2]},
        },
        SCALE_ARMS,
        tuple(FILM_PARTS),
        "",
    ),
    "story_moments": Question(
        "Pie Man: which moment of the story? (pre-trained on another film and other people)",
        "films",
        {**STORY, "windows.delay": 15.0, "datasets": ["pieman"], "train_sizes": [2, 5, 10, 20]},
        STORY_ARMS,
        ("qtab",),
        "whitening: .152, .221, .321, .416 with 2, 5, 10, 20 people",
    ),
    "qtab_moments": Question(
        "QTAB: which moment of a film? (pre-trained on another story and other people)",
        "films",
        {**STORY, "datasets": ["qtab"], "train_sizes": [2, 5, 10, 20]},
        STORY_ARMS,
        ("pieman",),
        "",
    ),
    "alice_moments": Question(
        "Alice: which moment of the second half? (six regions; no encoder has heard it)",
        "alice",
        {
            **{**FILM, "target": "moment", "folds_by": "subject"},
            **{"datasets": ["alice_b"], "train_sizes": [2, 5, 10]},
        },
        STORY_ARMS,
        tuple(ALICE_HALVES),
        "",
    ),
    "film_adapted": Question(
        "studyforrest: the same moments, encoders that learn them (all weights)",
        "film",
        {
            **{**FILM, "windows.delay": 0.0, **ADAPTED},
            **{"target": "moment", "folds_by": "subject", "datasets": ["forrest_c"]},
        },
        {"across_people": CONTRAST},
        tuple(FILM_PARTS),
        "",
    ),
    "story_adapted": Question(
        "Pie Man: the same moments, encoders that learn them (all weights)",
        "films",
        {**STORY, "windows.delay": 15.0, "datasets": ["pieman"], **ADAPTED},
        {"across_people": CONTRAST | GENTLE},
        ("qtab",),
        "",
    ),
    "abide_diagnosis": abide("ABIDE I: autism or not? (sites never seen)", "AUC .776", target="DX_GROUP"),
    "abide_age": abide("ABIDE I: age (sites never seen)", "", target="AGE_AT_SCAN", kind="regress"),
    "abide_sex": abide("ABIDE I: sex (sites never seen)", "", target="SEX"),
    "abide_sample": Question(
        "ABIDE I: which of ten samples? (people never seen)",
        "abide",
        {**ABIDE, "folds_by": "subject", "target": "dataset"},
        {name: arm | {ONCE: True} for name, arm in REST_ARMS.items()},
        SAMPLES,
        "connectivity: .824 on 131 people of all samples",
        unseen=("person",),
    ),
    "haxby_category": Question(
        "Haxby: which of eight categories? (one person, runs never seen)",
        "haxby",
        {
            **{**WINDOWS, "windows.length": 9, "windows.delay": 2.5, "space": "haxby_slice_530"},
            **{"target": "trial_type", "folds_by": "run", "n_folds": 6},
        },
        {name: arm | {"data.space": "haxby_slice_530"} for name, arm in as_in("pretrain_haxby").items()},
        ("haxby_slice",),
        "linear SVM on single windows, pairs of one category: 76.6 %",
        unseen=("key",),
    ),
    "timbre": Question(
        "Simulated timbre experiment: which timbre? (17 people never seen)",
        "timbre",
        {
            **{**WINDOWS, "windows.length": 5, "windows.delay": 4.0, "target": "timbre"},
            **{"folds_by": "subject", "n_folds": 4, "train_sizes": [1, 4]},
        },
        as_in("pretrain_simulated"),
        ("simulated",),
        "linear SVM on single windows, pairs of one timbre: 95 %",
        unseen=("person",),
        pretrain_corpus="listeners",
    ),
}

# ---------------------------------------------------------------- a toy size


@dataclass
class Toy:
    """The least that runs: does it work, not what is found."""

    corpus: str = "toy"
    changes: Settings = field(
        default_factory=lambda: (
            {"model.d_model": 16, "model.n_layers": 1, "model.n_heads": 2}
            | {"train.steps": 2, "train.contrastive_people": 2, "train.contrastive_windows": 4}
        )
    )

    def questions(self) -> dict[str, Question]:
        """Return the toy question."""
        probe = {**WINDOWS, "target": "moment", "folds_by": "subject", "n_folds": 2, "jobs": 1}
        probe["datasets"] = ["story"]
        arms = {"across_people": CONTRAST | self.changes}
        told = "the moment that was put in"
        return {"toy_moments": Question("noise with a stimulus", self.corpus, probe, arms, ("film",), told)}
