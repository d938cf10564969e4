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
from framegate.pipeline.contracts.redaction import shown
from framegate.stages.decode.camera_login import (
    CameraLogin,
    Challenge,
    challenges_in,
    unknown_login,
)

MOST_BYTES: Final = 16 << 20
_CHUNK: Final = 1 << 16
_LINE: Final = 256
_LOOK_S: Final = 1.0  # so soon it is seen that nobody wants more

_Receive = Callable[[memoryview], int]


class HttpBody:
    """The body of a camera's answer to one GET, to be read like a file.

    Redirects are followed; a user name and password in the URL are given when the camera asks for
    them (basic or digest). Certificates are not checked, as FFmpeg does not: a camera signs its
    own. At most MOST_BYTES come from one `begin_packet` to the next.

    SourceFault from construction and `read`: missing, permission, unreachable, not_video, damaged
    (more bytes than MOST_BYTES and no packet), closed. One thread reads; `abandon` from any.

    kind    media type that the head tells, in lower case
    waited  whether reading had to wait for the camera since `begin_packet`
    """

    def __init__(self, url: str, open_timeout_s: float) -> None:
        """Send the GET and read the answer's head, in so many seconds at most."""
        self.name = shown(url, camera=True)
        self.waited = True
        self._socket: socket.socket | None = None
        self._abandoned = self._failed = False
        self._patience_s: float | None = open_timeout_s
        self._ahead = b""
        self.begin_packet()
        try:
            self._answer = self._ask(url, open_timeout_s)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception) and not isinstance(error, SourceFault):
                # Its text may repeat the URL with its secrets: it must not be the fault's cause.
                self._refuse(error)
            raise
        self.kind: str = self._answer.headers.get_content_type()

    def begin_packet(self) -> None:
        """Count bytes and seconds from here: a packet is complete."""
        self._bytes, self._since, self.waited = 0, time.monotonic(), False

    def allow(self, patience_s: float | None) -> None:
        """Let packets take so long from now on; None: until `abandon`."""
        self._patience_s = patience_s
        self.begin_packet()

    def abandon(self) -> None:
        """Give whoever reads a SourceFault, in a second at most: nobody wants more."""
        self._abandoned = True

    def peek(self, n: int) -> bytes:
        """The next bytes, n of them unless the body ends before; they will be read again."""
        while len(self._ahead) < n and (more := self._more(_LINE)):
            self._ahead += more
        return self._ahead[:n]

    def peek_line(self) -> None:
        """Let the next `read` give the first line that is not blank as a whole: FFmpeg's demuxer of
        MJPEG goes back to its begin, within what it read at once.
        """
        while b"\n" not in self._ahead.lstrip() and len(self._ahead) < _LINE:
            before = len(self._ahead)
            if len(self.peek(before + 1)) == before:
                return

    def read(self, n: int = -1) -> bytes:
        """What is there, n bytes at most; waits for the first of them.

        b"" at the end, and after a fault: FFmpeg reads on after one, and PyAV keeps only the first.
        """
        if self._ahead:
            given, self._ahead = self._ahead[:n], self._ahead[n:]
            return given
        if self._failed:
            return b""
        try:
            return self._more(_CHUNK if n < 0 else min(n, _CHUNK))
        except BaseException:
            self._failed = True
            raise

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()

    def _more(self, n: int) -> bytes:
        try:
            return bytes(self._answer.read1(n))
        except (OSError, http.client.HTTPException) as error:
            what = f"the connection was lost ({type(error).__name__})"
            raise SourceFault(f"{self.name}: {what}", "closed") from None

    # -- the head

    def _ask(self, url: str, timeout_s: float) -> Any:
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        plain = urllib.parse.urlunsplit((parts.scheme.lower(), host, *parts[2:4], ""))
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
        if parts.username is not None:
            user, password = map(urllib.parse.unquote, (parts.username, parts.password or ""))
            opener.add_handler(_LoginHandler(self, CameraLogin(user, password), plain))
        return opener.open(plain, timeout=timeout_s)

    def _refuse(self, error: Exception) -> NoReturn:
        reason: FaultReason = "unreachable"
        what = f"it cannot be reached ({type(error).__name__})"
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            what = f"it answers {error.code}"
            if error.code in (401, 403):
                reason, what = "permission", "the user name and password in use do not open it"
            elif error.code == 404:
                reason, what = "missing", "it is not there; its host answers"
        elif isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
            what = f"it cannot be reached ({type(error.reason).__name__})"
        elif isinstance(error, http.client.HTTPException | ValueError):
            reason, what = "not_video", "what answers there is not a video stream"
        raise SourceFault(f"{self.name}: {what}", reason) from None

    # -- the socket

    def connected(self, connection: socket.socket) -> _Connected:
        """Take the connection that the next answer comes by; gives its place in http.client."""
        self.close()
        self._socket = connection
        connection.settimeout(_LOOK_S)
        look = select.poll()
        look.register(connection, select.POLLIN)
        return _Connected(connection, lambda into: self._receive(connection, look, into))

    def _receive(self, connection: socket.socket, look: select.poll, into: memoryview) -> int:
        """Read what is there; wait for it, but not for ever."""
        while True:
            self._check()
            decrypted = isinstance(connection, ssl.SSLSocket) and connection.pending()
            if not decrypted and not look.poll(0):
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
        if self._bytes > MOST_BYTES:
            what = f"{MOST_BYTES >> 20} MB came and no picture was complete"
            raise SourceFault(f"{self.name}: {what}", "damaged")
        patience_s = self._patience_s
        if patience_s is not None and time.monotonic() - self._since > patience_s:
            raise SourceFault(f"{self.name}: it does not answer in time", "unreachable")


class _Connected:
    """What http.client uses of a socket; `receive` reads into a buffer."""

    def __init__(self, connection: socket.socket, receive: _Receive) -> None:
        self._connection, self._receive = connection, receive
        self.sendall = connection.sendall

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002
        return io.BufferedReader(_Raw(self._receive))

    def close(self) -> None:
        """The body is still to be read: HttpBody closes the connection."""


class _Raw(io.RawIOBase):
    def __init__(self, receive: _Receive) -> None:
        self._receive = receive

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        return self._receive(memoryview(into))


class _LoginHandler(urllib.request.BaseHandler):
    """Asks again with the login where a camera wants one: the host of the URL, and no other.

    Python's own handlers know neither MD5-sess nor what is not ASCII, and raise ValueError.
    """

    def __init__(self, body: HttpBody, login: CameraLogin, url: str) -> None:
        self._body, self._login = body, login
        self._url = urllib.parse.urlsplit(url)

    def http_error_401(
        self, request: urllib.request.Request, answer: Any, _: int, __: str, headers: Message
    ) -> Any:
        """Return the answer to the second request; None lets the first one stand."""
        there = urllib.parse.urlsplit(request.full_url)
        loses_tls = self._url.scheme == "https" and there.scheme != "https"
        is_here = there.hostname == self._url.hostname and not loses_tls
        if not is_here or request.has_header("Authorization"):
            return None
        challenges: list[Challenge] = []
        for value in headers.get_all("www-authenticate", []):
            challenges += challenges_in(value.encode("latin-1").decode("utf-8", "replace"))
        if not self._login.choose(challenges):
            what = f"{self._body.name}: {unknown_login(challenges)}"
            raise SourceFault(what, "permission")
        answer.close()
        login = self._login.header(request.get_method(), request.selector)
        # RFC 7616 has UTF-8 in headers; Python's HTTP encodes and decodes them as Latin-1.
        request.add_unredirected_header("Authorization", login.encode().decode("latin-1"))
        return self.parent.open(request, timeout=request.timeout)


def unchecked() -> ssl.SSLContext:
    """Return TLS that checks no certificate and takes old versions and short keys, as FFmpeg does:
    a camera signs its own, and many are years old.
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
