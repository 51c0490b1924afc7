"""What only GPUs run, as far as a CPU can tell: where tensors lie, who waits, and what is counted."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fmriscale.common.errors import UserError
from fmriscale.common.workers import map_in_order, worker_number
from fmriscale.config import ModelConfig, TrainConfig
from fmriscale.config.pretrain import PretrainConfig
from fmriscale.config.recipe import parse
from fmriscale.model.adapt import LowRank
from fmriscale.model.embedding import token_times
from fmriscale.model.flops import GPUS, computed_flops, gpu_model, peak_tflops, train_flops
from fmriscale.model.presets import resolve_encoder
from fmriscale.sampling.batch import Batch, Masks
from fmriscale.sampling.gather import free_memory
from fmriscale.sampling.groups import GroupBatch
from fmriscale.study.learning import PER_GPU, device_of, most_processes
from fmriscale.training.archive import SMALLEST_CHUNK, Snapshot, chunk_sizes
from fmriscale.training.feed import Read
from fmriscale.training.metrics import work_of
from fmriscale.training.objective import Objective
from fmriscale.training.schedule import BatchPlan, plan_run
from fmriscale.training.slices import ParameterSlice
from fmriscale.training.state_memory import BUCKET, bucket_size
from fmriscale.training.tally import Tally
from fmriscale.training.trainer import is_finite
from fmriscale.training.zero import deepspeed_config

META, B, L, V = torch.device("meta"), 4, 5, 11

# ---------------------------------------------------------------- nothing waits for the device


class Syncs(TorchDispatchMode):
    """Collects the operations that would make a host wait for its GPU; `meta` stands for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.__name__, kwargs or {}
        self.operations.add(name.partition(".")[0])
        on_device = any(isinstance(x, torch.Tensor) and x.device == META for x in args)
        if name.startswith(("nonzero", "masked_select", "_local_scalar_dense", "unique")) and on_device:
            self.found.append(name)
            if name.startswith("_local_scalar_dense"):
                return 0.0
        if name.startswith("index") and on_device:
            indices = args[1] if isinstance(args[1], list | tuple) else [args[1]]
            if any(isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices):
                self.found.append(f"{name} by a mask")
        to_other = (
            kwargs.get("device") not in (None, args[0].device) if name.startswith("_to_copy") else False
        )
        if to_other and not kwargs.get("non_blocking"):
            self.found.append(f"{name} from {args[0].device} to {kwargs['device']}")
        if name.startswith("copy_") and args[0].device != args[1].device and args[1].numel() > 1:
            self.found.append(f"copy_ from {args[1].device} to {args[0].device}")
        return func(*args, **kwargs)


def micro_batch(masked: bool, pairs: bool, group: bool, device: torch.device) -> Read:
    def of(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    half, place = torch.float16, np.zeros(B, np.int32)
    masks = (
        Masks(of((B, 2), torch.int64), of((B, 2), torch.int64), of((B, 2), torch.bool)) if masked else None
    )
    batch = Batch(
        left=of((B, L, V), half), right=of((B, L, V), half), label=of((B,), torch.int64),
        kind=of((B,), torch.int8), dataset=of((B,), torch.int16), t_r=of((B,), torch.float32),
        run_left=place, run_right=place, row_left=place, row_right=place, start_left=place, start_right=place,
        space="roi", masks=masks,
    )  # fmt: skip
    people = GroupBatch(
        of((3, 4, L, V), half), of((3,), torch.float32), "roi", "film", np.zeros(3), np.zeros((3, 4)), 3, 3
    )
    return batch if pairs else None, people if group else None


WITHOUT_DETERMINISTIC_FORM = {
    "put", "put_", "cumsum", "cumsum_", "median", "kthvalue", "histc", "bincount", "scatter_reduce",
    "nll_loss2d_forward", "_ctc_loss_backward", "_embedding_bag_backward", "grid_sampler_2d_backward",
    "reflection_pad1d_backward", "avg_pool3d_backward", "max_unpool2d", "upsample_linear1d_backward",
}  # fmt: skip
"""Operations that torch refuses on CUDA under `train.deterministic`."""
CASES = {
    "published": ("paper", TrainConfig()),
    "projected": ("tiny", TrainConfig()),
    "masked": ("tiny", TrainConfig(ntp_weight=0.5, masked_weight=0.5)),
    "siamese bins": ("tiny", TrainConfig(pair="siamese", pool="bins")),
    "across people": ("tiny", TrainConfig(ntp_weight=0, contrastive_weight=1, pool="bins")),
    "recomputed": ("tiny", TrainConfig(activation_checkpointing=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_no_micro_batch_waits_for_the_device(name: str):
    preset, settings = CASES[name]
    objective = Objective(settings)
    shape = resolve_encoder(ModelConfig(preset=preset, n_layers=2), {"roi": V}, L)
    with META:
        model = objective.build(shape)
    model.encoder.recompute = settings.activation_checkpointing
    pairs, group = micro_batch(
        settings.masked_weight > 0, settings.reads_pairs, settings.contrastive_weight > 0, META
    )
    tally = Tally(["a", "b"], META, objective)
    with Syncs() as syncs:
        losses = objective.losses(model.train(), pairs, group)
        losses.total.backward()
        tally.add(losses, pairs)
    assert not syncs.found
    assert not syncs.operations & WITHOUT_DETERMINISTIC_FORM
    assert all(p.grad is not None and p.grad.device == META for p in model.parameters())


def test_the_eye_for_waiting_sees_it():
    x = torch.zeros(3, device=META)
    with Syncs() as syncs, torch.no_grad():
        torch.ones(3).to(META)
        x.sum().item()
    assert len(syncs.found) == 2
    with Syncs() as syncs, pytest.raises((RuntimeError, NotImplementedError)):
        x[x > 0]
    assert syncs.found


def test_times_of_tokens_go_on_from_left_to_right():
    times = token_times(torch.tensor([2.0, 0.5]), 3, 2)
    assert times.tolist() == [[0, 2, 4, 6, 7, 8, 10], [0, 0.5, 1, 1.5, 1.75, 2, 2.5]]


# ---------------------------------------------------------------- where things lie


def test_low_rank_additions_lie_beside_their_matrix_and_are_the_same_everywhere():
    added = LowRank(torch.empty(3, 2, device=META, dtype=torch.bfloat16), 1)
    assert {p.device for p in added.parameters()} == {META}
    assert {p.dtype for p in added.parameters()} == {torch.bfloat16}
    torch.manual_seed(0)
    drawn = LowRank(torch.zeros(3, 2), 1).down_RI
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, torch.nn.Parameter(torch.randn(1, 2) * 2**-0.5))


def test_workers_of_a_study_take_turns_on_the_gpus(monkeypatch):
    assert [device_of(worker, 4).index for worker in range(6)] == [0, 1, 2, 3, 0, 1]
    assert device_of(3, 0) == torch.device("cpu")
    monkeypatch.setattr("fmriscale.study.learning.available_cores", lambda: 64)
    for n_gpus, expected in ((0, 64), (2, 2 * PER_GPU), (99, 64)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=n_gpus: n)
        assert most_processes() == expected


def test_workers_know_their_number():
    assert worker_number() == 0
    assert set(map_in_order(_number, [(0.05,)] * 12, jobs=3)) == {0, 1, 2}


def _number(seconds: float) -> int:
    import time

    time.sleep(seconds)
    return worker_number()


def test_ranks_of_a_machine_share_its_free_memory(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = free_memory()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert free_memory() == pytest.approx(alone / 8, rel=0.1)


# ---------------------------------------------------------------- what is refused and counted


def test_compile_with_stage_3_is_refused():
    line = ["--out", "x", "--data.corpus", "y", "--train.compile", "true", "--train.zero_stage"]
    assert parse(PretrainConfig, [*line, "2"]).train.compile
    with pytest.raises(
        UserError, match=r"train\.compile with train\.zero_stage 3 .* set train\.compile false"
    ):
        parse(PretrainConfig, [*line, "3"])


def test_a_scale_of_fp16_that_is_too_high_is_no_bad_step():
    assert is_finite(0.7, skipped=True, precision="fp16")
    assert not is_finite(float("nan"), skipped=True, precision="fp16")
    assert not is_finite(0.7, skipped=True, precision="bf16")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA A40", "A40"),
        ("NVIDIA RTX A4000", ""),
        ("NVIDIA RTX A1000 Laptop GPU", ""),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_a_gpu_is_known_by_whole_words(name: str, model: str):
    assert gpu_model(name) == model


def test_float32_counts_as_tf32_where_there_is_tf32():
    assert peak_tflops("H100", "bf16") == GPUS["H100"][1] == 2 * peak_tflops("H100", "fp32")
    assert peak_tflops("V100", "fp32") == pytest.approx(15.7)


def test_utilisation_counts_what_is_computed():
    shape = resolve_encoder(ModelConfig(preset="tiny"), {"roi": V}, L)
    work = work_of(shape, BatchPlan(B, 1, 1), *micro_batch(False, True, False, torch.device("cpu")), False)
    assert work.flops == B * train_flops(shape, "roi", L)
    assert work.computed == B * computed_flops(shape, "roi", L) < work.flops


def test_gradients_are_reduced_while_the_backward_pass_goes_on():
    n = 2_000_000_000
    assert bucket_size(n, on_gpu=False) == BUCKET and bucket_size(n, on_gpu=True) == 100_000_000
    assert bucket_size(400_000_000, on_gpu=True) == 50_000_000
    assert bucket_size(85_000_001, on_gpu=True) == 25_000_000
    assert bucket_size(1001, on_gpu=True) == bucket_size(1001, on_gpu=False) == 1002
    settings = TrainConfig()
    zero = deepspeed_config(settings, plan_run(settings, 8), "bf16", "cuda", 400_000_000)["zero_optimization"]
    assert zero["reduce_bucket_size"] == 50_000_000 and zero["overlap_comm"]


@pytest.mark.parametrize(
    "n",
    [0, 1, SMALLEST_CHUNK - 1, SMALLEST_CHUNK, 3 * SMALLEST_CHUNK + 5, 5 * SMALLEST_CHUNK + 3, 2**31 + 12345],
)
def test_a_copy_in_pinned_memory_is_hardly_rounded_up(n: int):
    sizes = chunk_sizes(n)
    assert sum(sizes) == n
    taken = sum(1 << (size - 1).bit_length() for size in sizes)
    assert taken - n < SMALLEST_CHUNK


def test_a_snapshot_in_several_chunks_is_the_same_file(tmp_path, monkeypatch):
    class State:
        written = (ParameterSlice("a", 0, 700), ParameterSlice("b", 3, 41))
        values = torch.arange(3 * 741, dtype=torch.float32)

        def read(self, part, kind):
            start = {"a": 0, "b": 700}[part.name] + 741 * ["weight", "exp_avg", "exp_avg_sq"].index(kind)
            return self.values[start : start + part.size]

    files = []
    for smallest in (SMALLEST_CHUNK, 16):
        monkeypatch.setattr("fmriscale.training.archive.SMALLEST_CHUNK", smallest)
        snapshot = Snapshot()
        snapshot.take(State(), {"random": torch.arange(5, dtype=torch.uint8)}, torch.device("cpu"))  # pyright: ignore[reportArgumentType]
        files.append(snapshot.write(tmp_path / f"{smallest}")["sha256"])
    assert files[0] == files[1]
