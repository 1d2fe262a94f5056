"""What is tallied and published later is what would have been observed at once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from serving.metrics import BUCKETS_S, Tally
from serving.metrics_folder import forget_the_dead


def histogram(registry: CollectorRegistry) -> Histogram:
    return Histogram("any_seconds", "any", buckets=BUCKETS_S, registry=registry)


def test_a_tally_publishes_what_a_histogram_would_have_observed() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally, expected = Tally(histogram(ours)), histogram(theirs)
    drawn = np.random.default_rng(0).exponential(0.01, 500).tolist()
    for round_ in (drawn[:200], [], drawn[200:], [0.0, BUCKETS_S[0], BUCKETS_S[-1], 1e9]):
        for seconds in round_:
            tally.add(seconds)
            expected.observe(seconds)
        tally.publish()
    samples = [
        {(each.name, each.labels.get("le", "")): each.value for metric in registry.collect() for each in metric.samples}
        for registry in (ours, theirs)
    ]
    created = ("any_seconds_created", "")
    assert samples[0].pop(created)
    assert samples[1].pop(created)
    assert samples[0] == pytest.approx(samples[1])
    assert b'le="+Inf"} 504.0' in generate_latest(ours)


def test_the_gauges_of_a_worker_that_is_gone_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = 2**22 + 1  # beyond what the kernel gives
    for pid in (os.getpid(), gone):
        (tmp_path / f"gauge_livesum_{pid}.db").touch()
    (tmp_path / f"histogram_{gone}.db").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    forget_the_dead()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"gauge_livesum_{os.getpid()}.db", f"histogram_{gone}.db"
    ]  # fmt: skip
