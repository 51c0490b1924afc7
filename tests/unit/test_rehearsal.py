"""The step before the first: it leaves no trace, and what does not fit is said in one line."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from factory import write_corpus

from fmriscale.common.errors import UserError
from fmriscale.config import DataConfig, ModelConfig, TrainConfig
from fmriscale.model.presets import resolve_encoder
from fmriscale.model.pretraining import PretrainingModel
from fmriscale.sampling.loader import NTPLoader
from fmriscale.training.objective import Objective
from fmriscale.training.rehearsal import rehearse
from fmriscale.training.schedule import BatchPlan

CPU = torch.device("cpu")
NTP = Objective(TrainConfig())


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> NTPLoader:
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    return NTPLoader(corpus, DataConfig(corpus=str(corpus.folder)), "train", 0)


def model_of(preset: str, dropout: float = 0.2, **settings) -> PretrainingModel:
    config = ModelConfig(preset=preset, dropout=dropout, **settings)
    return NTP.build(resolve_encoder(config, {"toy": 12}, 5))


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_it_leaves_no_trace(loader: NTPLoader, preset: str):
    model = model_of(preset)
    model.encoder.recompute = preset == "tiny"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    rehearse(model, loader, BatchPlan(16, 1, 1), CPU, 1000, NTP)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_does_not_fit_into_memory_is_refused_with_the_remedy(loader: NTPLoader):
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"40000 pairs of 2 x 5 volumes of space toy do not fit .*max_micro"
        ):
            rehearse(model_of("tiny"), loader, BatchPlan(40_000, 1, 1), CPU, 0, NTP)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_run_that_does_not_fit_leaves_nothing_behind(tmp_path: Path, repository: Path):
    write_corpus(tmp_path / "corpus")
    line = [
        sys.executable,
        repository / "fmriscale/train.py",
        "--config",
        repository / "configs/pretrain_demo.yaml",
    ]
    line += ["--data.corpus", tmp_path / "corpus", "--out", tmp_path / "runs/large"]
    line += ["--train.global_batch", "60000", "--train.max_micro_batch", "60000", "--model.d_model", "256"]
    room = 6 * 2**30
    done = subprocess.run(
        line,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (room, room)),
    )
    assert done.returncode == 2 and "do not fit into the memory of cpu: lower train.max_" in done.stderr, (
        done.stderr
    )
    assert not (tmp_path / "runs").exists()


def test_a_shape_that_does_not_suit_fails_before_the_first_step(loader: NTPLoader):
    model = NTP.build(resolve_encoder(ModelConfig(preset="paper"), {"toy": 12}, 4))
    with pytest.raises(ValueError, match="sequences of 4 volumes, got 5"):
        rehearse(model, loader, BatchPlan(16, 1, 1), CPU, 0, NTP)


COMPILED = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from test_rehearsal import CPU, NTP, BatchPlan, DataConfig, NTPLoader, model_of, rehearse
from fmriscale.corpus.reader import Corpus
from fmriscale.common.errors import UserError
loader = NTPLoader(Corpus.open(sys.argv[2]), DataConfig(corpus=sys.argv[2]), "train", 0)
model = model_of("paper", dropout=0.0, n_layers=1)
names = list(model.state_dict())
batch = loader.batch(0, 16)
pairs = *map(torch.from_numpy, (batch.left, batch.right, batch.t_r)), batch.space
torch.nn.init.normal_(model.head.weight)
before = model(pairs)["logits"]
model.encoder.compile_blocks()
try:
    rehearse(model, loader, BatchPlan(16, 1, 1), CPU, 0, NTP)
except UserError as error:
    sys.exit(str(error))
assert list(model.state_dict()) == names
if sys.argv[3] == "compare":
    torch.testing.assert_close(model(pairs)["logits"], before, rtol=1e-5, atol=1e-5)
"""


def compiled(loader: NTPLoader, compiler: str | None, scratch: Path) -> subprocess.CompletedProcess:
    """Rehearse with compiled blocks in a process of its own, with another C++ compiler if one is given."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if compiler:
        env |= {"CXX": compiler, "TORCHINDUCTOR_CACHE_DIR": str(scratch)}
    command = [sys.executable, "-c", COMPILED, str(Path(__file__).parent), str(loader.corpus.folder)]
    command.append("refuse" if compiler else "compare")
    tests = str(Path(__file__).parents[1])
    return subprocess.run(
        command, env={**env, "PYTHONPATH": tests}, capture_output=True, text=True, timeout=300
    )


def test_compiled_blocks_compute_the_same_and_keep_their_names(loader: NTPLoader, tmp_path: Path):
    done = compiled(loader, None, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_a_compiler_it_says_what_is_missing(loader: NTPLoader, tmp_path: Path):
    done = compiled(loader, "/no/such/compiler", tmp_path)
    assert done.returncode == 1
    assert "train.compile: torch cannot compile the model here" in done.stderr
    assert "install a C++ compiler" in done.stderr
