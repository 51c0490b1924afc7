"""Loss and accuracy summed by kind of pair and by data set, and over all ranks once a step."""

from typing import Any

import torch
import torch.distributed as dist

from fmriscale.config import KIND_NAMES
from fmriscale.model.losses import group_sums
from fmriscale.training.objective import Losses, Objective

PAIRS, LOSS, CORRECT = range(3)
STOPPING, WRITING = range(2)
MASKED, FLAGS = -2, -1
"""Rows of the sums of masked volumes, and of what ranks tell each other."""


class Tally:
    """Sums over pairs, float64 [kinds + data sets + 2, 3]: pairs, loss and correct answers.

    The last row counts the ranks that were asked to stop, and those that still write a checkpoint, so that
    one all_reduce a step is enough.
    """

    def __init__(self, datasets: list[str], device: torch.device, objective: Objective) -> None:
        self.datasets, self.objective = datasets, objective
        self.sums = torch.zeros(len(KIND_NAMES) + len(datasets) + 2, 3, dtype=torch.float64, device=device)

    def add(self, losses: Losses, kind_B: torch.Tensor, dataset_B: torch.Tensor) -> None:
        """Add pairs; those of a negative kind and data set only fill up a batch."""
        n, loss_B = len(KIND_NAMES), losses.ntp.detach()
        self.sums[:n] += group_sums(loss_B, losses.correct, kind_B, n)
        self.sums[n:MASKED] += group_sums(loss_B, losses.correct, dataset_B, len(self.datasets))
        if losses.masked is not None:
            one_group_B = kind_B.clamp(max=0)
            self.sums[MASKED] += group_sums(losses.masked.detach(), losses.correct, one_group_B, 1)[0]

    def all_reduce(self, *, stopping: bool = False, writing: bool = False) -> tuple[bool, bool]:
        """Add the sums of all ranks; return whether any rank is to stop, and whether any still writes."""
        self.sums[FLAGS, STOPPING], self.sums[FLAGS, WRITING] = float(stopping), float(writing)
        dist.all_reduce(self.sums)
        return bool(self.sums[FLAGS, STOPPING] > 0), bool(self.sums[FLAGS, WRITING] > 0)

    def summary(self) -> dict[str, Any]:
        """Return loss and accuracy, overall and by kind and data set; only groups that had pairs.

        Both are those of NTP; where volumes are masked, `loss` is what is minimised, and `ntp_loss` and
        `masked_loss` are its terms without their weights.
        """
        rows = self.sums.tolist()
        kinds = {k: row for k, row in zip(KIND_NAMES, rows, strict=False) if row[PAIRS]}
        datasets = zip(self.datasets, rows[len(KIND_NAMES) : MASKED], strict=True)
        sets = {d: row for d, row in datasets if row[PAIRS]}
        pairs, loss, correct = (sum(row[i] for row in kinds.values()) for i in range(3))
        losses = {"loss": loss / pairs}
        if self.objective.masked:
            ntp, masked = loss / pairs, rows[MASKED][LOSS] / pairs
            losses = {"loss": self.objective.total(ntp, masked), "ntp_loss": ntp, "masked_loss": masked}
        return {
            "pairs": int(pairs),
            **losses,
            "acc": correct / pairs,
            "loss_by_kind": {k: row[LOSS] / row[PAIRS] for k, row in kinds.items()},
            "acc_by_kind": {k: row[CORRECT] / row[PAIRS] for k, row in kinds.items()},
            "loss_by_dataset": {d: row[LOSS] / row[PAIRS] for d, row in sets.items()},
            "acc_by_dataset": {d: row[CORRECT] / row[PAIRS] for d, row in sets.items()},
        }

    def pairs_by_dataset(self) -> dict[str, int]:
        """Return the number of pairs of each data set."""
        counts = self.sums[len(KIND_NAMES) : MASKED, PAIRS].tolist()
        return {name: int(count) for name, count in zip(self.datasets, counts, strict=True)}
