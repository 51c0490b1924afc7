"""Pieces of a training in files: each rank writes one safetensors file, any number reads them."""

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from fmriscale.common.errors import DamageError
from fmriscale.training.pieces import KINDS, Holdings, Piece

BLOCK = 8 << 20
"""Bytes that are hashed and written at a time."""


class Snapshot:
    """A copy of the share of one rank, in memory that is used again for each copy.

    Copying is all that training waits for; the copy is written while it goes on.
    """

    def __init__(self) -> None:
        self._values = torch.empty(0)
        self._header = self._extra = b""

    @torch.no_grad()
    def take(self, holdings: Holdings, extra: dict[str, Tensor], device: torch.device) -> None:
        """Copy what this rank writes."""
        share = holdings.share
        n = len(KINDS) * sum(piece.size for piece in share)
        if len(self._values) != n:
            self._values = torch.empty(n, pin_memory=device.type == "cuda")
        header: dict[str, Any] = {
            "__metadata__": {"starts": json.dumps({piece.name: piece.start for piece in share})}
        }
        offset = 0
        for piece in share:
            for kind in KINDS:
                target = self._values[offset : offset + piece.size]
                target.copy_(holdings.read(piece, kind), non_blocking=device.type == "cuda")
                header[f"{kind}/{piece.name}"] = _entry("F32", piece.size, 4 * offset, 4)
                offset += piece.size
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

    def write(self, path: Path) -> dict[str, Any]:
        """Write the copy to a file that lasts through a power cut; return its size and sha256."""
        digest, size = hashlib.sha256(), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as handle:
            for data in map(
                memoryview, (self._header, self._values.numpy().view(np.uint8).data, self._extra)
            ):
                for start in range(0, len(data), BLOCK):
                    block = data[start : start + BLOCK]
                    digest.update(block)
                    while len(block):  # a disk that is nearly full takes a part
                        block = block[handle.write(block) :]
                size += len(data)
            os.fsync(handle.fileno())
        return {"bytes": size, "sha256": digest.hexdigest()}


class Archive:
    """The pieces of all ranks in a checkpoint.

    Parameters
    ----------
    paths : list of Path
        The ranks' files.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._where: dict[str, list[tuple[int, Any]]] = {}
        self.files = [safe_open(path, framework="pt") for path in paths]
        for file in self.files:
            for name, start in json.loads(file.metadata()["starts"]).items():
                self._where.setdefault(name, []).append((start, file))

    def fetch(self, kind: str, piece: Piece) -> Tensor:
        """Return the elements of a piece, float32 [size], from whichever files hold them."""
        values, found = torch.empty(piece.size), 0
        for start, file in self._where.get(piece.name, []):
            stored = file.get_slice(f"{kind}/{piece.name}")
            low = max(start, piece.start)
            high = min(start + stored.get_shape()[0], piece.start + piece.size)
            if low < high:
                values[low - piece.start : high - piece.start] = stored[low - start : high - start]
                found += high - low
        if found != piece.size:
            raise DamageError(f"the checkpoint holds {found} of {piece.size} elements of {piece.name}")
        return values


def _entry(dtype: str, n: int, offset: int, width: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [n], "data_offsets": [offset, offset + width * n]}
