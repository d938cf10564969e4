"""A real HTTP server that receives webhooks, may be away, slow, or say no."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
SINK = """
[sinks.office]
kind = "webhook"
url_env = "HOOK_URL"
secret_env = "HOOK_SECRET"
"""


class Posted:
    """What came in one request that was answered with 200: headers in lower case, and the body."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path, self.headers, self.body = path, headers, body

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    receiver: WebhookReceiver


class WebhookReceiver:
    """Listens on a port of its own, the same one after each `start`.

    answers  the next answers, then 200; one for an id (`refuses`) whatever else is said
    taken    what it answered with 200
    """

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.refuses: Callable[[str], int | None] = lambda _: None
        self.says: dict[str, str] = {}
        self.taken: list[Posted] = []
        self.tries: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._port = 0
        self._server: _Server | None = None
        self.start()
        self._port = self.port

    @property
    def port(self) -> int:
        return self._port or (self._server.server_port if self._server is not None else 0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    def ids(self) -> list[str]:
        return [posted.id for posted in self.taken]

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.receiver = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be away: connections are refused, those that are open end."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@contextlib.contextmanager
def receiving() -> Iterator[WebhookReceiver]:
    """A receiver that `SINK` tells: the environment has its address and secret meanwhile."""
    receiver = WebhookReceiver()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOOK_URL", receiver.url)
        patched.setenv("HOOK_SECRET", SECRET)
        try:
            yield receiver
        finally:
            receiver.may_answer.set()
            receiver.stop()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        receiver = self.server.receiver
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # the sender died
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        receiver.tries.append(headers["webhook-id"])
        receiver.may_answer.wait()
        if receiver._server is not self.server:  # it went away meanwhile
            self.close_connection = True
            return
        answer = receiver.refuses(headers["webhook-id"])
        if answer is None:
            answer = receiver.answers.pop(0) if receiver.answers else 200
        if answer == 200:
            receiver.taken.append(Posted(self.path, headers, body))
        self.send_response(answer)
        for name, value in receiver.says.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the sender died
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""
