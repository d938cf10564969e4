"""What a camera answers over HTTP, read as a file: who is let in, where it is, how it is cut."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.stages.decode.http_camera import MAX_BYTES, HttpBody

USER, PASSWORD, REALM, NONCE = "anna", "s3c:ret/ä", "camera", "dcd98b7102dd"
BODY = bytes(range(256)) * 500
LOCKED = {"/digest": "MD5", "/session": "MD5-sess", "/cyrillic": "MD5"}
CYRILLIC_USER, CYRILLIC_REALM = "заря", "камера"


class Camera(BaseHTTPRequestHandler):
    """/plain, /chunked (in pieces), /moved (to /plain), /digest, /session and /cyrillic (ask for a
    password), /elsewhere (to another place), /endless.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/moved":
            self._head(302, Location="/plain", **{"Content-Length": "0"})
        elif path in LOCKED and not self._knows_the_password():
            algorithm, (_, realm) = LOCKED[path], self._user_and_realm()
            asked = f'Digest realm="{realm}", nonce="{NONCE}", qop="auth", algorithm={algorithm}'
            self._head(401, **{"WWW-Authenticate": asked, "Content-Length": "0"})
        elif path == "/session-moved":
            self._head(302, Location="/session", **{"Content-Length": "0"})
        elif path == "/elsewhere":
            there = unquote(self.path.partition("?")[2])
            self._head(302, Location=there, **{"Content-Length": "0"})
        elif path == "/asks":
            self.send_response(401)
            for asked in unquote(self.path.partition("?")[2]).split("|"):
                self.send_header("WWW-Authenticate", asked)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/chunked":
            self._head(200, **{"Transfer-Encoding": "chunked"})
            for at in range(0, len(BODY), 1000):
                piece = BODY[at : at + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/endless":
            self._head(200)
            while True:
                self.wfile.write(BODY)
        elif path == "/plain" or path in LOCKED:
            self._head(200, **{"Content-Length": str(len(BODY)), "Content-Type": "Video/MP2T; x=y"})
            self.wfile.write(BODY)
        else:
            self._head(int(path[1:]), **{"Content-Length": "0"})

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value.encode().decode("latin-1"))
        self.end_headers()

    def _knows_the_password(self) -> bool:
        """RFC 2617 3.2.2.1 and 3.2.2.2, by hand."""
        header = self.headers.get("Authorization", "").encode("latin-1").decode()
        given = dict(re.findall(r'(\w+)="?([^",]+)"?', header))
        if not given:
            return False

        def md5(*parts: str) -> str:
            return hashlib.md5(":".join(parts).encode()).hexdigest()

        user, realm = self._user_and_realm()
        secret, request = md5(user, realm, PASSWORD), md5("GET", self.path)
        if given.get("algorithm") == "MD5-sess":
            secret = md5(secret, NONCE, given["cnonce"])
        wanted = md5(secret, NONCE, given["nc"], given["cnonce"], "auth", request)
        return (given["response"], given["username"]) == (wanted, user)

    def _user_and_realm(self) -> tuple[str, str]:
        return (CYRILLIC_USER, CYRILLIC_REALM) if self.path == "/cyrillic" else (USER, REALM)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """Whoever hangs up is no error."""


@pytest.fixture
def host() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Camera)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def read(url: str) -> bytes:
    body = HttpBody(url, 20.0)
    try:
        assert body.peek(7) == BODY[:7]
        got = b""
        while piece := body.read(700):
            assert len(piece) <= 700
            got += piece
        return got
    finally:
        body.close()


@pytest.mark.parametrize("path", ["plain", "chunked", "moved", "plain?a=b&c=%20d e"])
def test_the_whole_body_comes(host: str, path: str) -> None:
    assert read(f"http://{host}/{path}") == BODY
    assert read(f"HTTP://{host}/{path}") == BODY


def test_its_kind_is_told(host: str) -> None:
    body = HttpBody(f"http://{host}/plain", 20.0)
    body.close()
    assert body.kind == "video/mp2t"


@pytest.mark.parametrize("path", ["digest", "session", "session-moved"])
def test_a_password_is_given_as_digest(host: str, path: str) -> None:
    assert read(f"http://anna:s3c%3Aret%2F%C3%A4@{host}/{path}") == BODY


def test_a_login_of_any_script_is_given_in_utf_8(host: str) -> None:
    """Python's HTTP takes headers for Latin-1, of what it sends and of what it reads."""
    assert read(f"http://{quote(CYRILLIC_USER)}:s3c%3Aret%2F%C3%A4@{host}/cyrillic") == BODY


def test_a_password_goes_to_no_other_host(host: str) -> None:
    other = quote(f"http://{host.replace('127.0.0.1', 'localhost')}/digest")
    with pytest.raises(SourceFault) as caught:
        read(f"http://anna:s3c%3Aret%2F%C3%A4@{host}/elsewhere?{other}")
    assert caught.value.reason == "permission"


def test_a_password_with_brackets_is_tried(host: str) -> None:
    with pytest.raises(SourceFault) as caught:
        HttpBody(f"http://anna:wr[0]ng@{host}/digest", 20.0)
    assert caught.value.reason == "permission"
    assert "[0]" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("digest", "permission"), ("403", "permission"), ("404", "missing"), ("500", "unreachable")],
)
def test_what_is_refused_has_its_reason_and_no_secret(host: str, path: str, reason: str) -> None:
    with pytest.raises(SourceFault) as caught:
        HttpBody(f"http://anna:wr0ng@{host}/{path}?key=k3y", 20.0)
    assert caught.value.reason == reason
    assert caught.value.__cause__ is None
    assert "wr0ng" not in str(caught.value)
    assert "k3y" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "is_known"),
    [
        ("Bearer realm=x", False),
        ("Negotiate", False),
        ('Digest realm="a", nonce="b", algorithm=SHA-512', False),
        ("", False),
        ("Digest nonce=", True),
        ("Digest realm", True),
        ("Basic", True),
        ('Bearer x|Basic realm="a"', True),
    ],
)
def test_whatever_login_a_camera_asks_for_it_is_told_that_it_did_not_open(
    host: str, asked: str, is_known: bool
) -> None:
    with pytest.raises(SourceFault) as caught:
        HttpBody(f"http://anna:wr0ng@{host}/asks?{quote(asked)}", 20.0)
    assert caught.value.reason == "permission"
    assert ("by an unknown method" in str(caught.value)) != is_known


def test_nobody_is_there() -> None:
    with pytest.raises(SourceFault) as caught:
        HttpBody("http://127.0.0.1:1/", 20.0)
    assert caught.value.reason == "unreachable"


def test_no_packet_is_larger_than_is_allowed(host: str) -> None:
    body = HttpBody(f"http://{host}/endless", 20.0)
    for _ in range(3):
        body.begin_packet()
        assert read_from(body, MAX_BYTES // 2) >= MAX_BYTES // 2
    with pytest.raises(SourceFault) as caught:
        read_from(body, 2 * MAX_BYTES)
    assert caught.value.reason == "damaged"
    assert body.read() == b""
    body.close()


def read_from(body: HttpBody, least: int) -> int:
    got = 0
    while got < least:
        got += len(body.read())
    return got
