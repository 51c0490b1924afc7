"""Ingest against gunzip, nilearn and cortex-mae: CPU-seconds, memory, and what two processes gain.

    python benchmarks/ingest.py [--repeat 5] [--json FILE] [--work FOLDER] [--cortex-mae PYTHON] [--quick]

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

HERE = Path(__file__).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
N_MANY = 4
"""Runs that one and two processes share, a dozen times over."""


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


def measure(
    names: list[str], work: Path, repeat: int, pythons: dict[str, str], here: bool
) -> dict[str, dict[str, float]]:
    """Run every contender `repeat` times, taking turns, so that a busy machine is busy for all of them.

    `here` runs all but the first in this process: what takes long at toy size is to start processes.
    """
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
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
    return {
        name: {key: statistics.median(r[key] for r in results) for key in results[0]}
        for name, results in seen.items()
        if results
    }


def difference(work: Path) -> float:
    """Largest difference between the parcels of fmriscale and of nilearn, standard deviations."""
    with tarfile.open(work / "out" / "run.tar") as tar:
        member = tar.extractfile(next(name for name in tar.getnames() if name.endswith("bold.npy")))
        assert member is not None
        ours = np.load(BytesIO(member.read())).astype(float)
    theirs = np.load(work / "out" / "nilearn.npy").astype(float)
    return float(np.abs(ours - theirs).max())


def figures_of(found: dict[str, dict[str, float]], work: Path, repeat: int) -> dict[str, dict[str, Any]]:
    """Return the figures that could be measured."""

    def size(name: str) -> float:
        folder, pattern = {"cifti": ("cifti", "*.dtseries.nii"), "arrays": ("arrays", "*.npy")}[name]
        return next((work / folder).rglob(pattern)).stat().st_size / 1e6

    wanted = [
        (
            "ingest.speedup_vs_nilearn",
            "x",
            "nilearn",
            "fmriscale",
            "cpu",
            "nilearn masker, load_confounds, z",
        ),
        ("ingest.speedup_vs_cortex_mae", "x", "cortex-mae", "fmriscale", "cpu", "cortex-mae, no denoising"),
        ("ingest.cpu_vs_gunzip", "x", "fmriscale", "gunzip", "cpu", "isal to nowhere"),
        (
            "ingest.cpu_vs_gunzip_butterworth",
            "x",
            "fmriscale, Butterworth",
            "gunzip",
            "cpu",
            "isal to nowhere",
        ),
        ("ingest.cpu_vs_gunzip_2000", "x", "fmriscale 2000", "gunzip 2000", "cpu", "isal to nowhere"),
        ("ingest.two_job_speedup", "x", "one job", "two jobs", "wall", f"one job, {12 * N_MANY} runs"),
    ]
    figures = {
        name: {"value": found[a][key] / found[b][key], "unit": unit, "reference": reference}
        for name, unit, a, b, key, reference in wanted
        if a in found and b in found
    }
    for name, contender in (("", "fmriscale"), ("_2000", "fmriscale 2000"), ("_nilearn", "nilearn")):
        if contender in found:
            value = found[contender]["peak_mb"]
            figures[f"ingest.peak_mb_over_imports{name}"] = {"value": value, "unit": "MB", "reference": "-"}
    if "index" in found:
        figures["ingest.index_10k_files_s"] = {
            "value": found["index"]["cpu"],
            "unit": "CPU-s",
            "reference": "-",
        }
    for name in ("cifti", "arrays"):
        if name in found:
            reading = size(name) / found[f"{name} bytes"]["cpu"]
            figures[f"ingest.{name}_mb_per_s"] = {
                "value": size(name) / found[name]["cpu"],
                "unit": "MB/CPU-s",
                "reference": f"reading the bytes alone: {reading:.0f}",
            }
    return {name: {**figure, "median_of": repeat} for name, figure in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="measurements, of which the median is taken")
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
    for name, row in found.items():
        print(f"{name:24}{row['cpu']:9.3f}{row['wall']:9.3f}{row['peak_mb']:23.0f}")
    figures = figures_of(found, options.work, options.repeat)
    print()
    for name, figure in figures.items():
        print(f"{name:36}{figure['value']:9.2f} {figure['unit']:9} (reference: {figure['reference']})")
    if "nilearn" in found:
        print(f"largest difference from nilearn: {difference(options.work):.1e} standard deviations")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
