"""Parameter slices in files: each rank writes one safetensors file, and any number of ranks reads them."""

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fmriscale.common.errors import DamageError
from fmriscale.common.trust import parse_json, understood
from fmriscale.training.slices import KINDS, EngineState, ParameterSlice

ELSEWHERE = "move this checkpoint away, and an earlier one is resumed"
SMALLEST_CHUNK = 1 << 18
"""Elements: what is below is rounded up by a megabyte at most."""
BLOCK = 8 << 20
"""Bytes that are hashed and written at a time."""


class Snapshot:
    """A copy of what one rank writes; the next copy takes the same memory.

    Training waits for the copy alone, which is written while training goes on.
    """

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []
        self._header = self._extra = b""

    @torch.no_grad()
    def take(self, state: EngineState, extra: dict[str, Tensor], device: torch.device) -> None:
        """Copy what this rank writes."""
        n = len(KINDS) * sum(part.size for part in state.written)
        if sum(map(len, self._chunks)) != n:
            self._chunks = [torch.empty(size, pin_memory=device.type == "cuda") for size in chunk_sizes(n)]
        starts = {part.name: part.start for part in state.written}
        header: dict[str, Any] = {"__metadata__": {"starts": json.dumps(starts)}}
        offset = 0
        for part in state.written:
            for kind in KINDS:
                self._put(state.read(part, kind), offset, non_blocking=device.type == "cuda")
                header[f"{kind}/{part.name}"] = _entry("F32", part.size, 4 * offset, 4)
                offset += part.size
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self._extra, at = b"", 4 * offset
        for name, tensor in extra.items():
            header[name] = _entry("U8", tensor.numel(), at, 1)
            self._extra += tensor.numpy().tobytes()
            at += tensor.numel()
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = struct.pack("<Q", len(text)) + text

    def _put(self, values: Tensor, offset: int, non_blocking: bool) -> None:
        """Copy values to an offset of the chunks, end to end."""
        start = 0
        for chunk in self._chunks:
            low, high = max(offset, start), min(offset + len(values), start + len(chunk))
            if low < high:
                target = chunk[low - start : high - start]
                target.copy_(values[low - offset : high - offset], non_blocking=non_blocking)
            start += len(chunk)

    def write(self, path: Path) -> dict[str, Any]:
        """Write the copy durably; return its size and sha256."""
        digest, size = hashlib.sha256(), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as handle:
            values = [chunk.numpy().view(np.uint8).data for chunk in self._chunks]
            for data in map(memoryview, (self._header, *values, self._extra)):
                for start in range(0, len(data), BLOCK):
                    block = data[start : start + BLOCK]
                    digest.update(block)
                    while len(block):  # a disk that is nearly full writes a part
                        block = block[handle.write(block) :]
                size += len(data)
            os.fsync(handle.fileno())
        return {"bytes": size, "sha256": digest.hexdigest()}


class Archive:
    """The slices of all ranks in the files of a checkpoint."""

    def __init__(self, paths: list[Path]) -> None:
        self._files: dict[str, list[tuple[int, Any]]] = {}
        for path in paths:
            with understood(path, ELSEWHERE):
                try:
                    file = safe_open(path, framework="pt")
                except (OSError, SafetensorError) as error:
                    raise ValueError(str(error)) from error
                for name, start in parse_json(file.metadata()["starts"]).items():
                    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
                        raise ValueError(f"{name} starts at {start!r}")
                    self._files.setdefault(name, []).append((start, file))

    def fetch(self, kind: str, part: ParameterSlice) -> Tensor:
        """Return the elements of a slice, float32 [size], from whichever files hold them."""
        values, n_read = torch.empty(part.size), 0
        for start, file in self._files.get(part.name, []):
            try:
                stored = file.get_slice(f"{kind}/{part.name}")
            except SafetensorError as error:
                raise DamageError(f"the checkpoint holds no {kind} of {part.name}; {ELSEWHERE}") from error
            low = max(start, part.start)
            high = min(start + stored.get_shape()[0], part.start + part.size)
            if low < high:
                values[low - part.start : high - part.start] = stored[low - start : high - start]
                n_read += high - low
        if n_read != part.size:
            what = f"the checkpoint holds {n_read} of {part.size} elements of {part.name}"
            raise DamageError(f"{what}; {ELSEWHERE}")
        return values


def chunk_sizes(n: int) -> list[int]:
    """Divide n elements into powers of two, and a rest below `SMALLEST_CHUNK`.

    torch rounds pinned memory up to a power of two: a single copy of 9 GiB would take 16.
    """
    bits = range(n.bit_length() - 1, SMALLEST_CHUNK.bit_length() - 2, -1)
    sizes = [1 << bit for bit in bits if n >> bit & 1]
    rest = n - sum(sizes)
    return sizes + [rest] * (rest > 0)


def _entry(dtype: str, n: int, offset: int, width: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [n], "data_offsets": [offset, offset + width * n]}
