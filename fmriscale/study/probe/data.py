"""A probe opened once: its rows, folds and methods; what every fit is made from."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fmriscale.common.errors import UserError
from fmriscale.config import ProbeConfig
from fmriscale.corpus.manifest import FeatureSpace
from fmriscale.corpus.reader import Corpus
from fmriscale.model.encoder import Encoder, build_encoder, in_space
from fmriscale.model.presets import EncoderConfig
from fmriscale.sampling.gather import verify_runs
from fmriscale.study.data import Metas, runs_taking_part
from fmriscale.study.encoders import known_as
from fmriscale.study.folds import Fold, refuse_seen_runs
from fmriscale.study.probe.columns import facts_of
from fmriscale.study.probe.cut import volumes
from fmriscale.study.probe.folds import inner_groups, probe_folds, sides, smaller
from fmriscale.study.probe.jobs import FRESH, SHUFFLED, arms, baselines, encoder_folder, has_seeds
from fmriscale.study.probe.rows import Rows, collect


@dataclass(frozen=True)
class Probe:
    """What every fit of a probe is made from; worker processes get a copy."""

    config: ProbeConfig
    fingerprint: str
    """Of the corpus."""
    table: pd.DataFrame
    """Runs that take part, by their row in the corpus."""
    space: FeatureSpace
    rows: Rows
    folds: list[Fold]
    """Of runs."""
    inner_groups: list[np.ndarray]
    """What inner folds keep together, of every row."""
    methods: list[str]
    metas: Metas = field(default_factory=Metas)

    def encoder_meta(self, arm: str, fold: int, seed: int) -> dict[str, Any]:
        """Return config.json of an arm's encoder folder."""
        return self.metas[encoder_folder(self.config, arm, fold, seed)]

    def verify(self, corpus: Corpus) -> None:
        """Check every run that takes part against its sha256: what is damaged must not decide a probe."""
        verify_runs(corpus, np.unique(self.rows.run_M))

    def sides(self, fold: Fold, size: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the training and the test rows of a fold, of `size` training people."""
        train_N, test_N = sides(fold, self.rows)
        return (train_N if size is None else smaller(fold, self.rows, train_N, size, seed)), test_N

    def encoder(self, arm: str, fold: int, seed: int) -> tuple[Encoder, str]:
        """Return an arm's encoder in evaluation mode, and its name for the feature space."""
        content = self.encoder_meta(arm, fold, seed)
        name = known_as(self.space, content["meta"]) or self.space.name
        if arm == FRESH:
            shape = EncoderConfig(**{**content["encoder"], "spaces": {name: self.space.n_features}})
            return build_encoder(shape, seed).eval(), name
        encoder = Encoder.from_pretrained(encoder_folder(self.config, arm, fold, seed))
        return in_space(encoder, name, self.space.n_features, seed).eval(), name


def open_probe(config: ProbeConfig, corpus: Corpus) -> Probe:
    """Open the corpus, find rows and targets, make the folds, and refuse what would fool us."""
    space = corpus.space(config.space)
    rows = runs_taking_part(config, corpus, space)
    corpus.want(sorted(set(corpus.runs["shard"].iloc[rows])))
    facts = facts_of(corpus, rows)
    table = corpus.runs.iloc[rows]
    found = collect(config, corpus, table, facts)
    used = np.unique(found.run_M)
    table, facts = table.loc[used], facts.loc[used]
    folds = probe_folds(config, table, facts, found)
    known_motion = bool(table["mean_fd"].notna().any())
    methods = [*arms(config), *baselines(config, motion=known_motion), SHUFFLED]
    groups = inner_groups(config, table, facts, found)
    probe = Probe(config, corpus.fingerprint, table, space, found, folds, groups, methods)
    for fold in folds:
        for arm in arms(config):
            for seed in config.seeds if has_seeds(config, arm) else config.seeds[:1]:
                check_encoder(probe, arm, fold, seed)
        for size in config.train_sizes or ():
            probe.sides(fold, size)  # refused now, not in the middle of the probe
    return probe


def check_encoder(probe: Probe, arm: str, fold: Fold, seed: int) -> None:
    """Refuse an encoder that cannot read the windows, or whose pre-training saw what the fold tests."""
    folder = encoder_folder(probe.config, arm, fold.number, seed)
    content = probe.encoder_meta(arm, fold.number, seed)
    shape, meta = EncoderConfig(**content["encoder"]), content["meta"]
    if known_as(probe.space, meta) is None:
        known = ", ".join(meta.get("feature_spaces", {})) or "none"
        raise UserError(
            f"{folder}: reads feature space(s) {known}, none of them the corpus's '{probe.space.name}' "
            f"({probe.space.n_features} features); an encoder needs a corpus with the same features"
        )
    lengths = {volumes(probe.config.windows.length, t_r) for t_r in probe.table["t_r"]}
    if shape.positions == "learned" and lengths != {shape.length}:
        raise UserError(
            f"{folder}: has learned positions for {shape.length} volumes; set windows.length: {shape.length}"
        )
    if arm != FRESH and not probe.config.allow_seen_runs:
        refuse_seen_runs(fold, probe.table, meta.get("train_runs", []), str(folder))
