"""The report in a real browser: it loads nothing, both themes can be read, and a phone shows all of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loadtests.page import write_capacity, write_report
from loadtests.page.content import Banner, Page, Tone
from loadtests.page.render import write_page
from tests.conftest import CHROMIUM
from tests.loadtests import made_up

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

pytestmark = pytest.mark.browser

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
AA = 4.5  # WCAG 2.2, 1.4.3: the least contrast of text
PHONE_PX, SCREEN_PX = 390, 1280

# Every text with its colour and that of the nearest opaque surface behind it, as [red, green, blue] of 255.
TEXTS = """() => {
  const rgba = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a] }
  const found = []
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement
    const text = walker.currentNode.data.trim()
    if (!text || element.closest('script, style, title, desc') || !element.getClientRects().length) continue
    const style = getComputedStyle(element)
    let behind = element
    while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] < 1) behind = behind.parentElement
    const surface = behind ? getComputedStyle(behind).backgroundColor : 'rgb(255, 255, 255)'
    found.push([text, rgba(element.closest('svg') ? style.fill : style.color), rgba(surface)])
  }
  return found
}"""

# Title and description of a figure.
NAMES = """figure => figure.getAttribute('aria-labelledby').split(' ')
  .map(id => document.getElementById(id).textContent)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    short, capacities = made_up.results(rounds=4, requests=30), [made_up.capacity(), made_up.capacity("b" * 90)]
    banners = {tone.value: write_page(folder / tone, "report", banner(tone)) for tone in Tone}
    return banners | {
        "comparison": write_report(folder / "comparison", short, made_up.comparison(), capacities),
        "spoilt": write_report(folder / "spoilt", made_up.spoilt(short), made_up.comparison(made_up.verdict())),
        "capacity": write_capacity(folder / "capacity", capacities, made_up.known()),
    }


def banner(tone: Tone) -> Page:
    return Page("A banner", "in a tone", Banner(tone, "This is what came out", ["and why"]), [], [], {})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET) as started:
        yield started


@pytest.fixture
def opened(browser: Browser) -> Iterator[Any]:
    """Open a page in a theme and a width; anything that it loads or complains of fails the test."""
    complaints: list[str] = []
    contexts = []

    def opener(path: Path, scheme: str, width: int) -> Tab:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
        )
        contexts.append(context)
        page = context.new_page()

        def route(route: Any) -> None:
            if route.request.url == path.as_uri():
                route.continue_()
            else:
                complaints.append(f"asked for {route.request.url}")
                route.abort()

        page.route("**/*", route)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        return page

    yield opener
    for context in contexts:
        context.close()
    assert not complaints


def luminance(colour: list[float]) -> float:
    """Relative, of sRGB (WCAG 2.2)."""
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in (c / 255 for c in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: list[float], second: list[float]) -> float:
    lighter, darker = sorted((luminance(first[:3]), luminance(second[:3])), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([118, 118, 118], [255, 255, 255]) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [*Tone, "comparison", "spoilt", "capacity"])
def test_every_text_stands_out_from_what_is_behind_it(
    opened: Any, pages: dict[str, Path], name: str, scheme: str
) -> None:
    page = opened(pages[name], scheme, SCREEN_PX)
    texts = page.evaluate(TEXTS)
    assert texts
    pale = [(text, contrast(colour, surface)) for text, colour, surface in texts if contrast(colour, surface) < AA]
    assert pale == []
    surface = luminance(texts[0][2][:3])
    assert surface < 0.1 if scheme == "dark" else surface > 0.9, f"the {scheme} theme was not taken"


@pytest.mark.parametrize("name", ["comparison", "spoilt", "capacity"])
def test_a_phone_needs_no_sideways_scrolling(opened: Any, pages: dict[str, Path], name: str) -> None:
    page = opened(pages[name], "light", PHONE_PX)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE_PX
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map(each => each.getBoundingClientRect().height))"
    )
    assert smallest >= 9, "text of figures is legible"


def test_who_does_not_see_the_page_can_follow_it(opened: Any, pages: dict[str, Path]) -> None:
    page = opened(pages["comparison"], "light", SCREEN_PX)
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title() == "resnet20-preact against resnet20-postact"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    images = page.get_by_role("img").all()
    assert len(images) == page.locator("svg").count() == 7
    for image in images:
        named = image.evaluate(NAMES)
        assert all(named)
    assert page.evaluate("[...document.querySelectorAll('table')].every(each => each.caption)")
    assert page.evaluate("[...document.querySelectorAll('th')].every(each => ['row', 'col'].includes(each.scope))")
    assert page.evaluate("[...document.querySelectorAll('tbody tr')].every(each => each.cells[0].tagName === 'TH')")


def test_a_figure_by_itself_takes_the_readers_theme(browser: Browser, pages: dict[str, Path]) -> None:
    colours = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
        page = context.new_page()
        page.goto((pages["comparison"].parent / "report-rounds.svg").as_uri())
        colours.append(page.evaluate("getComputedStyle(document.querySelector('text')).fill"))
        context.close()
    assert colours[0] != colours[1]
