"""Every figure of a benchmark can still be had: each runs at toy size, where values mean nothing."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_programs import WarmPrograms, warm_programs

FOLDER = Path(__file__).parents[2] / "benchmarks"
INGEST = [
    *(f"cpu_vs_gunzip{which}" for which in ("", "_butterworth", "_2000")),
    *(f"peak_mb_over_imports{which}" for which in ("", "_2000", "_nilearn")),
    *("speedup_vs_nilearn", "two_job_speedup", "index_10k_files_s", "cifti_mb_per_s", "arrays_mb_per_s"),
]
FIGURES = {
    "sampling": [
        *("pairs_per_s_memory", "pairs_per_s_mmap", "copy_fraction", "copy_gb_per_s", "data_wait_share"),
        *("open_100k_runs_s", "read_manifest_100k_runs_s", "index_bytes_per_run", "slower_with_100k_runs"),
        *(f"speedup_vs_webdataset{which}" for which in ("", "_tuned", "_two", "_all")),
        *("reach_exact_ms", "reach_window_ms", "neighbours_apart_exact", "runs_in_a_batch_window_16_of_64"),
    ],
    "training": [
        *("speedup_vs_authors", "speedup_vs_torch_encoder", "gemm_fraction", "engine_overhead"),
        *("two_rank_speedup", "rate_of_plan_tiny", "checkpoint_share", "bf16_speedup", "bf16_loss_gap"),
    ],
    "simulation": [
        *(f"{world}_{pairs}_gain" for world in ("offsets", "timbre") for pairs in ("paper", "cross_run")),
        *("timbre_gain_1_people", "timbre_pretrained_2_people", "offsets_few_train_as_trained"),
        *("timbre_one_draw_train_both", "null_chance_permutation", "null_paper_chance_corrected_t"),
        *("null_arms_both", "equal_arms_coverage", "offsets_shuffled_at_chance"),
    ],
    "transfer": [f"toy_moments.{method}" for method in ("across_people", "fresh", "whitening", "shared")],
    "gpu": [
        *("parity.paper_loss_gap", "single_pass.siamese_stg_bf16", "stages.fp32_stage_3_gap"),
        *("resume.stage_1_gap", "batches.feed_races_device", "faults.low_rank_study_code", "curve.bf16_gap"),
        *("paper.pairs_per_s", "1b_compiled.step_ms", "trace.host_waits_a_step"),
    ],
    "search": [
        *(f"{name}.{figure}" for name in ("base", "masked_half") for figure in ("ntp_auc", "auc_2_last")),
        *(f"{name}.{figure}" for name in ("fresh", "probe") for figure in ("probe_run", "auc_2_last")),
    ],
}
OPTIONS = {
    "simulation": ["--figure", "{}/drawn.png"],
    "gpu": ["--device", "cpu", "--out", "{}/out"],
    "search": ["haxby", "--out", "{}"],
}


ENVIRONMENT = {
    **{"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
    "PYTHONPATH": os.pathsep.join(map(str, [Path(__file__).parents[1] / "untracked", FOLDER.parent])),
}
MODULES = ["fmriscale.training.trainer", "fmriscale.training.run", "fmriscale.reports.study", "deepspeed"]
MODULES += ["sklearn.linear_model", "matplotlib.pyplot"]


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmPrograms]:
    """A process that has imported what benchmarks import."""
    with warm_programs(MODULES, {**os.environ, **ENVIRONMENT}) as programs:
        yield programs


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_of_a_benchmark_can_be_had(name: str, warm: WarmPrograms, tmp_path: Path) -> None:
    told, log = tmp_path / "figures.json", tmp_path / "log.txt"
    options = [option.format(tmp_path) for option in OPTIONS.get(name, [])]
    code = warm.run(FOLDER / f"{name}.py", ["--quick", "--json", str(told), *options], log)
    assert code == 0, log.read_text()
    figures = json.loads(told.read_text())
    missing = {f"{name}.{figure}" for figure in FIGURES[name]} - set(figures)
    assert not missing, log.read_text()
    assert all(math.isfinite(figure["value"]) for figure in figures.values())


def test_measuring_tells_every_figure_and_at_toy_size_leaves_records_and_page_alone(tmp_path: Path) -> None:
    kept = [FOLDER.parent / "docs/benchmarks.md", *(FOLDER / "results").iterdir()]
    before = {path: path.read_bytes() for path in kept}
    command = [sys.executable, FOLDER / "run.py", "--only", "ingest", "--quick", "--args=--repeat 1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "ingest.json" in done.stdout
    told = dict(re.findall(r"^ingest\.(\w+) +(\S+)", done.stdout, re.MULTILINE))
    assert not set(INGEST) - set(told), done.stdout
    assert all(math.isfinite(float(value)) for value in told.values())
    assert before == {path: path.read_bytes() for path in [kept[0], *(FOLDER / "results").iterdir()]}
