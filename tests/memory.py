"""Measured memory: what autograd keeps, and the most that torch's CPU allocator hands out."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def saved_bytes(forward: Callable[[], torch.Tensor], model: torch.nn.Module) -> int:
    """Bytes of all storages that a forward pass keeps for the backward pass, weights left out."""
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
    """Most bytes that were allocated at a time, over those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    now = most = 0
    results = profiler.profiler
    assert results is not None and results.kineto_results is not None
    # The backward pass has a thread of its own, and events come thread by thread.
    in_time = sorted(results.kineto_results.events(), key=lambda event: event.start_ns())
    for event in in_time:
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most
