"""Other loaders on the windows of `sampling.py`, run by the python of their own environment.

    PYTHON benchmarks/sampling_peers.py mosaic|litdata|cortex_mae RUNS.npy FOLDER

RUNS.npy holds runs [R, T, V]. Each pair of neighbouring sequences is stored as one sample, the layout that
suits these formats best; cortex-mae cuts clips as long as a pair out of whole runs, as we do. Prints the
processor seconds of a batch of 256 in one process, after a first batch.
"""

import sys
import time
import types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
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


def cortex_mae(runs: np.ndarray, folder: Path):
    """The fMRI pipeline of cortex-mae: random clips out of shards of runs, shuffled."""
    # The package imports its plots, and those a compiled viewer of brains; its pipeline needs neither.
    package = types.ModuleType("cortex_mae")
    package.__path__ = list(find_spec("cortex_mae").submodule_search_locations)
    sys.modules["cortex_mae"] = package
    import webdataset
    from cortex_mae.data import make_fmri_wds_dataset
    from torch.utils.data import default_collate

    folder.mkdir()
    for shard in range(0, len(runs), 50):
        with webdataset.TarWriter(str(folder / f"{shard:06d}.tar")) as out:
            for i, bold in enumerate(runs[shard : shard + 50], shard):
                still = {"mean.npy": np.zeros(bold.shape[1:], np.float32)}
                moving = {"std.npy": np.ones(bold.shape[1:], np.float32), "meta.json": {"sub": str(i)}}
                out.write({"__key__": f"{i:06d}", "bold.npy": np.array(bold), **still, **moving})
    data = make_fmri_wds_dataset(str(folder / "*.tar"), num_frames=2 * LENGTH)
    return webdataset.WebLoader(data, batch_size=BATCH, num_workers=0, collate_fn=default_collate)


def main() -> None:
    """Time one loader."""
    name, data, folder = sys.argv[1:]
    loader = {"mosaic": mosaic, "litdata": litdata, "cortex_mae": cortex_mae}[name]
    material = np.load(data, mmap_mode="r") if name == "cortex_mae" else windows(data)
    found = iter(loader(material, Path(folder)))
    next(found)
    begun = time.process_time()
    for _ in range(BATCHES):
        next(found)
    print((time.process_time() - begun) / BATCHES)


if __name__ == "__main__":
    main()
