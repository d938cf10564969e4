"""Read a camera's HTTP answer as a file for FFmpeg, bounded in bytes and in time.

FFmpeg's own HTTP client reads until a packet is complete, however large, and cannot be stopped.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import string
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import Any, Final, NoReturn

from framegate.pipeline.contracts.errors import FaultReason, SourceFault
from framegate.pipeline.contracts.redaction import shown, split_login
from framegate.stages.decode.camera_login import (
    LOGIN_REFUSED,
    CameraLogin,
    Challenge,
    challenges_in,
    unknown_login,
)

MAX_BYTES: Final = 16 << 20
_CHUNK: Final = 1 << 16
_LINE: Final = 256
_POLL_S: Final = 1.0  # the longest time until an abandoned read ends

_Receive = Callable[[memoryview], int]


def unreached(error: object) -> str:
    """Return why no connection to a camera was made, for a fault."""
    if isinstance(error, socket.gaierror):
        return "it cannot be reached: its host name has no address; check the name and the network"
    if isinstance(error, ConnectionRefusedError):
        return "it cannot be reached: the connection is refused; check host and port"
    return f"it cannot be reached ({type(error).__name__})"


class HttpBody:
    """The body of a camera's answer to one GET, as a file object.

    Redirects are followed. User name and password of the URL are sent when the camera asks for them
    (basic or digest). Certificates are not checked, because cameras sign their own; FFmpeg does the
    same. At most MAX_BYTES are read from one `begin_packet` to the next.

    The constructor and `read` raise SourceFault: missing, permission, unreachable, not_video,
    damaged (more than MAX_BYTES without a packet), closed. One thread reads; `abandon` from any.

    kind    media type by the head, in lower case
    waited  reading had to wait for the camera since `begin_packet`
    """

    def __init__(self, url: str, open_timeout_s: float) -> None:
        """Send the GET and read the answer's head, within `open_timeout_s`."""
        self.name = shown(url, camera=True)
        self.waited = True
        self._socket: socket.socket | None = None
        self._abandoned = False
        self._failed = False
        self._patience_s: float | None = open_timeout_s
        self._ahead = b""
        self.begin_packet()
        try:
            self._answer = self._ask(url, open_timeout_s)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception) and not isinstance(error, SourceFault):
                # The error's text may repeat the URL with its password: it must not be the cause.
                self._refuse(error)
            raise
        self.kind: str = self._answer.headers.get_content_type()

    def begin_packet(self) -> None:
        """Restart the counts of bytes and seconds: a packet is complete."""
        self._bytes = 0
        self._since = time.monotonic()
        self.waited = False

    def allow(self, patience_s: float | None) -> None:
        """Limit the time of each following packet; None: no limit."""
        self._patience_s = patience_s
        self.begin_packet()

    def abandon(self) -> None:
        """Make the reader raise a SourceFault within a second."""
        self._abandoned = True

    def peek(self, n: int) -> bytes:
        """Return the next `n` bytes, fewer at the end of the body, without consuming them."""
        while len(self._ahead) < n:
            more = self._more(_LINE)
            if not more:
                break
            self._ahead += more
        return self._ahead[:n]

    def peek_line(self) -> None:
        """Make the next `read` return the first non-blank line whole: the MJPEG demuxer of FFmpeg
        seeks back to its begin, but only within the bytes of its first read.
        """
        while b"\n" not in self._ahead.lstrip() and len(self._ahead) < _LINE:
            before = len(self._ahead)
            if len(self.peek(before + 1)) == before:
                return

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` of the available bytes; wait for the first of them.

        Return b"" at the end and after a fault: FFmpeg reads again after a fault, and PyAV reports
        only the first.
        """
        if self._ahead:
            data = self._ahead[:n]
            self._ahead = self._ahead[n:]
            return data
        if self._failed:
            return b""
        try:
            return self._more(_CHUNK if n < 0 else min(n, _CHUNK))
        except BaseException:
            self._failed = True
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()

    def _more(self, n: int) -> bytes:
        try:
            return bytes(self._answer.read1(n))
        except (OSError, http.client.HTTPException) as error:
            text = f"the connection was lost ({type(error).__name__})"
            raise SourceFault(f"{self.name}: {text}", "closed") from None

    # -- the head

    def _ask(self, url: str, timeout_s: float) -> Any:
        login, place = split_login(url)
        parts = urllib.parse.urlsplit(place)
        plain = urllib.parse.urlunsplit((parts.scheme.lower(), *parts[1:4], ""))
        plain = urllib.parse.quote(plain, safe=string.punctuation)
        opener = urllib.request.OpenerDirector()
        opener.addheaders = [("User-Agent", "Framegate"), ("Accept", "*/*")]
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            _HttpHandler(self),
            _HttpsHandler(self),
        ):
            opener.add_handler(handler)
        if login is not None:
            user, _, password = map(urllib.parse.unquote, login.partition(":"))
            opener.add_handler(_LoginHandler(self, CameraLogin(user, password), plain))
        return opener.open(plain, timeout=timeout_s)

    def _refuse(self, error: Exception) -> NoReturn:
        reason: FaultReason = "unreachable"
        text = unreached(error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            text = f"it answers {error.code}"
            if error.code in (401, 403):
                reason = "permission"
                text = LOGIN_REFUSED
            elif error.code == 404:
                reason = "missing"
                text = "it is not there; its host answers"
        elif isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
            text = unreached(error.reason)
        elif isinstance(error, http.client.HTTPException | ValueError):
            reason = "not_video"
            text = "its answer is not a video stream"
        raise SourceFault(f"{self.name}: {text}", reason) from None

    # -- the socket

    def connected(self, connection: socket.socket) -> _Connected:
        """Use this connection for the next answer; return its substitute for http.client."""
        self.close()
        self._socket = connection
        connection.settimeout(_POLL_S)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return _Connected(connection, lambda into: self._receive(connection, poll, into))

    def _receive(self, connection: socket.socket, poll: select.poll, into: memoryview) -> int:
        """Read the available bytes; wait for the first of them as long as `_check` allows."""
        while True:
            self._check()
            is_decrypted = isinstance(connection, ssl.SSLSocket) and connection.pending()
            if not is_decrypted and not poll.poll(0):
                self.waited = True
            try:
                n = connection.recv_into(into)
            except TimeoutError:
                continue
            self._bytes += n
            return n

    def _check(self) -> None:
        if self._abandoned:
            raise SourceFault(f"{self.name}: the reader was cancelled", "closed")
        if self._bytes > MAX_BYTES:
            text = f"{MAX_BYTES >> 20} MB arrived without a complete picture"
            raise SourceFault(f"{self.name}: {text}", "damaged")
        patience_s = self._patience_s
        if patience_s is not None and time.monotonic() - self._since > patience_s:
            raise SourceFault(f"{self.name}: it does not answer in time", "unreachable")


class _Connected:
    """The methods of a socket that http.client calls; `receive` reads into a buffer."""

    def __init__(self, connection: socket.socket, receive: _Receive) -> None:
        self._receive = receive
        self.sendall = connection.sendall

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002
        return io.BufferedReader(_Raw(self._receive))

    def close(self) -> None:
        """Do nothing: the body is still to be read, and HttpBody closes the connection."""


class _Raw(io.RawIOBase):
    def __init__(self, receive: _Receive) -> None:
        self._receive = receive

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        return self._receive(memoryview(into))


class _LoginHandler(urllib.request.BaseHandler):
    """Repeats a refused request with the login, but only at the host of the URL.

    Python's own handlers raise ValueError for MD5-sess and for text that is not ASCII.
    """

    def __init__(self, body: HttpBody, login: CameraLogin, url: str) -> None:
        self._body = body
        self._login = login
        self._url = urllib.parse.urlsplit(url)

    def http_error_401(
        self, request: urllib.request.Request, answer: Any, _: int, __: str, headers: Message
    ) -> Any:
        """Return the answer to the second request; None keeps the first answer."""
        target = urllib.parse.urlsplit(request.full_url)
        loses_tls = self._url.scheme == "https" and target.scheme != "https"
        is_same_host = target.hostname == self._url.hostname and not loses_tls
        if not is_same_host or request.has_header("Authorization"):
            return None
        challenges: list[Challenge] = []
        for value in headers.get_all("www-authenticate", []):
            challenges += challenges_in(value.encode("latin-1").decode("utf-8", "replace"))
        if not self._login.choose(challenges):
            text = f"{self._body.name}: {unknown_login(challenges)}"
            raise SourceFault(text, "permission")
        answer.close()
        login = self._login.header(request.get_method(), request.selector)
        # RFC 7616 puts UTF-8 into headers; Python's HTTP encodes and decodes them as Latin-1.
        request.add_unredirected_header("Authorization", login.encode().decode("latin-1"))
        return self.parent.open(request, timeout=request.timeout)


def unchecked() -> ssl.SSLContext:
    """Return TLS without certificate checks, and with old versions and short keys, as in FFmpeg:
    cameras sign their own certificates, and many are years old.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, body: HttpBody) -> None:
        super().__init__()
        self._body = body

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        body = self._body

        class PlainConnection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                self.sock: Any = body.connected(self.sock)

        return self.do_open(PlainConnection, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, body: HttpBody) -> None:
        super().__init__(context=unchecked())
        self._body = body

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        body = self._body

        class EncryptedConnection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                self.sock: Any = body.connected(self.sock)

        return self.do_open(EncryptedConnection, request, context=unchecked())
