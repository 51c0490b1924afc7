"""What is measured: each contender runs in a process of its own, `contenders.py NAME WORK`, and prints JSON.

A contender is prepared (atlas loaded, files in the page cache) by one run that is not counted.
"""

import importlib
import json
import sys
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from scan import T_R

LATE = (
    *("nilearn.interfaces.fmriprep", "nilearn.signal", "pandas", "scipy.linalg", "scipy.signal"),
    *("webdataset.writer", "fmriscale.ingest.read.voxels", "fmriscale.ingest.clean.columns"),
)
"""What ingest imports when it is needed."""
CLEAN: dict[str, Any] = {"strategy": ["motion", "wm_csf", "high_pass"]}
BUTTERWORTH: dict[str, Any] = {"strategy": ["motion", "wm_csf"], "high_pass": 0.008}


def image(work: Path, kind: str) -> Path:
    return next((work / kind).glob("sub-01/func/*bold.nii.gz"))


def recipe(work: Path, kind: str, denoise: dict[str, Any]) -> Any:
    from fmriscale.config import DatasetConfig, DenoiseConfig, FeatureConfig

    return DatasetConfig(
        name="bench",
        kind="fmriprep",
        root=str(work / kind),
        features=FeatureConfig(name="parcels", labels_img=str(work / "atlas_400.nii.gz")),
        denoise=DenoiseConfig(**denoise),
    )


def shard(study: Any, out: Path) -> Callable[[], None]:
    """Everything from the scan to a shard on disk; what is imported late in it is imported here."""
    for late in LATE:
        importlib.import_module(late)
    from fmriscale.corpus.writer import EncodedRun, ShardWriter
    from fmriscale.ingest import run as ingest
    from fmriscale.ingest.find.sources import find_runs
    from fmriscale.ingest.read import hashes

    (source, *_), *_ = find_runs(study)

    def work() -> None:
        hashes._hash.cache_clear()  # a run's file is hashed once, and here the same run comes again
        hashes._hashed_while_read.clear()
        encoded = ingest.process_run(source, study)
        assert isinstance(encoded, EncodedRun), encoded
        with ShardWriter(out, out.name) as writer:
            writer.add(encoded)
            writer.commit()

    return work


def fmriscale(work: Path, kind: str, denoise: dict[str, Any], out: str) -> Callable[[], None]:
    return shard(recipe(work, kind, denoise), work / "out" / out)


def gunzip(work: Path, kind: str = "r200") -> Callable[[], None]:
    from isal import igzip

    def decompress() -> None:
        with igzip.open(image(work, kind)) as handle:
            while handle.read(2**20):
                pass

    return decompress


def nilearn(work: Path, fit_once: bool = False) -> Callable[[], None]:
    """`fit_transform` as its documentation has it; or `transform` of a masker that was fitted before."""
    from nilearn.interfaces.fmriprep import load_confounds
    from nilearn.maskers import NiftiLabelsMasker

    path, labels = image(work, "r200"), work / "atlas_400.nii.gz"
    fitted = NiftiLabelsMasker(labels, standardize="zscore_sample", detrend=True, t_r=T_R).fit()

    def parcellate() -> None:
        regressors, _ = load_confounds(str(path), strategy=tuple(CLEAN["strategy"]), demean=False)
        reduce = fitted.transform if fit_once else fitted.fit_transform
        np.save(work / "out" / "nilearn.npy", reduce(path, confounds=regressors).astype(np.float16))

    return parcellate


def cortex_mae(work: Path) -> Callable[[], None]:
    """Its own functions; its package is not imported, since that downloads an atlas and brings a trainer."""
    import importlib.util

    import nibabel as nib

    package = importlib.util.find_spec("cortex_mae")
    assert package is not None and package.origin is not None
    spec = importlib.util.spec_from_file_location("nisc", Path(package.origin).with_name("nisc.py"))
    assert spec is not None and spec.loader is not None
    nisc: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nisc)
    labels = np.asarray(nib.Nifti1Image.from_filename(work / "atlas_400.nii.gz").dataobj).astype(int)
    average = nisc.ParcelAverage(labels.T.ravel())

    def parcellate() -> None:
        series = nisc.read_nifti_data(image(work, "r200"))
        series, mean, std = nisc.scale(average(series.reshape(len(series), -1)))
        with tarfile.open(work / "out" / "cortex_mae.tar", "w") as tar:
            for name, array in (("bold", series), ("mean", mean), ("std", std)):
                buffer = BytesIO()
                np.save(buffer, array.astype(np.float16))
                entry = tarfile.TarInfo(f"run.{name}.npy")
                entry.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(entry, buffer)

    return parcellate


def index(work: Path) -> Callable[[], None]:
    """A tree of 10,000 files to a plan."""
    from fmriscale.config import CorpusConfig
    from fmriscale.ingest.plan import make_plan

    config = CorpusConfig(datasets=[recipe(work, "tree", CLEAN)], out=str(work / "out" / "tree"))

    def plan() -> None:
        make_plan(config)

    return plan


def jobs(work: Path, count: int) -> Callable[[], None]:
    """The runs of a data set, a dozen times over, through the processes of `fmriscale-shard --jobs`."""
    from fmriscale.common.workers import map_in_order
    from fmriscale.ingest.find.sources import find_runs
    from fmriscale.ingest.run import process_run
    from fmriscale.ingest.shards import libraries

    study = recipe(work, "many", CLEAN)
    runs, *_ = find_runs(study)

    def work_off() -> None:
        work = ((run, study) for run in runs * 12)
        for _ in map_in_order(process_run, work, count, libraries=libraries([study])):
            pass

    return work_off


def cifti(work: Path) -> Callable[[], None]:
    """Grayordinates to parcels."""
    from fmriscale.config import DatasetConfig, FeatureConfig

    labels = str(work / "atlas_400.dlabel.nii")
    features = FeatureConfig(name="parcels", labels_img=labels)
    study = DatasetConfig(name="bench", kind="fmriprep", root=str(work / "cifti"), features=features)
    return shard(study, work / "out" / "cifti.tar")


def arrays(work: Path) -> Callable[[], None]:
    """Given columns."""
    from fmriscale.config import DatasetConfig, FeatureConfig

    columns = np.load(next((work / "arrays").glob("*.npy")), mmap_mode="r").shape[1]
    features = FeatureConfig(name="columns", columns=columns)
    folder = str(work / "arrays")
    study = DatasetConfig(name="bench", kind="arrays", root=folder, features=features, files="*.npy", t_r=T_R)
    return shard(study, work / "out" / "arrays.tar")


def read(path: Path) -> Callable[[], None]:
    """The bytes of a file, to nowhere."""

    def consume() -> None:
        buffer = bytearray(2**20)
        with path.open("rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass

    return consume


CONTENDERS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "gunzip": gunzip,
    "gunzip 2000": lambda work: gunzip(work, "r2000"),
    "fmriscale": lambda work: fmriscale(work, "r200", CLEAN, "run.tar"),
    "fmriscale, Butterworth": lambda work: fmriscale(work, "r200", BUTTERWORTH, "butterworth.tar"),
    "fmriscale 2000": lambda work: fmriscale(work, "r2000", CLEAN, "run_2000.tar"),
    "nilearn": nilearn,
    "nilearn, fitted once": lambda work: nilearn(work, fit_once=True),
    "cortex-mae": cortex_mae,
    "index": index,
    "one job": lambda work: jobs(work, 1),
    "two jobs": lambda work: jobs(work, 2),
    "cifti": cifti,
    "cifti bytes": lambda work: read(next((work / "cifti").rglob("*.dtseries.nii"))),
    "arrays": arrays,
    "arrays bytes": lambda work: read(next((work / "arrays").glob("*.npy"))),
}


def memory(what: str) -> float:
    """VmRSS (now) or VmHWM (the most since it was reset) of this process, MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) / 1024


def measured(name: str, work: Path) -> dict[str, float]:
    """Seconds of the processor and of the clock, and the most memory over that of imports, MB."""
    (work / "out").mkdir(exist_ok=True)
    run = CONTENDERS[name](work)
    Path("/proc/self/clear_refs").write_text("5")  # a new process may inherit the peak of its parent
    imports = memory("VmRSS")
    run()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"cpu": cpu, "wall": wall, "peak_mb": memory("VmHWM") - imports}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]))))
