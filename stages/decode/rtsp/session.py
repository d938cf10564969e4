"""An RTSP session with a camera: log in, start playback, and receive RTP on the same connection.

Invariants:

- At most one request is open before playback, so the next reply belongs to it. During playback only
  keep-alive requests are sent, and their replies matter only if they refuse the login.
- `_buffer[_at:]` is the received text and packets that were not parsed. `_next` consumes whole
  pieces only, and skips bytes that can begin neither a message nor a packet.
- Packets that arrive before the reply to PLAY wait in `_early`, in order and bounded.
- During playback no read blocks longer than _POLL_S, so `abandon` takes effect within that time.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from framegate.pipeline.contracts.errors import FaultReason, SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Transport
from framegate.stages.decode.camera_login import unknown_login
from framegate.stages.decode.http_camera import unchecked
from framegate.stages.decode.rtsp.datagrams import RtspDatagrams
from framegate.stages.decode.rtsp.messages import (
    RtspMessage,
    RtspPlace,
    UnspokenError,
    is_rtsp,
)

_CHUNK: Final = 1 << 18
_MAX_TEXT: Final = 1 << 16  # bytes of a message
_MAX_EARLY: Final = 16 << 20
_EARLY_PACKET: Final = 256  # bytes of memory for a packet besides its data
_MAX_REDIRECTS: Final = 4
_POLL_S: Final = 1.0  # the longest time until an abandoned session ends
_TIMEOUT_S: Final = 60.0  # of a session whose reply names none (RFC 2326, 12.37)
_REPORT_S: Final = 5.0
_GOODBYE_S: Final = 0.2  # for the teardown: many round trips of a local network
_DOLLAR: Final = 0x24
_MAX_CHANNEL: Final = 255
_TIMEOUT: Final = re.compile(r"\s*timeout\s*=\s*([0-9]{1,6})")
_CHANNEL: Final = re.compile(r"interleaved=([0-9]{1,9})")
# Lines end with CRLF. Some cameras send LF alone, which FFmpeg accepts, too.
_HEAD_END: Final = re.compile(rb"\n\r?\n")


class Interleaved(NamedTuple):
    """A packet of a channel: RTP on an even one, RTCP on the odd one after it (RFC 2326, 10.12)."""

    channel: int
    data: bytes


class RtspSession:
    """One connection to a camera: the constructor reads its description, `play` starts the packets.

    User name and password of the URL are sent when the camera asks for them (basic or digest).
    Redirects are followed; the login is kept only for the same host, and not from rtsps to rtsp.
    The constructor and `play` raise OSError (including PermissionError, FileNotFoundError and
    TimeoutError; none contains the URL) and UnspokenError. One thread; `abandon` from any.

    description  SDP (RFC 4566) of the tracks
    base         URL that track names are relative to
    """

    def __init__(self, url: str, open_timeout_s: float, transport: Transport = "tcp") -> None:
        """Connect and request the description.

        open_timeout_s  seconds until playback starts
        transport       of the packets; messages use TCP in any case
        """
        self._name = shown(url)
        self._transport = transport
        self._until = time.monotonic() + open_timeout_s
        self._abandoned = False
        place = RtspPlace.of(url)
        for _ in range(_MAX_REDIRECTS + 1):
            self._connect(place)
            try:
                moved = self._describe()
            except BaseException:
                self._socket.close()
                raise
            if moved is None:
                return
            self._socket.close()
            place = place.moved(moved)
        raise UnspokenError(f"it redirects more than {_MAX_REDIRECTS} times")

    def _connect(self, place: RtspPlace) -> None:
        """Open a connection and reset all state that belongs to the previous one."""
        self._url = place.url
        self._login = place.login()
        self._number = 0
        self._session = ""
        self._timeout_s = _TIMEOUT_S
        self._buffer = b""
        self._at = 0
        self._datagrams: RtspDatagrams | None = None
        self._early: list[Interleaved] = []
        self._n_early = 0
        left = max(0.001, self._until - time.monotonic())
        try:
            plain = socket.create_connection((place.host, place.port), left)
        except UnicodeError:
            raise UnspokenError(f"{place.host[:100]!r} is not a host name") from None
        self._socket = plain
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if place.encrypted:
                self._socket = unchecked().wrap_socket(plain, server_hostname=place.host)
        except ssl.SSLError as error:
            plain.close()
            raise UnspokenError(f"its TLS is not understood ({error.reason})") from None
        except ValueError:
            plain.close()
            raise UnspokenError(f"{place.host[:100]!r} is not a host name for TLS") from None
        except BaseException:
            plain.close()
            raise

    def _describe(self) -> str | None:
        """Request the description; return the new location if the camera redirects."""
        options = self._ask("OPTIONS", self._url)
        if options.location is not None:
            return options.location
        if options.code in (401, 403):
            options.check()  # a DESCRIBE would count as one more attempt with a wrong password
        # A camera that refuses OPTIONS for another reason may still describe itself.
        methods = options.headers.get("public", "")
        self._alive = "GET_PARAMETER" if "GET_PARAMETER" in methods else "OPTIONS"
        answer = self._ask("DESCRIBE", self._url, {"Accept": "application/sdp"})
        if answer.location is not None:
            return answer.location
        answer.check()
        self.description = answer.body
        base = answer.headers.get("content-base") or answer.headers.get("content-location")
        self.base = base.strip() if base else self._url
        return None

    def play(self, controls: Sequence[str], aggregate: str | None = None) -> tuple[int, ...]:
        """Start playback of tracks, and return the channel of each.

        controls   names of the tracks, as in the description
        aggregate  URL of all tracks together, if the description has one; it replaces `base`
        """
        self.base = aggregate or self.base
        if self._transport == "udp":
            self._datagrams = RtspDatagrams(self._socket)
        channels = []
        for number, control in enumerate(controls):
            channels.append(self._set_up(number, control))
        self._ask("PLAY", self.base, {"Range": "npt=0.000-"}).check()
        self._channels = channels
        self._alive_mono = time.monotonic()
        self._reported_mono = self._alive_mono
        self._socket.settimeout(_POLL_S)
        return tuple(channels)

    def _set_up(self, number: int, control: str) -> int:
        """Set up the n-th track; return its channel. Over UDP the number is only used here."""
        channel = 2 * number
        if self._datagrams is not None:
            port = self._datagrams.bind()
            wanted = f"RTP/AVP/UDP;unicast;client_port={port}-{port + 1}"
        else:
            wanted = f"RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1}"
        answer = self._ask("SETUP", self._place_of(control), {"Transport": wanted})
        if answer.code == 461:
            raise self._other_transport()
        answer.check()
        transport = answer.headers.get("transport", wanted)
        is_tcp = "tcp" in transport.lower() or "interleaved" in transport
        if is_tcp != (self._transport == "tcp"):
            raise self._other_transport()
        if self._datagrams is not None:
            self._datagrams.connect(number, transport)
        else:
            channel = _channel_of(transport, channel)
        session, *more = answer.headers.get("session", "").split(";")
        self._session = session.strip() or self._session
        for parameter in more:
            match = _TIMEOUT.match(parameter)
            if match is not None:
                self._timeout_s = max(1.0, float(match[1]))
        return channel

    def packets(self, quiet_s: float) -> Iterator[Interleaved]:
        """Yield packets as they arrive, in order. SourceFault (closed).

        TimeoutError: nothing arrived for `quiet_s`, or a second; call it again to continue.
        """
        yield from self._early
        self._early.clear()
        wait_s = min(quiet_s, _POLL_S)
        self._socket.settimeout(wait_s)
        while not self._abandoned:
            try:
                while (piece := self._next()) is not None:
                    if isinstance(piece, Interleaved):
                        yield piece
                    else:
                        self._take_message(piece)
                if self._datagrams is None:
                    self._receive()
                else:
                    yield from self._received(self._datagrams, wait_s)
            except TimeoutError:
                self._keep_alive()
                raise
            except (OSError, UnspokenError) as error:
                raise self._lost(type(error).__name__) from None
            self._keep_alive()
        raise self._lost("the reader was cancelled")

    def abandon(self) -> None:
        """Make `packets` raise a SourceFault within a second."""
        self._abandoned = True

    def close(self, patience_s: float = _GOODBYE_S) -> None:
        """End the session at the camera and close the connection.

        patience_s: how long the camera may take to close its side.
        """
        with suppress(OSError):
            if self._session:
                self._socket.settimeout(_POLL_S)
                self._send("TEARDOWN", self.base, {})
                self._drain(patience_s)
        self._socket.close()
        if self._datagrams is not None:
            self._datagrams.close()

    def fault(self, text: str, reason: FaultReason) -> SourceFault:
        """Return a fault of this camera, with its name."""
        return SourceFault(f"{self._name}: {text}", reason)

    # -- requests

    def _place_of(self, control: str) -> str:
        if is_rtsp(control):
            return control
        if control in ("", "*"):
            return self.base
        separator = "" if self.base.endswith("/") else "/"
        return f"{self.base}{separator}{control}"

    def _ask(self, method: str, url: str, more: Mapping[str, str] | None = None) -> RtspMessage:
        """Return the camera's answer, also a refusal. If the camera asks for a login, the request
        is repeated with it.
        """
        self._send(method, url, more or {})
        answer = self._await_answer()
        if answer.code == 401 and self._login is not None:
            if not self._login.choose(answer.challenges):
                raise UnspokenError(unknown_login(answer.challenges), "permission")
            self._send(method, url, more or {})
            answer = self._await_answer()
        answer.method = method
        return answer

    def _send(self, method: str, url: str, more: Mapping[str, str]) -> None:
        self._number += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._number}", "User-Agent: Framegate"]
        if self._session:
            lines.append(f"Session: {self._session}")
        if self._login is not None:
            authorization = self._login.header(method, url)
            if authorization:
                lines.append(f"Authorization: {authorization}")
        lines += [f"{name}: {value}" for name, value in more.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def _await_answer(self) -> RtspMessage:
        """Return the next final answer. Its number is ignored: one request is open at a time, and
        some cameras count on their own.
        """
        while True:
            while (piece := self._next()) is not None:
                if isinstance(piece, Interleaved):
                    self._keep(piece)
                elif piece.code is not None and not 100 <= piece.code < 200:
                    return piece
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            self._receive()

    def _drain(self, patience_s: float) -> None:
        """Discard packets until the camera closes its side; OSError.

        A socket that is closed while packets are unread resets the connection. A camera that is
        sending sees the reset first, may never read the TEARDOWN, and keeps the session until that
        times out.
        """
        self._socket.shutdown(socket.SHUT_WR)
        until = time.monotonic() + patience_s
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._socket.settimeout(left)
            if not self._socket.recv(_CHUNK):
                return

    def _keep(self, packet: Interleaved) -> None:
        """Keep a packet that arrived before the answer to PLAY: a picture, but not much more."""
        self._early.append(packet)
        self._n_early += len(packet.data) + _EARLY_PACKET
        if self._n_early > _MAX_EARLY:
            raise UnspokenError(
                f"it sent {_MAX_EARLY >> 20} MB of packets in place of an answer", "damaged"
            )

    def _take_message(self, piece: RtspMessage) -> None:
        """Handle a message between packets: an answer to a keep-alive, or the camera's request."""
        with suppress(OSError):
            if piece.code == 401 and self._login is not None and piece.number == self._number:
                self._login.choose(piece.challenges)
            elif piece.code is None and piece.number is not None:
                self._socket.sendall(b"RTSP/1.0 200 OK\r\nCSeq: %d\r\n\r\n" % piece.number)

    def _keep_alive(self) -> None:
        """Send a keep-alive and a receiver report when they are due: without them many cameras stop
        sending.
        """
        now = time.monotonic()
        with suppress(OSError):  # the next read raises it again
            if now - self._alive_mono > self._timeout_s / 2:
                self._alive_mono = now
                self._send(self._alive, self.base, {})
            if now - self._reported_mono > _REPORT_S:
                self._reported_mono = now
                if self._datagrams is not None:
                    self._datagrams.report(_REPORT)
                    return
                for channel in self._channels:
                    if channel < _MAX_CHANNEL:  # the last channel has none for its RTCP
                        head = struct.pack("!cBH", b"$", channel + 1, len(_REPORT))
                        self._socket.sendall(head + _REPORT)

    def _lost(self, why: str) -> SourceFault:
        return self.fault(f"the connection was lost ({why})", "closed")

    def _other_transport(self) -> UnspokenError:
        other = "UDP" if self._transport == "tcp" else "TCP"
        return UnspokenError(
            f'it does not send over {self._transport.upper()}; try transport = "{other.lower()}"'
        )

    # -- received bytes

    def _received(self, datagrams: RtspDatagrams, wait_s: float) -> Iterator[Interleaved]:
        """Yield the datagrams that arrive, then read the connection if ready. TimeoutError."""
        packets, has_text = datagrams.receive(wait_s)
        for packet in packets:
            yield Interleaved(2 * packet.track + packet.is_control, packet.data)
        if has_text:
            self._receive()

    def _receive(self) -> None:
        data = self._socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def _next(self) -> Interleaved | RtspMessage | None:
        """Return the next whole message or packet; None if its rest has not arrived."""
        buffer = self._buffer
        at = self._at
        while buffer[at : at + 1] in (b"\r", b"\n"):
            at += 1
        left = len(buffer) - at
        while left and buffer[at] != _DOLLAR and not buffer[at : at + 1].isalpha():
            at = buffer.find(b"$", at)  # some cameras send stray bytes when they are late
            if at < 0:
                at = len(buffer)
            left = len(buffer) - at
        self._at = at
        if left < 4:
            return None
        if buffer[at] == _DOLLAR:
            begin = at + 4
            until = begin + (buffer[at + 2] << 8 | buffer[at + 3])
            if until > len(buffer):
                return None
            self._at = until
            return Interleaved(buffer[at + 1], buffer[begin:until])
        end = _HEAD_END.search(buffer, at)
        until = len(buffer)
        if end is not None:
            message = RtspMessage(buffer[at : end.start()])
            until = end.end() + message.length
        if until - at > _MAX_TEXT:
            raise UnspokenError(f"it sent a message of more than {_MAX_TEXT >> 10} KB")
        if end is None or until > len(buffer):
            return None
        message.body = buffer[end.end() : until]
        self._at = until
        return message


def _channel_of(transport: str, asked: int) -> int:
    """Return the channel in a camera's `Transport`, or `asked` if it names none; UnspokenError."""
    match = _CHANNEL.search(transport)
    if match is None:
        return asked
    channel = int(match[1])
    if channel > _MAX_CHANNEL:
        raise UnspokenError(f"it names channel {channel}; the last channel is {_MAX_CHANNEL}")
    return channel


def _report() -> bytes:
    """Return an empty receiver report with the name of its sender (RFC 3550, 6.4.2 and 6.5)."""
    name = b"framegate"
    items = struct.pack("!BB", 1, len(name)) + name
    items += bytes(4 - len(items) % 4)
    data = struct.pack("!BBHI", 0x80, 201, 1, 1)
    return data + struct.pack("!BBHI", 0x81, 202, 1 + len(items) // 4, 1) + items


_REPORT: Final = _report()
