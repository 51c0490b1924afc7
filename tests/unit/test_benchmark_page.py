"""docs/benchmarks.md says what the records say, and how old they are beside today's code."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
PAGES = [ROOT / "docs" / name for name in ("benchmarks.md", "benchmark.md")]
FIGURE = r"(?<![\w.,])(\d+(?:,\d{3})*(?:\.\d+)?(?:e-\d+)?)(?!\w)( %| times)?"


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import page
        import record
        import study_figures

        patch.setattr(record, "page", page, raising=False)
        patch.setattr(record, "study_figures", study_figures, raising=False)
        yield record


def test_the_page_is_that_of_the_records_and_of_the_code_of_today(modules):
    rendered = modules.page.render(modules.read())
    assert rendered == PAGES[0].read_text(), "make bench PAGE=only writes the page anew"


def test_figures_that_share_a_label_have_a_row_each(modules):
    records = modules.read()
    for name, entry in modules.catalogue()["benchmarks"].items():
        if name in records and modules.page.shown(name, records):
            section = modules.page.render(records).partition(f"### {entry['title']}\n")[2].partition("\n#")[0]
            rows = [line for line in section.splitlines() if line.startswith("| ")]
            assert len(rows) == 1 + len(modules.page.shown(name, records)), name


def test_every_record_says_how_where_and_when_and_names_no_machine(modules):
    known = modules.catalogue()["benchmarks"]
    for name, found in modules.read().items():
        assert found["figures"] and found["commands"] and found["machine"], name
        assert set(found["figures"]) & set(known[name]["figures"]), name
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"]), name
        assert found["code"] or found["source"], name
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|usr|opt|mnt|data|Users)/", json.dumps(found)), name


def test_every_benchmark_has_its_place_on_the_page_and_code_that_exists(modules):
    told = modules.catalogue()
    placed = [name for section in told["sections"] for name in section["benchmarks"]]
    assert sorted(placed) == sorted(told["benchmarks"])
    for name, entry in told["benchmarks"].items():
        assert all(any(ROOT.glob(pattern)) for pattern in entry["code"]), name


def figures_in(text: str) -> Iterator[tuple[float, bool]]:
    """Yield numbers, and whether each looks measured: decimals, percentages, ratios, large numbers."""
    for told, unit in re.findall(FIGURE, text):
        yield float(told.replace(",", "")), bool(unit or re.search(r"[.,e]", told))


def test_the_results_of_the_readme_stand_on_the_pages_of_what_was_measured():
    parts = re.split(r"^## (.*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    results = [text for title, text in sections.items() if re.search(r"result|measured", title, re.I)]
    rows = [line for text in results for line in text.splitlines() if line.startswith("|")]
    assert rows, "README.md has no section of results with a table"
    cells = re.sub(r"`[^`]*`|\]\([^)]*\)", "", "\n".join(rows))  # neither code nor addresses
    exact = {number for path in PAGES for number, _ in figures_in(path.read_text())}
    known = exact | {round(number) for number in exact}  # README.md may say 70 % for 69.8 %
    assert not {number for number, is_measured in figures_in(cells) if is_measured} - known


def test_only_what_code_says_to_a_computer_counts(modules, tmp_path: Path):
    def hashed(text: str, name: str = "a.py") -> str:
        modules.meaning.cache_clear()
        (tmp_path / name).write_text(text)
        return modules.code_hash(["*.py", "*.yaml"], tmp_path)

    code = 'def double(x):\n    """Return twice x."""\n    return 2 * x  # twice\n\nN = 3\n"""How many."""\n'
    first = hashed(code)
    assert hashed("def double(x):\n\n    return (2 *\n        x)\nN = 3\n") == first
    assert hashed(code.replace("2 *", "3 *")) != first
    assert hashed(code.replace("2 *", '"2" *')) != first
    assert hashed(code.replace("N = 3", "N = None")) != hashed(code.replace("N = 3", "N = ''")) != first
    assert hashed(code) == first
    with_recipe = hashed("a: 1 # one\nb: [2]\n", "b.yaml")
    assert with_recipe != first
    assert hashed("b:\n  - 2\na: 1\n", "b.yaml") == with_recipe
    (tmp_path / "b.yaml").rename(tmp_path / "c.yaml")
    assert modules.code_hash(["*.py", "*.yaml"], tmp_path) != with_recipe


def test_a_figure_older_than_its_code_is_marked(modules):
    records = modules.read()
    now = modules.code_hash(modules.catalogue()["benchmarks"]["ingest"]["code"])
    found = records["ingest"] | {"code": now, "date": "2026-11-30"}
    assert "Measured on 2026-11-30" in modules.page.render(records | {"ingest": found})
    changed = modules.page.render(records | {"ingest": found | {"code": "0" * 16}})
    assert "**Measured before the last change of its code** (`benchmarks/" in changed
    assert "`fmriscale/ingest`" in changed and "on 2026-11-30" in changed


def test_a_part_gives_way_to_a_newer_record_of_the_whole(modules):
    records, names = modules.read(), [f"slower_with_{n}_runs" for n in ("10k", "100k")]
    part = {name: value for name, value in records["sampling"]["figures"].items() if name not in names}
    records |= {"sampling": records["sampling"] | {"figures": part}}
    assert "### Large corpora" in modules.page.render(records)
    rows = {key: {"value": 0.123, "low": 0.1, "high": 0.2, "n": 7, "unit": "share"} for key in names}
    newer = records["sampling"] | {"figures": part | rows}
    told = modules.page.render(records | {"sampling": newer})
    assert "### Large corpora" not in told
    assert (
        told.count(
            "| a batch is slower with 10,000 runs than with 100 | 12.3 % | 10 to 20 (quartiles), n = 7 |"
        )
        == 1
    )


def test_a_study_is_recorded_in_percent_and_points(modules):
    accuracy = {"mean": 0.599, "low": 0.572, "high": 0.628, "n": 131}
    fresh = {"condition": "all", "first": "pretrained", "second": "fresh", "effect": 0.097, "low": 0.071}
    fresh |= {"high": 0.124, "p": 0.0002, "n": 117, "corrected_p": None}
    of_sizes = [
        {"arm": "fresh", "size": size, "accuracy": size / 100, "low": None, "high": None} for size in (2, 10)
    ]
    summary = {
        "arms": {"pretrained": {"by_condition": {"all": {"accuracy": accuracy}}}},
        "comparisons": [fresh, fresh | {"condition": "heard"}, fresh | {"second": "category", "effect": 0.5}],
        **{"sizes": [2, 10], "by_size": of_sizes, "size_comparisons": [fresh | {"size": 2}], "n_units": 131},
    }
    found = modules.study_figures.figures_of(summary)
    told = modules.make("abide_site", found, ["a command"], 0.054)
    shown = {name: modules.page.with_unit(figure) for name, figure in told["figures"].items()}
    assert shown == {
        **{"pretrained": "59.9 %", "gain": "+9.7 points", "gain_p": "0.0002"},
        **{"fresh_2": "2.0 %", "fresh_10": "10.0 %", "gain_2": "+9.7 points"},
    }
    assert modules.page.between(told["figures"]["gain"], "95 %") == "[+7.1, +12.4], n = 117"
    assert socket.gethostname() not in json.dumps(told)
    assert "other work used 5 % of the cores" in modules.page.told_machine(told["machine"])
    assert modules.state("abide_site", told) == "current"


def test_what_cannot_be_measured_is_refused_by_name():
    for name, says in (("ingset", "no benchmark ingset"), ("transfer", "no program collects the figures")):
        command = [sys.executable, FOLDER / "run.py", "--only", name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
