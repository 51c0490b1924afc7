"""`fmriscale probe` with encoders that learn: they find what frozen ones cannot show, and nothing leaks."""

import json
from dataclasses import replace

import numpy as np
import pytest
from factory import ar1
from probes import PATTERN, SPACE, V, figures, options, probe, write_people
from toystudy import TINY, write_encoder

from fmriscale import CorpusWriter
from fmriscale.cli import run
from fmriscale.common.errors import UserError
from fmriscale.config import ProbeConfig, ProbeTrainConfig, SplitConfig, StudyConfig, WindowConfig
from fmriscale.config.recipe import parse
from fmriscale.corpus.reader import Corpus
from fmriscale.model import precision
from fmriscale.study.probe.adapt import Adaptation, Rows, Training
from fmriscale.study.probe.data import open_probe
from fmriscale.study.probe.decoder import decode
from fmriscale.study.probe.features import features_of
from fmriscale.study.probe.jobs import Fit
from fmriscale.study.probe.run import Runner, results_of

LENGTH = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Eight people; what their events tell is the product of two patterns, each of mean 0.

    The blocks of the encoder start as the identity, so that no product is in its vectors.
    """
    root = tmp_path_factory.mktemp("products")
    rng = np.random.default_rng(0)
    with CorpusWriter(root / "corpus", split=SplitConfig(val=0.0, test=0.0)) as corpus:
        for number in range(8):
            sign_E2 = rng.choice((-1.0, 1.0), (32, 2))
            x = 0.3 * ar1(rng, len(sign_E2) * LENGTH, V).astype(np.float32)
            x += np.repeat(sign_E2 @ PATTERN, LENGTH, axis=0)
            events = [
                {"onset": 2.0 * LENGTH * e, "duration": 2.0, "same": int(a == b), "product": a * b}
                for e, (a, b) in enumerate(sign_E2.tolist())
            ]
            about = {"dataset": "toy", "subject": f"{number:02d}", "t_r": 2.0, "events": events}
            about |= {"source": f"{number}", "source_sha256": "0" * 64}
            signals = ((x - x.mean(0)) / x.std(0)).astype(np.float16)
            corpus.add(signals, space=SPACE, mean=np.zeros(V), std=np.ones(V), **about)
    write_encoder(root / "encoder", 4, replace(TINY, start="identity"))
    return root


def settings(place, **changed):
    chosen = {"target": "same", "rows": "window", "windows__length": LENGTH, "n_folds": 2}
    chosen |= {"encoders": json.dumps({"pretrained": str(place / "encoder")}), "train__batch": 16}
    return chosen | changed


def test_a_product_is_told_by_encoders_that_learn_and_by_no_linear_model(place, tmp_path):
    chosen = settings(place, train__adapt="lora", train__lr=0.02, train__epochs=8)
    found = probe(tmp_path / "out", place / "corpus", **chosen)
    auc = figures(found)
    fit = json.loads((tmp_path / "out" / "fits" / "pretrained_fold0_seed0.json").read_text())
    assert fit["validation"][0] < -0.65, "the frozen encoder knows no more than that there are two classes"
    assert min(auc["pretrained"], auc["fresh"]) > 0.9, auc
    assert max(auc["raw"], auc["pca"], auc["whitening"]) < 0.65
    # There are four kinds of windows, whose shuffled labels agree by chance more often than those of many.
    assert abs(auc["shuffled"] - 0.5) < 0.2 and "gives the answer away" not in found["verdict"]["sentence"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "learned the target" in page and "stays frozen" not in page
    header = (tmp_path / "out" / "results.tsv").read_text().partition("\n")[0]
    assert {"epochs", "validation"} < set(header.split("\t"))


def test_a_number_likewise(place, tmp_path):
    chosen = settings(place, target="product", kind="regress", train__adapt="full", train__lr=0.01)
    found = figures(probe(tmp_path / "out", place / "corpus", **chosen, train__epochs=8))
    assert found["pretrained"] > 0.8 and max(found["raw"], found["pca"]) < 0.3, found
    assert abs(found["shuffled"]) < 0.35


def opened(corpus, **changed):
    config = ProbeConfig(out="x", corpus=str(corpus), n_folds=2, **changed)
    return open_probe(config, Corpus.open(corpus)), Corpus.open(corpus)


def of_products(place, **changed):
    given = {"windows": WindowConfig(length=LENGTH), "rows": "window", "target": "product", "kind": "regress"}
    given |= {"encoders": {"pretrained": str(place / "encoder")}}
    return opened(place / "corpus", **{**given, **changed})


def test_the_targets_of_the_test_rows_change_nothing(place, tmp_path):
    learning, _ = of_products(place, train=ProbeTrainConfig(adapt="full", lr=0.01, epochs=2, batch=16))
    learning = replace(learning, config=replace(learning.config, out=str(tmp_path)))
    target_N, (_, test_N) = learning.rows.target_N.copy(), learning.sides(learning.folds[0])
    target_N[test_N] = np.random.default_rng(1).permutation(target_N[test_N]) + 3
    other = replace(learning, rows=replace(learning.rows, target_N=target_N))
    found = [Runner(each).run(Fit("pretrained", 0, seed=0)) for each in (learning, other)]
    assert found[0]["prediction"] == found[1]["prediction"]
    assert found[0]["validation"] == found[1]["validation"]


@pytest.mark.parametrize(
    ("target", "kind", "size"),
    [("same", "classify", None), ("product", "regress", None), ("same", "classify", 3)],
)
def test_what_has_not_learned_yet_is_the_frozen_encoder_with_its_linear_model(place, target, kind, size):
    frozen, corpus = of_products(place, target=target, kind=kind)
    train_N, test_N = frozen.sides(frozen.folds[0])
    train_N = train_N if size is None else train_N[:12]  # fewer rows than features
    target_N, n_classes = frozen.rows.target_N[train_N], len(frozen.rows.classes)
    x_ND = features_of(frozen, corpus, "pretrained", 0, 0)
    expected = decode(lambda a, b: (x_ND[a], x_ND[b]), train_N, test_N, target_N, None, n_classes)
    work = Adaptation(frozen, corpus, "pretrained", 0, 0, x_ND)
    found = Training(work, Rows(train_N, target_N), expected.choice).predict(test_N)
    assert np.allclose(found, expected.value, atol=1e-3)


@pytest.mark.parametrize(("rows", "amx"), [("run", False), ("person", False), ("run", True)])
def test_rows_of_many_windows_have_the_vectors_of_the_frozen_encoder(tmp_path, rows, amx, monkeypatch):
    monkeypatch.setattr(precision, "has_amx", lambda: amx)
    monkeypatch.setattr(precision, "AMX_WIDTH", 1)
    people = [{"dx": f"{n % 2}", "runs": 1 + n % 3} for n in range(8)]
    corpus = write_people(tmp_path / "corpus", people)
    encoders = {"pretrained": str(write_encoder(tmp_path / "encoder", seed=1))}
    windows = WindowConfig(length=30, stride=20)
    frozen, corpus = opened(corpus, target="dx", rows=rows, encoders=encoders, windows=windows)
    expected = features_of(frozen, corpus, "pretrained", 0, 0)
    work = Adaptation(frozen, corpus, "pretrained", 0, 0, expected)
    encoder, space = frozen.encoder("pretrained", 0, 0)
    found = work.reader.vectors(encoder, space, np.array([5, 0, 3]))
    assert found.requires_grad and np.allclose(found.detach(), expected[[5, 0, 3]], atol=1e-5)
    assert str(found.dtype) == "torch.float32"
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    exact = features_of(frozen, corpus, "pretrained", 0, 0)
    assert np.allclose(expected, exact, atol=0.05) and np.array_equal(expected, exact) == (not amx)


def test_a_fit_is_the_same_whatever_its_process_did_before(place, tmp_path):
    learn = ProbeTrainConfig(adapt="lora", lr=0.01, epochs=2, batch=16)
    learning, _ = of_products(place, train=learn, train_sizes=[2], seeds=[0, 1])
    fits = [Fit("pretrained", 0, 2, 1), Fit("fresh", 0, seed=1), Fit("shuffled", 1, seed=2)]
    fits.append(Fit("pretrained", 0, 2, 0))
    found = []
    for name, order in (("one", fits), ("other", fits[::-1])):
        own = replace(learning, config=replace(learning.config, out=str(tmp_path / name)))
        runner = Runner(own)
        found.append({fit: {**runner.run(fit), "seconds": 0} for fit in order})
    assert found[0] == found[1]
    one, other = found[0][fits[0]], found[0][fits[3]]
    assert one["n_train_people"] == 2 and one["prediction"] != other["prediction"]


def test_a_rate_that_is_too_high_is_told(place, tmp_path):
    learning, _ = of_products(place, train=ProbeTrainConfig(adapt="full", lr=1e30, epochs=2))
    learning = replace(learning, config=replace(learning.config, out=str(tmp_path)))
    with pytest.raises(UserError, match=r"pretrained_fold1_seed0: the loss is not finite .* lower train.lr"):
        Runner(learning).run(Fit("pretrained", 1, seed=0))


def test_how_encoders_learn_leaves_the_baselines_as_they_are(place):
    hashes = []
    frozen, learning = ProbeTrainConfig(), ProbeTrainConfig(adapt="full")
    for learn in (frozen, replace(frozen, lr=0.1), learning, replace(learning, lr=0.1)):
        one, _ = of_products(place, train=learn)
        hashes.append(results_of(one).hashes)
    assert hashes[0] == hashes[1], "the frozen encoder does not learn at any rate"
    same = [{fit.method for fit in hashes[0] if hashes[0][fit] == other.get(fit)} for other in hashes[2:]]
    assert same == [{"connectivity", "pca", "whitening", "raw", "window_mean", "run_mean"}] * 2
    assert not {h for fit, h in hashes[2].items() if fit.method == "pretrained"} & set(hashes[3].values())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"encoders": "{}"}, ["train.adapt is lora", "no encoder", "name `encoders`"]),
        ({"regress_out": "[subject]"}, ["train.adapt is lora", "regress_out", "leave one of the two out"]),
        ({"train__lr": 0}, ["train.lr is 0.0"]),
        ({"train__adapt": "frozen"}, ["probe, lora or full"]),
    ],
)
def test_mistakes_are_told(place, tmp_path, capsys, changed, words):
    chosen = settings(place, target="product", kind="regress", train__adapt="lora", train__epochs=1) | changed
    assert run(options(tmp_path / "out", place / "corpus", **chosen)) == 2
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith("fmriscale: error: ") and all(word in told for word in words), (
        told
    )


@pytest.mark.parametrize("given", ["recipe", "option"])
def test_a_study_that_is_to_classify_is_sent_to_the_probe(tmp_path, given):
    recipe = tmp_path / "mine.yaml"
    task = "{label: dx, kind: classify}" if given == "recipe" else "{label: dx}"
    recipe.write_text(f"out: x\ncorpus: y\npretrained: null\ntask: {task}\n")
    line = ["--config", str(recipe), *(["--task.kind", "classify"] if given == "option" else [])]
    with pytest.raises(UserError, match=r"task\.kind") as refusal:
        parse(StudyConfig, line)
    (told,) = str(refusal.value).splitlines()
    assert "fmriscale probe" in told and "kind: classify or regress" in told and "train.adapt" in told
