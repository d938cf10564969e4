"""Send episodes to a URL: Standard Webhooks 1.0.0 with a CloudEvents 1.0 body.

`delivery` decides when a message is sent again and when it is given up.
"""

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

from framegate.pipeline.config.read_options import from_environment
from framegate.pipeline.config.sinks import SinkConfig, signing_keys
from framegate.pipeline.contracts.episodes import Change, Step
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.stage import NoState
from framegate.pipeline.sinks.delivery import (
    Message,
    MessageOutcome,
    MessageRefused,
    ReceiverUnavailable,
)

TIMEOUT_S: Final = 10.0
# Statuses about the receiver, not about the message: timeout, too early, too many requests, and a
# proxy without its server.
RETRY_STATUSES: Final = (408, 425, 429, 502, 503, 504)
MAX_PAUSE_S: Final = 3600.0


class Webhook:
    """A receiver that gets each message as one POST request and acknowledges it with 2xx."""

    initial_state = NoState()
    steps: Collection[Step] = get_args(Step)

    def __init__(
        self, name: str, config: SinkConfig, run: str, timeout_s: float = TIMEOUT_S
    ) -> None:
        """timeout_s: limit for one whole response. Raises ConfigFaults for its URL and secrets."""
        self._timeout_s = timeout_s
        self._url = urlsplit(config.place(name))
        self._secrets = SigningSecrets(name, config)
        self._run = run
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"Content-Type": "application/cloudevents+json", "User-Agent": "Framegate"}
        if self._url.username is not None:
            login = f"{unquote(self._url.username)}:{unquote(self._url.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._target = self._url.path or "/"
        if self._url.query:
            self._target += f"?{self._url.query}"

    def begin(self, states: Mapping[str, NoState]) -> None:
        """Do nothing."""

    def deliver(self, message: Message, state: NoState) -> tuple[MessageOutcome, NoState]:
        """Post a message.

        Raises ReceiverUnavailable if there is no response or its status asks for a retry, and
        MessageRefused for any other status than 2xx.
        """
        body = msgspec.json.encode(cloud_event(message, self._run))
        headers = {**self._headers, **self._secrets.headers(message.id, int(time.time()), body)}
        status, pause_s = self._post(body, headers)
        if status in RETRY_STATUSES:
            raise ReceiverUnavailable(f"the receiver answers {status}", pause_s)
        if not 200 <= status < 300:
            raise MessageRefused(f"the receiver answers {status}")
        return "delivered", state

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, float]:
        """Return the status, and the seconds that the receiver asks to be left alone."""
        was_open = self._connection is not None
        try:
            return self._post_once(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # The receiver may have closed an idle connection. A new one shows whether it is there.
            if was_open and not isinstance(error, TimeoutError):
                return self._post(body, headers)
            why = f"the receiver cannot be reached: {error or type(error).__name__}"
            raise ReceiverUnavailable(why) from error

    def _post_once(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, float]:
        due_mono = time.monotonic() + self._timeout_s
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        connection.timeout = self._timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(self._timeout_s)
        connection.response_class = partial(TimedResponse, due_mono)  # type: ignore[assignment]  # it is called only
        connection.request("POST", self._target, body, dict(headers))
        with connection.getresponse() as response:
            response.read(1 << 16)
            # The rest of a longer body is not read, so the connection cannot be used again.
            if not response.isclosed():
                self.close()
            return response.status, _pause_s(response.headers.get("Retry-After"))

    def _connect(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        port = self._url.port
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
    """Return the seconds of a Retry-After header; 0 for a date, which is not supported."""
    if retry_after is None or not retry_after.strip().isdecimal():
        return 0.0
    return min(float(retry_after), MAX_PAUSE_S)


class _TimedReads(io.RawIOBase):
    """Reads of a socket up to a deadline.

    The timeout of a socket applies to each read, so a receiver that sends a byte at a time could
    hold up a sink for ever.
    """

    def __init__(self, sock: socket.socket, due_mono: float) -> None:
        """due_mono: monotonic seconds after which a read raises TimeoutError."""
        self._socket = sock
        self._due_mono = due_mono
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._due_mono - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("its response takes too long")
        self._socket.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class TimedResponse(http.client.HTTPResponse):
    """A response whose reads raise TimeoutError after a deadline."""

    def __init__(self, due_mono: float, sock: socket.socket, *more: Any, **named: Any) -> None:
        super().__init__(sock, *more, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReads(sock, due_mono))


class SigningSecrets:
    """The signing secrets of a sink, from the environment or from a file.

    The file is read again when it changes. A sink without a secret sends messages without a
    signature.
    """

    def __init__(self, name: str, config: SinkConfig) -> None:
        """Read the secrets. Raises ConfigFaults."""
        self._file: Path | None = None
        self._key = f"sinks.{name}.secret_env"
        self._stamp: tuple[int, int] | None = None
        self._keys: list[bytes] = []
        if config.secret_file is not None:
            self._file = Path(config.secret_file)
            self._key = f"sinks.{name}.secret_file"
            self._keys = self._read(self._file)
        elif config.secret_env is not None:
            self._keys = signing_keys(from_environment(config.secret_env, self._key), self._key)

    def headers(self, id_: str, seconds: int, body: bytes) -> dict[str, str]:
        """Return the headers of a message, with one signature for each secret.

        seconds  UNIX time of the request
        """
        if self._file is not None:
            self._keys = self._read(self._file)
        signed = f"{id_}.{seconds}.".encode() + body
        headers = {"webhook-id": id_, "webhook-timestamp": str(seconds)}
        digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in self._keys]
        if digests:
            signatures = [f"v1,{base64.b64encode(digest).decode()}" for digest in digests]
            headers["webhook-signature"] = " ".join(signatures)
        return headers

    def _read(self, file: Path) -> list[bytes]:
        """Return the keys of the file, or the last keys if it cannot be read or is half written."""
        try:
            status = os.stat(file)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp:
                return self._keys
            keys = signing_keys(file.read_text(encoding="utf-8"), self._key)
        except (OSError, UnicodeDecodeError, ConfigFaults) as error:
            if self._stamp is None:
                raise ConfigFaults([f"{self._key} = {str(file)!r}: {error}"]) from None
            return self._keys
        self._stamp = stamp
        return keys


def cloud_event(message: Message, run: str) -> dict[str, Any]:
    """Return a message as a CloudEvent. Its `source` and `id` together identify it."""
    content = message.content
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": message.id,
        "source": f"/framegate/{run}/{message.source}",
        "type": "org.framegate.lost",
        "datacontenttype": "application/json",
        "data": content,
    }
    if isinstance(content, Change):
        moment = content.last
        if content.step == "start":
            moment = content.began
        time_ = datetime.fromtimestamp(moment.captured, UTC).isoformat(timespec="milliseconds")
        event |= {
            "type": f"org.framegate.episode.{content.step}",
            "subject": content.rule,
            "time": time_.replace("+00:00", "Z"),
        }
    return event
