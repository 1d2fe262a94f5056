"""The page in a browser: what people see, hear and reach, in both themes and on a phone, and where it sends things."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loadtests.local_service import LocalService, local_service
from serving.keys import Scope, new_key
from tests.conftest import CHROMIUM, PAIR, ROOT

pytestmark = pytest.mark.browser

OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
PHONE, DESK = {"width": 390, "height": 800}, {"width": 1200, "height": 900}
HOSTILE = "<img src=x onerror=alert(1)>.png"
LIGHTNESS = """(canvas) => {
  const copy = new OffscreenCanvas(8, 8).getContext("2d", { willReadFrequently: true });
  const cell = canvas.width / 8;
  for (let place = 0; place < 64; place += 1) {
    const [x, y] = [place % 8, Math.floor(place / 8)];
    copy.drawImage(canvas, (x + 0.5) * cell, (y + 0.5) * cell, 1, 1, x, y, 1, 1);
  }
  const { data } = copy.getImageData(0, 0, 8, 8);
  const weighted = (at) => 0.2126 * data[at] + 0.7152 * data[at + 1] + 0.0722 * data[at + 2];
  return Array.from({ length: 64 }, (_, place) => weighted(4 * place));
}"""
CONTRAST = """() => {
  const channels = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const filled = node.querySelector(":scope > .filled");
      const found = channels(getComputedStyle(filled ?? node).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("noscript")) continue;
    const [one, other] = [light(channels(getComputedStyle(node).color)), light(ground(node))];
    found.push([walker.currentNode.data, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


Opens = Callable[..., Any]


@pytest.fixture
def opens(browser: Any, service: LocalService) -> Iterator[Opens]:
    """A page of a service; afterwards it has sent nothing elsewhere, and complained of nothing but refusals."""
    pages, elsewhere, complaints = [], [], []

    def guard(route: Any) -> None:
        ours = re.fullmatch(r"http://127\.0\.0\.1:\d+/.*", route.request.url)
        if ours is None:
            elsewhere.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    def open_page(url: str = service.url, **context: Any) -> Any:
        opened = browser.new_context(**({"viewport": DESK} | context))
        opened.route(re.compile("^http"), guard)
        page = opened.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(f"{url}/")
        pages.append(opened)
        return page

    yield open_page
    for each in pages:
        each.close()
    assert elsewhere == []
    assert [each for each in complaints if not each.startswith("Failed to load resource")] == []


def card(page: Any, name: str) -> Any:
    return page.get_by_role("article", name=name)


def shows(page: Any, *paths: Path) -> None:
    from playwright.sync_api import expect

    page.set_input_files("#files", [str(path) for path in paths])
    for path in paths:
        expect(card(page, path.name).locator(".verdict")).not_to_have_text("Asking…")


def opens_maps(page: Any, name: str) -> None:
    from playwright.sync_api import expect

    for button in card(page, name).get_by_role("button", name="What did it look at?").all():
        button.click()
    expect(card(page, name).get_by_role("figure")).to_have_count(len(PAIR))


def explanation(service: LocalService, variant: str, label: str, content: bytes) -> dict[str, Any]:
    """What the service says itself."""
    labels = httpx.get(f"{service.url}/variants").json()["variants"][PAIR.index(variant)]["labels"]
    query = {"variant": variant, "class": labels.index(label)}
    found: dict[str, Any] = httpx.post(f"{service.url}/explain", params=query, content=content).json()
    return found


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image at all")
    return path


def test_every_variant_answers_a_photograph_side_by_side(opens: Opens, photographs: Path) -> None:
    page = opens()
    assert page.url.endswith("/ui/")
    shows(page, photographs / "chelsea.png")
    chelsea = card(page, "chelsea.png")
    assert chelsea.locator(".verdict").inner_text() == "Both variants agree: cat"
    assert chelsea.get_by_role("heading", level=4).all_inner_texts() == list(PAIR)
    for column in chelsea.locator(".answer").all():
        assert column.locator("li").count() == 5
        assert re.fullmatch(r"cat\s+(99|100)\.\d %", column.locator("li").first.inner_text())
        assert column.locator("dt").all_inner_texts() == ["queue", "decode", "infer", "network, browser", "round trip"]
        assert all(re.fullmatch(r"[\d.]+ ms", each) for each in column.locator("dd").all_inner_texts())
    assert page.get_by_role("status").inner_text() == "chelsea.png: Both variants agree: cat"


def test_a_broken_image_is_refused_in_its_place_and_harms_no_other(
    opens: Opens, photographs: Path, broken: Path
) -> None:
    page = opens()
    shows(page, photographs / "chelsea.png", broken)
    text = card(page, "broken.png").inner_text()
    assert "no readable image" in text
    assert "not_an_image" in text
    assert text.count("no readable image") == 1
    assert card(page, "chelsea.png").locator(".verdict").inner_text().endswith("agree: cat")


def test_the_drawing_needs_no_photograph(opens: Opens) -> None:
    from playwright.sync_api import expect

    page = opens()
    page.get_by_role("button", name="Try without a photograph").click()
    expect(card(page, "drawing").locator(".verdict")).to_contain_text("ship")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_photograph_may_be_pasted_or_dropped(opens: Opens, photographs: Path, kind: str) -> None:
    from playwright.sync_api import expect

    page = opens()
    content = base64.b64encode((photographs / "chelsea.png").read_bytes()).decode()
    page.evaluate(
        """([kind, content]) => {
          const data = new DataTransfer();
          const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
          data.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
          const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
          const event = new Kind(kind, { bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data });
          document.body.dispatchEvent(event);
        }""",
        [kind, content],
    )
    expect(card(page, f"{kind}.png").locator(".verdict")).to_contain_text("cat")


@pytest.mark.parametrize("place", range(len(PAIR)))
def test_a_bar_opens_the_map_of_its_class(opens: Opens, service: LocalService, photographs: Path, place: int) -> None:
    from playwright.sync_api import expect

    page = opens()
    shows(page, photographs / "chelsea.png")
    column = card(page, "chelsea.png").locator(".answer").nth(place)
    bar = column.locator(".bar").nth(1)
    bar.click()
    content = (photographs / "chelsea.png").read_bytes()
    said = explanation(service, PAIR[place], bar.locator(".label").inner_text(), content)
    caption = column.get_by_role("figure").locator("figcaption")
    expect(caption).to_contain_text(f"Where {PAIR[place]} finds {said['label']}")
    expect(caption).to_contain_text(f"its mean, {said['logit']:.1f},")
    assert bar.get_attribute("aria-pressed") == "true"
    bar.click()
    expect(column.get_by_role("figure")).to_have_count(0)


def test_the_map_is_brightest_where_the_service_says(opens: Opens, service: LocalService, photographs: Path) -> None:
    """With nothing of the photograph left, a pixel's lightness goes as the value of its place."""
    page = opens()
    shows(page, photographs / "chelsea.png")
    column = card(page, "chelsea.png").locator(".answer").first
    column.locator(".look").click()
    slider = column.get_by_role("slider", name="Opacity")
    slider.press("End")
    drawn = np.reshape(column.locator("figure > canvas").evaluate(LIGHTNESS), (8, 8))
    said = explanation(service, PAIR[0], "cat", (photographs / "chelsea.png").read_bytes())
    assert np.corrcoef(drawn.ravel(), np.ravel(said["map"]))[0, 1] > 0.95
    assert drawn.argmax() == np.argmax(said["map"])
    slider.press("Home")
    plain = np.reshape(column.locator("figure > canvas").evaluate(LIGHTNESS), (8, 8))
    assert np.corrcoef(plain.ravel(), drawn.ravel())[0, 1] < 0.9


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_is_readable(opens: Opens, photographs: Path, broken: Path, theme: str) -> None:
    page = opens(color_scheme=theme)
    shows(page, photographs / "chelsea.png", broken)
    opens_maps(page, "chelsea.png")
    page.get_by_text("percentiles interpolated").wait_for()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 300) == (theme == "dark")
    found = page.evaluate(CONTRAST)
    assert len(found) > 60
    assert [(text, ratio) for text, ratio in found if ratio < 4.5] == []


def test_a_phone_scrolls_down_alone(opens: Opens, photographs: Path, broken: Path) -> None:
    page = opens(viewport=PHONE)
    shows(page, photographs / "chelsea.png", broken)
    opens_maps(page, "chelsea.png")
    page.get_by_text("percentiles interpolated").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_keyboard_is_enough(opens: Opens, photographs: Path) -> None:
    from playwright.sync_api import expect

    page = opens()
    page.on("filechooser", lambda _: None)  # from now on it is ours to answer; a later listener may come too late
    page.get_by_text("Served:").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    outline = "getComputedStyle(document.querySelector('label[for=files]')).outlineStyle"
    assert page.evaluate(outline) == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(photographs / "chelsea.png")
    expect(card(page, "chelsea.png").locator(".verdict")).to_contain_text("cat")
    for _ in range(2):  # past the drawing to the first bar
        page.keyboard.press("Tab")
    assert "cat" in page.evaluate("document.activeElement.innerText")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(card(page, "chelsea.png").get_by_role("img", name="most speaks for cat")).to_be_visible()


def test_a_hostile_name_is_text(opens: Opens, photographs: Path, tmp_path: Path) -> None:
    path = tmp_path / HOSTILE
    path.write_bytes((photographs / "chelsea.png").read_bytes())
    page = opens()
    shows(page, path)
    assert page.get_by_role("heading", level=3).inner_text() == HOSTILE
    assert page.locator("img[src=x]").count() == 0


def test_hostile_names_of_variants_and_classes_are_text(opens: Opens, photographs: Path) -> None:
    """A stranger's labels come by an answer, which is changed on its way."""
    page = opens()

    def replace(route: Any) -> None:
        answer = route.fetch()
        said = answer.json()
        said["predictions"][0]["label"] = said["variant"] = HOSTILE
        route.fulfill(response=answer, body=json.dumps(said))

    page.route("**/classify?**", replace)
    shows(page, photographs / "chelsea.png")
    assert page.locator(".bar .label").first.inner_text() == HOSTILE
    assert page.locator("img[src=x]").count() == 0


def test_the_page_may_do_nothing_that_its_policy_forbids(browser: Any, service: LocalService) -> None:
    from playwright.sync_api import Error

    with browser.new_page() as page:
        page.goto(service.url)
        with pytest.raises(Error, match="Content Security Policy"):
            page.add_script_tag(content="document.title = 'changed'")
        assert page.title() != "changed"
        assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"


def test_a_screen_reader_finds_its_way(opens: Opens, photographs: Path) -> None:
    page = opens()
    shows(page, photographs / "chelsea.png")
    opens_maps(page, "chelsea.png")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title()
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((each) => +each.tagName[1])")
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    unnamed = """[...document.querySelectorAll("input, button, a, canvas, img")].filter((each) =>
      !(each.labels?.length || each.ariaLabel || each.innerText?.trim() || each.hasAttribute("alt")
        || each.closest("[aria-hidden=true]"))).map((each) => each.outerHTML)"""
    assert page.evaluate(unnamed) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("main").count() == page.get_by_role("status").count() == 1


def test_a_service_that_is_away_is_said_in_place(opens: Opens, photographs: Path) -> None:
    page = opens()
    page.get_by_text("Served:").wait_for()
    page.route("**/classify?**", lambda route: route.abort())
    shows(page, photographs / "chelsea.png")
    assert "The service does not answer" in card(page, "chelsea.png").inner_text()
    assert card(page, "chelsea.png").locator(".verdict").inner_text() == "No answer"


def test_what_the_service_does_is_watched(opens: Opens, photographs: Path) -> None:
    from playwright.sync_api import expect

    page = opens()
    page.get_by_text("percentiles interpolated").wait_for()
    shows(page, photographs / "chelsea.png")
    panel = page.locator("#live")
    expect(panel.get_by_role("row", name="infer").get_by_role("cell").first).to_have_text(
        re.compile(r"^[\d.]+ / [\d.]+$"), timeout=20_000
    )
    assert panel.get_by_role("columnheader").all_inner_texts() == ["p50 / p99, ms", *PAIR]


def test_metrics_are_read_as_prometheus_reads_them(opens: Opens) -> None:
    page = opens()
    registry = CollectorRegistry()
    Counter("any", 'with "quotes"', ["name"], registry=registry).labels('a "b"\\ {c="d"},\n').inc(3)
    histogram = Histogram("seconds", "any", buckets=(1, 2, 4), registry=registry)
    for value in (0.5, 1.5, 1.6, 3, 9):
        histogram.observe(value)
    text = generate_latest(registry).decode()
    expected = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found, low, high, nothing = page.evaluate(
        """async (text) => {
          const { parse, of, quantile } = await import("/ui/prometheus.js");
          const samples = parse(text).map(({ name, labels, value }) => ({ name, labels, value }));
          const buckets = of("seconds_bucket", samples);
          return [samples, quantile(0.5, buckets), quantile(0.99, buckets), quantile(0.5, [])];
        }""",
        text,
    )
    assert [(each["name"], each["labels"], each["value"]) for each in found] == [
        (sample.name, sample.labels, sample.value) for sample in expected
    ]
    assert low == pytest.approx(1 + (2.5 - 1) / 2)  # 2.5 of 5 observations: 1 lies below 1, 2 more below 2
    assert (high, nothing) == (4, None)


def test_a_key_is_asked_for_where_it_is_needed_and_kept_in_memory_alone(
    opens: Opens, photographs: Path, tmp_path: Path, exported_pair: tuple[str, str]
) -> None:
    from playwright.sync_api import expect

    made = {scope: new_key(scope, "") for scope in Scope}
    (tmp_path / "keys").write_text("\n".join(line for _, line in made.values()))
    environment = {"SERVING_MODELS": ",".join(exported_pair), "SERVING_API_KEYS_FILE": str(tmp_path / "keys")}
    with local_service(environment=environment, folder=ROOT) as running:
        page = opens(running.url)
        field = page.get_by_label("This service asks for an API key")
        expect(field).to_be_visible()
        asked_without_a_key: list[Any] = []

        def hold_the_first(route: Any) -> None:
            if asked_without_a_key:
                route.continue_()
            else:
                asked_without_a_key.append(route)

        page.route("**/variants", hold_the_first)
        page.set_input_files("#files", [str(photographs / "chelsea.png")])
        for _ in range(500):
            if asked_without_a_key:
                break
            page.wait_for_timeout(10)
        field.fill("wrong")
        field.press("Enter")
        asked_without_a_key[0].continue_()  # refused only after another key was given
        expect(page.get_by_text("the API key is not known here")).to_be_visible()
        field.fill(made[Scope.PREDICT][0])
        field.press("Enter")
        expect(card(page, "chelsea.png").locator(".verdict")).to_contain_text("cat")
        expect(field).to_be_hidden()
        expect(page.get_by_text("Needs a key with the scope observe.")).to_be_visible()
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
        assert made[Scope.PREDICT][0] not in kept + page.content()
        page.reload()
        expect(field).to_be_visible()
