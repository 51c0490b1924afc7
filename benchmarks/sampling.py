"""Pairs per second, and what they cost: our loader beside a plain copy, webdataset and other loaders.

    python benchmarks/sampling.py                  # one table; about two minutes on one core
    python benchmarks/sampling.py --json figures.json
    python benchmarks/sampling.py --peers PYTHON   # of an environment with other loaders (sampling_peers.py)
    python benchmarks/sampling.py --quick          # a toy size: does it run, not how fast

The job is the same for all: batches of 256 random pairs of sequences of 5 volumes x 424 features, float16,
out of 400 runs of 300 volumes (102 MB). Seconds are of the processor (`time.process_time`), so a busy machine
matters less; a plain copy of as many bytes is timed in turn with the others, and figures are medians.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import sampling_webdataset
from record import quartiles

from fmriscale import CorpusWriter, FeatureSpace
from fmriscale.config import DataConfig, PairConfig, SplitConfig
from fmriscale.corpus.manifest import QUARANTINE_COLUMNS, read_manifest, write_manifest
from fmriscale.corpus.reader import Corpus
from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.window_index import PARTNER, RUN

BATCH, LENGTH, V, T, RUNS = 256, 5, 424, 300, 400
BATCH_BYTES = BATCH * 2 * LENGTH * V * 2
KINDS = {"same_run": 0.5, "same_subject": 0.25, "same_dataset": 0.25}
ROUNDS, CALLS, TURNS = 7, 200, 5
"""Rounds, calls of a job in a round, and turns of webdataset."""
SIZES = {"": 100, "10k": 10_000, "100k": 100_000}
"""Runs of the corpora whose index is compared."""
RANKS, STEPS, GLOBAL_BATCH = 2, 20, 256
"""Of the training in which waiting is measured."""
QUICK = {"RUNS": 128, "ROUNDS": 1, "CALLS": 2, "TURNS": 1, "SIZES": {"": 100, "10k": 200, "100k": 400}}
QUICK |= {"RANKS": 1, "STEPS": 3, "GLOBAL_BATCH": 8}


def main() -> None:
    """Run every part and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--peers", type=Path, help="python of an environment that has other loaders")
    parser.add_argument("--quick", action="store_true", help="a toy size: does it run, not how fast")
    options = parser.parse_args()
    globals().update(QUICK if options.quick else {})
    figures: dict[str, dict] = {}

    def tell(name: str, values: float | Sequence[float], unit: str, reference: str) -> None:
        each = [values] if isinstance(values, int | float) else [float(value) for value in values]
        told = {"unit": unit, "median_of": len(each), "reference": reference}
        figures[f"sampling.{name}"] = quartiles(each) | told
        print(f"{name:34} {statistics.median(each):>14,.4g}  {unit:14} {reference}", flush=True)

    with tempfile.TemporaryDirectory(prefix="fmriscale-") as folder:
        corpus = write_corpus(Path(folder) / "corpus")
        throughput(corpus, tell)
        corpus_size(corpus, Path(folder), tell)
        order(corpus, tell)
        randomness(corpus, tell)
        waiting(corpus, Path(folder), tell)
        if options.peers:
            peers(corpus, options.peers, Path(folder), tell)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def write_corpus(folder: Path) -> Corpus:
    """400 runs of noise, 4 data sets of 50 people with 2 runs, in 8 shards."""
    rng, space = np.random.default_rng(0), FeatureSpace("noise", V)
    with CorpusWriter(folder, split=SplitConfig(val=0.0, test=0.0)) as corpus:
        for d, half in itertools.product(range(4), range(2)):
            for i in range(RUNS // 8):
                subject, run = f"{half * RUNS // 16 + i // 2:03d}", f"{i % 2 + 1:02d}"
                bold = rng.standard_normal((T, V), np.float32)
                corpus.add(bold, 2.0, subject, dataset=f"set{d}", task="noise", run=run, space=space)
            corpus.cut(f"set{d}")
    return Corpus.open(folder)


def loader_of(corpus: Corpus, **settings) -> NTPLoader:
    return NTPLoader(corpus, DataConfig(corpus="", pairs=PairConfig(negatives=KINDS), **settings), "train", 0)


def seconds(job: Callable[[int], object], n: int) -> float:
    """Processor seconds of one call, over n."""
    begun = time.process_time()
    for i in range(n):
        job(i)
    return (time.process_time() - begun) / n


def compared(jobs: dict[str, Callable[[int], object]]) -> dict[str, np.ndarray]:
    """Processor seconds of jobs, taken in turn so that all meet the same machine, [ROUNDS] each."""
    for job in jobs.values():
        seconds(job, CALLS)
    times = [[seconds(job, CALLS) for job in jobs.values()] for _ in range(ROUNDS)]
    return dict(zip(jobs, np.array(times).T, strict=True))


# ---------------------------------------------------------------- pairs per second


def throughput(corpus: Corpus, tell: Callable) -> None:
    """Our ways of access beside a plain copy and a webdataset pipeline."""
    whole = np.concatenate([corpus.bold(i).ravel() for i in range(RUNS)])
    n, target = BATCH_BYTES // 2, np.empty(BATCH_BYTES // 2, np.float16)
    places = np.random.default_rng(1).integers(0, len(whole) - n, 1000)

    def copy(i: int) -> None:
        target[:] = whole[places[i % 1000] : places[i % 1000] + n]

    by_access = {access: loader_of(corpus, access=access) for access in ("mmap", "memory")}
    jobs = {a: (lambda i, loader=loader: loader.batch(i * BATCH, BATCH)) for a, loader in by_access.items()}
    group = by_access["mmap"].groups[0]
    took = compared({"copy": copy, **jobs, "draw": lambda i: group.draw(i * BATCH, BATCH)})
    for access, aim in (("memory", "600 k"), ("mmap", "450 k")):
        tell(f"pairs_per_s_{access}", BATCH / took[access], "pairs/s", f"aim {aim}")
    tell("copy_fraction", took["copy"] / took["mmap"], "of a copy", "aim 0.6")
    tell(
        "copy_gb_per_s",
        BATCH_BYTES / took["copy"] / 1e9,
        "GB/s",
        "contiguous copy of as many bytes",
    )
    tell("draw_us", took["draw"] * 1e6, "us a batch", "which pairs, without their data")
    window = loader_of(corpus, shuffle="window", shuffle_shards=2).groups[0]
    drawn = compared({"window": lambda i: window.draw(i * BATCH, BATCH)})["window"]
    tell("draw_window_us", drawn * 1e6, "us a batch", "the windowed shuffle")
    shards = [str(corpus.folder / shard["path"]) for shard in corpus.manifest["shards"]]
    for name, pipeline, about in sampling_webdataset.PIPELINES:
        batches = iter(pipeline(shards))
        next(batches)
        piped = np.array([seconds(lambda _, b=batches: next(b), TURNS) for _ in range(TURNS)])
        tell(f"{name}_pairs_per_s", BATCH / piped, "pairs/s", about)
        tell(f"speedup_vs_{name}", piped / np.median(took["mmap"]), "x", "ours mmap")


# ---------------------------------------------------------------- size of the corpus


def simulated(corpus: Corpus, folder: Path, n: int) -> Path:
    """A corpus of n runs in 50 data sets: all are the first 100 runs of the small one, over and over.

    That of 100 runs has 5 data sets: with 50, none would have two people, and no negative could come from
    another run of its data set, which costs more than one of the same run.
    """
    runs = corpus.runs.iloc[np.arange(n) % 100].reset_index(drop=True)
    person = np.arange(n) // 4
    runs["dataset"] = [f"ds{p % min(50, n // 20):06d}" for p in person]
    runs["subject"] = [f"{p:06d}" for p in person]
    runs["run"] = [f"{i % 4 + 1:02d}" for i in range(n)]
    runs["person"] = runs.dataset + "/" + runs.subject
    runs["key"] = runs.dataset + "_sub-" + runs.subject + "_task-rest_run-" + runs.run
    names = sorted(set(runs.dataset))
    datasets = {name: {"weight": None, "space": "noise", "hours": 1.0, "t_r": [2.0]} for name in names}
    manifest = {
        "spaces": corpus.manifest["spaces"],
        "datasets": datasets,
        "shards": corpus.manifest["shards"],
        "totals": corpus.manifest["totals"],
    }
    out = folder / f"runs{n}"
    write_manifest(out, manifest, runs, pd.DataFrame(columns=QUARANTINE_COLUMNS))
    for shard in corpus.manifest["shards"]:
        (out / shard["path"]).parent.mkdir(exist_ok=True)
        (out / shard["path"]).symlink_to(corpus.folder / shard["path"])
    return out


def corpus_size(corpus: Corpus, folder: Path, tell: Callable) -> None:
    """Opening, memory and speed with 100, 10 k and 100 k runs; the data are the same, the index is not."""
    folders = {name: simulated(corpus, folder, n) for name, n in SIZES.items()}
    wall, processor = [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter(), time.process_time()
        loader_of(Corpus.open(folders["100k"]))
        wall.append(time.perf_counter() - begun[0])
        processor.append(time.process_time() - begun[1])
    tell(
        "open_100k_runs_s",
        wall,
        "s",
        f"aim 1; {np.median(processor):.2f} processor seconds",
    )
    begun = time.process_time()
    read_manifest(folders["100k"])
    tell("read_manifest_100k_runs_s", time.process_time() - begun, "s", "of which reading runs.tsv")
    loaders = {name: loader_of(Corpus.open(path)) for name, path in folders.items()}
    group = loaders["100k"].groups[0]
    index = sum(x.nbytes for x in group.index if isinstance(x, np.ndarray)) + group.rows.nbytes
    tell("index_bytes_per_run", index / SIZES["100k"] + 8, "bytes", "aim 200; with addresses")
    took = compared({name: (lambda i, x=x: x.batch(i * BATCH, BATCH)) for name, x in loaders.items()})
    for name in ("10k", "100k"):
        slower = took[name] / took[""] - 1
        tell(f"slower_with_{name}_runs", slower, "share", "of a batch, beside 100 runs; aim 0.10")


# ---------------------------------------------------------------- the order


def order(corpus: Corpus, tell: Callable) -> None:
    """Reach any position of an order of 10^8 windows."""
    for shuffle in ("exact", "window"):
        group = loader_of(corpus, shuffle=shuffle, shuffle_shards=16).groups[0]
        index, n_runs, n_shards = group.index, 100_000, 2_000
        runs = np.zeros(n_runs, RUN)
        runs[:] = index.runs[0]
        runs["subject"] = runs["person"] = np.arange(n_runs)
        runs["reach"] = 1000
        first = np.arange(n_runs + 1, dtype=np.int64) * 1000
        everyone = np.zeros(3 * n_runs, PARTNER)
        everyone["run"], everyone["windows"] = np.tile(np.arange(n_runs), 3), 1000
        group.index = index._replace(
            run_first=first,
            run_span=np.arange(n_runs + 1, dtype=np.int32),
            span_first=first[:-1],
            span_start=np.zeros(n_runs, np.int32),
            span_stop=np.full(n_runs, 3000, np.int32),
            runs=runs,
            subject_first=np.arange(n_runs + 1, dtype=np.int32),
            dataset_first=np.array([0, n_runs], np.int32),
            partners=everyone,
            shard_run=np.linspace(0, n_runs, n_shards + 1).astype(np.int32),
            dataset_shard=np.array([0, n_shards], np.int32),
        )
        which = np.zeros(1024, np.int32)
        group.mixture = group.mixture._replace(
            which=which, occurrence=np.arange(1024), quotas=np.array([1024]), kinds=group.mixture.kinds[:1]
        )
        group._memo = group._memo._replace(epoch=np.array([-1]), blocks=np.zeros(n_shards + 1, np.int64))
        group.draw(0, 1)
        grown = resident_mb()
        positions = np.random.default_rng(0).integers(0, 20 * 10**8, 20)  # of ten passes
        times = [seconds(lambda i, p=p, group=group: group.draw(int(p), BATCH), 1) for p in positions]
        grown = resident_mb() - grown
        about = "256 pairs anywhere in 10^8 windows"
        tell(f"reach_{shuffle}_ms", np.array(times) * 1e3, "ms", about)
        tell(f"reach_{shuffle}_mb", grown, "MB", f"{about}: growth of resident memory")


def resident_mb() -> float:
    """Memory that this process holds now (not at its peak), MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def randomness(corpus: Corpus, tell: Callable) -> None:
    """How random the windowed shuffle is: where corpus neighbours come, and who meets in a batch."""
    for name, settings in (
        ("exact", {}),
        ("window_4_of_64", {"shuffle": "window", "shuffle_shards": 4}),
        ("window_16_of_64", {"shuffle": "window", "shuffle_shards": 16}),
    ):
        group = many_shards(loader_of(corpus, datasets=["set0"], **settings), 64)
        n = int(group.windows.sum())
        draw = group.draw(0, 2 * n)
        positive = draw.kind == 0
        window = group.index.run_first[draw.run_left[positive]] + draw.start_left[positive] // 2
        place = np.argsort(window)
        apart = np.abs(np.diff(place)).mean() / n
        people = np.mean(
            [len(set(draw.run_left[i : i + BATCH].tolist())) for i in range(0, 2 * n - BATCH, BATCH)]
        )
        near = np.abs(np.diff(window)).mean() / n
        about = "windows side by side in a {}; random: 0.333"
        tell(f"neighbours_apart_{name}", apart, "of a pass", about.format("run"))
        tell(f"successors_apart_{name}", near, "of the corpus", about.format("pass"))
        tell(f"runs_in_a_batch_{name}", float(people), "runs", f"of {len(group.rows)}, in 256 pairs")


def many_shards(loader: NTPLoader, n: int):
    """Cut the only data set of a loader into n shards."""
    group = loader.groups[0]
    bounds = np.linspace(0, len(group.rows), n + 1).astype(np.int32)
    group.index = group.index._replace(shard_run=bounds, dataset_shard=np.array([0, n], np.int32))
    group._memo = group._memo._replace(blocks=np.zeros(n + 1, np.int64))
    return group


# ---------------------------------------------------------------- in training


def waiting(corpus: Corpus, folder: Path, tell: Callable) -> None:
    """Share of a step that ranks wait for pairs, in real training of the paper model."""
    recipe = {
        "out": str(folder / "run"),
        "data": {"corpus": str(corpus.folder), "pairs": {"negatives": KINDS}},
        "model": {"preset": "paper"},
        "train": {"steps": STEPS, "global_batch": GLOBAL_BATCH, "max_micro_batch": 128, "zero_stage": 1},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))  # JSON is YAML
    script = Path(__file__).parents[1] / "fmriscale/train.py"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    command = [sys.executable, *(launch if RANKS > 1 else []), script, "--config", folder / "recipe.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"training failed:\n{done.stdout}{done.stderr}")
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    shares = [line["data_wait_share"] for line in lines if "data_wait_share" in line]
    about = "of a step, paper model, 2 ranks; aim 0.01"
    tell("data_wait_share", shares, "share", about)


# ---------------------------------------------------------------- others


def peers(corpus: Corpus, python: Path, folder: Path, tell: Callable) -> None:
    """Other loaders on the same windows, in their own environment; those that fail are named and left out."""
    data = folder / "runs.npy"
    np.save(data, np.stack([corpus.bold(i) for i in range(RUNS)]))
    ours = loader_of(corpus)
    mine = float(np.median(compared({"ours": lambda i: ours.batch(i * BATCH, BATCH)})["ours"]))
    script = Path(__file__).with_name("sampling_peers.py")
    for name in ("mosaic", "litdata", "cortex_mae"):
        done = subprocess.run(
            [python, script, name, data, folder / name], capture_output=True, text=True, timeout=900
        )
        if done.returncode:
            print(
                f"{name}: left out: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}",
                file=sys.stderr,
            )
            continue
        per_batch = float(done.stdout.split()[-1])
        aim = "; aim 20" if name == "cortex_mae" else ""
        tell(f"{name}_pairs_per_s", BATCH / per_batch, "pairs/s", "on the same windows, one process")
        tell(f"speedup_vs_{name}", per_batch / mine, "x", f"ours mmap{aim}")


if __name__ == "__main__":
    main()
