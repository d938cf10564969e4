"""Heartbeats: requests while the run is healthy, and none otherwise."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from framegate.pipeline.config.sinks import SinkConfig, episode_sinks, rule_faults
from framegate.pipeline.contracts import keys
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import (
    Call,
    make_pair,
    receive_from_child,
    reply_of,
    send,
)
from framegate.pipeline.sinks.heartbeat import STILL_S, Heartbeat, RunHealth, requested
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.redis_client import connect
from framegate.pipeline.telemetry.run_status import RunStatus, SourceStatus
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.servers import server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with server(tmp_path_factory.mktemp("store")) as running:
        yield running


class Monitor:
    """A service that counts requests. status: of its responses; slow: it never ends one"""

    def __init__(self, status: int = 200, slow: bool = False) -> None:
        self.paths: list[str] = []
        monitor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                monitor.paths.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                if not slow:
                    self.wfile.write(b"ok")
                else:
                    monitor.may_end.wait(DEADLINE_S)

            def log_message(self, *_: Any) -> None:
                pass

        self.may_end = threading.Event()
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ping/door?x=1"


@contextmanager
def monitor(status: int = 200, slow: bool = False) -> Iterator[Monitor]:
    made = Monitor(status, slow)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.may_end.set()
        made.server.shutdown()
        thread.join()
        made.server.server_close()


@contextmanager
def supervisor(unready: list[str]) -> Iterator[ControlLine]:
    """The line to a supervisor that reports this state of its run; an empty list: it is ready."""
    ours, theirs = make_pair()
    camera = SourceStatus("door", "rtsp://door", True, 0, 8, 8, 0)

    def answer() -> None:
        while isinstance(call := receive_from_child(ours), Call):
            status = RunStatus("run", False, list(unready), [], [camera], {})
            send(ours, reply_of(call.number, status))

    thread = threading.Thread(target=answer)
    thread.start()
    yield ControlLine(theirs)
    ours.shutdown(socket.SHUT_RDWR)
    thread.join()
    ours.close()


def config(url: str, **more: Any) -> SinkConfig:
    return SinkConfig("heartbeat", url, every_s=5.0, timeout_s=1.0, **more)


def test_it_requests_the_url_only_while_the_run_is_healthy(
    store: EmbeddedStore, caplog: pytest.LogCaptureFixture
) -> None:
    unready: list[str] = []
    with monitor() as service, supervisor(unready) as line:
        heartbeat = Heartbeat("alive", config(service.url), RunHealth(line, store.url, ["running"]))
        assert heartbeat.beat() == 5.0
        assert service.paths == ["/ping/door?x=1"]
        heartbeat.take_sources({"door": 0, "yard": 0})
        assert heartbeat.beat() == 5.0
        assert "source door is waiting; source yard is waiting" in caplog.text
        heartbeat.take_sources({})
        unready.append("worker shard-1 is not ready")
        heartbeat.beat()
        assert "not healthy: worker shard-1 is not ready" in caplog.text
        assert len(service.paths) == 1
        unready.clear()
        heartbeat.beat()
        assert "heartbeats are accepted again" in caplog.text
        assert len(service.paths) == 2


def test_which_states_count_as_alive_is_configured(store: EmbeddedStore) -> None:
    with monitor() as service, supervisor([]) as line:
        chosen = config(service.url, sources=("door",), alive=("waiting",))
        heartbeat = Heartbeat("alive", chosen, RunHealth(line, store.url, chosen.alive))
        heartbeat.take_sources({"door": 0, "yard": 0})
        heartbeat.start()
        wait_until("a request arrives", lambda: service.paths)
        heartbeat.finish()
        heartbeat.join(DEADLINE_S)
        assert not heartbeat.is_alive()


def test_a_camera_without_new_results_is_not_alive(store: EmbeddedStore) -> None:
    now = [0.0]
    with supervisor([]) as line, connect(store.url) as client:
        client.hset(keys.at("door", "decode"), mapping={"p": "1-1"})
        client.hset(keys.own("door"), mapping={"run": "a run", "name": "door"})
        client.hset(keys.count("door"), "published", 1)
        health = RunHealth(line, store.url, ["running"], lambda: now[0])
        assert health.faults(["door"]) == []
        now[0] = STILL_S + 1
        assert health.faults(["door"]) == ["source door has had no result for 120 s"]
        client.hset(keys.count("door"), "published", 2)
        assert health.faults(["door"]) == []
        health.close()
        client.flushall()


def test_a_supervisor_that_is_gone_is_not_healthy(store: EmbeddedStore) -> None:
    with monitor() as service:
        with supervisor([]) as line:
            health = RunHealth(line, store.url, ["running"])
        Heartbeat("alive", config(service.url), health).beat()
        assert service.paths == []


def test_a_refusal_is_tried_again_soon(store: EmbeddedStore, caplog: Any) -> None:
    with monitor(500) as service, supervisor([]) as line:
        heartbeat = Heartbeat("alive", config(service.url), RunHealth(line, store.url, ["running"]))
        assert heartbeat.beat() < 5.0
        assert "the receiver answers 500" in caplog.text


def test_a_slow_receiver_takes_no_longer_than_the_limit() -> None:
    with monitor(slow=True) as service:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            requested(urlsplit(service.url), 0.2)
        assert time.monotonic() - began >= 0.2


def test_it_needs_no_rules_and_has_no_position() -> None:
    alive = config("https://ping.example/door")
    assert alive.faults() == []
    assert rule_faults({"alive": alive}, [], []) == []
    assert episode_sinks({"alive": alive, "hook": SinkConfig("webhook")}) == ("hook",)
    wrong = SinkConfig("heartbeat", "ftp://x", rules=("visitor",), give_up_s=3.0, alive=())
    faults = "\n".join(wrong.faults())
    for part in (
        "rules: only for kind",
        "give_up_s: only for",
        "ftp:// does not fit",
        "alive = []",
    ):
        assert part in faults
    assert (
        "every_s: only for kind heartbeat" in SinkConfig("mqtt", "mqtt://x", every_s=9.0).faults()
    )


def test_the_url_may_be_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PING_URL", "https://ping.example/secret")
    assert SinkConfig("heartbeat", url_env="PING_URL").place("alive").endswith("/secret")
