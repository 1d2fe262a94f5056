"""What Prometheus finds on `/metrics` beside BentoML's own figures.

BentoML collects from all workers through files, whose folder is set only once a worker starts: metrics made sooner,
when a module is imported, would not be among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from serving.classifier import Served

BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip


class Metrics:
    """Durations by variant and stage (receive, queue, decode, infer, answer), and what was refused, by its reason."""

    def __init__(self) -> None:
        self.seconds = Histogram(
            "preflight_stage_seconds", "Time that answered requests spent in a stage", ["variant", "stage"],
            buckets=BUCKETS_S,
        )  # fmt: skip
        self.images = Counter("preflight_images", "Images that were answered", ["variant"])
        self.of, self.at = cache(self.images.labels), cache(self.seconds.labels)  # its own look-up takes longer
        self.refused = Counter("preflight_refused", "Requests that were refused", ["reason"])
        self.in_flight = Gauge(
            "preflight_in_flight", "Requests that wait for a thread or have one", multiprocess_mode="livesum"
        )
        self.variant = Gauge(
            "preflight_variant_info", "What is served, as labels; always 1",
            ["variant", "version", "runtime", "device", "precision"], multiprocess_mode="livemax",
        )  # fmt: skip

    def describe(self, served: Mapping[str, Served]) -> None:
        for name, each in served.items():
            runner, precision = each.runner, each.manifest.precision
            self.variant.labels(name, each.version, runner.runtime, runner.device, precision).set(1)

    def answered(self, variant: str, images: int, stages_s: Mapping[str, float]) -> None:
        self.of(variant).inc(images)
        for stage, seconds in stages_s.items():
            self.at(variant, stage).observe(seconds)


@cache
def metrics() -> Metrics:
    """This process's."""
    return Metrics()
