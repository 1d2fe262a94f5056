"""Many images in one request: each is answered, or refused, on its own and in its place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving.answers import BatchAnswer
from serving.http_api import HttpApi
from serving.metrics import metrics
from serving.opened import Opened
from tests.conftest import PAIR
from tests.serving.test_http_api import MAX_BYTES, encoded, one_bit_png, opening

MOST = 8


@pytest.fixture(scope="module")
def opened(exported_pair: tuple[str, str]) -> Iterator[Opened]:
    with opening(exported_pair, max_images=MOST, max_image_bytes=MAX_BYTES, max_image_pixels=10**6) as pair:
        yield pair


@pytest.fixture(scope="module")
def client(opened: Opened) -> TestClient:
    return TestClient(HttpApi(PlainTextResponse(""), opened))


def files(*contents: bytes, name: str = "images") -> list[tuple[str, tuple[str, bytes, str]]]:
    return [(name, (f"{index}.png", content, "image/png")) for index, content in enumerate(contents)]


def ask(client: TestClient, *contents: bytes, query: str = "") -> list[dict[str, Any]]:
    response = client.post(f"/classify/batch{query}", files=files(*contents))
    assert response.status_code == 200
    body = response.json()
    TypeAdapter(BatchAnswer).validate_python(body)
    results: list[dict[str, Any]] = body["results"]
    return results


@pytest.mark.parametrize("variant", PAIR)
def test_each_image_gets_the_answer_that_it_gets_alone(client: TestClient, variant: str) -> None:
    images = [encoded(size=(30 + index, 40)) for index in range(MOST)]
    results = ask(client, *images, query=f"?variant={variant}&top_k=2")
    assert [item["name"] for item in results] == [f"{index}.png" for index in range(MOST)]
    for image, item in zip(images, results, strict=True):
        alone = client.post(f"/classify?variant={variant}&top_k=2", content=image).json()
        assert item["status"] == 200
        assert item["error"] is None
        assert item["classification"]["predictions"] == alone["predictions"]


def test_one_bad_image_harms_no_other(client: TestClient) -> None:
    results = ask(client, encoded(), b"no image", encoded(), b"", one_bit_png(1001, 1000), bytes(MAX_BYTES + 1))
    assert [item["status"] for item in results] == [200, 400, 200, 400, 413, 413]
    errors = [item["error"]["error"] for item in results if item["error"] is not None]
    assert errors == ["not_an_image", "empty_body", "too_many_pixels", "too_many_bytes"]


def test_a_batch_is_counted_as_what_it_was(client: TestClient) -> None:
    """Received once, however many images it had; and what was refused in it is in the metrics."""

    def counted() -> tuple[int, int]:
        metrics().publish(0, 0)
        received = metrics().seconds.labels(PAIR[0], "receive")
        samples = {sample.name: sample.value for sample in received._child_samples()}
        return int(samples["_count"]), int(metrics().refused.labels("not_an_image")._value.get())

    before = counted()
    ask(client, encoded(), b"no image", encoded())
    assert counted() == (before[0] + 1, before[1] + 1)


def test_all_images_of_a_request_go_to_one_variant(exported_pair: tuple[str, str]) -> None:
    with opening(exported_pair, split=f"{PAIR[0]}=1 {PAIR[1]}=1") as opened:
        client = TestClient(HttpApi(PlainTextResponse(""), opened))
        found = [{item["classification"]["variant"] for item in ask(client, *[encoded()] * 4)} for _ in range(20)]
    assert all(len(variants) == 1 for variants in found)
    assert set.union(*found) == set(PAIR)


@pytest.mark.parametrize(
    ("status", "error", "request_options"),
    [
        (400, "no_image_field", {"files": files(encoded(), name="image")}),
        (400, "too_many_files", {"files": files(*[encoded()] * (MOST + 1))}),
        (400, "unknown_field", {"files": files(encoded()), "data": {"top_k": "1"}}),
        (400, "unknown_parameter", {"files": files(encoded()), "params": {"k": "1"}}),
        (415, "unsupported_content_type", {"content": encoded(), "headers": {"content-type": "image/png"}}),
    ],
)
def test_what_is_wrong_with_all_of_it_is_refused_whole(
    client: TestClient, status: int, error: str, request_options: dict[str, Any]
) -> None:
    response = client.post("/classify/batch", **request_options)
    assert (response.status_code, response.json()["error"]) == (status, error)


def test_its_bytes_are_limited_together(exported_pair: tuple[str, str]) -> None:
    with opening(exported_pair[:1], max_images=2, max_batch_bytes=10_000) as opened:
        client = TestClient(HttpApi(PlainTextResponse(""), opened))
        assert client.post("/classify/batch", files=files(bytes(200_000))).status_code == 413


def test_large_images_of_a_form_are_not_written_to_files(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system of a container may be read-only; this is where Python would find that out."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    image = encoded("BMP", size=(900, 900))
    assert len(image) > 2 << 20
    assert [item["status"] for item in ask(client, image)] == [413]


def test_a_client_that_hangs_up_takes_its_whole_batch_along(exported_pair: tuple[str, str]) -> None:
    """And is nobody's fault: no answer, no error in the log."""
    boundary = b"----any"
    part = b'--%s\r\ncontent-disposition: form-data; name="images"; filename="a"\r\n\r\n%s\r\n' % (boundary, encoded())
    form = part * 4 + b"--%s--\r\n" % boundary

    async def scenario(opened: Opened, let_go: threading.Event) -> list[Any]:
        sent: list[Any] = []
        bodies = iter([form])

        async def receive() -> dict[str, Any]:
            if (body := next(bodies, None)) is not None:
                return {"type": "http.request", "body": body, "more_body": False}
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        content_type = b"multipart/form-data; boundary=" + boundary
        scope = {
            "type": "http", "method": "POST", "path": "/classify/batch", "query_string": b"",
            "headers": [(b"content-type", content_type)],
        }  # fmt: skip
        await HttpApi(None, opened)(scope, receive, send)  # type: ignore[arg-type]
        assert opened.in_flight == 2  # both threads have begun one, and nobody begins another
        let_go.set()
        while opened.in_flight:
            await asyncio.sleep(0.001)
        return sent

    with opening(exported_pair[:1], batching="off") as opened:
        assert opened.classifier is not None
        (served,) = opened.classifier.served.values()
        let_go, begun, infer = threading.Event(), [], served.runner.infer

        def wait(images: Any) -> Any:
            begun.append(1)
            assert let_go.wait(20)
            return infer(images)

        runner: Any = served.runner
        runner.infer = wait
        assert asyncio.run(scenario(opened, let_go)) == []
        assert len(begun) == 2


def test_what_one_request_waits_for_is_bounded(exported_pair: tuple[str, str]) -> None:
    """More images than the service takes at once wait within their request instead of being refused."""
    with opening(exported_pair[:1], max_in_flight=2, max_images=MOST) as opened:
        client = TestClient(HttpApi(PlainTextResponse(""), opened))
        assert {item["status"] for item in ask(client, *[encoded()] * MOST)} == {200}
        assert opened.in_flight == 0
