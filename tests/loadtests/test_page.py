"""The report says what was measured, shows loudly what is doubtful, and trusts no text that it was given."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtests.findings import Comparison, Decision, Interval
from loadtests.page import as_text, capacity_text, served_content, write_capacity, write_report
from loadtests.page.numbers import bound, change, interval, number
from loadtests.page.reading import by_round, value
from loadtests.page.render import escaped
from loadtests.recording import Outcome, Recording
from loadtests.results import Results, Side, Turn
from tests.loadtests import made_up

HOSTILE = "</script><script>alert(1)</script> | $x_1$ 模型 `code` [link](http://evil.example)"
SHORT = made_up.results(rounds=4, requests=30)


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        self.text += "" if self.inside else f"{data} "

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it."""
    made = tmp_path_factory.mktemp("report") / "of" / "today"
    capacities = [made_up.capacity(), made_up.capacity("resnet20-preact", 450.0)]
    assert write_report(made, SHORT, made_up.comparison(made_up.verdict()), capacities) == made / "report.html"
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> Elements:
    return Elements((folder / "report.html").read_text())


def test_the_page_and_its_markdown_say_the_same(folder: Path, page: Elements) -> None:
    markdown = (folder / "report.md").read_text()
    told = [
        "Do not ship", "-4.6 % [-5.3, -3.9]", "+0.1 % [-0.7, +0.9]", "no difference shown", "max_regression_percent",
        "undecided", "91.63 % (10,000 images, CIFAR-10 test)", "not measured: no labelled data was given", "p99 lag",
        "503: the queue is full", "poisson:120", "450 req/s", "p99 over the objective in 2 of 3 windows",
    ]  # fmt: skip
    for text in told:
        assert text in page.text
        assert escaped(text) in markdown


def test_the_page_asks_for_nothing_from_anywhere(folder: Path, page: Elements) -> None:
    fetching = [(tag, found) for tag, found in page.tags if {"src", "href", "data", "srcset"} & found.keys()]
    assert fetching == []
    assert not re.search(r"@import|url\((?!#)", (folder / "report.html").read_text())


def test_ids_are_unique_and_what_figures_refer_to_is_there(folder: Path, page: Elements) -> None:
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    text = (folder / "report.html").read_text()
    named = re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"|aria-labelledby="([^" ]+) ([^"]+)"', text)
    referred = {each for found in named for each in found if each}
    assert referred
    assert referred <= set(ids)


def test_figures_stand_beside_the_markdown_and_take_the_readers_theme(folder: Path) -> None:
    shown = re.findall(r"\(([\w-]+\.svg)\)", (folder / "report.md").read_text())
    names = ("change", "percentiles", "distribution", "rounds", "changes", "stages", "capacity")
    assert shown == [f"report-{name}.svg" for name in names]
    for name in shown:
        text = (folder / name).read_text()
        drawing = ElementTree.fromstring(text)
        words = [drawing.findtext(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc")]
        assert all(words), name
        assert "prefers-color-scheme: dark" in text
        drawn = text.partition("</style>")[2]
        assert set(re.findall(r"var\(--([\w-]+)\)", drawn)) <= set(re.findall(r"--([\w-]+):", text))
        assert not re.search(r"#[0-9a-f]{6}", drawn), f"{name} has a colour of its own"


def test_the_same_results_make_the_same_files(folder: Path, tmp_path: Path) -> None:
    capacities = [made_up.capacity(), made_up.capacity("resnet20-preact", 450.0)]
    write_report(tmp_path, SHORT, made_up.comparison(made_up.verdict()), capacities)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_conditions_can_be_read_by_programs(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="conditions">(.*?)</script>', text, re.DOTALL)
    assert found
    assert json.loads(found[1]) == SHORT.conditions


def test_hostile_texts_are_shown_and_do_nothing(tmp_path: Path) -> None:
    """A name and a reason come from outside: a service, a command line."""
    recording = made_up.recording(made_up.np.random.default_rng(0), 1.0, 20)
    recording.add(Outcome(0.0, 0.0, 0.01, 500, HOSTILE))
    turns = [Turn(0, place, side, 1.0, recording, invalid=HOSTILE) for place, side in enumerate(made_up.ORDERS[0])]
    targets = {side: {"host": HOSTILE, "variant": f"{side}{HOSTILE}", "served": {}} for side in Side}
    verdict = made_up.verdict()
    gates = [replace(gate, name=HOSTILE, reason=HOSTILE) for gate in verdict.gates]
    comparison = made_up.comparison(replace(verdict, reasons=[HOSTILE], gates=gates))
    results = Results(made_up.known(targets=targets, machine=HOSTILE), turns)
    page = Elements(write_report(tmp_path, results, comparison, [made_up.capacity(HOSTILE)]).read_text())
    assert [found for tag, found in page.tags if tag == "script"] == [{"type": "application/json", "id": "conditions"}]
    assert page.count("a") == 0
    assert page.text.count("<script>alert(1)</script>") > 10
    markdown = (tmp_path / "report.md").read_text()
    assert "<script" not in markdown
    assert "[link](" not in markdown
    for path in tmp_path.glob("*.svg"):
        assert not list(ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}script"))
        assert "<script" not in path.read_text()


def test_a_terminal_gets_no_control_characters() -> None:
    conditions = made_up.known(targets={side: {"variant": f"\x1b[2J{side}\r"} for side in Side})
    text = as_text(Results(conditions, SHORT.turns), made_up.comparison())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


def test_doubtful_turns_come_first_everywhere(tmp_path: Path) -> None:
    spoilt = made_up.spoilt(made_up.results(rounds=4, requests=10))
    comparison = made_up.comparison(made_up.verdict(Decision.SHIP))
    told = ["2 of 8 turns of resnet20-preact are invalid (rounds 2-3)", "is incomplete (round 4): connection refused"]
    page = Elements(write_report(tmp_path, spoilt, comparison).read_text())
    for text in (page.text, (tmp_path / "report.md").read_text(), as_text(spoilt, comparison)):
        for each in told:
            assert 0 <= text.find(each) < text.find("Ship")
    assert ("div", {"class": "alarm", "role": "alert"}) in page.tags


def test_a_sound_run_raises_no_alarm(page: Elements, folder: Path) -> None:
    assert not [found for _, found in page.tags if found.get("role") == "alert"]
    assert "WARNING" not in (folder / "report.md").read_text()


@pytest.mark.parametrize("decision", Decision)
def test_the_verdict_is_in_words(decision: Decision) -> None:
    assert f"\n{decision.capitalize()}\n" in as_text(SHORT, made_up.comparison(made_up.verdict(decision)))


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("lower", "is lower than that of resnet20-postact: -4.6 % [-5.3, -3.9]."),
        ("no difference shown", "Median latency of resnet20-preact against resnet20-postact: no difference shown."),
        ("too few rounds", "against resnet20-postact: too few rounds."),
    ],
)
def test_without_gates_the_primary_metric_is_the_headline(says: str, told: str) -> None:
    first, *others = made_up.comparison().differences
    comparison = Comparison(0.99, "p50_ms", 20, [replace(first, says=says), *others], None)
    text = as_text(SHORT, comparison)
    assert told in text
    assert "No gates were given" in text


def test_one_variant_alone_has_no_changes(tmp_path: Path) -> None:
    conditions = made_up.known(targets={Side.A: {"host": "http://localhost:3000", "variant": "resnet20-postact"}})
    alone = Results(conditions, [turn for turn in SHORT.turns if turn.side is Side.A])
    comparison = made_up.comparison()
    page = Elements(write_report(tmp_path, alone, comparison).read_text())
    assert "against" not in page.text
    assert "control" not in page.text
    assert "resnet20-preact" not in page.text
    assert {path.stem for path in tmp_path.glob("*.svg")} == {
        f"report-{name}" for name in ("percentiles", "distribution", "rounds", "stages")
    }


@pytest.mark.parametrize("turns", [[], [Turn(0, 0, Side.A, 0.0, Recording(), incomplete="no answer")]])
def test_where_nothing_was_answered_the_report_says_so(tmp_path: Path, turns: list[Turn]) -> None:
    differences = [
        replace(each, a=None, b=None, change=None, control=None) for each in made_up.comparison().differences
    ]
    comparison = Comparison(0.99, "p50_ms", 0, differences, None)
    page = Elements(write_report(tmp_path, Results(made_up.known(), turns), comparison).read_text())
    assert ("no answer" if turns else "Nothing was measured") in page.text
    assert page.count("svg") == 0


def test_two_of_one_name_are_told_apart() -> None:
    conditions = made_up.known(targets={side: {"host": f"http://{side}", "variant": "resnet20"} for side in Side})
    assert "resnet20 (B) against resnet20 (A)" in as_text(Results(conditions, SHORT.turns), made_up.comparison())


def test_what_a_service_does_not_say_is_left_out() -> None:
    """A service of somebody else's knows its own words only."""
    served = {Side.A: {"accuracy": {"top1": 0.5}, "engine": {"accuracy": {"top1": 0.25}}}, Side.B: {"trained": False}}
    targets = {side: {"variant": side, "served": served[side]} for side in Side}
    [section] = served_content.sections(Results({"targets": targets}, []))
    said = {row[0]: row[1:] for table in section.tables for row in table.rows}
    assert said["accuracy as served"] == ["25.00 %", "not measured"], "of the engine that answers"
    assert said["weights"] == ["-", "untrained: its answers mean nothing"]
    assert served_content.sections(Results({}, [])) == []


def test_a_capacity_that_was_not_reached_is_no_number(tmp_path: Path) -> None:
    none = replace(made_up.capacity(holds_to=40.0), rate_rps=None, above_rps=50.0)
    late = replace(made_up.capacity("resnet20-preact", 800.0), above_rps=None, limited_by="generator")
    page = Elements(write_capacity(tmp_path, [none, late], made_up.known()).read_text())
    text = capacity_text([none, late])
    for told in (
        "resnet20-postact keeps its p99 within 50 ms at no rate that was tried, the lowest 50.0 req/s.",
        "resnet20-preact keeps its p99 within 50 ms up to 800 req/s, the highest rate that was tried.",
        "the load generator could not send faster on time",
    ):
        assert told in page.text
        assert told in text
    assert (tmp_path / "capacity-capacity.svg").exists()


def test_a_search_that_was_interrupted_says_so(tmp_path: Path) -> None:
    begun = replace(made_up.capacity(), incomplete="interrupted after 5 probes")
    nothing = replace(
        made_up.capacity(), rate_rps=None, above_rps=None, probes=[], incomplete="interrupted after 0 probes"
    )
    dead = replace(nothing, probes=[replace(made_up.capacity().probes[0], holds=False, incomplete="it is gone")])
    for capacity, told in (
        (dead, "at any rate is not known: none was tried to its end."),
        (begun, "resnet20-postact: interrupted after 5 probes; rates beyond were not tried."),
        (nothing, "at any rate is not known: none was tried to its end."),
    ):
        assert told in Elements(write_capacity(tmp_path, [capacity], made_up.known()).read_text()).text
        assert told in capacity_text([capacity])


def test_a_round_counts_both_turns_of_a_side() -> None:
    """From first principles: 3 requests of 10 ms and 1 of 20 ms in 2 + 2 s, one of them failed."""
    first, second = Recording(), Recording()
    for due in range(3):
        first.add(Outcome(due, due, due + 0.010, 200))
    second.add(Outcome(0, 0, 0.020, 200))
    second.add(Outcome(1, 1, 1.001, 503, "503"))
    turns = [Turn(0, 0, Side.A, 2.0, first), Turn(0, 3, Side.A, 2.0, second)]
    assert value("p50_ms", turns) == pytest.approx(10, rel=1e-3)
    assert value("p99_ms", turns) == pytest.approx(20, rel=1e-3)
    assert value("throughput_rps", turns) == 1.0
    assert value("failure_rate", turns) == 0.2
    empty = Turn(1, 0, Side.A, 2.0, Recording())
    assert by_round(Results({}, [*turns, empty]), Side.A, "failure_rate") == {0: 0.2}


def test_numbers_are_written_to_three_digits() -> None:
    written = [number(each) for each in (None, 0, 0.12345, 1.2345, 12.345, 123.45, 12345.6, -1.5)]
    assert written == ["-", "0", "0.123", "1.23", "12.3", "123", "12,346", "-1.50"]
    assert change("p50_ms", Interval(0.954, 0.9, 1.0)) == "-4.6 % [-10.0, +0.0]"
    assert change("failure_rate", Interval(0.0042, 0.0017, 0.0071)) == "+0.42 points [+0.17, +0.71]"
    assert interval("failure_rate", Interval(0.01, 0.005, 0.02)) == "1.00 % [0.500, 2.00]"
    bounds = {"p99_ms": 50.0, "failure_rate": 0.001, "min_accuracy": 0.9, "max_regression_percent": 5}
    assert [bound(*each) for each in bounds.items()] == ["50 ms", "0.1 %", "90 %", "5 %"]
