"""What Prometheus finds on `/metrics`, of all workers.

BentoML collects from all workers through files, whose folder is set only once a worker starts: metrics made sooner,
when a module is imported, would not be among them. An observation in such a file takes 1.7 us, and a request makes
eight; a tally in memory takes 0.1. So a worker tallies, and publishes once a second and when it is asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Count
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from serving.metrics_folder import collected, forget_the_dead, make_room, shared_folder

BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip
BUCKETS_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Tally:
    """Observations that a histogram has not yet been told of."""

    def __init__(self, histogram: Histogram, buckets: Sequence[float]) -> None:
        self.histogram, self.buckets = histogram, buckets
        self.clear()

    def clear(self) -> None:
        self.counts, self.sum = [0] * (len(self.buckets) + 1), 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.buckets, value)] += times
        self.sum += value * times

    def publish(self) -> None:
        """Several at once, for which prometheus_client has no public way."""
        counts, total = self.counts, self.sum
        self.clear()
        for bucket, count in zip(self.histogram._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self.histogram._sum.inc(total)


class Metrics:
    """Of this worker, counted on the event loop; but the sizes of batches, which the threads leave in a queue, and what
    a shadow's thread counts itself."""

    def __init__(self) -> None:
        make_room()
        self.seconds = Histogram(
            "preflight_stage_seconds", "Time that answered requests spent in a stage", ["variant", "stage"],
            buckets=BUCKETS_S,
        )  # fmt: skip
        self.batch = Histogram(
            "preflight_batch_images", "Images that went to the runner together", ["variant"], buckets=BUCKETS_IMAGES
        )
        self.images = Counter("preflight_images", "Images that were answered", ["variant"])
        self.requests = Counter("preflight_requests", "Requests by where they went", ["endpoint", "status"])
        self.refused = Counter("preflight_refused", "Requests that were refused", ["reason"])
        self.shadow = Counter(
            "preflight_shadow", "Copies of requests, by whether both agreed", ["primary", "shadow", "result"]
        )
        self.in_flight = Gauge(
            "preflight_in_flight", "Requests that wait for a thread or have one", multiprocess_mode="livesum"
        )
        self.queue_depth = Gauge(
            "preflight_queue_depth", "Requests that wait for a thread or a runner", multiprocess_mode="livesum"
        )
        self.variant = Gauge(
            "preflight_variant_info", "What is served, as labels; always 1",
            ["variant", "version", "runtime", "device", "precision"], multiprocess_mode="livemax",
        )  # fmt: skip
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.batches: dict[str, tuple[Tally, deque[int]]] = {}
        self.counts: Count[tuple[Counter, tuple[object, ...]]] = Count()
        forget_the_dead()

    def describe(self, variant: str, version: str, runtime: str, device: str, precision: str) -> None:
        self.variant.labels(variant, version, runtime, device, precision).set(1)

    def answered(self, variant: str, images: int, stages_s: Iterable[tuple[str, float]]) -> None:
        self.counts[self.images, (variant,)] += images
        for stage, seconds in stages_s:
            self.spent(variant, stage, seconds)

    def spent(self, variant: str, stage: str, seconds: float) -> None:
        tally = self.tallies.get((variant, stage))
        if tally is None:
            tally = self.tallies[variant, stage] = Tally(self.seconds.labels(variant, stage), BUCKETS_S)
        tally.add(seconds)

    def batches_of(self, variant: str) -> deque[int]:
        """To append sizes to, in images, from any thread."""
        return self.batches.setdefault(variant, (Tally(self.batch.labels(variant), BUCKETS_IMAGES), deque()))[1]

    def replied(self, endpoint: str, status: int) -> None:
        self.counts[self.requests, (endpoint, status)] += 1

    def refuse(self, reason: str) -> None:
        self.counts[self.refused, (reason,)] += 1

    def publish(self, in_flight: int, queue_depth: int) -> None:
        self.in_flight.set(in_flight)
        self.queue_depth.set(queue_depth)
        for tally, sizes in self.batches.values():
            for images, times in Count(sizes.popleft() for _ in range(len(sizes))).items():
                tally.add(images, times)
            tally.publish()
        for tally in self.tallies.values():
            tally.publish()
        while self.counts:  # one by one: where one fails, none is counted twice
            (counter, labels), count = self.counts.popitem()
            counter.labels(*labels).inc(count)


class OfAllWorkers(Collector):
    """prometheus_client's own fails for good where one of the files is empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def collect(self) -> Iterable[Metric]:
        return collected(self.folder)


def exposition() -> bytes:
    """As Prometheus reads it."""
    if (folder := shared_folder()) is None:
        return generate_latest()
    registry = CollectorRegistry()
    registry.register(OfAllWorkers(folder))
    return generate_latest(registry)


@cache
def metrics() -> Metrics:
    """This process's."""
    return Metrics()
