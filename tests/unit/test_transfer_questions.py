"""What benchmarks/transfer.py keeps out of pre-training, and which code its record names."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
RUNS = pd.DataFrame(
    [
        ("a1", "film_a", "x/1", "film_a"),
        ("a2", "film_a", "x/2", "film_a"),
        ("b1", "film_b", "x/1", "film_b"),
        ("b2", "film_b", "x/2", "film_b"),
        ("c3", "other", "y/3", "other"),
    ],
    columns=["key", "dataset", "person", "stimulus"],
)


@pytest.fixture(scope="module")
def transfer():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        import transfer

        yield transfer
    for name in [name for name in sys.modules if name.split("_")[0] == "transfer"]:
        del sys.modules[name]


def kept_out(transfer: ModuleType, tested: str, recipe=None, **settings):
    question = transfer.Question("t", "c", {}, {}, ("film_a", "film_b"), "", **settings)
    rows = RUNS[RUNS["key"] == tested]
    found = transfer.unseen(question, RUNS, rows, recipe or {})
    return found["data.datasets"], found["data.holdout_runs"]


def test_people_and_data_sets_that_are_tested_are_kept_out(transfer):
    assert kept_out(transfer, "b2") == (["film_a"], ["a2"])


def test_where_people_alone_are_new_the_data_sets_stay(transfer):
    assert kept_out(transfer, "b2", unseen=("person",)) == (["film_a", "film_b"], ["a2", "b2"])


def test_where_runs_are_new_the_person_stays(transfer):
    assert kept_out(transfer, "b2", unseen=("key",)) == (["film_a", "film_b"], ["b2"])


def test_fewer_people_are_the_first_by_name(transfer):
    assert kept_out(transfer, "c3", {"n_people": 1}) == (["film_a", "film_b"], ["a2", "b2"])


def test_every_question_has_the_corpora_that_it_names(transfer):
    for name, question in transfer.QUESTIONS.items():
        assert {question.corpus, question.pretrain_corpus or question.corpus} <= set(transfer.CORPORA), name


def test_a_record_names_the_code_that_began_the_work_folder(transfer, tmp_path, monkeypatch):
    import transfer_record

    transfer_record.begin(tmp_path)
    begun = json.loads((tmp_path / transfer_record.BEGUN).read_text())
    assert begun["code"] and begun["machine"]
    (tmp_path / transfer_record.BEGUN).write_text(json.dumps(begun | {"commit": "1234567", "code": "old"}))
    transfer_record.begin(tmp_path)  # a later call, of other code, goes on with what is there
    written = {}
    monkeypatch.setattr(transfer_record.record, "write", lambda name, content: written.update(content))
    transfer_record.write({}, tmp_path)
    assert (written["commit"], written["code"], written["date"]) == ("1234567", "old", begun["date"])
