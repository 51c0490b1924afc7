"""What DeepSpeed has to be told, or kept from, beside its configuration: all of it is here, with the reason.

Tested with DeepSpeed 0.19.8; pyproject.toml asks for >= 0.19.6 and < 0.20. What else is undocumented, and
read by `slices`: `single_partition_of_fp32_groups` and `fp32_partitioned_groups_flat` of optimizers, and
`_hp_mapping`, `ds_tensor` and `ds_numel` of parameters. DeepSpeed's own checkpoints fit only the stage and
the number of ranks that wrote them (tests/distributed/test_runs.py moves runs between both).
"""

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for a device; late, because it takes seconds."""
    # It would look for a GPU by itself, and find one where this rank is to use the CPU.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # It uses deprecated names, of which torch warns at every collective.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    with _without_mlflow():
        import deepspeed
    # Its shared-memory op compiles for a minute at first use, and spins when a rank is gone
    # (tests/distributed/test_killed_ranks.py).
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore
    return deepspeed


@contextlib.contextmanager
def _without_mlflow() -> Iterator[None]:
    """Hide MLflow from its autotuner, unused here: that import is a quarter of a rank's start."""
    hide = "mlflow" not in sys.modules
    if hide:
        sys.modules["mlflow"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        if hide:
            del sys.modules["mlflow"]


def forget_process_groups() -> None:
    """Make DeepSpeed forget the process groups that it keeps in a module: a process can train again."""
    if groups := sys.modules.get("deepspeed.utils.groups"):
        importlib.reload(groups)
