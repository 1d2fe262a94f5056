"""What the server does with a request: it draws a delay, keeps to it, and records how long it really took."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from hdrh.histogram import HdrHistogram

from loadtests.known_delays.delays import Delay
from loadtests.recording import LOWEST_US, histogram

VERSION, SUCCESSOR = "known-delays", "known-delays-2"
NOT_MEASURED = "behind this name is no network, but a delay"
PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9}


@dataclass(slots=True)
class Variant:
    """A name to ask for, and the delays that it really had, in microseconds. Each has a generator of its own, so that
    its delays do not depend on what others are asked."""

    name: str
    factor: float
    generator: random.Random
    injected: HdrHistogram = field(default_factory=histogram)

    def listed(self, version: str, delay: Delay, is_default: bool) -> dict[str, Any]:
        """As the service's `/variants` says it."""
        absent = ("engine", "checkpoint_sha256", "parity", "accuracy", "training_accuracy")
        return {
            "variant": self.name,
            "version": version,
            "default": is_default,
            "split_percent": 100.0 if is_default else 0.0,
            "shadow_percent": 0.0,
            "trained": False,
            "ordering": "postact",
            "depth": 20,
            "labels": ["nothing"],
            "preprocessing": {"resize": 32, "crop": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
            "runtime": f"{delay.text} ms times {self.factor:g}",
            "device": "none",
            "precision": "fp32",
            "passed_over": {},
            "max_batch_size": 1,
            "files": {},
            **dict.fromkeys(absent),
            "not_measured": dict.fromkeys(absent, NOT_MEASURED),
        }

    def delays(self) -> dict[str, Any]:
        found = self.injected
        return {
            "count": found.get_total_count(),
            "mean_ms": found.get_mean_value() / 1e3,
            **{name: found.get_value_at_percentile(percentile) / 1e3 for name, percentile in PERCENTILES.items()},
            "histogram_us": found.encode().decode(),
        }


@dataclass(frozen=True, slots=True)
class Stall:
    """Nobody is served for `seconds`, once, `after_s` after the first request."""

    after_s: float
    seconds: float


@dataclass(slots=True)
class Asked:
    """A request, whole since `received_s`, served since `began_s` (time.perf_counter), and who takes its answer."""

    variant: Variant
    received_s: float
    answer: Callable[[HTTPStatus, dict[str, Any]], None]
    began_s: float = 0.0


class Service:
    """With a `capacity` at most so many requests are served at a time, and others wait in order (a queue M/G/N)."""

    def __init__(
        self,
        variants: Iterable[Variant],
        delay: Delay,
        *,
        fail: float = 0.0,
        capacity: int | None = None,
        stall: Stall | None = None,
        replaced_after: int | None = None,
        seed: int = 0,
    ) -> None:
        self.variants = {variant.name: variant for variant in variants}
        self.delay, self.fail, self.free, self.stall = delay, fail, capacity, stall
        self.failing = random.Random(f"{seed}, failures")  # noqa: S311  no secret
        self.waiting: deque[Asked] = deque()
        self.answered, self.replaced_after = 0, replaced_after

    def ask(self, asked: Asked) -> None:
        if self.stall is not None:
            # It blocks the loop: nothing is read, timed or answered meanwhile.
            asyncio.get_running_loop().call_later(self.stall.after_s, time.sleep, self.stall.seconds)
            self.stall = None
        if self.free == 0:
            self.waiting.append(asked)
            return
        if self.free is not None:
            self.free -= 1
        self.begin(asked)

    def begin(self, asked: Asked) -> None:
        asked.began_s = time.perf_counter()
        delay_ms = self.delay.draw_ms(asked.variant.generator) * asked.variant.factor
        asyncio.get_running_loop().call_later(delay_ms / 1e3, self.end, asked)

    def end(self, asked: Asked) -> None:
        ended_s = time.perf_counter()
        asked.variant.injected.record_value(max(round((ended_s - asked.began_s) * 1e6), LOWEST_US))
        if self.failing.random() < self.fail:
            asked.answer(HTTPStatus.SERVICE_UNAVAILABLE, refusal("injected", "a failure that was asked for"))
        else:
            asked.answer(HTTPStatus.OK, classification(asked, self.version, ended_s))
            self.answered += 1
        if self.waiting:
            self.begin(self.waiting.popleft())
        elif self.free is not None:
            self.free += 1

    @property
    def version(self) -> str:
        is_replaced = self.replaced_after is not None and self.answered >= self.replaced_after
        return SUCCESSOR if is_replaced else VERSION

    def listed(self) -> dict[str, Any]:
        variants = enumerate(self.variants.values())
        return {"variants": [each.listed(self.version, self.delay, place == 0) for place, each in variants]}

    def delays(self) -> dict[str, Any]:
        return {"variants": {name: variant.delays() for name, variant in self.variants.items()}}

    def forget(self) -> None:
        for variant in self.variants.values():
            variant.injected = histogram()


def classification(asked: Asked, version: str, ended_s: float) -> dict[str, Any]:
    return {
        "variant": asked.variant.name,
        "version": version,
        "trained": False,
        "predictions": [{"label": "nothing", "index": 0, "probability": 1.0}],
        "timings_ms": {
            "queue": (asked.began_s - asked.received_s) * 1e3,
            "decode": 0.0,
            "infer": (ended_s - asked.began_s) * 1e3,
        },
    }


def refusal(error: str, found: str, accepted: Iterable[str] = ()) -> dict[str, Any]:
    """As the service's errors say it."""
    return {"error": error, "message": f"{error}: {found}", "found": found, "accepted": list(accepted)}
