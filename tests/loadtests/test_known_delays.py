"""The server injects what was asked for and says what it injected, so that load tests can be held to it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from math import exp
from pathlib import Path

import numpy as np
import pytest

from loadtests.capacity import search
from loadtests.known_delays.delays import DelayError, read_delay
from loadtests.known_delays.local import KnownDelays, known_delays
from loadtests.load import Closed, Load, Open, run_load
from loadtests.local_service import NO_PROXY
from loadtests.probing import Objective, probe_with
from loadtests.recording import Outcome, Recording, Stage
from loadtests.scenario import encoded
from loadtests.schedule import read_schedule
from serving.answers import Variants

PAYLOADS = [encoded(b"pixels", "image/jpeg")]
ANY_LAG_MS = 1e5  # these tests are about the server, on machines that may be busy


def drawn(text: str) -> np.ndarray:
    delay, generator = read_delay(text), random.Random(0)
    return np.array([delay.draw_ms(generator) for _ in range(20_000)])


def test_delays_are_drawn_from_the_distribution_that_the_text_says() -> None:
    assert set(drawn("constant:7.5")) == {7.5}
    assert [drawn("exponential:20").mean(), drawn("exponential:20").std()] == pytest.approx([20, 20], rel=0.03)
    assert np.quantile(drawn("lognormal:100,0.3"), [0.5, 0.99]) == pytest.approx(
        [100, 100 * exp(2.326 * 0.3)], rel=0.03
    )
    values, counts = np.unique(drawn("bimodal:50,200,0.1"), return_counts=True)
    assert values.tolist() == [50, 200]
    assert counts[1] == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize(
    "text", ["uniform:1", "constant", "constant:-1", "constant:nan", "lognormal:0,1", "bimodal:1,2,1.5", "bimodal:1,2"]
)
def test_what_says_no_delay_is_refused_with_what_would(text: str) -> None:
    with pytest.raises(DelayError, match=r"'.*': expected constant:MS, .* or bimodal:MS,MS,PROBABILITY"):
        read_delay(text)


@pytest.fixture(scope="module")
def server() -> Iterator[KnownDelays]:
    with known_delays("--delay", "lognormal:5,0.5", "--factor", "b=10") as found:
        yield found


def opened(server: KnownDelays, rate: float, seconds: float, variant: str = "a") -> Load:
    workload = Open(read_schedule(f"constant:{rate}"), 0)
    load = run_load(server.target(variant), workload, PAYLOADS, seconds=seconds, warm_up_s=0, max_lag_ms=ANY_LAG_MS)
    assert not load.incomplete
    return load


def test_a_load_finds_the_delays_that_the_server_recorded(server: KnownDelays) -> None:
    """By the timings in the answers to the microsecond; by the clock they are never shorter."""
    server.forget()
    recording = opened(server, 200, 1.0).recording
    delays = server.delays()
    assert delays["count"] == recording.answered == 199
    for name, percentile in {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9}.items():
        assert recording.percentile_ms(Stage.INFER, percentile) == pytest.approx(delays[name], abs=0.002)
        assert (recording.percentile_ms(Stage.TOTAL, percentile) or 0) >= delays[name] * 0.999
    told = Recording()
    told.histograms[Stage.TOTAL].decode_and_add(delays["histogram_us"])
    assert told.percentile_ms(Stage.TOTAL, 90) == delays["p90_ms"]
    server.forget()
    assert server.delays()["count"] == 0


def test_one_variant_is_slower_by_its_factor(server: KnownDelays) -> None:
    server.forget()
    a, b = (opened(server, 100, 0.5, variant) for variant in ("a", "b"))
    assert a.recording.answered == b.recording.answered == server.delays("b")["count"]
    assert server.delays("b")["p50_ms"] > 4 * server.delays("a")["p50_ms"]


def test_variants_are_listed_as_the_service_lists_them(server: KnownDelays) -> None:
    with NO_PROXY.open(f"{server.url}/variants") as response:
        listed = Variants.model_validate(json.load(response))
    assert [variant.variant for variant in listed.variants] == ["a", "b"]
    assert [variant.default for variant in listed.variants] == [True, False]


def test_a_variant_that_is_not_served_is_a_failure_that_says_so(server: KnownDelays) -> None:
    assert opened(server, 50, 0.1, "c").recording.failures == {"404 unknown_variant": 4}


def test_failures_come_as_often_as_was_asked_for() -> None:
    with known_delays("--delay", "constant:1", "--fail", "0.25") as server:
        recording = opened(server, 400, 0.5).recording
    assert list(recording.failures) == ["503 injected"]
    assert recording.failure_rate == pytest.approx(0.25, abs=0.1)


def test_a_stall_is_seen_by_all_who_came_in_it_if_latency_counts_from_when_they_were_due() -> None:
    """Users who wait for their answers see it once each: that is what a clock shows which starts when they send."""
    shares = []
    for workload in (Open(read_schedule("constant:100"), 0), Closed(2)):
        outcomes: list[Outcome] = []
        with known_delays("--delay", "constant:10", "--stall", "0.2:0.6") as server:
            run_load(
                server.target(), workload, PAYLOADS, seconds=1.2, warm_up_s=0, max_lag_ms=ANY_LAG_MS,
                on_outcome=outcomes.append,
            )  # fmt: skip
            assert server.delays()["count"] == len(outcomes)
        shares.append(sum(outcome.ended_s - outcome.due_s > 0.3 for outcome in outcomes))
    by_schedule, by_users = shares
    assert by_schedule >= 100 * (0.6 - 0.3)
    assert by_users == 2


def test_the_capacity_of_a_queue_is_found() -> None:
    """Eight servers of 20 ms; the objective is so wide that a short probe fails by its growing latency alone."""
    with known_delays("--delay", "constant:20", "--capacity", "8") as server:
        probe = probe_with(server.target(), PAYLOADS, Objective(1000.0), warm_up_s=0.1, max_lag_ms=ANY_LAG_MS)
        found = search(probe, 1000.0, variant="a", first_rate=250, precision=1.0, seconds=0.3, fewest_requests=130)
        capacity_rps = 8 / server.delays()["mean_ms"] * 1e3
    assert found.rate_rps is not None
    assert found.above_rps is not None
    assert found.rate_rps < 1.1 * capacity_rps
    assert found.above_rps > 0.9 * capacity_rps
    assert any("latency grew" in probe.reason for probe in found.probes)
    assert (found.limited_by, found.incomplete) == ("service", "")


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.known_delays"]
    for options, said in {
        ("--factor", "c=2"): "--factor c: expected one of the variants a, b",
        ("--fail", "2"): "0 and 1",
    }.items():
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr
