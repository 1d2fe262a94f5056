"""What a run measured of one variant: histograms that can be merged, and counts.

HdrHistogram keeps every latency to a fixed number of significant digits; sums of histograms are exact, so that workers'
percentiles are those of one process (Tene, HdrHistogram, hdrhistogram.org).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hdrh.histogram import HdrHistogram

LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS = 1, 3_600_000_000, 3
COUNT_BYTES = 4  # half the memory, and still billions of requests


class Stage(StrEnum):
    """Of an answered request."""

    TOTAL = "total"  # since it was due, in an open workload; since it was sent, in a closed one
    SENT = "sent"  # since it was sent: all that a clock started at the send would show
    LAG = "lag"  # from when it was due to when it was sent: the generator's own; failed requests count as well
    QUEUE = "queue"  # the last three as the answer's `timings_ms` say, where it says them
    DECODE = "decode"
    INFER = "infer"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds on one clock. `status` is 0 where no answer came; `problem` is empty for what counts as answered."""

    due_s: float
    sent_s: float
    ended_s: float
    status: int
    problem: str = ""
    sent_bytes: int = 0
    received_bytes: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
    version: str = ""  # of the variant, as the answer says it; empty where it does not


class Recording:
    """Grows by outcomes and by other recordings."""

    def __init__(self) -> None:
        self.sorted = {stage: histogram() for stage in Stage}
        self.noted: dict[Stage, Counter[int]] = {stage: Counter() for stage in Stage}  # microseconds, not yet sorted
        self.statuses: Counter[str] = Counter()  # 2xx, 4xx, 5xx, or none
        self.failures: Counter[str] = Counter()  # by reason
        self.versions: Counter[str] = Counter()  # of the variant, by which answers came from each
        self.sent_bytes = self.received_bytes = 0

    @property
    def answered(self) -> int:
        return int(self.sorted[Stage.TOTAL].get_total_count()) + self.noted[Stage.TOTAL].total()

    @property
    def histograms(self) -> dict[Stage, HdrHistogram]:
        """Of all that was kept. Sorting a value in takes 4 us, noting it 0.3: it is put off until somebody looks."""
        for stage, values in self.noted.items():
            for microseconds, count in values.items():
                self.sorted[stage].record_value(microseconds, count)
            values.clear()
        return self.sorted

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def failure_rate(self) -> float:
        """Of all requests; 0 of none."""
        return self.failed / max(self.answered + self.failed, 1)

    def percentile_ms(self, stage: Stage, percentile: float) -> float | None:
        """None where nothing was recorded."""
        found = self.histograms[stage]
        return found.get_value_at_percentile(percentile) / 1e3 if found.get_total_count() else None

    def add(self, outcome: Outcome) -> None:
        self.statuses[f"{outcome.status // 100}xx" if outcome.status else "none"] += 1
        self.sent_bytes += outcome.sent_bytes
        self.received_bytes += outcome.received_bytes
        self.keep(Stage.LAG, outcome.sent_s - outcome.due_s)
        if outcome.problem:
            self.failures[outcome.problem] += 1
            return
        self.keep(Stage.TOTAL, outcome.ended_s - outcome.due_s)
        self.keep(Stage.SENT, outcome.ended_s - outcome.sent_s)
        if outcome.version:
            self.versions[outcome.version] += 1
        for stage in (Stage.QUEUE, Stage.DECODE, Stage.INFER):
            if stage in outcome.timings_ms:
                self.keep(stage, outcome.timings_ms[stage] / 1e3)

    def keep(self, stage: Stage, seconds: float) -> None:
        self.noted[stage][min(max(round(seconds * 1e6), LOWEST_US), HIGHEST_US)] += 1

    def merge(self, other: Recording) -> None:
        ours = self.histograms
        for stage, found in other.histograms.items():
            ours[stage].add(found)
        self.statuses += other.statuses
        self.failures += other.failures
        self.versions += other.versions
        self.sent_bytes += other.sent_bytes
        self.received_bytes += other.received_bytes

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON; histograms in HdrHistogram's own compressed form, base64."""
        return {
            "histograms_us": {
                stage: found.encode().decode() for stage, found in self.histograms.items() if found.get_total_count()
            },
            "statuses": dict(self.statuses),
            "failures": dict(self.failures),
            "versions": dict(self.versions),
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Recording:
        found = cls()
        for stage, encoded in content["histograms_us"].items():
            found.sorted[Stage(stage)].decode_and_add(encoded)
        found.statuses, found.failures = Counter(content["statuses"]), Counter(content["failures"])
        found.versions = Counter(content.get("versions", {}))  # earlier recordings do not tell
        found.sent_bytes, found.received_bytes = content["sent_bytes"], content["received_bytes"]
        return found


def merged(recordings: Iterable[Recording]) -> Recording:
    whole = Recording()
    for recording in recordings:
        whole.merge(recording)
    return whole


def histogram() -> HdrHistogram:
    return HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS, word_size=COUNT_BYTES)
