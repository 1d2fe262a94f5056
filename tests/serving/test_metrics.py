"""What is tallied and published later is what would have been observed at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from serving.metrics import BUCKETS_IMAGES, BUCKETS_S, Tally, metrics
from serving.metrics_folder import forget_the_dead


def histogram(registry: CollectorRegistry) -> Histogram:
    return Histogram("any_seconds", "any", buckets=BUCKETS_S, registry=registry)


def counts_of(observed: Histogram) -> dict[str, float]:
    """By the upper ends of the buckets, cumulated, with the sum under its own name."""
    (metric,) = observed.collect()
    return {
        each.labels.get("le", each.name.rpartition("_")[2]): each.value
        for each in metric.samples
        if not each.name.endswith("_created")
    }


def test_a_tally_publishes_what_a_histogram_would_have_observed() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally, expected = Tally(histogram(ours), BUCKETS_S), histogram(theirs)
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


def test_threads_leave_sizes_of_batches_to_be_published() -> None:
    name, drawn = "metrics-test", np.random.default_rng(0).integers(1, 200, 400).tolist()
    sizes = metrics().batches_of(name)
    assert metrics().batches_of(name) is sizes
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(sizes.append, drawn))
    expected = Histogram("any_images", "any", buckets=BUCKETS_IMAGES, registry=CollectorRegistry())
    for size in drawn:
        expected.observe(size)
    metrics().publish(0, 0)
    metrics().publish(0, 0)  # what was published is not published again
    assert counts_of(metrics().batch.labels(name)) == counts_of(expected)
    assert not sizes


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
