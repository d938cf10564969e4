"""Serve a camera's RTSP session on the loopback for FFmpeg, bounded in bytes and in time.

FFmpeg's own RTSP client reads a picture to its end, however large, and such a read cannot be
stopped. Therefore RtspSession connects to the camera, and FFmpeg reads from this relay.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO, Final, NamedTuple

from framegate.pipeline.contracts.errors import SourceFault
from framegate.stages.decode.rtsp.session import RtspSession

MAX_BYTES: Final = 16 << 20  # of a kind of tracks, from one packet that FFmpeg gives to the next
_LOOPBACK: Final = "127.0.0.1"
_LOOK_S: Final = 1.0  # so soon the relay sees that it is closed
_MOST_REQUEST: Final = 1 << 14
_MOST_CALLERS: Final = 16  # that have sent nothing
_CHUNK: Final = 1 << 16


class RelayedTrack(NamedTuple):
    """A track of the session: its kind (video or audio), and the channel that it comes by."""

    kind: str
    channel: int


def relayed_control(number: int) -> str:
    """Return the name that the n-th track, counted from 0, has in the description of a relay."""
    return f"track{number}"


class RtspRelay:
    """Serves a session that plays to the first client that knows `url`, which holds a secret.

    A thread of its own uses the session, and closes it. All that is public is for the thread that
    reads, `abandon` for any.

    url    for the client: RTSP over TCP
    fault  why the relay hung up; None while it serves, and where the client hung up
    """

    def __init__(
        self,
        session: RtspSession,
        tracks: Sequence[RelayedTrack],
        description: str,
        patience_s: float,
        quiet_s: float,
    ) -> None:
        """Listen.

        description: of the tracks, in their order, with the controls that `relayed_control` names.
        patience_s: seconds that the client may take to connect, and to ask each thing.
        quiet_s: see `RtspSession.packets`.
        """
        self._session, self._description = session, description.encode()
        self._patience_s, self._quiet_s = patience_s, quiet_s
        self._channels: dict[int, tuple[int, str]] = {}
        for number, track in reversed(list(enumerate(tracks))):
            for way in (0, 1):  # RTP, RTCP
                self._channels[track.channel + way] = (2 * number + way, track.kind)
        self._bytes = {track.kind: 0 for track in tracks}
        self._secret = secrets.token_urlsafe(16)
        self._closing = False
        self.fault: SourceFault | None = None
        self._listener = socket.create_server((_LOOPBACK, 0))
        self._listener.setblocking(False)
        port = self._listener.getsockname()[1]
        self.url = f"rtsp://{_LOOPBACK}:{port}/{self._secret}"
        self._thread = threading.Thread(target=self._serve, name="rtsp-relay", daemon=True)
        self._thread.start()

    def begin_packet(self, kind: str) -> None:
        """Count the bytes of tracks of this kind from here: the client has given a packet."""
        self._bytes[kind] = 0

    def abandon(self) -> None:
        """Hang up, in a second at most."""
        self._closing = True
        self._session.abandon()

    def close(self) -> None:
        """Hang up, also on the camera."""
        self.abandon()
        self._thread.join()

    def _serve(self) -> None:
        try:
            with suppress(OSError):  # the client hung up, or the system has no descriptor for it
                line = self._client()
                if line is not None:
                    self._pass_on_until_fault(line)
        finally:
            self._listener.close()
            self._session.close()

    # -- the client asks

    def _client(self) -> socket.socket | None:
        """Wait for the client that knows the secret, and until it has asked to play.

        Others on this host may connect as well. They neither get an answer nor hold the client up:
        a connection is read only when it has sent something, and closed unless that has the secret.
        """
        until = time.monotonic() + self._patience_s
        callers: dict[int, socket.socket] = {}
        look = select.poll()
        look.register(self._listener, select.POLLIN)
        try:
            while not self._closing and time.monotonic() < until:
                for descriptor, _ in look.poll(1000 * _LOOK_S):
                    if descriptor == self._listener.fileno():
                        self._accept(look, callers)
                    elif (caller := callers.pop(descriptor, None)) is not None:
                        look.unregister(descriptor)
                        if self._is_client(caller):
                            return caller
                        caller.close()
        finally:
            for caller in callers.values():
                caller.close()
        return None

    def _accept(self, look: select.poll, callers: dict[int, socket.socket]) -> None:
        """Take a caller; the one that has been silent longest gives way to it."""
        try:
            caller, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it is gone again
            return
        callers[caller.fileno()] = caller
        look.register(caller, select.POLLIN)
        if len(callers) > _MOST_CALLERS:
            silent = callers.pop(next(iter(callers)))
            look.unregister(silent)
            silent.close()

    def _is_client(self, caller: socket.socket) -> bool:
        """Return whether a caller that has sent something knows the secret, and has asked to play.

        FFmpeg sends a request as a whole.
        """
        caller.settimeout(self._patience_s)
        with suppress(OSError):
            said = caller.recv(_MOST_REQUEST, socket.MSG_PEEK)
            return self._secret.encode() in said and self._plays(caller)
        return False

    def _plays(self, line: socket.socket) -> bool:
        """Answer until the client has asked to play; return whether it has."""
        with line.makefile("rb") as asked:
            while head := _head(asked):
                first, *lines = head.decode("utf-8", "replace").split("\r\n")
                method, _, rest = first.partition(" ")
                if self._secret not in rest:
                    return False
                headers = dict(each.split(": ", 1) for each in lines if ": " in each)
                line.sendall(self._answer(method, headers))
                if method == "PLAY":
                    return True
        return False

    def _answer(self, method: str, headers: dict[str, str]) -> bytes:
        lines = ["RTSP/1.0 200 OK", f"CSeq: {headers.get('CSeq', '')}", "Session: relay"]
        body = b""
        if method == "OPTIONS":
            lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = self._description
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            # FFmpeg asks for the tracks in their order, by 0-1, 2-3 and so on.
            lines.append(f"Transport: {headers.get('Transport', '')}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    # -- the camera sends

    def _pass_on_until_fault(self, line: socket.socket) -> None:
        with line:
            try:
                self._pass_on(line)
            except SourceFault as fault:
                self.fault = fault  # the client looks once the line is closed

    def _pass_on(self, line: socket.socket) -> None:
        """Send packets until one side hangs up; OSError: the client did. SourceFault."""
        line.settimeout(_LOOK_S)
        look = select.poll()
        look.register(line, select.POLLIN)
        looked = time.monotonic()
        while not self._closing:
            with suppress(TimeoutError):  # nothing came for a while
                for came in self._session.packets(self._quiet_s):
                    self._send(line, came.channel, came.data)
                    if time.monotonic() - looked > _LOOK_S:
                        looked = time.monotonic()
                        _discard(line, look)
            _discard(line, look)

    def _send(self, line: socket.socket, channel: int, data: bytes) -> None:
        if channel not in self._channels:
            return
        there, kind = self._channels[channel]
        self._bytes[kind] += len(data)
        if self._bytes[kind] > MAX_BYTES:
            what = f"{MAX_BYTES >> 20} MB came and no picture was complete"
            raise self._session.fault(what, "damaged")
        left = memoryview(struct.pack("!cBH", b"$", there, len(data)) + data)
        while left and not self._closing:
            with suppress(TimeoutError):  # the client is busy
                left = left[line.send(left) :]


def _discard(line: socket.socket, look: select.poll) -> None:
    """Discard what the client sends: reports and keep-alives, of which the session has its own."""
    while look.poll(0):
        if not line.recv(_CHUNK):
            raise ConnectionResetError


def _head(asked: BinaryIO) -> bytes:
    """Read a request of the client; empty if it hung up, or the request is too long."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = asked.readline(_MOST_REQUEST)
        head += more
        if not more or len(head) > _MOST_REQUEST:
            return b""
    return head
