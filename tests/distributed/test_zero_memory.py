"""Memory of real DeepSpeed ranks: what `fmriscale plan` says of steps, and what building a model takes."""

import json
import sys
from pathlib import Path

import pytest
from ranks import free_port, start_ranks

from fmriscale.training.state_memory import states

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What one of two ranks held: in the steps of each case, and while a model was built."""
    n_ranks = 2
    place = {"WORLD_SIZE": str(n_ranks), "LOCAL_SIZE": str(n_ranks), "MASTER_ADDR": "127.0.0.1"}
    place |= {"MASTER_PORT": str(free_port()), "PYTHONPATH": str(Path(__file__).parents[1])}
    ranks = [{**place, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(n_ranks)]
    worker, out = (
        str(Path(__file__).with_name("memory_worker.py")),
        tmp_path_factory.mktemp("memory") / "found.json",
    )
    processes = start_ranks([sys.executable, worker, str(out)], ranks)
    told = [p.communicate(timeout=200)[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * n_ranks, "\n".join(told)
    return json.loads(out.read_text())


def test_states_have_the_size_that_is_planned(measured: dict):
    n_ranks = 2
    for case, found in measured["steps"].items():
        stage, precision = int(case[0]), case[2:]
        planned = states(found["n_parameters"], stage, n_ranks, precision, overlap=False).total
        assert 0.98 * planned <= found["most"] <= 1.02 * planned, case


def test_no_rank_ever_holds_a_whole_model_at_stage_3(measured: dict):
    whole, dealt = measured["building"]["2"], measured["building"]["3"]
    assert dealt["n_parameters"] == whole["n_parameters"]
    size = 4 * whole["n_parameters"]
    assert whole["most"] >= size
    # Its half, and of the block of eight that is being partitioned what is still whole.
    assert dealt["most"] < (1 / 2 + 1 / 8) * size
