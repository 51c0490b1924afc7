"""The correctness parts of benchmarks/gpu.py on a real GPU: `pytest -m gpu`."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gpu import within
from gpu_checks import PARTS, place_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

if torch.cuda.is_available():  # cuBLAS reads it once a process, and one part trains deterministically
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.mark.parametrize("part", PARTS)
def test_a_gpu_computes_what_it_should(part: str, monkeypatch: pytest.MonkeyPatch):
    if part in ("parity", "stages") and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        pytest.skip("compares with float32 on the CPU: run with NVIDIA_TF32_OVERRIDE=0")
    with place_of("cuda", quick=False) as place:
        found = list(PARTS[part](place))
    failed = [figure for figure in found if within(figure["value"], figure["limit"]) is False]
    assert found and not failed
