"""Vectors that are gathered over ranks: the gradient of the loss of all of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import clean_environment

pytestmark = pytest.mark.distributed

RANKS = """
import os
import sys
import torch
import torch.distributed as dist
from worker import fork_ranks
from fmriscale.model.losses import alignment_loss, contrastive_loss
from fmriscale.training.distributed import gather_rows, gather_vectors

def as_rank():
    dist.init_process_group("gloo")
    rank, n_ranks = dist.get_rank(), dist.get_world_size()
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(6, 5, 7, generator=g), torch.randn(7, 4, generator=g)
    teacher = torch.nn.functional.normalize(torch.randn(6, 9, generator=g), dim=1)
    scale = torch.tensor([3.0], requires_grad=True)
    own = slice(rank * 6 // n_ranks, (rank + 1) * 6 // n_ranks)
    rows = torch.from_numpy(gather_rows(torch.arange(6)[own].numpy()))
    assert rows.tolist() == list(range(6))

    def loss_of(vectors):
        return contrastive_loss(vectors, scale)[0] + alignment_loss(vectors[:, 0], teacher[rows])

    def gradients(loss):
        return torch.autograd.grad(loss, (leaf, scale))

    leaf = weight.clone().requires_grad_()
    whole = loss_of(x @ leaf)
    expected = gradients(whole)
    gathered = loss_of(gather_vectors(x[own] @ leaf))
    assert torch.allclose(gathered, whole, atol=1e-6)
    for found, right in zip(gradients(gathered), expected, strict=True):
        dist.all_reduce(found)  # DeepSpeed takes the mean of all ranks
        assert torch.allclose(found / n_ranks, right, atol=1e-6), (found / n_ranks, right)
    dist.destroy_process_group()

for n_ranks in (2, 3):
    for pid in fork_ranks(n_ranks, as_rank):
        if code := os.waitpid(pid, 0)[1]:
            sys.exit(f"a rank of {n_ranks} ended with {code}")
"""


def test_the_mean_gradient_of_all_ranks_is_that_of_the_whole_loss_in_one_process():
    env = clean_environment()
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), env.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", RANKS], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
