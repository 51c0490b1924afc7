"""Ranks of one machine exchange through its memory: sums, what is theirs, and what becomes of a lost rank."""

import json
import signal
import sys
from pathlib import Path

import pytest
from ranks import free_port, start_ranks

pytestmark = pytest.mark.distributed
N_RANKS = 3


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of three ranks found; the last was killed in the end."""
    out = tmp_path_factory.mktemp("neighbours") / "rank"
    place = {"WORLD_SIZE": str(N_RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    worker = str(Path(__file__).with_name("neighbours_worker.py"))
    ranks = start_ranks(
        [sys.executable, worker, str(out)], [{**place, "RANK": str(r)} for r in range(N_RANKS)]
    )
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, -signal.SIGKILL], "\n".join(said)
    return [json.loads(Path(f"{out}{rank}").read_text()) for rank in range(N_RANKS)]


def test_sums_are_right_and_the_same_bits_everywhere_whatever_the_size_and_type(told: list[dict]):
    for found in told:
        assert len(found["exchanges"]) == 21
        assert all(all(case.values()) for case in found["exchanges"].values()), found["exchanges"]


def test_only_large_tensors_in_one_piece_are_theirs(told: list[dict]):
    assert [found["takes"] for found in told] == [[True, False, False]] * N_RANKS


def test_ranks_share_memory_all_together_or_not_at_all(told: list[dict]):
    for found in told:
        assert found["others"]
        assert not (found["no room"] or found["one is elsewhere"] or found["one may not"])


def test_the_memory_has_no_name_that_a_killed_rank_could_leave_and_ends_with_its_exchange(told: list[dict]):
    for found in told:  # that in use is there, and none of those tried
        assert len(found["mapped"]) == 1 and found["mapped"][0].endswith("(deleted)")


def test_a_rank_that_is_gone_is_noticed_at_once(told: list[dict]):
    for found in told[:-1]:
        assert found["lost"] and found["after"] < 10
