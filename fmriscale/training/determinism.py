"""Equal bits from equal runs on a GPU too: what `train.deterministic` switches on."""

import contextlib
import os
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fmriscale.common.errors import UserError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACES = (":4096:8", ":16:8")
"""Values with which cuBLAS adds in the same order each time."""
NO_FORM = " does not have a deterministic implementation"
"""How torch refuses an operation."""


@contextlib.contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Take only what gives equal bits each time; enter before the first CUDA call, when cuBLAS is set up.

    torch takes other algorithms for sums by index, and refuses what has none. On a GPU attention takes the
    plain kernel: the backward passes of the fused ones add in any order. On a CPU nothing changes to the bit:
    all that is computed there is deterministic as it is.
    """
    if not on:
        yield
        return
    workspace, before = os.environ.get(WORKSPACE), torch.are_deterministic_algorithms_enabled()
    if workspace not in FIXED_WORKSPACES:
        os.environ[WORKSPACE] = FIXED_WORKSPACES[0]
    on_gpu = torch.cuda.device_count() > 0  # asks the driver, and starts nothing
    torch.use_deterministic_algorithms(True)
    try:
        with sdpa_kernel(SDPBackend.MATH) if on_gpu else contextlib.nullcontext():
            yield
    except RuntimeError as error:
        if refusal := without_form(str(error)):
            raise UserError(refusal) from error
        raise
    finally:
        torch.use_deterministic_algorithms(before)
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
        else:
            os.environ[WORKSPACE] = workspace


def without_form(reason: str) -> str:
    """Return the refusal of an operation that has no deterministic form, '' where the reason is another."""
    operation, found, _ = reason.partition(NO_FORM)
    if not found:
        return ""
    return (
        f"train.deterministic: torch has no deterministic form of {operation.split()[-1]} on this device; "
        "set train.deterministic false, or leave out the task or setting that needs it"
    )
