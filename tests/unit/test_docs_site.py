"""The documentation: it builds without a warning, no page or link is lost, and what is generated is fresh."""

import ast
import doctest
import importlib
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
TOP = sorted(ROOT.glob("*.md"))


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def prose(text: str) -> str:
    """Return Markdown without its blocks of code."""
    fenced = re.sub(r"^(`{3,}|~{3,})[^\n]*\n.*?^\1[ ]*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^(?: {4}|\t).*$", "", fenced, flags=re.MULTILINE)


def slug(heading: str) -> str:
    """Return the anchor of a heading, as git hosts and the site make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#{1,6} (.*)$", prose(text), re.MULTILINE)
    return {slug(heading) for heading in headings} | set(re.findall(r'<a id="([^"]+)"', text))


def links(text: str) -> Iterator[str]:
    without_code = re.sub(r"`[^`\n]*`", "", prose(text))
    yield from re.findall(r"\]\(([^()\s]+)\)", without_code)


class Outside(HTMLParser):
    """Notes what a page of the site loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        is_loaded = tag in ("script", "img", "iframe", "source") or (
            tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload")
        )
        address = given.get("src") or given.get("href") or ""
        if is_loaded and "//" in address:
            self.loaded.append(address)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Build the site; a warning ends the build."""
    if any(importlib.util.find_spec(name) is None for name in ("material", "mkdocstrings")):
        pytest.skip("the site is built with the extra `docs`")
    folder = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", ".mkdocs.yml", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder


def test_the_site_builds_without_a_warning_can_be_searched_and_loads_nothing_from_elsewhere(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    loaded = {}
    for page in pages:
        parser = Outside()
        parser.feed(page.read_text())
        if parser.loaded:
            loaded[page.name] = parser.loaded
    assert not loaded
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"url\(\s*['\"]?(?:https?:)?//", styles)
    index = (site / "search" / "search_index.json").read_text()
    assert "reference/settings/pretrain.html#datapairslength" in index
    assert "fmriscale.EncoderTransformer" in index


def test_every_page_stands_in_the_navigation_once():
    navigation = (ROOT / ".mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"([\w/]+\.md)\s*$", navigation, re.MULTILINE)
    assert len(listed) == len(set(listed))
    pages = {path.relative_to(DOCS).as_posix() for path in PAGES}
    pages |= {path.name.lower() for path in TOP if path.name != "README.md"}  # SECURITY.md is security.md
    missing = sorted(pages - set(listed))
    assert not missing, f"add these pages to `nav` of .mkdocs.yml: {missing}"
    assert not set(listed) - pages


@pytest.mark.parametrize("name", names([*TOP, *PAGES]))
def test_links_lead_to_files_and_anchors_that_are_there(name: str):
    text, wrong = (ROOT / name).read_text(), []
    for link in links(text):
        address = urlsplit(link)
        if address.scheme:
            plausible = address.scheme == "https" and re.fullmatch(
                r"[\w.-]+\.[a-z]{2,}(:\d+)?", address.netloc
            )
            if not plausible and not link.startswith("mailto:"):
                wrong.append(link)
            continue
        path = (ROOT / name).parent / unquote(address.path) if address.path else ROOT / name
        is_there = path.exists() and path.resolve().is_relative_to(ROOT.resolve())
        if not is_there or (address.fragment and address.fragment not in anchors(path.read_text())):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("name", names([*TOP, *PAGES]))
def test_a_page_has_one_title_and_leaves_out_no_level_of_headings(name: str):
    levels = [
        len(marks) for marks in re.findall(r"^(#{1,6}) ", prose((ROOT / name).read_text()), re.MULTILINE)
    ]
    assert levels and levels[0] == 1 and levels.count(1) == 1
    assert not [pair for pair in itertools.pairwise(levels) if pair[1] > pair[0] + 1]


@pytest.mark.parametrize("name", names(PAGES))
def test_lists_begin_after_an_empty_line_so_that_every_reader_sees_a_list(name: str):
    lines = prose((ROOT / name).read_text()).splitlines()
    item = re.compile(r"(?:[*+-]|\d+\.) ")
    glued = [
        line
        for before, line in itertools.pairwise(lines)
        if item.match(line) and before.strip() and not item.match(before) and not before.startswith("  ")
    ]
    assert not glued


@pytest.fixture(scope="module")
def reference() -> Iterator[Callable[[str], Any]]:
    """Give the module of a generator by its name."""
    home = str(ROOT / "tools" / "reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        yield importlib.import_module
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(home):
            del sys.modules[name]


def test_the_generated_pages_are_what_the_code_says(reference):
    old = [str(path.relative_to(ROOT)) for path, _ in reference("render").stale()]
    assert not old, f"write these pages anew with `python tools/reference`: {old}"


def test_every_setting_has_its_anchor(reference):
    settings = reference("settings")
    for recipe in settings.RECIPES:
        text = (DOCS / "reference" / "settings" / f"{recipe.verb}.md").read_text()
        keys = [dotted for part in settings.parts_of(recipe.cls) for dotted, _ in settings.keys_of(part)]
        assert set(keys) <= anchors(text)
    assert "data.pairs.length" in anchors((DOCS / "reference" / "settings" / "pretrain.md").read_text())


def test_every_variable_that_the_source_reads_is_documented(reference):
    command_line = reference("command_line")
    documented = {name for entry in command_line.TEXTS["variables"] for name in entry["names"]}
    read = command_line.variables_read()
    assert {"FMRISCALE_CACHE", "FMRISCALE_OUTCOME", "SLURM_ARRAY_TASK_COUNT", "MASTER_ADDR"} <= read
    assert not read - documented


def test_every_exit_code_is_explained(reference):
    from fmriscale.common import errors

    assert set(reference("command_line").TEXTS["codes"]) == {
        name for name in vars(errors) if name.startswith("EXIT_")
    }


def test_every_public_name_is_in_the_reference():
    import fmriscale

    text = (DOCS / "reference" / "python_api.md").read_text()
    documented = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    assert {f"fmriscale.{name}" for name in fmriscale.__all__ if name != "__version__"} <= documented


@pytest.mark.parametrize("module", ["config.recipe", "corpus.manifest", "corpus.create", "sampling.loader"])
def test_the_examples_of_public_docstrings_run(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(f"fmriscale.{module}"))
    assert tried and not failed


def messages_in_source() -> Iterator[tuple[str, str]]:
    """Yield where a refusal is raised, and the longest piece of its message that stands in the raise."""
    for path in sorted((ROOT / "fmriscale").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else None
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or not call.args:
                continue
            if call.func.id in ("UserError", "DamageError", "SaveError", "Rejected"):
                texts = [n.value for n in ast.walk(call.args[-1]) if isinstance(n, ast.Constant)]
                pieces = [" ".join(text.split()) for text in texts if isinstance(text, str)]
                if pieces:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", max(pieces, key=len)


def test_every_refusal_that_is_raised_stands_in_troubleshooting():
    told = " ".join("".join(page.read_text() for page in PAGES if "troubleshooting" in str(page)).split())
    found = dict(messages_in_source())
    assert len(found) > 300
    assert not {where: piece for where, piece in found.items() if len(piece) > 11 and piece not in told}


def test_every_refusal_has_one_anchor_and_every_anchor_its_refusal(reference):
    pages, slugs = reference("troubleshooting").pages(), reference("refusals").slugs()
    listed = [a for text in pages.values() for a in re.findall(r'^<a id="([^"]+)">', text, re.MULTILINE)]
    assert sorted(listed) == sorted(slugs)


def test_the_reasons_of_quarantine_are_those_of_the_corpus_format(reference):
    table = (
        (DOCS / "corpus_format.md").read_text().partition("\n## quarantine.tsv\n")[2].partition("\n## ")[0]
    )
    first_cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    listed = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert listed == set(reference("troubleshooting").TEXTS["reasons"])


REFUSED = {
    "an unknown key": ["pretrain", "--train.lrr", "1e-4"],
    "a wrong type": ["pretrain", "--data.corpus", "x", "--out", "y", "--train.lr", "fast"],
    "a missing key": ["probe", "--corpus", "x", "--out", "y"],
    "a rule between keys": ["shard", "--out", "y", "--split.val", "2"],
    "no recipe": ["shard", "--config", "nowhere.yaml"],
    "no corpus": ["inspect", "nowhere"],
    "no encoder": ["publish", "nowhere"],
    "no study": ["report", "nowhere"],
    "an option without a value": ["finetune", "--out"],
    "an impossible machine": ["plan", "--gpus", "0"],
    "a verb": ["pretend"],
    "a name of a file": ["embed", "run", "corpus", "--out", "x.txt"],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_command_line_says_is_found_by_its_words(what, reference, capsys, monkeypatch, tmp_path):
    from fmriscale.cli import run

    monkeypatch.chdir(tmp_path)
    assert run(REFUSED[what]) == 2
    said = capsys.readouterr().err.removeprefix("fmriscale: error: ").strip()
    forms = [form for refusal in reference("refusals").refusals() for form in refusal.forms]
    patterns = [
        ".*".join(re.escape(piece) for piece in re.split(r"<\w+>", form)) for form in forms
    ]  # what stands before a message (the file, the option) and after it (a suggestion) is not part of it
    assert any(re.search(pattern, line) for pattern in patterns for line in said.splitlines())
