"""A webhook receiver that answers slowly or wrongly does not block its sink."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.stage import NoState
from framegate.pipeline.sinks.delivery import Message, ReceiverUnavailable
from framegate.pipeline.sinks.position import Undelivered
from framegate.pipeline.sinks.webhook import MAX_PAUSE_S, Webhook

MESSAGE = Message("gate", Undelivered("0-0", "1-1", 1, "trimmed"))
Answer = Callable[[socket.socket], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Enter with the URL of a server that calls `answer` for each connection."""

    def serve() -> None:
        with suppress(OSError):  # it is closed
            while True:
                connection, _ = listening.accept()
                with connection, suppress(OSError):
                    connection.recv(1 << 16)
                    answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/in"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(autouse=True)
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", f"whsec_{base64.b64encode(bytes(32)).decode()}")


def posted(url: str, answer_s: float) -> ReceiverUnavailable:
    """Post once and return the error."""
    hook = Webhook("office", SinkConfig("webhook", url, secret_env="HOOK_SECRET"), "run1", answer_s)
    with pytest.raises(ReceiverUnavailable) as found:
        hook.deliver(MESSAGE, NoState())
    hook.close()
    return found.value


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"HT"]
)
def test_an_answer_byte_by_byte_is_given_up_in_time(head: bytes) -> None:
    has_ended, is_over = threading.Event(), threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(600):
            if has_ended.wait(0.1):
                return
            connection.sendall(b"a")
        is_over.set()

    with answering(drip) as url:
        why = str(posted(url, answer_s=1.0))
        has_ended.set()
    assert not is_over.is_set(), "a minute of answer was waited for"
    assert "the receiver cannot be reached" in why


def test_an_answer_that_goes_on_for_ever_is_given_up_in_time() -> None:
    def go_on(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    with answering(go_on) as url:
        assert "the receiver cannot be reached" in str(posted(url, answer_s=0.5))


def test_a_receiver_that_answers_in_time_is_asked_again_by_the_same_connection() -> None:
    """The deadline is that of one answer, not of a connection."""
    connections = 0

    def answer(connection: socket.socket) -> None:
        nonlocal connections
        connections += 1
        while True:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if not connection.recv(1 << 16):
                return

    with answering(answer) as url:
        config = SinkConfig("webhook", url, secret_env="HOOK_SECRET")
        hook = Webhook("office", config, "run1", timeout_s=30.0)
        for _ in range(3):
            assert hook.deliver(MESSAGE, NoState())[0] == "delivered"
        hook.close()
    assert connections == 1


@pytest.mark.parametrize(
    ("said", "pause_s"),
    [
        (b"7", 7.0),
        (b"\xb2\xb2", 0.0),  # superscripts are digits, and no number
        (b"9" * 5000, MAX_PAUSE_S),
        (b"-5", 0.0),
        (b"Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
    ],
)
def test_a_pause_that_a_receiver_asks_for(said: bytes, pause_s: float) -> None:
    def answer(connection: socket.socket) -> None:
        head = b"HTTP/1.1 503 x\r\nContent-Length: 0\r\nRetry-After: "
        connection.sendall(head + said + b"\r\n\r\n")

    with answering(answer) as url:
        found = posted(url, answer_s=60.0)
    assert (str(found), found.pause_s) == ("the receiver answers 503", pause_s)
