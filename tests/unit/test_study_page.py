"""The report of a study, printed and as a page: it tells the numbers of the summary, draws the design truly,
and needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import studies
from factory import write_corpus

from fmriscale.cli import run
from fmriscale.config import StudyConfig, TaskConfig
from fmriscale.study import wording
from fmriscale.study.controls import SHUFFLED_ORDER
from fmriscale.study.data import open_study
from fmriscale.study.design import MOST_RUNS, describe
from fmriscale.study.text import COLUMNS, report_text


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def cross_run(root):
    return studies.summary(studies.config(root))


@pytest.fixture(scope="module")
def paper(root):
    changed = {"folds_by": "half", "n_folds": 1, "train_sizes": None, "controls": {}}
    settings = studies.config(root, task={"protocol": "paper"}, **changed)
    return studies.summary(settings, truth=studies.PAPER, conditions=("heard", "imagined"))


@pytest.fixture(scope="module")
def pages(root, cross_run, paper):
    """Folder with a study each, and the text of their pages."""
    found = {name: written(s, root / name) for name, s in (("cross", cross_run), ("paper", paper))}
    return root, found


def written(summary, folder: Path) -> str:
    """The page of a summary, as a user makes it."""
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("task: {label: timbre}\n")
    assert run(["report", str(folder)]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects words, tags and whatever a browser would load or run."""

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


# ---- the design


def test_under_the_paper_protocol_same_timbre_is_same_run(paper):
    design = paper["design"]
    assert design["relation"]["same"] == {"n": 2856, "one_run": 2856, "distance": 0.0}
    assert design["relation"]["different"] == {"n": 2856, "one_run": 0, "distance": 1.0}
    assert {(a == b, same) for a, b, same, _ in design["arcs"]} == {(True, 1), (False, 0)}
    assert [r["side"] for r in design["runs"]] == ["train"] * 4 + ["test"] * 4
    assert design["places"] == [["----####"] * 17]
    assert (design["n_windows"], design["n_lost"], design["n_runs"], design["n_people"]) == (2856, 0, 136, 17)


def test_cross_run_pairs_join_runs_of_one_condition_equally_far_apart(cross_run):
    design = cross_run["design"]
    same, different = design["relation"]["same"], design["relation"]["different"]
    assert same["one_run"] == different["one_run"] == 0 and same["distance"] == different["distance"]
    condition = [design["conditions"][r["windows"][0][2]] for r in design["runs"]]
    label = [r["windows"][0][1] for r in design["runs"]]
    for a, b, is_same, n in design["arcs"]:
        assert a < b and n > 0 and condition[a] == condition[b] and (label[a] == label[b]) == bool(is_same)
    of_person = 21 * 8 * 4
    assert sum(n for *_, n in design["arcs"]) == of_person
    tested = np.array([[row == "########" for row in rows] for rows in design["places"]])
    assert (tested.sum(axis=0) == 1).all()  # everybody is left out once


def test_pairs_of_two_people_are_drawn_with_the_partners(tmp_path):
    def events(subject, run):
        return [{"onset": 0.0, "duration": 1.0, "sex": "fm"[subject % 2]}, {"onset": 239.0, "sex": "f"}]

    write_corpus(tmp_path / "corpus", datasets={"toy": {"subjects": 30, "runs": 1, "events": events}})
    config = StudyConfig(
        out="x", corpus=str(tmp_path / "corpus"), pretrained=None, n_folds=2,
        task=TaskConfig(label="sex", protocol="any", partners="other_person", pairs_per_window=28),
    )  # fmt: skip
    study = open_study(config)
    design = describe(study, [study.pairs(fold) for fold in study.folds])
    assert design["n_lost"] == 30 and design["n_windows"] == 30
    people = [r["person"] for r in design["runs"]]
    assert 2 < len(people) == len(set(people)) <= MOST_RUNS
    assert all(a == 0 for a, *_ in design["arcs"])  # all pairs shown are the first person's


# ---- words and numbers


def test_the_printed_table_holds_every_arm_and_fits_a_terminal(cross_run, paper):
    for summary in (cross_run, paper):
        lines = report_text(summary).splitlines()
        assert max(map(len, lines)) <= COLUMNS and len(lines) <= 52
        text = " ".join(lines)
        for content in summary["arms"].values():
            found = content["by_condition"]["all"]
            line = next(line for line in lines if line.startswith(f"{content['title']}  "))
            assert wording.within(found) in line and line.endswith(wording.area(found["auc"]["mean"]))
        gain = summary["comparisons"][0]
        line = next(line for line in lines if line.startswith("pre-trained - fresh"))
        assert wording.effect(gain) in line and wording.p_value(gain["p"]) in line
        assert line.index(wording.effect(gain)) < line.index(wording.p_value(gain["p"]))
        assert summary["verdict"]["sentence"][:60] in text and "Power: with 17 subjects" in text


def test_numbers_are_told_as_people_read_them():
    assert [wording.p_value(p) for p in (0.00001, 0.0004, 0.0312, 1.0)] == [
        "<0.0001", "0.0004", "0.031", "1.000",
    ]  # fmt: skip
    row = {"effect": -0.0123, "low": -0.03, "high": 0.004}
    assert wording.effect(row) == "-1.2 [-3.0, +0.4]"
    one = {"accuracy": {"mean": 0.5, "low": None, "high": None}}
    assert wording.within(one) == "50.0" and wording.within(None) == "-"
    assert (wording.counted(1, "person"), wording.counted(2, "person")) == ("1 person", "2 people")


# ---- the page


def test_the_page_tells_the_summary_and_needs_nothing_else(cross_run, pages):
    text = pages[1]["cross"]
    page = Reader(text)
    gain = cross_run["comparisons"][0]
    best = cross_run["arms"]["category"]["by_condition"]["all"]
    shown = f"{wording.points(gain['effect'])} {wording.bounds(gain, wording.points)}"
    for fact in (
        "Were two windows of brain activity recorded under the same timbre?",
        "Yes The pre-trained network is right in",
        shown.replace("-", "\N{MINUS SIGN}"),
        f"The strongest baseline is window classifier (SVM): {wording.within(best)} %.",
        "The two windows of every pair are of different runs",
        "is right in 50.0 % of these pairs",
        "none: each of 2,856 has its window",
        "none of 180 (arms",
        "corpus \N{MIDDLE DOT} fingerprint " + "4f" * 32,
        "task: {label: timbre}",
    ):
        assert fact in page.words, fact
    for name, section in (("design", 1), ("units", 4), ("learning", 3), ("sizes", 2)):
        part = text[text.index(f'<section id="{name}"') :]
        assert part[: part.index("</section>")].count('<svg class="drawn" role="img"') >= section
    assert all(load.startswith("#") for load in page.loads)
    assert "script" not in page.tags and "img" not in page.tags and not page.handlers
    assert "://" not in text and "default-src 'none'" in text
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))


def test_one_summary_one_page(pages, tmp_path):
    root, texts = pages
    assert run(["report", str(root / "paper"), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text() == texts["paper"]


def test_a_protocol_that_confuses_label_and_run_says_so_at_once(pages):
    page = Reader(pages[1]["paper"]).words
    for fact in (
        "Open This design cannot tell timbre from run",
        "Both windows of every same-timbre pair are of one run",
        "here same timbre means same run",
        "same timbre 2,856 2,856 (100 %) 0.00",
        "is right in 100 % of these pairs",
        "The strongest baseline is same-run oracle",
    ):
        assert fact in page, fact
    assert 'id="sizes"' not in pages[1]["paper"]


def test_a_control_that_was_not_run_is_named_beside_the_result_with_its_commands(cross_run, paper, pages):
    page, told = Reader(pages[1]["paper"]).words, " ".join(report_text(paper).split())
    for command in (
        "deepspeed fmriscale/train.py --config RECIPE \\ --data.volume_order shuffled --data.access memory "
        "--out runs/ntp_shuffled",
        "config.yaml \\ --controls.shuffled_order runs/ntp_shuffled/encoder",
    ):
        assert command in page and command in told
    title = SHUFFLED_ORDER.title
    assert f"{title} not run" in page and f"{title} not run" in told
    lacks = "not run: the control that is pre-trained on volumes in shuffled order"
    assert lacks in paper["verdict"]["sentence"]
    # Where it was run it is an arm like others.
    assert cross_run["arms"]["shuffled_order"]["title"] == title
    assert "not run" not in Reader(pages[1]["cross"]).words + report_text(cross_run)


def test_a_condition_that_is_the_only_one_is_named_everywhere(root, tmp_path):
    settings = studies.config(root, train_sizes=None, controls={})
    summary = studies.summary(settings, conditions=("heard to imagined",))
    told = report_text(summary)
    assert "cross_run pairs, heard to imagined; 17 subjects" in " ".join(told.split())
    assert re.search(r"accuracy, % \[95 %\] +heard to imagined +AUC", told)
    assert "under cross_run (heard to imagined) the pre-trained arm" in summary["verdict"]["sentence"]
    page = Reader(written(summary, tmp_path / "study")).words
    for fact in (
        "cross_run pairs, heard to imagined;",
        "guessing heard to imagined 16 of 17 better",
        "Conditions: heard to imagined.",
    ):
        assert fact in page, fact


def test_one_arm_few_units_and_no_design_still_make_a_page(root, tmp_path):
    alone = {"pretrained": None, "controls": {}, "train_sizes": None, "folds_by": "half", "n_folds": 1}
    settings = studies.config(root, task={"protocol": "any"}, **alone)
    truth = {k: v for k, v in studies.CROSS_RUN.items() if k not in ("pretrained", "shuffled_order")}
    summary = studies.summary(settings, truth=truth, conditions=("",))
    del summary["design"]
    page = Reader(written(summary, tmp_path / "study")).words
    assert "No pre-trained arm to judge" in page and "Design" not in page
    assert "pre-trained - fresh" not in report_text(summary)


def test_one_subject_has_no_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "N_PEOPLE", 1)
    halves = {"folds_by": "half", "n_folds": 1, "train_sizes": None, "seeds": [0]}
    settings = studies.config(tmp_path, task={"protocol": "paper"}, **halves)
    summary = studies.summary(settings, truth=studies.PAPER, conditions=("heard", "imagined"))
    for words in (report_text(summary), Reader(written(summary, tmp_path / "page")).words):
        assert "1 subject cannot give a p below 1, however large the difference" in words
        assert wording.percent(summary["arms"]["fresh"]["by_condition"]["all"]["accuracy"]["mean"]) in words


def test_untrusted_text_stays_text(cross_run, tmp_path):
    evil = '<script>alert("$x$")</script>--><img src=x onerror=alert(1)>'
    summary = json.loads(json.dumps(cross_run).replace('"shuffled_order"', json.dumps(evil)))
    summary["arms"][evil]["title"] = evil
    summary["label"] = evil
    summary["design"]["labels"][0] = evil
    summary["design"]["runs"][0]["person"] = evil
    summary["provenance"]["note"] = evil
    page = Reader(written(summary, tmp_path / "study"))
    assert not page.handlers and "script" not in page.tags and "x" not in page.loads
    assert page.words.count('<script>alert("$x$")</script>') > 10


def test_mistakes_and_damage_are_named(tmp_path, capsys):
    assert run(["report", str(tmp_path)]) == 2
    assert "neither summary.json" in capsys.readouterr().err
    (tmp_path / "cells").mkdir()
    assert run(["report", str(tmp_path)]) == 2
    assert "not finished" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text("{broken")
    assert run(["report", str(tmp_path)]) == 4
    assert "not JSON" in capsys.readouterr().err
    for stranger in ("[1]", "{}"):
        (tmp_path / "summary.json").write_text(stranger)
        assert run(["report", str(tmp_path)]) == 4
        assert "not as fmriscale finetune writes it" in capsys.readouterr().err
