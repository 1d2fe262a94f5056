"""What is tallied and published later is what would have been observed at once."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving.config import Settings
from serving.http_api import HttpApi
from serving.metrics import BUCKETS_IMAGES, BUCKETS_S, Tally, exposition, metrics
from serving.metrics_folder import ROOM, forget_the_dead, make_room
from serving.opened import Opened


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


def test_metrics_that_take_long_are_no_body_that_comes_slowly(folder: Path) -> None:
    opened = Opened()
    opened.settings = Settings(max_receive_ms=1, max_timeout_ms=60_000)
    api = HttpApi(PlainTextResponse(""), opened)
    with (folder / "lock").open("w") as lock, ThreadPoolExecutor() as threads:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a worker that adds up what others have left
        answer = threads.submit(TestClient(api).get, "/metrics")
        time.sleep(0.5)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert answer.result().status_code == 200


GONE = 2**22 + 1  # beyond what the kernel gives to a process


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    make_room()
    return tmp_path / "metrics"


def write(path: Path, **values: float) -> None:
    """As prometheus_client does, for a metric `any` with one label."""
    file = MmapedDict(str(path))  # type: ignore[no-untyped-call]
    for label, value in values.items():
        file.write_value(mmap_key("any_total", "any_total", ["of"], [label], "any"), value, 0.0)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]


def test_the_room_for_what_is_counted_is_taken_at_once(folder: Path) -> None:
    """Not promised: who writes where a full disk has none left is killed."""
    files = {path.name: path.stat() for path in folder.glob("*.db")}
    assert files.keys() == {f"{kind}_{os.getpid()}.db" for kind in ROOM}
    assert all(file.st_blocks * 512 >= file.st_size >= 64 << 10 for file in files.values())


@pytest.mark.parametrize("is_reaped", [False, True])
def test_what_a_killed_worker_had_in_flight_is_in_flight_no_more(folder: Path, is_reaped: bool) -> None:
    """From the moment of its death, also while it is a zombie, and where nobody takes its place."""
    with subprocess.Popen(["sleep", "60"]) as worker:
        write(folder / f"gauge_livesum_{os.getpid()}.db", a=1)
        write(folder / f"gauge_livesum_{worker.pid}.db", a=5)
        before = exposition()
        worker.kill()
        os.waitid(os.P_PID, worker.pid, os.WEXITED | (0 if is_reaped else os.WNOWAIT))
        after = exposition()
    assert b'any_total{of="a"} 6.0' in before
    assert b'any_total{of="a"} 1.0' in after


def test_what_the_gone_have_counted_is_kept_in_one_file(folder: Path) -> None:
    write(folder / f"counter_{os.getpid()}.db", a=1, b=2)
    for number in range(3):
        write(folder / f"counter_{GONE + number}.db", a=10, c=5)
    for name in (f"gauge_livesum_{GONE}.db", f"histogram_{GONE}.db", f"counter_{GONE + 9}.db"):
        (folder / name).touch()  # killed as it made them
    before = sorted(exposition().splitlines())
    for _ in range(2):
        forget_the_dead()
        assert sorted(exposition().splitlines()) == before
    assert b'any_total{of="a"} 31.0' in before
    assert b'any_total{of="c"} 15.0' in before
    gone = {"counter_gone.db", "histogram_gone.db", "lock"}
    assert {path.name for path in folder.iterdir()} == {f"{kind}_{os.getpid()}.db" for kind in ROOM} | gone
