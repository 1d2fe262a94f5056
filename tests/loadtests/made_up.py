"""Results and findings by a seed, as a load test would leave them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from loadtests.findings import (
    Capacity,
    Comparison,
    Decision,
    Difference,
    Gate,
    Interval,
    Outcome,
    Probe,
    Verdict,
)
from loadtests.recording import Outcome as Answer
from loadtests.recording import Recording
from loadtests.results import Results, Side, Turn

NAMES = {Side.A: "resnet20-postact", Side.B: "resnet20-preact"}
ORDERS = ((Side.A, Side.B, Side.B, Side.A), (Side.B, Side.A, Side.A, Side.B))


def recording(generator: np.random.Generator, scale: float, requests: int, failing: int = 0) -> Recording:
    """Latencies around `scale` x 9 ms with a long tail, of which the service reports its stages."""
    found, clock = Recording(), 0.0
    for number in range(requests):
        clock += generator.exponential(0.005)
        queue, decode = generator.gamma(1.2, 0.6), generator.normal(1.4, 0.1)
        infer = scale * generator.lognormal(1.6, 0.12)
        tail = generator.pareto(2.2) * 1.5 + 0.8
        lag, whole = generator.exponential(2e-4), (queue + decode + infer + tail) / 1e3
        timings = {"queue": queue, "decode": decode, "infer": infer}
        if number < failing:
            found.add(Answer(clock, clock + lag, clock + lag + whole, 503, "503: the queue is full"))
        else:
            found.add(Answer(clock, clock + lag, clock + lag + whole, 200, "", 12_000, 400, timings))
    return found


def results(rounds: int = 20, requests: int = 120, **conditions: Any) -> Results:
    """B infers 8 % faster; the machine drifts."""
    generator = np.random.default_rng(7)
    turns = [
        Turn(
            number, place, side, 1.0, recording(generator, scale, requests, failing=int(side is Side.B and place == 1))
        )
        for number in range(rounds)
        for place, side in enumerate(ORDERS[number % 2])
        for scale in [(1.0 if side is Side.A else 0.92) * (1 + 0.01 * number)]
    ]
    return Results(known(**conditions), turns)


def known(**more: Any) -> dict[str, Any]:
    return {
        "targets": {
            side: {"host": "http://localhost:3000", "variant": name, "served": served(name)}
            for side, name in NAMES.items()
        },
        "workload": {"kind": "open", "schedule": "poisson:120", "seed": 0},
        "payloads": {"images": None, "image_size": [224, 224], "n": 16, "sha256": "9f2c" * 16},
        "turn_s": 1.0,
        "warm_up_s": 0.3,
        "max_lag_ms": 5.0,
        "machine": "x86_64, Some Processor, 8 cores; client and service may share it",
        "python": "3.12.3",
        "packages": {"locust": "2.47.0", "gevent": "26.9.0"},
        "commit": "0123abc",
        "finished": "2025-06-01 12:00:00+0000",
    } | more


def served(name: str) -> dict[str, Any]:
    """An entry of `/variants`, without what no report shows."""
    return {
        "variant": name,
        "version": "q3k7",
        "trained": True,
        "runtime": "onnxruntime 1.22",
        "device": "cpu",
        "precision": "fp32",
        "engine": None,
        "files": {"model.onnx": "77ab" * 16},
        "parity": {"max_abs_logit_difference": 1.9e-6, "top1_agreement": 1.0, "n": 64, "images": "made-up noise"},
        "accuracy": {"top1": 0.9163, "correct": 9163, "n": 10_000, "data": "CIFAR-10 test"} if "post" in name else None,
        "training_accuracy": {"top1": 0.9170, "correct": 9170, "n": 10_000, "data": "CIFAR-10 test"},
        "not_measured": {} if "post" in name else {"accuracy": "no labelled data was given"},
    }


def comparison(verdict: Verdict | None = None) -> Comparison:
    near = Interval(1.001, 0.993, 1.009)
    none = "no difference shown"
    found = [
        Difference("p50_ms", 9.41, 8.98, Interval(0.954, 0.947, 0.961), near, "lower"),
        Difference("p90_ms", 12.9, 12.6, Interval(0.972, 0.941, 1.004), Interval(0.998, 0.975, 1.022), none),
        Difference("p99_ms", 22.4, 21.9, Interval(0.981, 0.861, 1.113), Interval(1.01, 0.92, 1.11), none),
        Difference("p999_ms", 58.1, None, None, None, "too little was answered"),
        Difference("throughput_rps", 240.0, 239.5, Interval(0.998, 0.996, 1.0), Interval(1.0, 0.998, 1.002), none),
        Difference("failure_rate", 0.0, 0.0042, Interval(0.0042, 0.0017, 0.0071), Interval(0.0, 0.0, 0.0), "higher"),
    ]  # fmt: skip
    return Comparison(0.99, "p50_ms", 20, found, verdict)


def verdict(decision: Decision = Decision.DO_NOT_SHIP) -> Verdict:
    gates = [
        Gate("p99_ms", 50.0, Interval(21.9, 19.8, 24.6), Outcome.HOLDS, "p99 is 21.9 ms, its interval below 50 ms"),
        Gate("failure_rate", 0.001, Interval(0.0042, 0.0017, 0.0071), Outcome.FAILS, "0.42 % fail, over 0.1 %"),
        Gate("min_throughput_rps", 100.0, Interval(239.5, 238.0, 241.0), Outcome.HOLDS, "239.5 req/s were answered"),
        Gate("max_regression_percent", 5.0, Interval(-4.6, -5.3, -3.9), Outcome.HOLDS, "the median is 4.6 % lower"),
        Gate("min_accuracy", 0.9, None, Outcome.UNDECIDED, "the service tells no accuracy of resnet20-preact"),
    ]  # fmt: skip
    return Verdict(decision, [gate.reason for gate in gates if gate.outcome is not Outcome.HOLDS], gates)


def capacity(variant: str = NAMES[Side.A], holds_to: float = 400.0) -> Capacity:
    probes = [
        Probe(rate, 10.0, int(10 * rate), min(rate, 1.04 * holds_to), p50, 1.7 * p50, p99, 0.0 if holds else 0.012, 0.6,
              holds, "" if holds else "p99 over the objective in 2 of 3 windows")
        for rate in (50.0, 100.0, 200.0, 300.0, 400.0, 450.0, 600.0, 800.0)
        for holds in [rate <= holds_to]
        for p50 in [8.0 + 4 * (rate / holds_to) ** 3]
        for p99 in [16.0 + 28 * (rate / holds_to) ** 6]
    ]  # fmt: skip
    above = min((probe.rate_rps for probe in probes if not probe.holds), default=None)
    return Capacity(variant, 50.0, holds_to, above, probes, "service")


def spoilt(found: Results) -> Results:
    """The generator was late in two turns, and the service died in the last."""
    late = "p99 lag 38 ms, over 5 ms: the load generator was late, not the service"
    turns = list(found.turns)
    turns[4], turns[9] = replace(turns[4], invalid=late), replace(turns[9], invalid=late)
    turns[-1] = replace(turns[-1], incomplete="connection refused 3 times in a row", seconds=0.4)
    return Results(found.conditions, turns)
