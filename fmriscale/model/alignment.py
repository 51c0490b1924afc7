"""Are the windows alike whose runs are alike?

Shapes: B windows, D a vector, F entries of a teacher's vector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-6
"""Of a norm that is divided by: windows of one run alone have nothing to align."""


def alignment_loss(vectors_BD: Tensor, teacher_BF: Tensor) -> Tensor:
    """Return 1 - the centred alignment of two kernels, both the cosine similarity; 0-dimensional, float32.

    Cortes, Mohri & Rostamizadeh 2012 (JMLR 13, 795); teacher vectors have unit norm.
    """
    unit_BD = F.normalize(vectors_BD.float(), dim=1)
    own_BB, teacher_BB = _centred(unit_BD @ unit_BD.T), _centred(teacher_BF @ teacher_BF.T)
    norms = own_BB.norm() * teacher_BB.norm()
    return 1 - (own_BB * teacher_BB).sum() / norms.clamp(min=SMALLEST)


def _centred(kernel_BB: Tensor) -> Tensor:
    """Return a symmetric kernel of vectors whose mean is taken away."""
    mean_B = kernel_BB.mean(dim=1, keepdim=True)
    return kernel_BB - mean_B - mean_B.T + torch.mean(mean_B)
