"""All pages in a real browser, on a phone and a desk, light and dark: nothing collides, fades or spills."""

import pages
import pytest
from browser import CHROMIUM, EXAMINE

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
SIZES = {390: 844, 1280: 900}
"""Height of the first screen by width."""


@pytest.fixture(scope="session")
def browser():
    """One browser for all tests."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the file of a page, drawn once."""
    drawn = {}

    def file(name):
        if name not in drawn:
            drawn[name] = pages.PAGES[name](tmp_path_factory.mktemp(name))
        return drawn[name]

    return file


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_is_legible_everywhere(browser, files, tmp_path, name):
    file = files(name)
    for width, height in SIZES.items():
        context = browser.new_context(viewport={"width": width, "height": height})
        page = context.new_page()
        told, asked = [], []
        page.on("console", lambda message, told=told: told.append(message.text))
        page.on("pageerror", lambda error, told=told: told.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(file.as_uri())
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.screenshot(path=tmp_path / f"{name}-{width}-{theme}.png")
            if theme == "light":
                first_screen(page, width, height)
                page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            faults = {kind: found for kind, found in page.evaluate(EXAMINE).items() if found}
            assert not faults, (name, width, theme, faults)
        assert not told
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        context.close()


def first_screen(page, width, height):
    """Assert that the page opens on its answer, everything else folded, and fits."""
    assert page.locator("details[open]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("h1", ".word", ".why"):
        box = page.locator(f"header {part}").bounding_box()
        assert box["y"] + box["height"] <= height, part
    picture = page.locator(".picture").bounding_box()
    assert picture["y"] + 60 <= height, "its picture begins there too"


def test_dark_is_dark_and_light_is_light(browser, files):
    page = browser.new_page()
    page.goto(files("study_no").as_uri())
    found = {}
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        found[theme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('svg.drawn text, svg.axis text')).fill]"
        )
    assert found["light"][0] == "rgb(251, 250, 248)" and found["dark"][0] == "rgb(20, 24, 28)"
    assert found["light"][1] != found["dark"][1], "figures change with the page"


def test_what_is_folded_is_printed(browser, files):
    page = browser.new_page()
    page.goto(files("study_no").as_uri())
    seen = "[...document.querySelectorAll('details table')].map((table) => table.checkVisibility())"
    assert not any(page.evaluate(seen))
    page.emulate_media(media="print")
    assert all(page.evaluate(seen))
