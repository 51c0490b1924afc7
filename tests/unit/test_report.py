"""The HTML report: it tells the truth about the corpus, holds everything itself and runs nothing."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import yaml
from factory import write_corpus
from PIL import Image

from fmriscale import cli
from fmriscale.config import SplitConfig
from fmriscale.corpus.manifest import write_manifest
from fmriscale.corpus.reader import Corpus
from fmriscale.reports import corpus_facts as facts
from fmriscale.reports import corpus_sentences as sentences
from fmriscale.reports.carpets import CENSORED, CENSORED_COLOUR, GREYS, NOTHING, carpet
from fmriscale.reports.corpus_facts import Presence, read_records, typical_and_worst, with_durations

KEPT = [v for v in range(120) if v not in (10, 11, 70)]


def moving(subject, run):
    """Quality of a run with confounds: the third subject moves most, half the runs lack feature 2."""
    missing = [2] if run == 1 else []
    return {"coverage": 1 - len(missing) / 12, "mean_fd": 0.1 + 0.1 * subject, "tsnr": 50.0 + subject} | {
        "missing_features": missing,
        "spike": 4.0 + run,
        "dvars": 1.25,
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Motion, censoring and positions in one data set, nothing known of the other; three runs rejected."""
    rejected = [
        {"dataset": "alpha", "source": f"sub-0{i}.nii.gz", "reason": reason, "detail": "too bad; drop it"}
        for i, reason in enumerate(["low_coverage", "low_coverage", "no_t_r"])
    ]
    rng = np.random.default_rng(3)
    return write_corpus(
        tmp_path_factory.mktemp("corpora") / "mine",
        datasets={
            "alpha": {"subjects": 4, "quality": moving, "sample_mask": KEPT, "licence": "CC0"},
            "beta": {"t_r": 1.5, "n_volumes": 90, "denoise": {"strategy": ["motion"], "motion": "full"}},
        },
        split=SplitConfig(val=0.3, test=0.2),
        coordinates=tuple(tuple(xyz) for xyz in rng.uniform(-50, 50, (12, 3)).round(1).tolist()),
        quarantine=rejected,
    )


def report(corpus, folder):
    """Write a report as a user does and read it."""
    path = folder / "report.html"
    assert cli.run(["inspect", str(corpus.folder), "--report", str(path)]) == 0
    assert [p.name for p in folder.iterdir() if p.is_file()] == ["report.html"]
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(corpus, tmp_path_factory):
    """The report of the corpus."""
    return report(corpus, tmp_path_factory.mktemp("out"))


class Reader(HTMLParser):
    """Collects words, tags and whatever a browser would load."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.loads, self.handlers, self.text = [], [], [], []
        self.feed(page)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        loading = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        self.loads += [value for name, value in attrs if name in loading]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_tells_what_the_corpus_holds(corpus, text):
    page = Reader(text).words
    for fact in (
        "2 data sets 7 people 14 runs 0.8 hours",
        "The longest of 2 data sets, alpha, holds 70 % of the hours. The licence of 1 of them is unknown",
        "70 % of the hours have a t_r of 2 s; it ranges from 1.5 to 2 s.",
        "Mean framewise displacement: median 0.25 mm for the 8 of 14 runs that tell it, highest 0.4 mm",
        "1.6 % of the volumes are censored, most in alpha (2.5 %).",
        "Largest jump of the global signal: median 4.5 s.d. for the 8 of 14 runs that tell it, highest 5",
        "Dvars: 1.25 for the 8 of 14 runs that tell it.",
        "11 of 12 features are in every run (14 runs); the rarest, feature 2, is in 71 %.",
        "3 of 17 runs were rejected for 2 reasons; the most frequent is low coverage (2).",
        "no t_r 1 run in 1 data set",
        "motion (full)",
        f"fingerprint {corpus.fingerprint}",
    ):
        assert fact in page
    # The carpets: a typical and the worst run of alpha, the latter one of the fourth subject's.
    assert re.search(r"Worst · mean FD 0\.4 mm .{0,80}\(3 censored\).{0,40} alpha_sub-04", page)
    assert "No measure of quality tells its runs apart." in page


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(text):
    page = Reader(text)
    assert page.tags.count("img") == 3 and text.count('<svg class="drawn"') == 7
    assert all(load.startswith(("#", "data:image/png;base64,")) for load in page.loads)
    assert "://" not in text and "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "script" not in page.tags and not page.handlers
    assert "default-src 'none'" in text


def test_one_corpus_one_report(corpus, text, tmp_path):
    assert report(corpus, tmp_path) == text


def test_untrusted_text_stays_text(tmp_path):
    evil = '<script>alert("$x$")</script>--><img src=x onerror=alert(1)>'
    corpus = write_corpus(
        tmp_path / "mine",
        datasets={"alpha": {"licence": evil, "quality": lambda s, r: {"missing_features": [r], evil: s}}},
        labels=(evil,) * 12,
    )
    quarantine = pd.DataFrame([{"dataset": evil, "source": evil, "reason": evil, "detail": evil}])
    content = {k: v for k, v in corpus.manifest.items() if k not in ("format", "fingerprint")}
    content["spaces"] = {evil: content["spaces"]["toy"]}
    content["datasets"]["alpha"]["space"] = evil
    write_manifest(corpus.folder, content, corpus.runs.assign(space=evil), quarantine)
    corpus = Corpus.open(corpus.folder)
    (tmp_path / "out").mkdir()
    text = report(corpus, tmp_path / "out")
    page = Reader(text)
    assert not page.handlers and "script" not in page.tags and "x" not in page.loads
    assert page.words.count('<script>alert("$x$")</script>') >= 6


def test_a_corpus_of_which_little_is_known(tmp_path):
    corpus = write_corpus(tmp_path / "mine", datasets={"alpha": {"subjects": 1, "runs": 1}})
    (tmp_path / "out").mkdir()
    page = Reader(report(corpus, tmp_path / "out")).words
    for fact in (
        "One data set, alpha: 1 run of 1 person. Its licence is unknown",
        "Train has 1 person (100 % of the hours); nobody is in val or test.",
        "Every run has a t_r of 2 s. Every run lasts 4 min (120 volumes).",
        "Mean framewise displacement: unknown for every run.",
        "Temporal signal-to-noise ratio (tSNR): unknown for every run.",
        "No volume is censored.",
        "Every run has all 12 features (1 run).",
        "None of 1 run was rejected.",
    ):
        assert fact in page


def test_a_corpus_as_the_builder_writes_it(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for subject in range(6):
        values = rng.standard_normal((60, 8))
        values[:, : 4 * (subject == 5)] = 0  # the last one lacks half of its features
        np.save(tmp_path / "in" / f"sub-{subject}.npy", values)
    dataset = {
        **{"name": "toy", "kind": "arrays", "root": str(tmp_path / "in"), "files": "*.npy", "t_r": 2.0},
        **{"name_pattern": r"sub-(?P<subject>\d+)", "features": {"name": "cols", "columns": 8}},
        **{"denoise": {"high_pass": 0.01}, "licence": "CC BY 4.0"},
    }
    recipe = {"datasets": [dataset], "out": str(tmp_path / "corpus"), "jobs": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.run(["shard", "--config", str(tmp_path / "recipe.yaml")]) == 3
    (tmp_path / "out").mkdir()
    page = Reader(report(Corpus.open(tmp_path / "corpus"), tmp_path / "out")).words
    for fact in (
        "One data set, toy: 5 runs of 5 people.",
        "1 of 6 runs was rejected, for low coverage.",
        "4 of 8 features are missing",
        "above 0.01 Hz, detrended",
        "CC BY 4.0",
        "splits by person: val 10 %, test 10 %",
        "software fmriscale",
    ):
        assert fact in page


def test_a_corpus_whose_runs_were_all_rejected(tmp_path):
    rejected = [{"dataset": "alpha", "source": "a.nii.gz", "reason": "motion", "detail": "drop it"}]
    corpus = write_corpus(tmp_path / "mine", datasets={"alpha": {"subjects": 0}}, quarantine=rejected)
    (tmp_path / "out").mkdir()
    assert "1 of 1 run was rejected, for motion." in Reader(report(corpus, tmp_path / "out")).words


def test_many_data_sets_fit_a_small_file(tmp_path):
    datasets = {f"ds{i:06d}_rest": {"subjects": 1, "n_volumes": 40 + i, "quality": moving} for i in range(60)}
    corpus = write_corpus(tmp_path / "mine", datasets=datasets, n_features=100)
    (tmp_path / "out").mkdir()
    text = report(corpus, tmp_path / "out")
    assert len(text) < 2e6
    page = Reader(text)
    assert "A typical and the worst run of the 24 longest of 60 data sets." in page.words
    assert page.tags.count("img") == 48
    rows = re.findall(r'<th scope="row">(ds\d+)', text[text.index('id="datasets"') :])[:60]
    assert rows == [f"ds{i:06d}" for i in reversed(range(60))]  # the longest first


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{corpus}", "--report", "{folder}/none/out.html"], "no such folder"),
        (["{corpus}", "--report", "{folder}"], "is a folder"),
        (["{folder}", "--report", "{folder}/out.html"], "not a corpus"),
        (["{corpus}", "--report"], "expected one argument"),
        (["{corpus}", "--draw"], "unrecognized arguments: --draw"),
        ([], "required: CORPUS"),
    ],
)
def test_mistakes_are_named(corpus, tmp_path, capsys, args, message):
    args = [a.format(corpus=corpus.folder, folder=tmp_path) for a in args]
    assert cli.run(["inspect", *args]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_shard_ends_the_report(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "mine")
    shard = tmp_path / "mine" / corpus.runs.shard[0]
    shard.write_bytes(shard.read_bytes()[:2000])
    assert cli.run(["inspect", str(corpus.folder), "--report", str(tmp_path / "out.html")]) == 4
    assert str(shard) in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_the_plain_table_stays(corpus, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.run(["inspect", "--help"])
    assert "--report" in capsys.readouterr().out


def test_presence_of_features_is_counted(corpus):
    found, extra = read_records(corpus)
    presence = found["toy"]
    expected = np.ones(12)
    expected[2] = 10 / 14
    np.testing.assert_allclose(presence.share, expected)
    assert (presence.n_read, presence.n_runs) == (14, 14)
    assert extra.dvars.notna().sum() == 8
    # A sample says that it is one.
    some = read_records(corpus, most=6)[0]["toy"]
    assert (some.n_read, some.n_runs) == (6, 14)
    assert "(6 runs, drawn from 14)" in sentences.on_presence(corpus.spaces["toy"], some)


def test_the_worst_run_is_told_by_motion_then_tsnr_then_jumps_then_coverage(corpus):
    runs = with_durations(corpus.runs).join(read_records(corpus)[1])
    alpha = runs.loc[runs.dataset == "alpha"]
    for columns, measure in (
        ([], "mean_fd"),
        (["mean_fd"], "tsnr"),
        (["mean_fd", "tsnr"], "spike"),
        (["mean_fd", "tsnr", "spike"], "percent_covered"),
        (["mean_fd", "tsnr", "percent_covered", "spike"], None),  # equally censored
    ):
        left = alpha.assign(**dict.fromkeys(columns, np.nan))
        decided = facts.deciding_measure(left)
        assert (decided and decided.column) == measure
        typical, worst = typical_and_worst(left, decided)
        assert typical != worst and typical in left.index
        if decided:
            extreme = max if decided.worst == "highest" else min
            assert left[measure][worst] == extreme(left[measure])
        else:
            assert worst is None


def test_sentences_never_round_to_all_or_nothing(corpus):
    space = corpus.spaces["toy"]
    share = np.ones(12)
    share[4] = 0.9999
    said = sentences.on_presence(space, Presence(share, 10_000, 10_000))
    assert "is in over 99.9 %" in said
    share[4] = 0.0001
    assert "is in under 0.1 %" in sentences.on_presence(space, Presence(share, 10_000, 10_000))


def picture(bold, kept):
    """The colour numbers of a carpet."""
    return np.asarray(Image.open(io.BytesIO(carpet(bold, kept))))


def test_a_carpet_shows_signal_gaps_and_censoring():
    bold = np.zeros((40, 6), np.float16)
    bold[:20, :5], bold[20:, :5] = 5, -5  # feature 5 is missing
    kept = np.ones(40, bool)
    whole = picture(bold, kept)
    assert whole.shape == (6, 40)
    assert (whole[:5, :20] == GREYS - 1).all() and (whole[:5, 20:] == 0).all()
    assert (whole[5] == NOTHING).all()

    kept[[3, 4]] = False
    bold[~kept] = 0
    marked = picture(bold, kept)
    assert (marked[-6:, 3:5] == CENSORED).all()
    assert (marked[0] == CENSORED).tolist() == (~kept).tolist()
    image = Image.open(io.BytesIO(carpet(bold, kept))).convert("RGBA")
    assert image.getpixel((3, 0)) == (*CENSORED_COLOUR, 255)
    assert image.getpixel((0, image.height - 1))[3] == 0  # a missing feature is see-through


def test_a_long_run_of_many_features_is_a_small_picture():
    rng = np.random.default_rng(0)
    bold = rng.standard_normal((2_000, 1_000)).astype(np.float16)
    kept = np.ones(2_000, bool)
    kept[:100] = False
    bold[~kept] = 0
    png = carpet(bold, kept)
    assert len(base64.b64encode(png)) < 45_000
    numbers = np.asarray(Image.open(io.BytesIO(png)))
    assert numbers.shape[1] == 480 and (numbers[0] == CENSORED).sum() == 24
