"""Who answers what names no variant: the default, a split that clients stick to, and a shadow that nobody notices."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving.config import ConfigError, Settings, read_settings
from serving.http_api import HttpApi
from serving.opened import Opened
from serving.routing import Routing, routing
from serving.shadow import MOST_WAITING, Shadow
from tests.conftest import PAIR
from tests.serving.test_http_api import encoded, opening

POST, PRE = PAIR


def routed(split: dict[str, float]) -> Routing:
    return Routing(split, {})


def client_of(opened: Opened) -> TestClient:
    return TestClient(HttpApi(PlainTextResponse(""), opened))


def test_a_split_gives_each_variant_its_share() -> None:
    found = Counter(routed({POST: 90.0, PRE: 10.0}).choose(f"client {index}".encode()) for index in range(20_000))
    assert found[PRE] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_a_client_stays_with_its_variant_and_a_growing_share_takes_none_of_it_away() -> None:
    clients = [f"client {index}".encode() for index in range(2_000)]
    before, after = routed({PRE: 10.0, POST: 90.0}), routed({PRE: 50.0, POST: 50.0})
    assert [before.choose(client) for client in clients] == [before.choose(client) for client in clients]
    assert all(after.choose(client) == PRE for client in clients if before.choose(client) == PRE)


def test_without_a_client_key_the_split_is_by_request() -> None:
    found = Counter(routed({POST: 50.0, PRE: 50.0}).choose(None) for _ in range(2_000))
    assert 800 < found[PRE] < 1200


@pytest.mark.parametrize("split", [{POST: 100.0, PRE: 0.0}, {PRE: 0.0, POST: 100.0}])
def test_a_variant_without_weight_gets_nothing(split: dict[str, float]) -> None:
    assert {routed(split).choose(None) for _ in range(500)} == {POST}


@pytest.mark.parametrize(
    "environment",
    [
        {"SERVING_SPLIT": POST},
        {"SERVING_SPLIT": f"{POST}="},
        {"SERVING_SPLIT": f"{POST}=-1"},
        {"SERVING_SPLIT": f"{POST}=nan"},
        {"SERVING_SPLIT": f"{POST}=inf"},
        {"SERVING_SPLIT": f"{POST}=much"},
        {"SERVING_SPLIT": f"{POST}=1 {POST}=2"},
        {"SERVING_SHADOW": "=5"},
    ],
)
def test_what_is_no_weight_is_refused_by_the_setting_that_has_it(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(environment))):
        read_settings(environment)


@pytest.mark.parametrize(
    ("setting", "text", "problem"),
    [
        ("split", "resnet18=1", "SERVING_SPLIT: resnet18 not among what is served"),
        ("split", f"{POST}=0", "all weights are 0"),
        ("shadow", "resnet18=1", "SERVING_SHADOW: resnet18 not among what is served"),
        ("shadow", f"{PRE}=101", "above 100 %"),
        ("shadow", f"{POST}=5", f"{POST} answers all requests itself"),
    ],
)
def test_settings_that_do_not_fit_what_is_served_stop_the_start(
    exported_pair: tuple[str, str], setting: str, text: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem), opening(exported_pair, **{setting: text}):
        pass


def test_a_shadow_that_knows_other_classes_is_refused(exported_pair: tuple[str, str]) -> None:
    with opening(exported_pair) as opened:
        assert opened.classifier is not None
        manifests = {name: served.manifest for name, served in opened.classifier.served.items()}
    manifests[PRE] = manifests[PRE].model_copy(update={"labels": ("cat", "dog")})
    with pytest.raises(ConfigError, match="differ in labels"):
        routing(Settings.model_validate({"shadow": f"{PRE}=5"}), manifests)


def test_variants_shows_the_routing_and_answers_follow_it(exported_pair: tuple[str, str]) -> None:
    with opening(exported_pair, split=f"{POST}=1,{PRE}=3", shadow=f"{PRE}=50") as opened:
        client = client_of(opened)
        shown = {each["variant"]: each for each in client.get("/variants").json()["variants"]}
        found = Counter(client.post("/classify", content=encoded()).json()["variant"] for _ in range(40))
        kept = {
            client.post("/classify", content=encoded(), headers={"X-Client-Key": "me"}).json()["variant"]
            for _ in range(10)
        }
        asked = {client.post(f"/classify?variant={POST}", content=encoded()).json()["variant"] for _ in range(10)}
    assert [(each["split_percent"], each["shadow_percent"]) for each in shown.values()] == [(25, 0), (75, 50)]
    assert set(found) == set(PAIR)
    assert len(kept) == 1
    assert asked == {POST}


def test_an_empty_client_key_is_none(exported_pair: tuple[str, str]) -> None:
    """A proxy that makes one of a cookie has nothing for who has none, and they are not all one client."""
    with opening(exported_pair, split=f"{POST}=1,{PRE}=1") as opened:
        client = client_of(opened)
        answers = [client.post("/classify", content=encoded(), headers={"X-Client-Key": ""}) for _ in range(40)]
    assert {answer.json()["variant"] for answer in answers} == set(PAIR)


def shadowed(result: str) -> float:
    labels = {"primary": POST, "shadow": PRE, "result": result}
    return REGISTRY.get_sample_value("preflight_shadow_total", labels) or 0.0


def until(result: str, count: float) -> None:
    ends = time.monotonic() + 10
    while shadowed(result) < count:
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_agreement_with_the_shadow_is_counted(exported_pair: tuple[str, str]) -> None:
    before = shadowed("agreed"), shadowed("differed")
    with opening(exported_pair, shadow=f"{PRE}=100") as opened:
        assert opened.classifier is not None
        client = client_of(opened)
        images = [encoded(size=(32 + index, 32)) for index in range(10)]
        best = [
            [client.post(f"/classify?variant={name}&top_k=1", content=image).json()["predictions"][0] for name in PAIR]
            for image in images
        ]
        same = sum(post["index"] == pre["index"] for post, pre in best)
        for image in images:
            client.post("/classify", content=image)
        until("agreed", before[0] + same)
        until("differed", before[1] + len(images) - same)
    assert (shadowed("agreed"), shadowed("differed")) == (before[0] + same, before[1] + len(images) - same)


def test_a_shadow_that_fails_or_hangs_touches_no_answer(
    exported_pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the requests behind it: were an answer to wait for the shadow, neither would ever come."""
    answered = False

    def hang(_: Any) -> Any:
        nonlocal answered
        while not answered:
            time.sleep(0.001)
        raise RuntimeError("the shadow is ill")

    before = shadowed("failed")
    with opening(exported_pair, shadow=f"{PRE}=100") as opened:
        assert opened.classifier is not None
        monkeypatch.setattr(opened.classifier.served[PRE].runner, "infer", hang)
        client = client_of(opened)
        assert [client.post("/classify", content=encoded()).status_code for _ in range(3)] == [200] * 3
        answered = True
        until("failed", before + 3)


def test_copies_beyond_what_the_shadow_takes_are_dropped_and_counted() -> None:
    shadow, before = Shadow(), shadowed("dropped")
    done = shadowed("agreed")
    held = True

    def wait() -> int:
        while held:
            time.sleep(0.001)
        return 0

    number = MOST_WAITING + 10
    for _ in range(number):
        shadow.submit((POST, PRE, 0, wait))
    dropped = shadowed("dropped") - before
    held = False
    shadow.close()
    assert dropped in {9, 10}  # one may have been taken from the queue
    assert shadowed("dropped") - before + shadowed("agreed") - done == number  # those that waited at the end too


def test_a_shadow_that_gets_no_thread_touches_no_answer_and_tries_again() -> None:
    shadow, before, done = Shadow(), shadowed("dropped"), shadowed("agreed")
    usual = threading.stack_size(1 << 50)  # more than there are addresses: no thread can begin
    try:
        shadow.submit((POST, PRE, 0, lambda: 0))
    finally:
        threading.stack_size(usual)
    shadow.close()
    assert (shadowed("dropped"), shadowed("agreed")) == (before + 1, done)
    shadow.submit((POST, PRE, 0, lambda: 0))
    until("agreed", done + 1)
    shadow.close()


def test_the_pixels_of_the_primary_are_what_the_shadow_sees(
    exported_pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[np.ndarray]] = {name: [] for name in PAIR}
    with opening(exported_pair, shadow=f"{PRE}=100") as opened:
        assert opened.classifier is not None
        for name, served in opened.classifier.served.items():
            infer = served.runner.infer

            def keep(images: Any, name: str = name, infer: Any = infer) -> Any:
                seen[name].append(images)
                return infer(images)

            monkeypatch.setattr(served.runner, "infer", keep)
        before = shadowed("agreed") + shadowed("differed")
        client_of(opened).post("/classify", content=encoded())
        ends = time.monotonic() + 10
        while shadowed("agreed") + shadowed("differed") == before:
            assert time.monotonic() < ends
            time.sleep(0.005)
    np.testing.assert_array_equal(seen[POST], seen[PRE])
