"""A camera over RTSP: asked to play, and the RTP packets that come, all on one TCP connection.

FFmpeg's own RTSP does not hand on where a picture ends (RTP's marker): it gives one when the next
begins, a whole frame interval late.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import ssl
import struct
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from framegate.pipeline.errors import FaultReason, SourceFault
from framegate.pipeline.ingest.http_camera import unchecked
from framegate.pipeline.redaction import shown

_PORTS: Final = {"rtsp": 554, "rtsps": 322}
_CHUNK: Final = 1 << 18
_MOST_TEXT: Final = 1 << 16  # of an answer
_MOST_EARLY: Final = 16 << 20
_LOOK_S: Final = 1.0  # so soon it is seen that nobody wants more
_TIMEOUT_S: Final = 60.0  # of a session that tells none (RFC 2326, 12.37)
_REPORT_S: Final = 5.0
_HASHES: Final = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_DOLLAR: Final = 0x24
_TIMEOUT: Final = re.compile(r"\s*timeout\s*=\s*(\d{1,6})")
_CHANNEL: Final = re.compile(r"interleaved=(\d+)")


class UnspokenError(Exception):
    """What the camera answers is not for this client: another one may know more."""


class Interleaved(NamedTuple):
    """A packet of a channel: RTP on an even one, RTCP on the odd one after it (RFC 2326, 10.12)."""

    channel: int
    data: bytes


class RtspSession:
    """One connection: it is described at construction, `play` has it sent, `packets` gives it.

    A user name and password in the URL are given when the camera asks for them (basic or digest).
    From construction and `play`: OSError (PermissionError, FileNotFoundError, TimeoutError among
    them; none tells of the URL), UnspokenError. One thread; `abandon` from any.

    description  SDP (RFC 4566) of what there is to play
    base         what names of tracks in it are relative to
    """

    def __init__(self, url: str, open_timeout_s: float) -> None:
        """Ask what there is; all until playing takes so many seconds at most."""
        self._name = shown(url)
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError):
            raise UnspokenError from None  # a password that is not encoded, say
        if not host:
            raise UnspokenError
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._url = urllib.parse.urlunsplit((parts.scheme, place, *parts[2:4], ""))
        user, password = parts.username, parts.password or ""
        known = None if user is None else tuple(map(urllib.parse.unquote, (user, password)))
        self._login = _Login(*known) if known else None
        self._until = time.monotonic() + open_timeout_s
        self._number, self._session, self._timeout_s = 0, "", _TIMEOUT_S
        self._abandoned = False
        self._kept, self._at = b"", 0
        self._early: list[Interleaved] = []
        self._n_early = 0
        self._socket = socket.create_connection((host, port), open_timeout_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if parts.scheme == "rtsps":
                self._socket = unchecked().wrap_socket(self._socket, server_hostname=host)
            public = self._ask("OPTIONS", self._url).headers.get("public", "")
            self._alive = "GET_PARAMETER" if "GET_PARAMETER" in public else "OPTIONS"
            answer = self._ask("DESCRIBE", self._url, {"Accept": "application/sdp"})
        except ssl.SSLError:
            self._socket.close()
            raise UnspokenError from None  # an old camera's TLS, perhaps
        except BaseException:
            self._socket.close()
            raise
        self.description = answer.body
        named = answer.headers.get("content-base") or answer.headers.get("content-location")
        self.base = named.strip() if named else self._url

    def play(self, controls: Sequence[str]) -> tuple[int, ...]:
        """Have tracks sent, named by the `control` that their description has; gives the channel of
        each.
        """
        channels = []
        for number, control in enumerate(controls):
            wanted = f"RTP/AVP/TCP;unicast;interleaved={2 * number}-{2 * number + 1}"
            answer = self._ask("SETUP", self._place_of(control), {"Transport": wanted})
            told = _CHANNEL.search(answer.headers.get("transport", ""))
            if told is None:
                raise UnspokenError
            channels.append(int(told[1]))
            session, *more = answer.headers.get("session", "").split(";")
            self._session = session.strip()
            for each in more:
                if (found := _TIMEOUT.match(each)) is not None:
                    self._timeout_s = max(1.0, float(found[1]))
        self._ask("PLAY", self.base, {"Range": "npt=0.000-"})
        self._channels = channels
        self._told = self._reported = time.monotonic()
        self._socket.settimeout(_LOOK_S)
        return tuple(channels)

    def packets(self, quiet_s: float) -> Iterator[Interleaved]:
        """Yield packets as they come, in order. SourceFault (closed).

        TimeoutError: nothing came for `quiet_s`, or a second; they may be asked for again.
        """
        yield from self._early
        self._early.clear()
        self._socket.settimeout(min(quiet_s, _LOOK_S))
        while not self._abandoned:
            try:
                while (piece := self._next()) is not None:
                    if isinstance(piece, Interleaved):
                        yield piece
                    else:
                        self._answer(piece)
                self._receive()
            except TimeoutError:
                self._keep_alive()
                raise
            except (OSError, UnspokenError) as error:
                raise self._lost(type(error).__name__) from None
            self._keep_alive()
        raise self._lost("nobody wants more of it")

    def abandon(self) -> None:
        """Give whoever reads a SourceFault, in a second at most: nobody wants more."""
        self._abandoned = True

    def close(self) -> None:
        """Say goodbye, and hang up."""
        with suppress(OSError):
            if self._session:
                self._socket.settimeout(_LOOK_S)
                self._send("TEARDOWN", self.base, {})
        self._socket.close()

    def fault(self, what: str, reason: FaultReason) -> SourceFault:
        """What is wrong with this camera, for somebody to read."""
        return SourceFault(f"{self._name}: {what}", reason)

    # -- requests

    def _place_of(self, control: str) -> str:
        if control.lower().startswith(("rtsp://", "rtsps://")):
            return control
        if control in ("", "*"):
            return self.base
        return f"{self.base}{'' if self.base.endswith('/') else '/'}{control}"

    def _ask(self, method: str, url: str, more: Mapping[str, str] | None = None) -> _RtspMessage:
        """The camera's answer, 200; once more with a password, where it asks for one."""
        answer = self._await_answer(self._send(method, url, more or {}))
        if answer.code == 401 and self._login is not None:
            self._login.see(answer.challenges)
            answer = self._await_answer(self._send(method, url, more or {}))
        if answer.code in (401, 403):
            raise PermissionError(answer.code, "locked")
        if answer.code == 404:
            raise FileNotFoundError(answer.code, "missing")
        if answer.code != 200:
            raise UnspokenError
        return answer

    def _send(self, method: str, url: str, more: Mapping[str, str]) -> int:
        self._number += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._number}", "User-Agent: Framegate"]
        if self._session:
            lines.append(f"Session: {self._session}")
        if self._login is not None and (login := self._login.words(method, url)):
            lines.append(f"Authorization: {login}")
        lines += [f"{name}: {value}" for name, value in more.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        return self._number

    def _await_answer(self, number: int) -> _RtspMessage:
        while True:
            while (piece := self._next()) is not None:
                if isinstance(piece, Interleaved):
                    self._keep(piece)
                elif piece.number in (number, None) and piece.code:
                    return piece
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            self._receive()

    def _keep(self, packet: Interleaved) -> None:
        """The first picture may come before the answer; not much more does."""
        self._early.append(packet)
        self._n_early += len(packet.data)
        if self._n_early > _MOST_EARLY:
            raise UnspokenError

    def _answer(self, piece: _RtspMessage) -> None:
        """What the camera says beside the packets: answers to signs of life, or what it asks."""
        with suppress(OSError):
            if piece.code == 401 and self._login is not None and piece.number == self._number:
                self._login.see(piece.challenges)
            elif not piece.code and piece.number is not None:
                self._socket.sendall(b"RTSP/1.0 200 OK\r\nCSeq: %d\r\n\r\n" % piece.number)

    def _keep_alive(self) -> None:
        """Tell the camera now and then that somebody looks, as it would stop sending."""
        now = time.monotonic()
        with suppress(OSError):  # reading will tell
            if now - self._told > self._timeout_s / 2:
                self._told = now
                self._send(self._alive, self.base, {})
            if now - self._reported > _REPORT_S:
                self._reported = now
                for channel in self._channels:
                    self._socket.sendall(_report(channel + 1))

    def _lost(self, why: str) -> SourceFault:
        return self.fault(f"the connection was lost ({why})", "closed")

    # -- what comes

    def _receive(self) -> None:
        came = self._socket.recv(_CHUNK)
        if not came:
            raise ConnectionResetError
        self._kept, self._at = self._kept[self._at :] + came, 0

    def _next(self) -> Interleaved | _RtspMessage | None:
        """What is there whole, in order; None if more must come first."""
        kept, at = self._kept, self._at
        left = len(kept) - at
        while left and kept[at] != _DOLLAR and not kept[at : at + 1].isalpha():
            at = kept.find(b"$", at)  # some cameras spill bytes when they are late
            at = len(kept) if at < 0 else at
            left = len(kept) - at
        self._at = at
        if left < 4:
            return None
        if kept[at] == _DOLLAR:
            begin = at + 4
            until = begin + (kept[at + 2] << 8 | kept[at + 3])
            if until > len(kept):
                return None
            self._at = until
            return Interleaved(kept[at + 1], kept[begin:until])
        head_end = kept.find(b"\r\n\r\n", at)
        answer = _RtspMessage(kept[at:head_end]) if head_end >= 0 else None
        until = head_end + 4 + answer.length if answer is not None else at + left
        if until - at > _MOST_TEXT:
            raise UnspokenError
        if answer is None or until > len(kept):
            return None
        answer.body = kept[head_end + 4 : until]
        self._at = until
        return answer


class _RtspMessage:
    """A message of the camera's.

    code    0 of a request
    number  CSeq
    """

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("utf-8", "replace").split("\r\n")
        words = first.split()
        told = len(words) > 1 and words[0].startswith("RTSP/") and words[1].isdigit()
        self.code = int(words[1]) if told else 0
        self.headers: dict[str, str] = {}
        self.challenges: list[str] = []
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            self.headers[name] = value
            if name == "www-authenticate":
                self.challenges.append(value)
        number, length = self.headers.get("cseq", ""), self.headers.get("content-length", "")
        self.number = int(number) if number.isdecimal() else None
        self.length = int(length) if length.isdecimal() else 0
        self.body = b""


class _Login:
    """A name and a password, as a camera asks for them (RFC 7617, RFC 7616)."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password
        self.challenge: dict[str, str] | None = None
        self._count = 0

    def see(self, challenges: Sequence[str]) -> None:
        """Take what is asked; a digest rather than the password itself."""
        for each in sorted(challenges, key=str.lower):  # basic before digest
            kind, _, rest = each.partition(" ")
            told = urllib.request.parse_keqv_list(
                [one for one in urllib.request.parse_http_list(rest) if "=" in one]
            )
            self.challenge = {"kind": kind.lower(), **told}
            self._count = 0

    def words(self, method: str, url: str) -> str:
        """The header's value; empty before the camera has asked, or where it asks otherwise."""
        asked = self.challenge
        if asked is None:
            return ""
        if asked["kind"] == "basic":
            both = f"{self._user}:{self._password}".encode()
            return f"Basic {base64.b64encode(both).decode()}"
        digest = _HASHES.get(asked.get("algorithm", "MD5").upper())
        if asked["kind"] != "digest" or digest is None:
            return ""

        def of(*words: str) -> str:
            return digest(":".join(words).encode()).hexdigest()

        realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
        mine, this = of(self._user, realm, self._password), of(method, url)
        said = {"username": self._user, "realm": realm, "nonce": nonce, "uri": url}
        more = ""
        if "auth" in [each.strip() for each in asked.get("qop", "").split(",")]:
            self._count += 1
            count, salt = f"{self._count:08x}", os.urandom(8).hex()
            said |= {"cnonce": salt, "response": of(mine, nonce, count, salt, "auth", this)}
            more = f", qop=auth, nc={count}"
        else:
            said["response"] = of(mine, nonce, this)
        for name in ("opaque", "algorithm"):
            if name in asked:
                said[name] = asked[name]
        return "Digest " + ", ".join(f'{name}="{value}"' for name, value in said.items()) + more


def _report(channel: int) -> bytes:
    """A receiver report that reports nothing, and who says so (RFC 3550, 6.4.2 and 6.5)."""
    name = b"framegate"
    items = struct.pack("!BB", 1, len(name)) + name
    items += bytes(4 - len(items) % 4)
    data = struct.pack("!BBHI", 0x80, 201, 1, 1)
    data += struct.pack("!BBHI", 0x81, 202, 1 + len(items) // 4, 1) + items
    return struct.pack("!cBH", b"$", channel, len(data)) + data
