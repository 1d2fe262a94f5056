"""A real `bentoml serve`: readiness, hostile images, memory, the whole test set, and refusal to start."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import bentoml
import httpx2 as httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from export.__main__ import main
from export.artifact import file_sha256, read_manifest, write_manifest
from export.store import register
from loadtests.local_service import LocalService, ServiceError, local_service
from models.weights import read_checkpoint, zoo_path
from serving.cores import default_threads
from tests.conftest import PAIR, ROOT, SHARED_DATA
from tests.serving.test_http_api import encoded, one_bit_png

MEMORY_BOUND = 300 << 20


def worker(service: LocalService) -> psutil.Process:
    """The process that answers: the youngest below the one that was started."""
    return max(psutil.Process(service.pid).children(recursive=True), key=psutil.Process.create_time)


@contextmanager
def peak_memory(process: psutil.Process) -> Iterator[list[int]]:
    """Samples resident memory every 2 ms; the list holds the first and the largest."""
    first = process.memory_info().rss
    found = [first, first]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.002):
            found[1] = max(found[1], process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def post(url: str, content: bytes, query: str = "") -> httpx.Response:
    return httpx.post(f"{url}/classify{query}", content=content, headers={"content-type": "image/any"}, timeout=30)


def test_it_answers_and_is_ready(service: LocalService) -> None:
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    assert [entry["variant"] for entry in httpx.get(f"{service.url}/variants").json()["variants"]] == list(PAIR)
    for variant in PAIR:
        answer = post(service.url, encoded(), f"?variant={variant}")
        assert answer.status_code == 200
        assert answer.json()["variant"] == variant
    assert "preflight_requests_total" in httpx.get(f"{service.url}/metrics").text


def not_images(service: LocalService) -> float:
    """So many it has counted."""
    shown = httpx.get(f"{service.url}/metrics").text
    return sum(map(float, re.findall(r'^preflight_refused_total{reason="not_an_image"} (.*)', shown, re.MULTILINE)))


def test_metrics_tell_stages_refusals_and_what_is_served(exported_pair: tuple[str, str], service: LocalService) -> None:
    """Of one service: another that has the same home keeps its own."""
    before = not_images(service)
    with local_service(environment={"SERVING_MODELS": ",".join(exported_pair)}, folder=ROOT) as running:
        for variant in PAIR:
            post(running.url, encoded(), f"?variant={variant}")
        for _ in range(3):
            post(running.url, b"no image")
        post(running.url, encoded(), "?variant=other")
        httpx.get(f"{running.url}/v2/models/other")
        shown = httpx.get(f"{running.url}/metrics").text
        post(service.url, b"no image")
        assert not_images(service) == before + 1
    for variant in PAIR:
        for stage in ("receive", "queue", "decode", "infer", "answer"):
            assert f'preflight_stage_seconds_count{{stage="{stage}",variant="{variant}"}} 1.0' in shown
        assert re.search(rf'preflight_variant_info{{device="cpu",.*variant="{variant}".*}} 1\.0', shown)
    assert 'preflight_refused_total{reason="not_an_image"} 3.0' in shown
    assert 'preflight_refused_total{reason="unknown_variant"} 2.0' in shown


def test_a_body_that_is_too_long_is_refused_while_it_still_comes(service: LocalService) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 20)

    answer = httpx.post(f"{service.url}/classify", content=endless(), headers={"content-type": "image/png"})
    assert answer.status_code == 413
    assert answer.json()["error"] == "too_many_bytes"


@pytest.mark.parametrize(("width", "height"), [(13_000, 13_000), (30_000, 30_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(service: LocalService, width: int, height: int) -> None:
    bomb = one_bit_png(width, height)
    with peak_memory(worker(service)) as memory:
        answer = post(service.url, bomb)
    assert answer.status_code == 413
    assert answer.json()["error"] == "too_many_pixels"
    assert memory[1] - memory[0] < 20 << 20  # decoded, it would take 21 or 112 MB, and 507 or 2,700 as RGB


@pytest.mark.parametrize(("width", "height"), [(1, 1_000_000), (1_000_000, 1)])
def test_a_strip_is_not_blown_up_by_the_resize(service: LocalService, width: int, height: int) -> None:
    with peak_memory(worker(service)) as memory:
        answer = post(service.url, one_bit_png(width, height))
    assert answer.status_code in {200, 400}
    assert memory[1] - memory[0] < 100 << 20  # whole, it would be 32 x 32,000,000 pixels, three gigabytes


@pytest.mark.shared_data
def test_odd_images_neither_break_nor_bloat_the_service(service: LocalService) -> None:
    folder = SHARED_DATA / "odd-images"
    rows = list(csv.DictReader((folder / "manifest.csv").read_text().splitlines()))
    assert len(rows) > 60
    process = worker(service)
    statuses = {}
    with peak_memory(process) as memory:
        for row in rows:
            answer = post(service.url, (folder / row["file"]).read_bytes())
            statuses[row["file"]] = answer.status_code
            assert isinstance(answer.json(), dict)
    assert set(statuses.values()) == {200, 400, 413}
    assert statuses["bomb-13000x13000-rgb.png"] == 413
    unreadable = [row["file"] for row in rows if row["pillow13_result"] != "ok"]
    assert not [name for name in unreadable if statuses[name] == 200]
    odd = {
        "hopper_16bit.pgm",
        "pil_sample_cmyk.jpg",
        "hopper_orientation_6.jpg",
        "transparent.png",
        "photo-palette.png",
    }
    assert {statuses[name] for name in odd} == {200}
    assert process.is_running()
    assert worker(service).pid == process.pid
    assert memory[1] - memory[0] < MEMORY_BOUND


def test_the_event_loop_of_a_worker_waits_for_a_core_and_what_infers_does_not(service: LocalService) -> None:
    if not hasattr(os, "SCHED_BATCH"):
        pytest.skip("is about Linux")
    policies = {thread.id: os.sched_getscheduler(thread.id) for thread in worker(service).threads()}
    assert policies.pop(worker(service).pid) == os.SCHED_BATCH
    infer = [policy for policy in policies.values() if policy == os.SCHED_OTHER]
    assert len(infer) >= default_threads(1)


def correct_over_http(url: str, variant: str) -> tuple[int, int]:
    """Post CIFAR-10's whole test set as PNGs, in batches; returns how many were right, of how many."""
    with np.load(SHARED_DATA / "cifar10" / "cifar10-test.npz") as arrays:
        images, labels = arrays["images"].transpose(0, 2, 3, 1), arrays["labels"]

    def encode(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def right(client: httpx.Client, first: int) -> int:
        files = [("images", ("any.png", encode(image), "image/png")) for image in images[first : first + 64]]
        answer = client.post(f"{url}/classify/batch?variant={variant}&top_k=1", files=files)
        best = [item["classification"]["predictions"][0]["index"] for item in answer.json()["results"]]
        return int((np.array(best) == labels[first : first + 64]).sum())

    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda first: right(client, first), range(0, len(labels), 64))), len(labels)


@pytest.mark.shared_data
@pytest.mark.parametrize("variant", PAIR)
def test_the_whole_test_set_scores_what_the_card_says(service: LocalService, variant: str) -> None:
    test = read_checkpoint(zoo_path(variant)).description.training["test"]
    assert correct_over_http(service.url, variant) == (test["correct"], test["n"])


@pytest.mark.shared_data
def test_a_published_checkpoint_scores_what_was_measured_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """One command from somebody else's file to a served artifact; 91.73 % was measured of it in torch."""
    statistics = ["--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225"]
    path = SHARED_DATA / "cifar10" / "resnet20-12fca82f.th"
    assert main(["--checkpoint", str(path), "--variant", "resnet20-postact", *statistics]) == 0
    tag = capsys.readouterr().out.strip()
    with local_service(environment={"SERVING_MODELS": tag}, folder=ROOT) as running:
        assert correct_over_http(running.url, "resnet20-postact") == (9173, 10000)
    bentoml.models.delete(tag)


def refused(environment: dict[str, str]) -> str:
    with pytest.raises(ServiceError) as caught, local_service(environment=environment, folder=ROOT):
        pass
    message = str(caught.value)
    assert "Traceback" not in message
    return message


def test_a_model_that_is_not_there_stops_the_start(service: LocalService) -> None:
    assert "export it: python -m export resnet32-preact" in refused({"SERVING_MODELS": "resnet32-preact"})


def test_a_changed_model_stops_the_start(exported_pair: tuple[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    model = bentoml.models.get(exported_pair[0])
    stored = home / "models" / str(model.tag.name) / str(model.tag.version)
    shutil.copytree(model.path, stored)
    content = bytearray((stored / "model.onnx").read_bytes())
    content[-1] ^= 1
    (stored / "model.onnx").write_bytes(content)
    message = refused({"BENTOML_HOME": str(home), "SERVING_MODELS": exported_pair[0]})
    assert "model.onnx: sha256 is" in message
    assert "export again" in message


def test_a_model_that_no_runtime_opens_ends_the_worker_which_says_why(
    exported_pair: tuple[str, str], tmp_path: Path
) -> None:
    """Its hashes are right, so it is found out where it is opened: by the worker, and others are not to wait for it."""
    stored = Path(bentoml.models.get(exported_pair[0]).path)
    manifest = read_manifest(stored, exported_pair[0].partition(":")[2])
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    files = {"model.onnx": file_sha256(tmp_path / "model.onnx")}
    broken = manifest.model_copy(update={"variant": "broken", "class_maps": None, "files": files})
    write_manifest(tmp_path, broken)
    tag = register(tmp_path, broken)
    environment = {"SERVING_MODELS": tag}
    with (
        pytest.raises(ServiceError) as caught,
        local_service(environment=environment, folder=ROOT, ready_within_s=10),
    ):
        pass
    bentoml.models.delete(tag)
    message = str(caught.value)
    line, *_ = [line for line in message.splitlines() if "this worker cannot open" in line]
    assert "model.onnx: ONNX Runtime cannot open it" in line
    assert "Traceback" not in message


def test_what_damages_the_files_of_metrics_is_said_at_once_and_no_more(
    exported_pair: tuple[str, str], tmp_path: Path
) -> None:
    environment = {"SERVING_MODELS": exported_pair[0], "TMPDIR": str(tmp_path)}
    with local_service(environment=environment, folder=ROOT) as running:
        (folder,) = tmp_path.glob("preflight-metrics-*")
        (folder / "counter_begun.db").touch()
        assert httpx.get(f"{running.url}/metrics").status_code == 200
        (folder / "counter_damaged.db").write_bytes(b"\x7f" * 100)
        answer = httpx.get(f"{running.url}/metrics", timeout=5)
        assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
        assert "file is corrupted" in running.log()
        (folder / "counter_damaged.db").unlink()
        assert "preflight_in_flight" in httpx.get(f"{running.url}/metrics").text


def test_a_misspelled_setting_stops_the_start() -> None:
    assert "SERVING_TREADS: " in refused({"SERVING_TREADS": "2"})
