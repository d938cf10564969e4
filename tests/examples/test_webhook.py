"""Results reach a URL signed and at least once; what is refused is counted."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.examples.delivering import given, opened
from tests.support.runs import wait_until

pytestmark = pytest.mark.timeout(120)
USE = "webhook:Webhook"
SECRET = "Hunter2-webhook"


class Receiver(ThreadingHTTPServer):
    """Answers with what `answers` says, then 200; keeps what it answered so."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.taken: list[tuple[str, dict[str, str], bytes]] = []
        threading.Thread(target=self.serve_forever, name="receiver").start()

    @property
    def url(self) -> str:
        return f"http://viewer:{SECRET}@127.0.0.1:{self.server_port}/in?token={SECRET}"

    def keys(self) -> list[str]:
        return [headers["idempotency-key"] for _, headers, _ in self.taken]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == 200:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.taken.append((self.path, headers, body))
        self.send_response(answer)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()
    monkeypatch.setenv("WEBHOOK_URL", made.url)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    yield made
    made.shutdown()
    made.server_close()


def options(**more: object) -> dict[str, object]:
    return {"url_env": "WEBHOOK_URL", "secret_env": "WEBHOOK_SECRET", **more}


def test_a_result_is_signed_with_its_time(receiver: Receiver, tmp_path: Path) -> None:
    before = int(time.time())
    with opened(USE, tmp_path, **options()) as stage:
        assert given(stage, range(3)) == 0
        assert receiver.keys() == ["gate/1-0", "gate/1-1", "gate/1-2"]
    _, headers, body = receiver.taken[2]
    found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["framegate-signature"])
    assert found is not None
    assert before <= int(found[1]) <= time.time()
    signed = found[1].encode() + b"." + body
    assert hmac.compare_digest(
        found[2], hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    )
    assert json.loads(body)["seq"] == 2


def test_a_receiver_that_fails_first_gets_each_result_in_order(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [503, 500, 429, 408]
    with opened(USE, tmp_path, **options()) as stage:
        assert given(stage, range(5)) == 0
        wait_until("all are taken", lambda: len(receiver.taken) == 5)
    assert receiver.keys() == [f"gate/1-{seq}" for seq in range(5)]
    assert "the receiver is away (it answers 503)" in caplog.text
    assert SECRET not in caplog.text


def test_what_is_refused_is_counted_and_the_rest_goes_on(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answers = [200, 400, 410, 200]
    with opened(USE, tmp_path, **options()) as stage:
        assert given(stage, range(5)) == 2
    assert receiver.keys() == ["gate/1-0", "gate/1-3", "gate/1-4"]


def test_of_what_waits_for_one_that_is_away_the_newest_are_kept(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answers = [503] * 8
    with opened(USE, tmp_path, **options(keep=3)) as stage:
        assert given(stage, range(10)) == 7
        wait_until("what is left is taken", lambda: len(receiver.taken) == 3)
    assert receiver.keys() == ["gate/1-7", "gate/1-8", "gate/1-9"]
