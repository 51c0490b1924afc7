"""Which window of another person is of the same time of what both saw or heard?

InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) over all ordered pairs of people.
Shapes: P people, W windows of one stretch, D a vector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(vectors_PWD: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, and how often the right window is the most similar one; both 0-dimensional, float32.

    A query is a window of a person; candidates are all windows of another one, and the right one is that of
    the same time. Similarities are cosines times `scale` [1].
    """
    P, W, _ = vectors_PWD.shape
    unit_ND = F.normalize(vectors_PWD.float().flatten(0, 1), dim=1)
    logits_PWPW = (scale.float() * (unit_ND @ unit_ND.T)).view(P, W, P, W)
    # Ordered pairs of people by their numbers: a boolean mask would make the host wait for the device.
    pair_N = torch.arange(P * (P - 1), device=unit_ND.device)
    one_N, other_N = pair_N // (P - 1), pair_N % (P - 1)
    other_N = other_N + (other_N >= one_N)
    logits_MW = logits_PWPW.transpose(1, 2)[one_N, other_N].flatten(0, 1)
    right_M = torch.arange(W, device=unit_ND.device).repeat(P * (P - 1))
    correct_M = logits_MW.argmax(dim=1) == right_M
    return F.cross_entropy(logits_MW, right_M), correct_M.float().mean()
