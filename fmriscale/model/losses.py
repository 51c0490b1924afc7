"""The losses of the tasks.

Shapes: B pairs or windows, C = 2 classes, G groups (a kind or a data set), P people, W windows of one
stretch, D a vector, F entries of a teacher's vector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-6
"""Of a norm that is divided by: windows of one run alone have nothing to align."""


def ntp_loss(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Does right follow left? Cross-entropy [B], in float32, on the logits themselves (no softmax before)."""
    return F.cross_entropy(logits_BC.float(), label_B, reduction="none")


def group_sums(loss_B: Tensor, correct_B: Tensor, group_B: Tensor, n_groups: int) -> Tensor:
    """Sums over the pairs of each group, float64 [G, 3]: number of pairs, loss, correct answers."""
    values_B3 = torch.stack((torch.ones_like(loss_B), loss_B, correct_B.to(loss_B.dtype)), dim=1)
    # Group -1 counts for nothing: it has a row of its own, which is cut off. To select the others would make
    # the host wait for the device, which alone knows how many there are.
    sums_G3 = torch.zeros(n_groups + 1, 3, dtype=torch.float64, device=loss_B.device)
    row_B = torch.where(group_B >= 0, group_B, n_groups).long()
    return sums_G3.index_add_(0, row_B, values_B3.double())[:n_groups]


def contrastive_loss(vectors_PWD: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Which window of another person is of the same time of what both saw or heard?

    InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) over all ordered pairs of people: a query is a window
    of a person, candidates are all windows of another one. Similarities are cosines times `scale` [1].
    Returns the loss, and how often the right window is the most similar one; both 0-dimensional, float32.
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


def alignment_loss(vectors_BD: Tensor, teacher_BF: Tensor) -> Tensor:
    """Are the windows alike whose runs are alike?

    1 - the centred alignment of two kernels, both the cosine similarity (Cortes, Mohri & Rostamizadeh 2012,
    JMLR 13, 795); 0-dimensional, float32. Teacher vectors have unit norm.
    """
    unit_BD = F.normalize(vectors_BD.float(), dim=1)
    own_BB, teacher_BB = _centred(unit_BD @ unit_BD.T), _centred(teacher_BF @ teacher_BF.T)
    norms = own_BB.norm() * teacher_BB.norm()
    return 1 - (own_BB * teacher_BB).sum() / norms.clamp(min=SMALLEST)


def _centred(kernel_BB: Tensor) -> Tensor:
    """Return a symmetric kernel of vectors whose mean is taken away."""
    mean_B = kernel_BB.mean(dim=1, keepdim=True)
    return kernel_BB - mean_B - mean_B.T + torch.mean(mean_B)
