"""What became of the requests: when they were sent, where their time went, which of them failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadtests.page.content import Section, Table
from loadtests.page.figures import stages_of, stages_picture
from loadtests.page.numbers import number, quantity
from loadtests.page.reading import merged, names, sides, turns_of
from loadtests.recording import Recording, Stage
from loadtests.results import Results


def stages(results: Results) -> list[Section]:
    drawn = stages_picture(results)
    if drawn is None:
        return []
    known = names(results)
    found = {side: stages_of(merged(turns_of(results, side))) or {} for side in sides(results)}
    bands = [Stage.QUEUE.value, Stage.DECODE.value, Stage.INFER.value, "rest"]
    rows = [[band, *(quantity("_ms", found[side].get(band)) for side in found)] for band in bands]
    told = (
        "Medians of what the service reports of answered requests; the rest is what is left of the median latency: "
        "network, HTTP, and waiting to be sent. Medians need not add up."
    )
    table = Table("Median of each stage", ["stage", *(known[side] for side in found)], rows, "l" + "r" * len(found))
    return [Section("Where the time goes", [told], [drawn], [table])]


def generator(results: Results) -> Section:
    """How late requests were sent."""
    late = [turn for turn in results.turns if turn.invalid]
    told = (
        f"In {len(late)} of {len(results.turns)} turns the load was not the planned one: their figures say as much "
        "of the generator as of the service."
        if late
        else "No turn was marked invalid for requests that were sent too late."
    )
    return Section("Was the load generator on time?", [told], tables=[
        by_side(results, "From when a request was due until it was sent", [
            ("median lag", lambda side: quantity("_ms", side.percentile_ms(Stage.LAG, 50))),
            ("p99 lag", lambda side: quantity("_ms", side.percentile_ms(Stage.LAG, 99))),
            ("longest lag", lambda side: quantity("_ms", side.percentile_ms(Stage.LAG, 100))),
        ]),
    ])  # fmt: skip


def requests(results: Results) -> Section:
    whole = merged(results.turns)
    failures = [
        (reason, lambda side, reason=reason: f"{side.failures[reason]:,}") for reason, _ in whole.failures.most_common()
    ]
    statuses = [
        (f"status {name}" if name != "none" else "no status", lambda side, name=name: f"{side.statuses[name]:,}")
        for name in sorted(whole.statuses)
    ]
    counts = by_side(results, "Requests", [
        ("answered", lambda side: f"{side.answered:,}"),
        ("failed", lambda side: f"{side.failed:,} ({quantity('failure_rate', side.failure_rate)})"),
        *statuses,
        ("megabytes sent", lambda side: number(side.sent_bytes / 1e6)),
        ("megabytes received", lambda side: number(side.received_bytes / 1e6)),
    ])  # fmt: skip
    told = [] if failures else ["No request failed."]
    return Section(
        "Requests and failures", told, tables=[counts, *([by_side(results, "Failures", failures)] if failures else [])]
    )


def by_side(results: Results, caption: str, lines: Sequence[tuple[str, Callable[[Recording], str]]]) -> Table:
    recordings = {side: merged(turns_of(results, side)) for side in sides(results)}
    rows = [[said, *(tell(recording) for recording in recordings.values())] for said, tell in lines]
    return Table(caption, ["", *names(results).values()], rows, "l" + "r" * len(recordings))
