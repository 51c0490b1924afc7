"""One line and one scale over all runs of a subject, against scipy on the runs put end to end."""

import numpy as np
import pytest
from factory import write_corpus
from scipy import signal

from fmriscale.config import TaskConfig
from fmriscale.study import subject_scale
from fmriscale.study.subject_scale import fit_line, subject_scales
from fmriscale.study.windows import cut_windows


def scale(subject, run):
    """Mean and deviation of a run before it was stored: offsets and gains of runs."""
    return 1000.0 + 40 * run + 7 * subject, 5.0 + run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    spec = {
        "subjects": 2,
        "runs": 3,
        "n_volumes": lambda s, r: 40 + 10 * r,
        "scale": scale,
        "events": lambda s, r: [{"onset": 10.0 * i, "trial_type": "ab"[(i + r) % 2]} for i in range(6)],
    }
    return write_corpus(tmp_path_factory.mktemp("runs"), datasets={"toy": spec})


def expected(corpus, subject):
    """A subject's runs, standardised as published."""
    runs = [
        corpus.bold(3 * subject + run).astype(float) * scale(subject, run)[1] + scale(subject, run)[0]
        for run in range(3)
    ]
    flat = signal.detrend(np.concatenate(runs), axis=0)
    flat /= flat.std(axis=0, ddof=1)
    return np.split(flat, np.cumsum([len(run) for run in runs])[:-1])


def test_a_subject_is_detrended_and_scaled_as_one(corpus, monkeypatch):
    monkeypatch.setattr(subject_scale, "BLOCK", 5)  # 12 features are more than one block
    scales = subject_scales(corpus, [4, 1, 0, 5, 2, 3])  # in any order
    for row in range(6):
        made = scales[row].apply(corpus.bold(row))
        assert made.dtype == np.float16
        np.testing.assert_allclose(made, expected(corpus, row // 3)[row % 3], atol=5e-3)
    # Offsets of runs stay in, where one standard a run takes them out.
    assert np.abs([scales[row].apply(corpus.bold(row)).mean() for row in range(3)]).max() > 0.2


def test_windows_are_cut_out_of_it(corpus):
    cut = cut_windows(corpus, TaskConfig(standardize="subject", delay=0.0), range(6))
    as_stored = cut_windows(corpus, TaskConfig(delay=0.0), range(6))
    np.testing.assert_array_equal(cut.start_N, as_stored.start_N)
    for i in (0, 9, 30):
        row, start = int(cut.run_N[i]), int(cut.start_N[i])
        wanted = expected(corpus, row // 3)[row % 3][start : start + 5]
        np.testing.assert_allclose(cut.bold_NLV[i], wanted, atol=5e-3)
    assert np.abs(cut.bold_NLV - as_stored.bold_NLV).max() > 0.2


def test_a_subject_depends_on_nobody_else(corpus):
    both, alone = subject_scales(corpus, range(6)), subject_scales(corpus, range(3))
    np.testing.assert_array_equal(both[1].shift_V, alone[1].shift_V)


def test_censored_volumes_keep_their_time_and_take_no_part(tmp_path):
    kept = [t for t in range(60) if not 10 <= t < 22]
    spec = {"subjects": 1, "runs": 2, "n_volumes": 60, "sample_mask": kept, "scale": scale}
    corpus = write_corpus(tmp_path, datasets={"toy": spec})
    raw = np.concatenate([corpus.bold(r).astype(float) * scale(0, r)[1] + scale(0, r)[0] for r in (0, 1)])
    time, part = np.arange(120), np.r_[kept, np.array(kept) + 60]
    slope, level = np.polyfit(time[part], raw[part], 1)
    left = raw - level - slope * time[:, None]
    left /= left[part].std(axis=0, ddof=1)
    scales = subject_scales(corpus, [0, 1])
    made = np.concatenate([scales[row].apply(corpus.bold(row)) for row in (0, 1)])
    np.testing.assert_allclose(made, left, atol=1e-2)


def test_a_line_is_fitted_to_what_is_there():
    rng = np.random.default_rng(0)
    x, time = rng.normal(size=(50, 3)).cumsum(0) + 1000, np.arange(50.0)[:, None]
    there = np.ones(x.shape, bool)
    there[20:35, 1] = False
    x[~there] = 1e6
    level, middle, slope, deviation = fit_line(x, time, there)
    for v in range(3):
        kept = there[:, v]
        fit = np.polyfit(time[kept, 0], x[kept, v], 1)
        assert slope[v] == pytest.approx(fit[0]) and level[v] == pytest.approx(x[kept, v].mean())
        left = x[kept, v] - np.polyval(fit, time[kept, 0])
        assert deviation[v] == pytest.approx(left.std(ddof=1)) and middle[v] == time[kept, 0].mean()
    # Nothing there at all: 0 stays 0.
    assert fit_line(np.zeros((9, 1)), np.arange(9.0)[:, None], np.zeros((9, 1), bool))[3].tolist() == [1]
