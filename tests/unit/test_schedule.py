from itertools import pairwise

import pytest

from fmriscale.common.errors import UserError
from fmriscale.config import TrainConfig
from fmriscale.training.schedule import learning_rate, plan_batch


def curve(schedule: str, steps: int = 100, warmup: int = 10) -> list[float]:
    train = TrainConfig(lr=2.0, steps=steps, warmup_steps=warmup, schedule=schedule)  # pyright: ignore
    return [learning_rate(step, train) for step in range(1, steps + 1)]


@pytest.mark.parametrize("schedule", ["wsd", "cosine", "constant"])
def test_the_warm_up_rises_linearly_to_the_peak(schedule: str):
    assert curve(schedule)[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])


def test_cosine_falls_to_a_tenth():
    lr = curve("cosine")
    assert lr[-1] == pytest.approx(0.2) and lr[54] == pytest.approx(1.1)
    assert all(a > b for a, b in pairwise(lr[9:]))


def test_wsd_is_stable_and_falls_linearly_over_the_last_fifth():
    lr = curve("wsd")
    assert lr[10:81] == pytest.approx([2.0] * 71)
    assert lr[80:] == pytest.approx([2.0 * (20 - i) / 20 for i in range(20)])


def test_constant_stays_and_no_warm_up_starts_at_the_peak():
    assert curve("constant", warmup=0) == [2.0] * 100
    assert curve("cosine", warmup=0)[0] < 2.0


def test_a_run_can_be_shorter_than_its_warm_up():
    assert curve("cosine", steps=5)[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("most", [1, 5, 8, 64, 1000])
def test_the_parts_make_up_the_batch_and_each_pair_is_seen_once(world: int, most: int):
    plan = plan_batch(64, most, world)
    assert plan.global_batch == 64 and plan.micro_batch_size <= most
    seen = [
        plan.position(step, a, rank) + i
        for step in (1, 2)
        for a in range(plan.gradient_accumulation_steps)
        for rank in range(world)
        for i in range(plan.micro_batch_size)
    ]
    assert sorted(seen) == list(range(128))


def test_micro_batches_are_as_large_as_allowed():
    assert plan_batch(96, 20, 2).micro_batch_size == 16
    assert plan_batch(96, 20, 2).gradient_accumulation_steps == 3


def test_a_batch_that_does_not_divide_is_refused_naming_what_does():
    with pytest.raises(UserError, match=r"take 252 or 259, or 1, 2, 4, 8 ranks"):
        plan_batch(256, 64, 7)
    with pytest.raises(UserError, match="take 8, or 1, 2, 4 ranks"):
        plan_batch(4, 64, 8)
