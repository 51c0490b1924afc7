"""Start an input projection from directions of the training runs: `model.init_projection`.

Shapes: T volumes of a run, V features, D width.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig
from fmriscale.corpus.manifest import parse_segments
from fmriscale.corpus.reader import Corpus
from fmriscale.model.directions import Sums, shared_directions, whitening
from fmriscale.model.embedding import ProjectedEmbedding
from fmriscale.model.encoder import Encoder
from fmriscale.sampling.gather import rescaling_of, shuffle_volumes
from fmriscale.sampling.loader import rows_by_shape
from fmriscale.sampling.stimuli import Clock, clock_of, shared_runs
from fmriscale.training.distributed import World

Unit = tuple[np.ndarray, Clock | None]
"""Rows of runs of one stimulus with their clock, or of one run that shares none."""


class TrainingRuns:
    """The volumes of the runs that are trained on, as training reads them."""

    def __init__(self, corpus: Corpus, data: DataConfig, seed: int, rows: np.ndarray) -> None:
        self.corpus, self.data, self.seed = corpus, data, seed
        self.by_shape = {key: of for key, (of, _) in rows_by_shape(corpus, data, rows).items()}
        runs = corpus.runs.iloc[rows]
        self._place = np.full(len(corpus.runs), -1)
        self._place[rows] = np.arange(len(rows))
        subject = pd.factorize(runs.dataset + "/" + runs.subject)[0]
        self._rescaling = rescaling_of(corpus, rows, subject, data.standardize)

    def units(self, space: str) -> list[Unit]:
        """Return what can be summed by itself: the runs of a stimulus together, others one by one."""
        units: list[Unit] = []
        for (name, length), rows in self.by_shape.items():
            if name != space:
                continue
            stimuli = shared_runs(self.corpus, rows, length)
            units += [
                (of, clock_of(self.corpus, of, length, self.data, self.seed)) for of in stimuli.values()
            ]
            shared = np.concatenate([np.empty(0, np.int64), *stimuli.values()])
            units += [(row[None], None) for row in np.setdiff1d(rows, shared)]
        return units

    def read(self, unit: Unit) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield the uncensored volumes of each run [T, V], and their times on the grid of the stimulus.

        A person who saw it twice shares it once.
        """
        rows, clock = unit
        people = self.corpus.runs.person.to_numpy()[rows]
        for r, row in enumerate(rows.tolist()):
            bold_TV, kept_T = self._volumes(row)
            if clock is None or people[r] in people[:r]:
                yield bold_TV[kept_T], None
                continue
            times = clock.first[r] + np.arange(clock.count[r])
            start = clock.starts(np.array([r]), times)
            times, start = times[kept_T[start]], start[kept_T[start]]
            yield bold_TV[start], times

    def _volumes(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return all volumes of a run, and which of them are not censored, bool [T]."""
        run = self.corpus.runs.iloc[row]
        bold_TV = self.corpus.bold(row).astype(np.float32)
        kept_T = np.zeros(len(bold_TV), bool)
        for start, stop in parse_segments(run.segments):
            kept_T[start:stop] = True
        if self.data.volume_order == "shuffled":
            shuffle_volumes(bold_TV, run.key, run.segments, self.seed)
        if self._rescaling is not None:  # the mean goes anyway
            bold_TV *= self._rescaling.scale_RV[self._place[row]]
        return bold_TV, kept_T


def start_projection(
    encoder: Encoder, how: Literal["whiten", "shared"], runs: TrainingRuns, world: World
) -> None:
    """Give the projection of each feature space its directions; the width that is left stays random.

    The runs are read once, each by one rank. All ranks call this, and have the weights of rank 0.
    """
    embedding = encoder.embedding
    assert isinstance(embedding, ProjectedEmbedding)
    n_shared = 0.0
    for space, rows in embedding.rows.items():
        sums = Sums(rows.stop - rows.start)
        for unit in runs.units(space)[world.rank :: world.world_size]:
            sums.add(runs.read(unit))
        for part in sums.parts.values():
            tensor = torch.from_numpy(part).to(world.device)
            if world.world_size > 1:
                dist.all_reduce(tensor)
            part[:] = tensor.cpu().numpy()
        n_shared += sums.parts["n_pairs"][0]
        if how == "whiten" or sums.parts["n_pairs"][0] > 0:
            fit = shared_directions if how == "shared" else whitening
            weight_VD = embedding.weight.data[rows]
            fitted_VD = torch.from_numpy(fit(sums, weight_VD.shape[1])).to(weight_VD)
            weight_VD[:, : fitted_VD.shape[1]] = fitted_VD
    if how == "shared" and not n_shared:
        raise UserError(
            f"{runs.corpus}: model.init_projection shared needs a stimulus that two people of the training "
            "runs share: give stimulus (and stimulus_onset) to data sets in the corpus recipe and build it "
            "again, or take model.init_projection whiten"
        )
    if world.world_size > 1:
        dist.broadcast(weights := embedding.weight.data.to(world.device), src=0)
        embedding.weight.data.copy_(weights)
