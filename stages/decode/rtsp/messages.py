"""Parse RTSP messages of a camera and RTSP URLs, without trust in either."""

from __future__ import annotations

import re
import urllib.parse
from typing import Final, NamedTuple

from framegate.pipeline.contracts.errors import FaultReason
from framegate.pipeline.contracts.redaction import split_login
from framegate.stages.decode.camera_login import CameraLogin, Challenge, challenges_in

_PORTS: Final = {"rtsp": 554, "rtsps": 322}
_DIGITS: Final = re.compile(r"[0-9]{1,9}")


def is_rtsp(place: str) -> bool:
    """Return whether a place is an RTSP URL, with or without TLS."""
    return place.lower().startswith(("rtsp://", "rtsps://"))


class UnspokenError(Exception):
    """The camera's form of RTSP is unknown to this client; the text describes it.

    reason  of the fault, unless the caller knows a better one
    """

    def __init__(self, text: str, reason: FaultReason = "unreachable") -> None:
        super().__init__(text)
        self.reason: FaultReason = reason


class RtspMessage:
    """A message from the camera: an answer or a request.

    code        of an answer, 0 if it has none; None of a request
    number      CSeq
    length      bytes of its body
    challenges  of an answer that asks for a login
    location    new URL of an answer that redirects, else None
    method      of the answered request
    """

    def __init__(self, head: bytes) -> None:
        """Parse a message's head. Any bytes are allowed; text in place of a number counts as 0."""
        first, *lines = head.decode("utf-8", "replace").replace("\r", "").split("\n")
        words = first.split()
        self.code: int | None = None
        if words and words[0].startswith("RTSP/"):
            self.code = _leading_number(words[1]) if len(words) > 1 else 0
        self.headers: dict[str, str] = {}
        self.challenges: list[Challenge] = []
        for line in lines:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            value = value.strip()
            self.headers[name] = value
            if name == "www-authenticate":
                self.challenges += challenges_in(value)
        number = self.headers.get("cseq")
        self.number = None if number is None else _leading_number(number)
        self.length = _leading_number(self.headers.get("content-length", ""))
        self.body = b""
        self.method = ""

    @property
    def location(self) -> str | None:
        if self.code is None or not 300 <= self.code < 400:
            return None
        return self.headers.get("location")

    def check(self) -> None:
        """Raise an OSError or UnspokenError unless the answer is 200."""
        if self.code in (401, 403):
            raise PermissionError(self.code, "locked")
        if self.code == 404:
            raise FileNotFoundError(self.code, "missing")
        if self.code != 200:
            raise UnspokenError(f"it answers {self.method} with {self.code}; 200 is expected")


class RtspPlace(NamedTuple):
    """The address of a camera and the login for it.

    url        without the login
    user       None if the URL has none
    encrypted  the connection uses TLS
    """

    url: str
    host: str
    port: int
    encrypted: bool
    user: str | None
    password: str

    @classmethod
    def of(cls, url: str) -> RtspPlace:
        """Parse a URL; UnspokenError."""
        login, place = split_login(url)
        try:
            url.encode()
            parts = urllib.parse.urlsplit(place)
            host = parts.hostname
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError):
            host = None
        if not host:
            raise UnspokenError(
                "its URL cannot be read; it needs rtsp or rtsps, a host, and a port up to 65535 "
                "or none; in a user name or password / ? # @ : % are %2F %3F %23 %40 %3A %25"
            )
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        plain = urllib.parse.urlunsplit((parts.scheme, authority, *parts[2:4], ""))
        name, _, password = map(urllib.parse.unquote, (login or "").partition(":"))
        user = None if login is None else name
        return cls(plain, host, port, parts.scheme == "rtsps", user, password)

    def login(self) -> CameraLogin | None:
        """Return the login, None if there is none."""
        return None if self.user is None else CameraLogin(self.user, self.password)

    def moved(self, location: str) -> RtspPlace:
        """Return the place that the camera redirects to; UnspokenError."""
        try:
            url = urllib.parse.urljoin(self.url, location)
        except ValueError:
            url = location
        target = RtspPlace.of(url)
        loses_tls = self.encrypted and not target.encrypted
        keeps_login = target.host == self.host and not loses_tls
        if target.user is None and keeps_login:
            target = target._replace(user=self.user, password=self.password)
        return target


def _leading_number(text: str) -> int:
    """Return the number at the start of a text, like C's atoi, of at most nine digits."""
    match = _DIGITS.match(text)
    return 0 if match is None else int(match[0])
