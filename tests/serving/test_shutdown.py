"""How a service ends: what was accepted is answered, and a worker that dies is replaced by its equal."""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import bentoml
import httpx2 as httpx
import psutil
import pytest

from loadtests.leaving import held, workers
from loadtests.local_service import local_service
from tests.conftest import PAIR, ROOT, registered
from tests.serving.test_http_api import encoded
from tests.serving.test_limits import answer, connect
from tests.serving.test_service import post


class Users:
    """Closed-loop clients on kept connections; `failed` has what went wrong after a request was sent on one."""

    def __init__(self, url: str, number: int) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.address, self.body = (host, int(port)), encoded()
        self.statuses: Counter[int] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(number)]
        for thread in self.threads:
            thread.start()

    def ask(self) -> None:
        while not self.ended.is_set():
            connection = http.client.HTTPConnection(*self.address, timeout=30)
            try:
                connection.connect()
                self.keep_asking(connection)
            except OSError:
                return  # nobody listens any more
            finally:
                connection.close()

    def keep_asking(self, connection: http.client.HTTPConnection) -> None:
        kept = False
        while not self.ended.is_set():
            try:
                connection.request("POST", "/classify", self.body, {"content-type": "image/png"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed["kept" if kept else "new", type(error).__name__] += 1
                return
            self.statuses[response.status] += 1
            if response.getheader("connection") == "close":
                return
            kept = True

    def stop(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_killed_worker_harms_what_it_had_alone_and_comes_back_with_the_versions_of_the_start(
    exported_pair: tuple[str, str],
) -> None:
    """The newest at the start stays, though a newer one is registered before the worker comes back."""
    users_of_each = 4
    with local_service(environment={"SERVING_WORKERS": "2"}, folder=ROOT) as running:
        until(lambda: running.begun() == 2)
        before = httpx.get(f"{running.url}/variants").json()
        (newer,) = registered(PAIR[0], "--untrained", "--max-batch-size", "7")
        users = Users(running.url, 2 * users_of_each)
        until(lambda: users.statuses[200] > 100)
        killed, other = workers(running.pid)
        in_hand = held(killed)
        killed.kill()
        until(lambda: running.begun() == 3)
        answered = users.statuses[200]
        until(lambda: users.statuses[200] > answered + 100)
        users.stop()
        found = [httpx.get(f"{running.url}/variants").json() for _ in range(20)]
        assert other.is_running()
    bentoml.models.delete(newer)
    assert set(users.statuses) == {200}
    assert users.failed.total() <= in_hand
    assert newer.partition(":")[2] not in str(before)
    assert all(each == before for each in found)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process that its parent has died")
def test_workers_leave_as_on_sigterm_where_their_supervisor_is_killed(exported_pair: tuple[str, str]) -> None:
    """They would hold the port, and nobody would replace them."""
    environment = {"SERVING_MODELS": exported_pair[0], "SERVING_WORKERS": "2"}
    with local_service(environment=environment, folder=ROOT) as running:
        until(lambda: running.begun() == 2)
        left = workers(running.pid)
        psutil.Process(running.pid).kill()
        until(lambda: not any(worker.is_running() for worker in left))
        assert running.log().count("SIGTERM: not ready any more") == 2


def test_every_request_that_was_accepted_is_answered_when_the_service_stops(exported_pair: tuple[str, str]) -> None:
    """Nothing fails on a connection that had been served, and clients got every answer that the service gave."""
    environment = {"SERVING_MODELS": ",".join(exported_pair), "SERVING_DRAIN_MS": "300"}
    with local_service(environment=environment, folder=ROOT) as running:
        users = Users(running.url, 8)
        until(lambda: users.statuses[200] > 100)
        psutil.Process(running.pid).terminate()
        until(lambda: not any(thread.is_alive() for thread in users.threads))
        until(lambda: "closed; answered" in running.log())
        log = running.log()
    assert set(users.statuses) == {200}
    assert not [kind for kind in users.failed if kind[0] == "kept"]
    assert f"answered {users.statuses.total()} requests in all, 0 left" in log


def test_it_is_not_ready_while_it_drains_and_sends_clients_away(exported_pair: tuple[str, str]) -> None:
    environment = {"SERVING_MODELS": exported_pair[0], "SERVING_DRAIN_MS": "2000"}
    with local_service(environment=environment, folder=ROOT) as running:
        psutil.Process(running.pid).terminate()
        until(lambda: httpx.get(f"{running.url}/readyz").status_code == 503)
        assert httpx.get(f"{running.url}/v2/health/ready").status_code == 400
        assert httpx.get(f"{running.url}/livez").status_code == 200
        answer = post(running.url, encoded())
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_who_has_connected_may_still_ask_when_the_service_stops(exported_pair: tuple[str, str]) -> None:
    """Its connection was accepted; nobody could have told it to go elsewhere."""
    question = b"GET /variants HTTP/1.1\r\nhost: any\r\n\r\n"
    with (
        local_service(environment={"SERVING_MODELS": exported_pair[0]}, folder=ROOT) as running,
        connect(running) as asks,
        connect(running) as never_does,
        connect(running) as idle,
    ):
        idle.sendall(question)  # accepted after both others
        assert idle.recv(1) == b"H"
        psutil.Process(running.pid).terminate()
        answer(idle)  # closed as soon as the worker leaves
        asks.sendall(question)
        found = answer(asks)
        assert never_does.recv(1) == b""
    assert found.startswith(b"HTTP/1.1 200")
    assert b"\r\nconnection: close\r\n" in found


def test_a_request_in_flight_is_answered_when_the_service_stops(exported_pair: tuple[str, str]) -> None:
    """SIGTERM while an image is still on its way: the rest is read and the answer given."""
    half_sent, stopping = threading.Event(), threading.Event()
    body = encoded()

    def slowly() -> Iterator[bytes]:
        yield body[:100]
        half_sent.set()
        assert stopping.wait(30)
        yield body[100:]

    def ask(url: str) -> int:
        return httpx.post(f"{url}/classify", content=slowly(), headers={"content-type": "image/png"}).status_code

    with (
        local_service(environment={"SERVING_MODELS": ",".join(exported_pair)}, folder=ROOT) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(ask, running.url)
        assert half_sent.wait(30)
        assert post(running.url, body).status_code == 200  # accepted after the slow one
        psutil.Process(running.pid).terminate()
        time.sleep(0.5)  # the signal reaches the worker
        stopping.set()
        assert answer.result() == 200
