"""`fmriscale report RUN`: one page from a run's record."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from fmriscale.cli import run
from fmriscale.reports.training import POINTS, curve, read_metrics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 1,000 steps on two data sets, two of them not finite, evaluated three times."""
    lines = []
    for step in range(1, 1001):
        loss = None if step in (7, 8) else math.exp(-step / 500)
        acc = {"alpha <b>": 0.5 + step / 2500, "beta": 0.6}
        line = {"step": step, "loss": loss, "acc": 0.7, "acc_by_kind": {"positive": 0.6, "same_run": 0.8}}
        line |= {"acc_by_dataset": acc, "seen": {"alpha <b>": 8 * step, "beta": 8 * step}, "lr": 1e-3}
        line |= {"finite": loss is not None, "grad_norm": loss, "pairs_per_s": 100.0, "data_wait_share": 0.01}
        lines.append(line)
        if step % 400 == 0:
            held_out = {"acc_by_kind": {"positive": 0.5}, "acc_by_dataset": {"beta": 0.5}, "persistence": {}}
            lines.append({"event": "eval", "step": step, "loss": 0.6, "acc": 0.66, **held_out})
    record = tmp_path / "run1" / "metrics.jsonl"
    record.parent.mkdir()
    record.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1001, "lo')
    (record.parent / "config.yaml").write_text("model: {preset: base}\n")
    return record.parent


def test_one_page_holds_every_curve_and_needs_nothing_else(folder: Path):
    assert run(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    for title in ("Loss and accuracy", "by kind", "by data set", "Learning rate", "Speed"):
        assert title in page
    assert page.count('<svg class="drawn"') == 10 and "16,000" in page and "66.0 %" in page
    assert "2 steps were not finite and left the weights alone: 7, 8" in page
    assert "preset: base" in page and "alpha &lt;b&gt;" in page and "alpha <b>" not in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert run(["report", str(folder), "--out", str(folder / "again.html")]) == 0
    assert (folder / "again.html").read_text() == page


def test_a_run_across_people_alone_has_its_own_figures(folder: Path):
    record = folder / "metrics.jsonl"
    lines = []
    for step in range(1, 41):
        line = {"step": step, "loss": 2 / step, "contrastive_loss": 1 / step, "contrastive_acc": 0.9}
        line |= {"connectivity_loss": 0.5, "seen": {"film": 0}, "lr": 1e-3, "finite": True, "grad_norm": 1.0}
        lines.append(line | {"pairs_per_s": 0.0, "windows_per_s": 640.0, "data_wait_share": 0.0})
    held_out = {"loss": 1.0, "contrastive_loss": 0.5, "contrastive_acc": 0.8, "connectivity_loss": 0.6}
    lines.append({"event": "eval", "step": 40, **held_out})
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "Terms of the loss" in page and "contrastive" in page and "connectivity" in page
    assert "80.0 %" in page and "640" in page and "windows/s" in page
    assert "pairs seen" not in page and "by kind" not in page and page.count('<svg class="drawn"') == 8


def test_a_curve_is_the_mean_of_neighbours_without_what_is_missing(folder: Path):
    steps, evals = read_metrics(folder / "metrics.jsonl")
    assert (len(steps), len(evals)) == (1000, 2)
    step, value = curve(steps, "acc_by_dataset", "alpha <b>")
    assert len(step) == POINTS and np.allclose(value, 0.5 + step / 2500)
    step, value = curve(steps, "loss")
    assert np.isfinite(value).all() and not np.isin(step, (7, 8)).any()
    assert curve(steps, "acc_by_dataset", "gamma")[0].size == 0


def test_mistakes_and_damage_are_named(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["report"]) == 2 and run(["report", str(folder), "--oout", "x"]) == 2
    assert run(["report", str(folder.parent)]) == 2
    assert "nor metrics.jsonl" in capsys.readouterr().err
    record = folder / "metrics.jsonl"
    record.write_text("{broken\n" + record.read_text())
    assert run(["report", str(folder)]) == 4
    for stranger in ("17\n", '{"step": 1}\n'):
        record.write_text(stranger)
        assert run(["report", str(folder)]) == 4
        assert "line 1 is no step" in capsys.readouterr().err
    record.write_text("")
    assert run(["report", str(folder)]) == 2
    assert "no step yet" in capsys.readouterr().err
    assert run(["report", str(folder), "--out", str(folder)]) == 2
    assert "is a folder; give --out" in capsys.readouterr().err


def test_a_run_that_never_was_finite_and_has_no_readable_recipe_is_drawn_all_the_same(folder: Path):
    record = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()[:5]]
    bad = [line | {"loss": None, "grad_norm": None, "finite": False} for line in lines]
    record.write_text("".join(json.dumps(line) + "\n" for line in bad))
    (folder / "config.yaml").write_bytes(b"model: [\xff")
    assert run(["report", str(folder)]) == 0
    assert "1, 2, 3, 4, 5" in (folder / "report.html").read_text()
