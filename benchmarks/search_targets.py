"""What search.py tries: for every data set the recipes, and the changes to them by name."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """A data set, the question put to it, and what is tried."""

    pretrain: str
    """Recipe of pre-training that variants change."""
    study: str
    """Recipe of the study, whose outer test sides stay closed."""
    variants: dict[str, list[str]]
    """Changes to the recipe of pre-training, by name."""
    inner_folds: int
    """The training side is divided into so many inner folds; the first is used."""
    sizes: list[int | None]
    """Labelled units (people or runs) on the inner training side."""
    probes: list[str] = field(default_factory=list)
    """Columns of the participants table that are probed for."""
    adapt: dict[str, list[str]] = field(default_factory=dict)
    """Changes to the recipe of the study by name, with the encoder of the unchanged pre-training, `base`;
    and, as `fresh_NAME`, with a fresh one."""
    apart: float = 0.0
    """Share of people kept for fine-tuning alone; 0 = those of the inner training side serve both."""
    amount: dict[str, float] = field(default_factory=dict)
    """Share of the people that pre-training may see, by name of the variant."""


MASKED = ["--train.pair", "joint", "--train.masked_weight", "1", "--train.masked_share", "0.15"]
HAXBY = {
    "base": [],
    "published_head": ["--train.pair", "joint", "--train.pool", "cls"],
    "gap_5s": ["--data.pairs.gap", "2"],
    "gap_10s": ["--data.pairs.gap", "4"],
    "length_5s": ["--data.pairs.length", "2"],
    "length_15s": ["--data.pairs.length", "6"],
    "length_22s": ["--data.pairs.length", "9"],
    "other_runs": ["--data.pairs.negatives", "{same_subject: 1}"],
    "half_other_runs": ["--data.pairs.negatives", "{same_run: 0.5, same_subject: 0.5}"],
    "reversed": ["--data.pairs.negatives", "{reversed: 1}"],
    "steps_100": ["--train.steps", "100"],
    "steps_1000": ["--train.steps", "1000"],
    "width_128": ["--model.d_model", "128"],
    "one_block": ["--model.n_layers", "1"],
    "masked_alone": [*MASKED, "--train.ntp_weight", "0"],
    "masked_half": [*MASKED, "--train.ntp_weight", "0.5", "--train.masked_weight", "0.5"],
}
ABIDE = {
    "base": [],
    "published_head": ["--train.pair", "joint", "--train.pool", "cls"],
    "half_same_site": ["--data.pairs.negatives", "{same_dataset: 0.5, other_dataset: 0.5}"],
    "same_site": ["--data.pairs.negatives", "{same_dataset: 1}"],
    "same_run": ["--data.pairs.negatives", "{same_run: 1}", "--data.pairs.gap", "0"],
    "gap_0": ["--data.pairs.gap", "0"],
    "length_16s": ["--data.pairs.length", "8"],
    "steps_150": ["--train.steps", "150"],
    "steps_2400": ["--train.steps", "2400"],
    "three_sites": ["--data.datasets", "[abide_nyu, abide_um_1, abide_usm]"],
    "volumes_shuffled": ["--data.volume_order", "shuffled", "--data.access", "memory"],
    "width_128": ["--model.d_model", "128"],
    "masked_alone": [*MASKED, "--train.ntp_weight", "0"],
    "masked_half": [*MASKED, "--train.ntp_weight", "0.5", "--train.masked_weight", "0.5"],
}
SIAMESE = ["--train.pair", "siamese"]
ALICE = {
    "base": SIAMESE,
    "joint": [],
    "gap_10s": [*SIAMESE, "--data.pairs.gap", "5"],
    "length_20s": [*SIAMESE, "--data.pairs.length", "10"],
    "length_60s": [*SIAMESE, "--data.pairs.length", "30"],
    "far_negatives": [*SIAMESE, "--data.pairs.min_distance", "60"],
    "reversed": [*SIAMESE, "--data.pairs.negatives", "{reversed: 1}"],
    "width_32": [*SIAMESE, "--model.d_model", "32"],
    "masked_alone": [*MASKED, "--train.ntp_weight", "0"],
    "volumes_shuffled": [*SIAMESE, "--data.volume_order", "shuffled", "--data.access", "memory"],
}
ADAPT = {
    "probe": ["--train.adapt", "probe", "--train.lr", "2e-3"],
    "low_rank": ["--train.adapt", "lora"],
}
TARGETS = {
    "alice": Target("pretrain_alice", "alice", ALICE, 3, [4, None], adapt=ADAPT),
    "haxby": Target("pretrain_haxby", "haxby", HAXBY, 3, [2], adapt=ADAPT),
    "abide": Target(
        "pretrain_abide_site",
        "abide_site",
        ABIDE,
        3,
        [None],
        ["DX_GROUP", "SEX", "SITE_ID"],
        adapt=ADAPT,
        apart=0.3,
        amount={"people_half": 0.5, "people_quarter": 0.25, "people_eighth": 0.125},
    ),
}
