"""Real corpora: what can be told of a pair without looking at the signals?"""

import dataclasses

import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fmriscale.config import CorpusConfig, DataConfig, PairConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.ingest.build import build
from fmriscale.sampling.loader import NTPLoader
from fmriscale.sampling.persistence import area_under_curve

pytestmark = pytest.mark.realdata
SITES = ["abide_caltech", "abide_leuven_1", "abide_maxmun_b", "abide_nyu", "abide_ohsu", "abide_stanford"]


@pytest.fixture(scope="module")
def corpora(repository, data_root, tmp_path_factory):
    """ABIDE: one run a person, sites of all t_r; Haxby: one person, 12 runs, two feature spaces."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMRISCALE_DATA", str(data_root.absolute()))
        for name in ("abide", "haxby"):
            recipe = parse(CorpusConfig, ["--config", str(repository / f"configs/corpus_{name}.yaml")])
            some = [d for d in recipe.datasets if name == "haxby" or d.name in SITES]
            out = tmp_path_factory.mktemp(name)
            build(dataclasses.replace(recipe, datasets=some, out=str(out), jobs=1))
            made[name] = Corpus.open(out)
    return made


def epochs_of(corpus, n, **pairs):
    """The first n epochs of pairs of each feature space: one batch an epoch."""
    loader = NTPLoader(corpus, DataConfig(corpus="", pairs=PairConfig(**pairs)), "train", 0, 256)
    sizes = [2 * int(group.windows.sum()) for group in loader.groups]
    return [
        [group.batch(e * n_pairs, n_pairs) for e in range(n)]
        for group, n_pairs in zip(loader.groups, sizes, strict=True)
    ]


def what_is_told(corpus, batches):
    """Positions (also relative), run lengths, t_r, data sets of both sides [N, columns]; and the labels."""
    sides = [
        [np.concatenate([getattr(b, f"{what}_{side}") for b in batches]) for what in ("run", "start")]
        for side in ("left", "right")
    ]
    columns = []
    for rows, starts in sides:
        runs = corpus.runs.iloc[rows]
        volumes = runs.n_volumes.to_numpy()
        columns += [starts, starts / volumes, volumes, runs.t_r.to_numpy()]
        columns += [(runs.dataset == name).to_numpy() for name in sorted(set(corpus.runs.dataset))]
    told = np.stack(columns, axis=1).astype(np.float64)
    return told[:, np.ptp(told, axis=0) > 0], np.concatenate([b.label for b in batches])


def auc_without_signals(corpus, batches):
    """AUC on one half of the epochs, fitted on the other; and the most its deviation can be under chance.

    Whole epochs: within one, a window that was a positive in the first half is none in the second.
    """
    half = len(batches) // 2
    x, label = what_is_told(corpus, batches[:half])
    scale = StandardScaler().fit(x)
    fitted = LogisticRegression(max_iter=500).fit(scale.transform(x), label)
    x, label = what_is_told(corpus, batches[half:])
    score = fitted.decision_function(scale.transform(x))
    return area_under_curve(score, label), 0.5 / np.sqrt(label.sum())


@pytest.mark.parametrize(("name", "n"), [("abide", 2), ("haxby", 40)])
def test_the_default_pairs_cannot_be_told_without_their_signals(corpora, name, n):
    for batches in epochs_of(corpora[name], n):
        auc, deviation = auc_without_signals(corpora[name], batches)
        assert abs(auc - 0.5) < 3.5 * deviation < 0.03, auc
        x, label = what_is_told(corpora[name], batches)
        for column in x.T:  # nor by any one of these things, in whatever way it is cut
            alone = area_under_curve(column, label)
            assert abs(alone - 0.5) < 3.5 * 0.5 / np.sqrt(label.sum())


def test_the_check_would_see_a_leak(corpora):
    # Negatives that are the first sequences of the same runs, which no positive is.
    ((one, two),) = epochs_of(corpora["abide"], 2)
    for batch in (one, two):
        batch.start_right[batch.label == 0] //= 2
    auc, deviation = auc_without_signals(corpora["abide"], [one, two])
    assert auc > 0.5 + 20 * deviation


def test_published_pairs_of_haxby_are_told_by_their_run(corpora, repository):
    pairs = yaml.safe_load((repository / "configs/pretrain_paper.yaml").read_text())["data"]["pairs"]
    starts = np.arange(3, 117)  # 121 volumes, sequences of 5
    lefts = np.arange(3, 112, 2)
    near = np.array([np.sum((starts >= s - 5) & (starts <= s + 14)) for s in lefts])
    share = np.mean((len(starts) - near) / (12 * len(starts) - near))
    for batches in epochs_of(corpora["haxby"], 20, **pairs):
        same_run = np.concatenate([b.row_left == b.row_right for b in batches])
        negative = np.concatenate([b.label == 0 for b in batches])
        assert same_run[negative].mean() == pytest.approx(share, abs=4 * np.sqrt(share / negative.sum()))
        assert (same_run != negative).mean() == pytest.approx(0.964, abs=0.004)
