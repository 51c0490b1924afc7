"""Next Thought Prediction: does right follow left?

Shapes: B pairs, C = 2 classes, G groups (a kind or a data set).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ntp_loss(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Cross-entropy of each pair [B], in float32, on the logits themselves (no softmax before)."""
    return F.cross_entropy(logits_BC.float(), label_B, reduction="none")


def group_sums(loss_B: Tensor, correct_B: Tensor, group_B: Tensor, n_groups: int) -> Tensor:
    """Sums over the pairs of each group, float64 [G, 3]: number of pairs, loss, correct answers."""
    values_B3 = torch.stack((torch.ones_like(loss_B), loss_B, correct_B.to(loss_B.dtype)), dim=1)
    # Group -1 counts for nothing: it has a row of its own, which is cut off. To select the others would make
    # the host wait for the device, which alone knows how many there are.
    sums_G3 = torch.zeros(n_groups + 1, 3, dtype=torch.float64, device=loss_B.device)
    row_B = torch.where(group_B >= 0, group_B, n_groups).long()
    return sums_G3.index_add_(0, row_B, values_B3.double())[:n_groups]
