"""Episodes to a URL: Standard Webhooks 1.0.0, with a CloudEvents 1.0 body."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import io
import os
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import unquote, urlsplit

import msgspec

from framegate.pipeline.config.options import from_environment
from framegate.pipeline.config.sinks import SinkConfig, signing_keys
from framegate.pipeline.contracts.episodes import Change, Step
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.stage import NoState
from framegate.pipeline.sinks.delivery import Away, Message, MessageOutcome, MessageRefused

ANSWER_S: Final = 10.0
LATER: Final = (408, 425, 429, 502, 503, 504)
MOST_PAUSE_S: Final = 3600.0


class Webhook:
    """One POST for each message; a receiver has it once it answers 2xx."""

    state = NoState()
    steps: Collection[Step] = get_args(Step)

    def __init__(self, name: str, config: SinkConfig, run: str, answer_s: float = ANSWER_S) -> None:
        """answer_s: for which one answer may take. ConfigFaults if its URL or its secrets cannot be
        used.
        """
        self._answer_s = answer_s
        self._url = urlsplit(config.place(name))
        self._secrets = SigningSecrets(name, config)
        self._run = run
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"Content-Type": "application/cloudevents+json", "User-Agent": "Framegate"}
        if self._url.username is not None:
            login = f"{unquote(self._url.username)}:{unquote(self._url.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._target = f"{self._url.path or '/'}{'?' * bool(self._url.query)}{self._url.query}"

    def begin(self, states: Mapping[str, NoState]) -> None:
        """Nothing is to be done."""

    def tell(self, message: Message, state: NoState) -> tuple[MessageOutcome, NoState]:
        """Post it. Away without an answer, or if it says later; else MessageRefused."""
        body = msgspec.json.encode(cloud_event(message, self._run))
        headers = {**self._headers, **self._secrets.headers(message.id, int(time.time()), body)}
        status, wants_pause_s = self._post(body, headers)
        if status in LATER:
            raise Away(f"it answers {status}", wants_pause_s)
        if not 200 <= status < 300:
            raise MessageRefused(f"it answers {status}")
        return "delivered", state

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, float]:
        """Return status and pause that it asks for. A kept connection may have ended meanwhile."""
        kept = self._connection is not None
        try:
            return self._post_once(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not kept or isinstance(error, TimeoutError):
                raise Away(f"it cannot be reached: {error or type(error).__name__}") from error
        try:
            return self._post_once(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Away(f"it cannot be reached: {error or type(error).__name__}") from error

    def _post_once(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, float]:
        due_mono = time.monotonic() + self._answer_s
        if self._connection is None:
            self._connection = self._connected()
        connection = self._connection
        connection.timeout = self._answer_s
        if connection.sock is not None:
            connection.sock.settimeout(self._answer_s)
        connection.response_class = partial(_TimedAnswer, due_mono)  # type: ignore[assignment]  # it is called only
        connection.request("POST", self._target, body, dict(headers))
        with connection.getresponse() as answer:
            answer.read(1 << 16)
            if not answer.isclosed():  # it says more than anybody wants to know
                self.close()
            return answer.status, _pause_s(answer.headers.get("Retry-After"))

    def _connected(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, context=context)
        return http.client.HTTPConnection(host, port)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _pause_s(retry_after: str | None) -> float:
    """Seconds that a receiver asks for; a date is not read."""
    if retry_after is None or not retry_after.strip().isdecimal():
        return 0.0
    return min(float(retry_after), MOST_PAUSE_S)


class _TimedReads(io.RawIOBase):
    """Reads of a socket up to a deadline. The time-out of a socket applies to each read."""

    def __init__(self, sock: socket.socket, due_mono: float) -> None:
        """due_mono: monotonic seconds after which a read raises TimeoutError."""
        self._socket, self._due_mono = sock, due_mono
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._due_mono - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("its answer takes too long")
        self._socket.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedAnswer(http.client.HTTPResponse):
    """An answer whose reads raise TimeoutError after a deadline."""

    def __init__(self, due_mono: float, sock: socket.socket, *more: Any, **named: Any) -> None:
        super().__init__(sock, *more, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReads(sock, due_mono))


class SigningSecrets:
    """Signing secrets: from the environment, or from a file that is read again when it changes.

    A sink without a secret has no keys, and its messages have no signature.
    """

    def __init__(self, name: str, config: SinkConfig) -> None:
        """ConfigFaults if they cannot be used."""
        self._file = None if config.secret_file is None else Path(config.secret_file)
        self._key = f"sinks.{name}.secret_{'env' if self._file is None else 'file'}"
        self._stamp: tuple[int, int] | None = None
        self._keys: list[bytes] = []
        if self._file is not None:
            self._keys = self._read(self._file)
        elif config.secret_env is not None:
            self._keys = signing_keys(from_environment(config.secret_env, self._key), self._key)

    def headers(self, message: str, seconds: int, body: bytes) -> dict[str, str]:
        """Return the headers of a message with this id, one signature for each secret."""
        if self._file is not None:
            self._keys = self._read(self._file)
        signed = f"{message}.{seconds}.".encode() + body
        signatures = [
            base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
            for key in self._keys
        ]
        headers = {"webhook-id": message, "webhook-timestamp": str(seconds)}
        if signatures:
            headers["webhook-signature"] = " ".join(f"v1,{one}" for one in signatures)
        return headers

    def _read(self, file: Path) -> list[bytes]:
        """Return what the file has now; while it is being replaced, what it had."""
        try:
            found = os.stat(file)
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp == self._stamp:
                return self._keys
            keys = signing_keys(file.read_text(), self._key)
        except (OSError, UnicodeDecodeError, ConfigFaults) as error:
            if self._stamp is None:
                raise ConfigFaults([f"{self._key} = {str(file)!r}: {error}"]) from None
            return self._keys
        self._stamp = stamp
        return keys


def cloud_event(message: Message, run: str) -> dict[str, Any]:
    """Return a message as a CloudEvent; `source` and `id` together name it."""
    what = message.what
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": message.id,
        "source": f"/framegate/{run}/{message.source}",
        "type": "org.framegate.lost",
        "datacontenttype": "application/json",
        "data": what,
    }
    if isinstance(what, Change):
        at = what.began if what.step == "start" else what.last
        time_of = datetime.fromtimestamp(at.captured, UTC).isoformat(timespec="milliseconds")
        event |= {
            "type": f"org.framegate.episode.{what.step}",
            "subject": what.rule,
            "time": time_of.replace("+00:00", "Z"),
        }
    return event
