"""Measured memory: what autograd keeps, and the most that torch's CPU allocator has allocated."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def saved_bytes(forward: Callable[[], torch.Tensor], model: torch.nn.Module) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def peak_of(work: Callable[[], object]) -> int:
    """Return the most bytes allocated at a time, above those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    now = most = 0
    results = profiler.profiler
    assert results is not None and results.kineto_results is not None
    # The backward pass runs in another thread, and the profiler lists events thread by thread.
    in_time = sorted(results.kineto_results.events(), key=lambda event: event.start_ns())
    for event in in_time:
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most
