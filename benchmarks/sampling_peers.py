"""Other loaders on the windows of `sampling.py`, run by the python of their own environment.

    PYTHON benchmarks/sampling_peers.py mosaic|litdata RUNS.npy FOLDER

RUNS.npy holds runs [R, T, V]. Each pair of neighbouring sequences is stored as one sample, the layout that
suits these formats best; prints the processor seconds of a batch of 256 in one process, after a first batch.
"""

import sys
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np

BATCH, LENGTH, STRIDE, RUNS, BATCHES = 256, 5, 2, 40, 20


def windows(path: str) -> np.ndarray:
    """Left and right of every window of some runs, float16 [N, 2 L, V]."""
    runs = np.load(path, mmap_mode="r")[:RUNS]
    starts = range(0, runs.shape[1] - 2 * LENGTH + 1, STRIDE)
    return np.concatenate([[run[start : start + 2 * LENGTH] for start in starts] for run in runs])


def mosaic(pairs: np.ndarray, folder: Path):
    """MosaicML streaming, shuffled."""
    # It imports torchvision for data sets of images, which are not used here.
    for name in ("", ".datasets", ".transforms", ".transforms.functional"):
        module = sys.modules.setdefault("torchvision" + name, types.ModuleType("torchvision" + name))
        module.__spec__ = ModuleSpec(module.__name__, None)
    sys.modules["torchvision.datasets"].VisionDataset = object
    sys.modules["torchvision.transforms.functional"].to_tensor = None
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    with MDSWriter(
        out=str(folder), columns={"pair": f"ndarray:float16:{pairs.shape[1]},{pairs.shape[2]}"}
    ) as out:
        for pair in pairs:
            out.write({"pair": pair})
    data = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    return DataLoader(data, batch_size=BATCH, num_workers=0, drop_last=True)


def litdata(pairs: np.ndarray, folder: Path):
    """LitData, shuffled."""
    import torch
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import Cache

    cache = Cache(str(folder), chunk_bytes="64MB")
    for i, pair in enumerate(pairs):
        cache[i] = torch.from_numpy(np.array(pair))
    cache.done()
    cache.merge()
    return StreamingDataLoader(StreamingDataset(str(folder), shuffle=True), batch_size=BATCH, num_workers=0)


def main() -> None:
    """Time one loader."""
    name, data, folder = sys.argv[1:]
    found = iter({"mosaic": mosaic, "litdata": litdata}[name](windows(data), Path(folder)))
    next(found)
    begun = time.process_time()
    for _ in range(BATCHES):
        next(found)
    print((time.process_time() - begun) / BATCHES)


if __name__ == "__main__":
    main()
