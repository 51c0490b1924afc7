"""Loss and accuracy summed by kind of pair and by data set, and over all ranks once a step."""

from typing import Any

import torch
import torch.distributed as dist

from fmriscale.config import KIND_NAMES
from fmriscale.model.losses import group_sums
from fmriscale.sampling.batch import Batch
from fmriscale.training.objective import Losses, Objective

PAIRS, LOSS, CORRECT = range(3)
STOPPING, WRITING = range(2)
MASKED, CONTRASTIVE, CONNECTIVITY, FLAGS = range(-4, 0)
"""Rows of the sums of the other tasks, and of what ranks tell each other."""


class Tally:
    """Sums over pairs, float64 [kinds + data sets + 4, 3]: pairs, loss and correct answers.

    The rows of the contrastive task and of connectivity count comparisons, of which every rank makes all. The
    last row counts the ranks that were asked to stop, and those that still write a checkpoint, so that
    one all_reduce a step is enough.
    """

    def __init__(self, datasets: list[str], device: torch.device, objective: Objective) -> None:
        self.datasets, self.objective = datasets, objective
        self.sums = torch.zeros(
            len(KIND_NAMES) + len(datasets) - MASKED, 3, dtype=torch.float64, device=device
        )
        self._rows: list[list[float]] = []

    def add(self, losses: Losses, pairs: Batch | None = None, filler_B: torch.Tensor | None = None) -> None:
        """Add a micro-batch; pairs that only fill it up are not counted."""
        if pairs is not None:
            kind_B, dataset_B, n = pairs.kind, pairs.dataset, len(KIND_NAMES)
            if filler_B is not None:
                kind_B, dataset_B = (x.masked_fill(filler_B, -1) for x in (kind_B, dataset_B))
            loss_B, correct_B = losses.ntp, losses.correct
            if loss_B is None or correct_B is None:  # NTP is no task
                loss_B = torch.zeros(len(kind_B), device=kind_B.device)
                correct_B = loss_B > 0
            self.sums[:n] += group_sums(loss_B.detach(), correct_B, kind_B, n)
            self.sums[n:MASKED] += group_sums(loss_B.detach(), correct_B, dataset_B, len(self.datasets))
            if losses.masked is not None:
                one_group_B = kind_B.clamp(max=0)
                self.sums[MASKED] += group_sums(losses.masked.detach(), correct_B, one_group_B, 1)[0]
        for row, loss, correct in (
            (CONTRASTIVE, losses.contrastive, losses.contrastive_correct),
            (CONNECTIVITY, losses.connectivity, None),
        ):
            if loss is not None:
                share = torch.zeros_like(loss) if correct is None else correct
                self.sums[row] += torch.stack((torch.ones_like(loss), loss.detach(), share)).double()

    def all_reduce(self, *, stopping: bool = False, writing: bool = False) -> tuple[bool, bool]:
        """Add the sums of all ranks; return whether any rank is to stop, and whether any still writes."""
        self.sums[FLAGS, STOPPING], self.sums[FLAGS, WRITING] = float(stopping), float(writing)
        dist.all_reduce(self.sums)
        self._rows = self.sums.tolist()  # once: each time a host asks, it waits for its GPU
        return self.rows[FLAGS][STOPPING] > 0, self.rows[FLAGS][WRITING] > 0

    @property
    def rows(self) -> list[list[float]]:
        """The sums as numbers: of all ranks, once `all_reduce` has added them."""
        return self._rows or self.sums.tolist()

    def summary(self) -> dict[str, Any]:
        """Return loss and accuracy, overall and by kind and data set; only groups that had pairs.

        Where there is more than NTP, `loss` is what is minimised; `ntp_loss`, `masked_loss`,
        `contrastive_loss` and `connectivity_loss` are its terms without their weights. `acc` and all that is
        told by kind and data set are NTP's; `contrastive_acc` is how often the right window came first.
        """
        rows = self.rows
        pairs = sum(row[PAIRS] for row in rows[: len(KIND_NAMES)])
        losses, told = {}, {}
        if pairs and self.objective.tasks.classify:
            told = self._answers(rows)
            losses["ntp"] = sum(row[LOSS] for row in rows[: len(KIND_NAMES)]) / pairs
        if pairs and self.objective.tasks.masked:
            losses["masked"] = rows[MASKED][LOSS] / pairs
        for name, row in (("contrastive", rows[CONTRASTIVE]), ("connectivity", rows[CONNECTIVITY])):
            if row[PAIRS]:
                losses[name] = row[LOSS] / row[PAIRS]
        if rows[CONTRASTIVE][PAIRS]:
            told["contrastive_acc"] = rows[CONTRASTIVE][CORRECT] / rows[CONTRASTIVE][PAIRS]
        terms = {f"{name}_loss": loss for name, loss in losses.items()} if losses.keys() != {"ntp"} else {}
        total = sum(self.objective.weights[name] * loss for name, loss in losses.items())
        return {"pairs": int(pairs), "loss": total, **terms, **told}

    def _answers(self, rows: list[list[float]]) -> dict[str, Any]:
        """Return NTP's accuracy, and what is told by kind and data set."""
        kinds = {k: row for k, row in zip(KIND_NAMES, rows, strict=False) if row[PAIRS]}
        datasets = zip(self.datasets, rows[len(KIND_NAMES) : MASKED], strict=True)
        sets = {d: row for d, row in datasets if row[PAIRS]}
        pairs, correct = (sum(row[i] for row in kinds.values()) for i in (PAIRS, CORRECT))
        return {
            "acc": correct / pairs,
            "loss_by_kind": {k: row[LOSS] / row[PAIRS] for k, row in kinds.items()},
            "acc_by_kind": {k: row[CORRECT] / row[PAIRS] for k, row in kinds.items()},
            "loss_by_dataset": {d: row[LOSS] / row[PAIRS] for d, row in sets.items()},
            "acc_by_dataset": {d: row[CORRECT] / row[PAIRS] for d, row in sets.items()},
        }

    def pairs_by_dataset(self) -> dict[str, int]:
        """Return the number of pairs of each data set."""
        rows = self.rows[len(KIND_NAMES) : MASKED]
        return {name: int(row[PAIRS]) for name, row in zip(self.datasets, rows, strict=True)}
