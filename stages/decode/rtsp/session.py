"""An RTSP session with a camera: log in, ask it to play, and receive RTP on the same connection."""

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
_MOST_TEXT: Final = 1 << 16  # of an answer
_MOST_EARLY: Final = 16 << 20
_EARLY_PACKET: Final = 256  # bytes that a packet costs beside its data
_MOST_REDIRECTS: Final = 4
_LOOK_S: Final = 1.0  # so soon it is seen that nobody wants more
_TIMEOUT_S: Final = 60.0  # of a session that tells none (RFC 2326, 12.37)
_REPORT_S: Final = 5.0
_GOODBYE_S: Final = 0.2  # that hanging up may take: many round trips of a local network
_DOLLAR: Final = 0x24
_MOST_CHANNEL: Final = 255
_TIMEOUT: Final = re.compile(r"\s*timeout\s*=\s*([0-9]{1,6})")
_CHANNEL: Final = re.compile(r"interleaved=([0-9]{1,9})")
# Lines end with CRLF. Some cameras send LF alone, and FFmpeg reads these.
_HEAD_END: Final = re.compile(rb"\n\r?\n")


class Interleaved(NamedTuple):
    """A packet of a channel: RTP on an even one, RTCP on the odd one after it (RFC 2326, 10.12)."""

    channel: int
    data: bytes


class RtspSession:
    """One connection: it is described at construction, `play` has it sent, `packets` gives it.

    A user name and password in the URL are given when the camera asks for them (basic or digest).
    Redirects are followed; only to the same host, and not from rtsps to rtsp, the login goes along.
    From construction and `play`: OSError (PermissionError, FileNotFoundError, TimeoutError among
    them; none tells of the URL), UnspokenError. One thread; `abandon` from any.

    description  SDP (RFC 4566) of what there is to play
    base         what names of tracks in it are relative to
    """

    def __init__(self, url: str, open_timeout_s: float, transport: Transport = "tcp") -> None:
        """Ask what there is; all until playing takes so many seconds at most.

        transport: of the packets; what is said goes over TCP.
        """
        self._name = shown(url)
        self._transport = transport
        self._until = time.monotonic() + open_timeout_s
        self._abandoned = False
        place = RtspPlace.of(url)
        for _ in range(_MOST_REDIRECTS + 1):
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
        raise UnspokenError(f"it redirects more than {_MOST_REDIRECTS} times")

    def _connect(self, place: RtspPlace) -> None:
        """Begin a connection about which nothing is known."""
        self._url, self._login = place.url, place.login()
        self._number, self._session, self._timeout_s = 0, "", _TIMEOUT_S
        self._kept, self._at = b"", 0
        self._datagrams: RtspDatagrams | None = None
        self._early: list[Interleaved] = []
        self._n_early = 0
        left = max(0.001, self._until - time.monotonic())
        try:
            plain = socket.create_connection((place.host, place.port), left)
        except UnicodeError:
            raise UnspokenError(f"{place.host[:100]!r} is no name of a host") from None
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
            raise UnspokenError(f"{place.host[:100]!r} is no name of a host for TLS") from None
        except BaseException:
            plain.close()
            raise

    def _describe(self) -> str | None:
        """Ask for the description; return where to ask instead, if the camera says so."""
        public = self._ask("OPTIONS", self._url)
        if (moved := public.location) is not None:
            return moved
        if public.code in (401, 403):
            public.check()  # another wrong password would be one more for a camera that counts
        # A camera that refuses OPTIONS for another reason may still describe itself.
        methods = public.headers.get("public", "")
        self._alive = "GET_PARAMETER" if "GET_PARAMETER" in methods else "OPTIONS"
        answer = self._ask("DESCRIBE", self._url, {"Accept": "application/sdp"})
        if (moved := answer.location) is not None:
            return moved
        answer.check()
        self.description = answer.body
        named = answer.headers.get("content-base") or answer.headers.get("content-location")
        self.base = named.strip() if named else self._url
        return None

    def play(self, controls: Sequence[str], aggregate: str | None = None) -> tuple[int, ...]:
        """Have tracks sent, and return the channel of each.

        controls: names of the tracks, as their description has them.
        aggregate: URL of all tracks together, if the description names one; it takes the place of
        `base`.
        """
        self.base = aggregate or self.base
        if self._transport == "udp":
            self._datagrams = RtspDatagrams(self._socket)
        channels = []
        for number, control in enumerate(controls):
            channels.append(self._set_up(number, control))
        self._ask("PLAY", self.base, {"Range": "npt=0.000-"}).check()
        self._channels = channels
        self._told = self._reported = time.monotonic()
        self._socket.settimeout(_LOOK_S)
        return tuple(channels)

    def _set_up(self, number: int, control: str) -> int:
        """Ask for the n-th track; return its channel. Over UDP the channel is ours alone."""
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
        for each in more:
            if (found := _TIMEOUT.match(each)) is not None:
                self._timeout_s = max(1.0, float(found[1]))
        return channel

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
                if self._datagrams is None:
                    self._receive()
                else:
                    yield from self._received(self._datagrams, min(quiet_s, _LOOK_S))
            except TimeoutError:
                self._keep_alive()
                raise
            except (OSError, UnspokenError) as error:
                raise self._lost(type(error).__name__) from None
            self._keep_alive()
        raise self._lost("the reader was cancelled")

    def abandon(self) -> None:
        """Give whoever reads a SourceFault, in a second at most: nobody wants more."""
        self._abandoned = True

    def close(self, patience_s: float = _GOODBYE_S) -> None:
        """End the session at the camera and close the connection.

        patience_s: how long the camera may take to close its side.
        """
        with suppress(OSError):
            if self._session:
                self._socket.settimeout(_LOOK_S)
                self._send("TEARDOWN", self.base, {})
                self._drain(patience_s)
        self._socket.close()
        if self._datagrams is not None:
            self._datagrams.close()

    def fault(self, what: str, reason: FaultReason) -> SourceFault:
        """What is wrong with this camera, for somebody to read."""
        return SourceFault(f"{self._name}: {what}", reason)

    # -- requests

    def _place_of(self, control: str) -> str:
        if is_rtsp(control):
            return control
        if control in ("", "*"):
            return self.base
        return f"{self.base}{'' if self.base.endswith('/') else '/'}{control}"

    def _ask(self, method: str, url: str, more: Mapping[str, str] | None = None) -> RtspMessage:
        """Return the camera's answer, whatever it is; to the second request with a password where
        it asks for one.
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

    def _send(self, method: str, url: str, more: Mapping[str, str]) -> int:
        self._number += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._number}", "User-Agent: Framegate"]
        if self._session:
            lines.append(f"Session: {self._session}")
        if self._login is not None and (login := self._login.header(method, url)):
            lines.append(f"Authorization: {login}")
        lines += [f"{name}: {value}" for name, value in more.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        return self._number

    def _await_answer(self) -> RtspMessage:
        """Return the next answer. Its number is not looked at: one request is open at a time, and
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
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            if not self._socket.recv(_CHUNK):
                return

    def _keep(self, packet: Interleaved) -> None:
        """Keep what came before the answer to PLAY: a picture may, not much more does."""
        self._early.append(packet)
        self._n_early += len(packet.data) + _EARLY_PACKET
        if self._n_early > _MOST_EARLY:
            what = f"it sent {_MOST_EARLY >> 20} MB of packets in place of an answer"
            raise UnspokenError(what, "damaged")

    def _answer(self, piece: RtspMessage) -> None:
        """What the camera says beside the packets: answers to signs of life, or what it asks."""
        with suppress(OSError):
            if piece.code == 401 and self._login is not None and piece.number == self._number:
                self._login.choose(piece.challenges)
            elif piece.code is None and piece.number is not None:
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
                if self._datagrams is not None:
                    self._datagrams.report(_REPORT)
                    return
                for channel in self._channels:
                    if channel < _MOST_CHANNEL:  # else RTCP has none
                        head = struct.pack("!cBH", b"$", channel + 1, len(_REPORT))
                        self._socket.sendall(head + _REPORT)

    def _lost(self, why: str) -> SourceFault:
        return self.fault(f"the connection was lost ({why})", "closed")

    def _other_transport(self) -> UnspokenError:
        names: list[Transport] = ["tcp", "udp"]
        names.remove(self._transport)
        what = f'it does not send over {self._transport.upper()}; try transport = "{names[0]}"'
        return UnspokenError(what)

    # -- what comes

    def _received(self, datagrams: RtspDatagrams, wait_s: float) -> Iterator[Interleaved]:
        """Yield the datagrams that come, then take what came over the connection. TimeoutError."""
        came, has_text = datagrams.receive(wait_s)
        for each in came:
            yield Interleaved(2 * each.track + each.is_control, each.data)
        if has_text:
            self._receive()

    def _receive(self) -> None:
        came = self._socket.recv(_CHUNK)
        if not came:
            raise ConnectionResetError
        self._kept, self._at = self._kept[self._at :] + came, 0

    def _next(self) -> Interleaved | RtspMessage | None:
        """What is there whole, in order; None if more must come first."""
        kept, at = self._kept, self._at
        while kept[at : at + 1] in (b"\r", b"\n"):
            at += 1
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
        end = _HEAD_END.search(kept, at)
        until = len(kept)
        if end is not None:
            message = RtspMessage(kept[at : end.start()])
            until = end.end() + message.length
        if until - at > _MOST_TEXT:
            raise UnspokenError(f"a message of it has more than {_MOST_TEXT >> 10} KB")
        if end is None or until > len(kept):
            return None
        message.body = kept[end.end() : until]
        self._at = until
        return message


def _channel_of(transport: str, asked: int) -> int:
    """Return the channel that a camera's `Transport` names, or the one that was asked for where it
    names none; UnspokenError.
    """
    told = _CHANNEL.search(transport)
    if told is None:
        return asked
    channel = int(told[1])
    if channel > _MOST_CHANNEL:
        raise UnspokenError(f"it names channel {channel}; the last one is {_MOST_CHANNEL}")
    return channel


def _report() -> bytes:
    """Build an empty receiver report, and the name of its sender (RFC 3550, 6.4.2 and 6.5)."""
    name = b"framegate"
    items = struct.pack("!BB", 1, len(name)) + name
    items += bytes(4 - len(items) % 4)
    data = struct.pack("!BBHI", 0x80, 201, 1, 1)
    return data + struct.pack("!BBHI", 0x81, 202, 1 + len(items) // 4, 1) + items


_REPORT: Final = _report()
