"""Ingest against gunzip, nilearn and cortex-mae: CPU-seconds, memory, and what two processes gain.

    python benchmarks/ingest.py [--repeat 3] [--json FILE] [--work FOLDER] [--cortex-mae PYTHON] [--quick]

One run of one thread a contender, each in a process of its own, medians over --repeat. The input is made up,
deterministic and kept in --work: 91x109x91x200 int16, a 400-parcel atlas, confounds as wide as fMRIPrep's.
All contenders give z-scored parcels; cortex-mae has no denoising, so its work is less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import scan
from record import quartiles

HERE = Path(__file__).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
N_MANY = 4
"""Runs that one and two processes share, a dozen times over."""
Found = dict[str, list[dict[str, float]]]
"""Contender -> what each of its rounds took: cpu and wall (s), peak_mb."""


def prepare(work: Path, quick: bool) -> None:
    """Write the input, or what is missing of it."""
    if quick:
        scan.SHAPE, scan.N_PARCELS, scan.VOLUMES_PER_MEMBER, scan.N_COLUMNS = (30, 36, 30), 20, 60, 500
    n_many = 1 if quick else N_MANY
    work.mkdir(parents=True, exist_ok=True)
    scan.write_atlas(work)
    n = scan.VOLUMES_PER_MEMBER
    scan.write_run(work / "r200", "01", 1, n)
    scan.write_run(work / "r2000", "01", 1, 10 * n)
    for number in range(1, n_many + 1):
        scan.write_run(work / "many", f"{number:02d}", 1, n)
    scan.write_tree(work / "tree", 400 if quick else 10_000)
    scan.write_cifti(work / "cifti", work / "atlas_400.dlabel.nii", 40 if quick else 300)
    scan.write_array(work / "arrays", 60 if quick else 1_200)


def measure(names: list[str], work: Path, repeat: int, pythons: dict[str, str], here: bool) -> Found:
    """Run every contender `repeat` times, taking turns, so that a busy machine is busy for all of them.

    `here` runs all but the first in this process: what takes long at toy size is to start processes.
    """
    seen: Found = {name: [] for name in names}
    for _ in range(repeat):
        for name in names:
            if here and name != names[0]:
                seen[name].append(contenders.measured(name, work))
                continue
            command = [pythons.get(name, sys.executable), str(HERE / "contenders.py"), name, str(work)]
            done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                print(f"{name}: could not run ({last})", file=sys.stderr)
                break
            seen[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: results for name, results in seen.items() if results}


def difference(work: Path) -> float:
    """Largest difference between the parcels of fmriscale and of nilearn, standard deviations."""
    with tarfile.open(work / "out" / "run.tar") as tar:
        member = tar.extractfile(next(name for name in tar.getnames() if name.endswith("bold.npy")))
        assert member is not None
        ours = np.load(BytesIO(member.read())).astype(float)
    theirs = np.load(work / "out" / "nilearn.npy").astype(float)
    return float(np.abs(ours - theirs).max())


RATIOS = {
    "speedup_vs_nilearn": ("nilearn", "fmriscale", "cpu", "nilearn masker, load_confounds, z"),
    "speedup_vs_nilearn_fitted_once": ("nilearn, fitted once", "fmriscale", "cpu", "its masker fitted once"),
    "speedup_vs_cortex_mae": ("cortex-mae", "fmriscale", "cpu", "cortex-mae, no denoising"),
    "cpu_vs_gunzip": ("fmriscale", "gunzip", "cpu", "isal to nowhere"),
    "cpu_vs_gunzip_butterworth": ("fmriscale, Butterworth", "gunzip", "cpu", "isal to nowhere"),
    "cpu_vs_gunzip_2000": ("fmriscale 2000", "gunzip 2000", "cpu", "isal to nowhere"),
    "two_job_speedup": ("one job", "two jobs", "wall", f"one job, {12 * N_MANY} runs"),
}
"""Figure -> contenders above and below, what is compared, and what the reference is."""


def figures_of(found: Found, work: Path) -> dict[str, dict[str, Any]]:
    """Return the figures that could be measured: medians over rounds, with quartiles."""
    figures: dict[str, dict[str, Any]] = {}

    def tell(name: str, values: list[float], unit: str, reference: str = "-") -> None:
        told = {"unit": unit, "reference": reference, "median_of": len(values)}
        figures[f"ingest.{name}"] = quartiles(values) | told

    for name, (above, below, key, reference) in RATIOS.items():
        if above in found and below in found:
            rounds = zip(found[above], found[below], strict=False)
            tell(name, [a[key] / b[key] for a, b in rounds], "x", reference)
    if "fmriscale" in found:
        tell("cpu_s", [r["cpu"] for r in found["fmriscale"]], "CPU-s", "one run to a shard")
    for name, contender in (("", "fmriscale"), ("_2000", "fmriscale 2000"), ("_nilearn", "nilearn")):
        if contender in found:
            tell(f"peak_mb_over_imports{name}", [r["peak_mb"] for r in found[contender]], "MB")
    if "index" in found:
        tell("index_10k_files_s", [r["cpu"] for r in found["index"]], "CPU-s")
    for name, pattern in (("cifti", "*.dtseries.nii"), ("arrays", "*.npy")):
        if name in found:
            size = next((work / name).rglob(pattern)).stat().st_size / 1e6
            reading = size / statistics.median(r["cpu"] for r in found[f"{name} bytes"])
            about = f"reading the bytes alone: {reading:.0f}"
            tell(f"{name}_mb_per_s", [size / r["cpu"] for r in found[name]], "MB/CPU-s", about)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="measurements, of which the median is taken")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--work", type=Path, help="folder of the input, which is kept")
    parser.add_argument(
        "--cortex-mae", metavar="PYTHON", help="interpreter of an environment with cortex-mae"
    )
    parser.add_argument("--quick", action="store_true", help="a toy input: does it run, not how fast")
    options = parser.parse_args()
    kept = Path(tempfile.gettempdir(), f"fmriscale_bench_ingest{'_quick' * options.quick}")
    options.work = options.work or kept
    prepare(options.work, options.quick)
    names = ["gunzip", "fmriscale", "fmriscale, Butterworth", "nilearn", "nilearn, fitted once"]
    names += ["cortex-mae"] if options.cortex_mae else []
    names += ["index", "cifti", "cifti bytes", "arrays", "arrays bytes"]
    names += ["gunzip 2000", "fmriscale 2000", "one job", "two jobs"]
    pythons = {"cortex-mae": options.cortex_mae}
    found = measure(names, options.work, options.repeat, pythons, options.quick)
    print(f"{'':24}{'CPU-s':>9}{'wall s':>9}{'peak MB over imports':>23}")
    for name, results in found.items():
        cpu, wall, peak = (statistics.median(r[key] for r in results) for key in ("cpu", "wall", "peak_mb"))
        print(f"{name:24}{cpu:9.3f}{wall:9.3f}{peak:23.0f}")
    figures = figures_of(found, options.work)
    print()
    for name, figure in figures.items():
        print(f"{name:36}{figure['value']:9.2f} {figure['unit']:9} (reference: {figure['reference']})")
    if "nilearn" in found:
        print(f"largest difference from nilearn: {difference(options.work):.1e} standard deviations")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
