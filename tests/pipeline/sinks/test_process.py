"""The process of the sinks starts a sink once it can start."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping

import pytest

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import Stop, make_pair, send
from framegate.pipeline.sinks import process
from tests.support.runs import DEADLINE_S, wait_until


class Following:
    """A sink that records its orders."""

    def __init__(self) -> None:
        self.orders: list[str] = []

    def start(self) -> None:
        self.orders.append("start")

    def take_sources(self, past: Mapping[str, int]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        self.orders.append("finish")

    def join(self, timeout: float | None = None) -> None:  # noqa: ARG002
        self.orders.append("join")


def test_a_sink_that_cannot_start_is_tried_again_beside_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "AGAIN_S", 0.01)
    first, second = Following(), Following()
    tries: list[str] = []

    def sink_of(name: str) -> Following:
        tries.append(name)
        if name == "first":
            return first
        if tries.count(name) < 3:
            raise ConfigFaults(["sinks.second.secret_file: no such file"])
        return second

    ours, theirs = make_pair()
    line = ControlLine(theirs)
    serving = threading.Thread(target=process.serve, args=(line, ("second", "first"), sink_of))
    serving.start()
    wait_until("both have started", lambda: second.orders == first.orders == ["start"])
    send(ours, Stop())
    serving.join(DEADLINE_S)
    assert not serving.is_alive()
    assert second.orders == first.orders == ["start", "finish", "join"]
    assert tries == ["second", "first", "second", "second"]
    assert caplog.text.count("sink second cannot start") == 1
    ours.shutdown(socket.SHUT_RDWR)
    ours.close()
