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

MAX_BYTES: Final = 16 << 20  # of tracks of one kind, between two packets that FFmpeg returns
_LOOPBACK: Final = "127.0.0.1"
_POLL_S: Final = 1.0  # the longest time until the relay notices that it is closed
_MAX_REQUEST: Final = 1 << 14
_MAX_CALLERS: Final = 16  # connections that have sent nothing
_CHUNK: Final = 1 << 16


class RelayedTrack(NamedTuple):
    """A track of the session: its kind (video or audio) and its channel."""

    kind: str
    channel: int


def relayed_control(number: int) -> str:
    """Return the name of the n-th track, from 0, in the description of a relay."""
    return f"track{number}"


class RtspRelay:
    """Serves a playing session to the first client that knows `url`, which contains a secret.

    A thread of its own uses and closes the session. Public methods are for the thread that reads,
    `abandon` for any.

    url    for the client: RTSP over TCP
    fault  why the relay closed the connection; None while it serves, or if the client closed it
    """

    def __init__(
        self,
        session: RtspSession,
        tracks: Sequence[RelayedTrack],
        description: str,
        patience_s: float,
        quiet_s: float,
    ) -> None:
        """Start to listen.

        description  of the tracks, in their order, with the controls of `relayed_control`
        patience_s   seconds that the client may take to connect, and for each request
        quiet_s      see `RtspSession.packets`
        """
        self._session = session
        self._description = description.encode()
        self._patience_s = patience_s
        self._quiet_s = quiet_s
        self._channels: dict[int, tuple[int, str]] = {}
        for number, track in reversed(list(enumerate(tracks))):
            for offset in (0, 1):  # RTP, RTCP
                self._channels[track.channel + offset] = (2 * number + offset, track.kind)
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
        """Restart the count of bytes of tracks of this kind: the client returned a packet."""
        self._bytes[kind] = 0

    def abandon(self) -> None:
        """Close the connection to the client within a second. Any thread."""
        self._closing = True
        self._session.abandon()

    def close(self) -> None:
        """Close both connections, and wait for that."""
        self.abandon()
        self._thread.join()

    def _serve(self) -> None:
        try:
            with suppress(OSError):  # the client closed, or the system has no descriptor
                line = self._client()
                if line is not None:
                    self._pass_on_until_fault(line)
        finally:
            self._listener.close()
            self._session.close()

    # -- requests of the client

    def _client(self) -> socket.socket | None:
        """Wait until a client that knows the secret has sent PLAY, and return its connection.

        Other processes of this host may connect, too. They get no answer and do not delay the
        client: a connection is read only once it has data, and closed unless that has the secret.
        """
        until = time.monotonic() + self._patience_s
        callers: dict[int, socket.socket] = {}
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        try:
            while not self._closing and time.monotonic() < until:
                for descriptor, _ in poll.poll(1000 * _POLL_S):
                    if descriptor == self._listener.fileno():
                        self._accept(poll, callers)
                    elif (caller := callers.pop(descriptor, None)) is not None:
                        poll.unregister(descriptor)
                        if self._is_client(caller):
                            return caller
                        caller.close()
        finally:
            for caller in callers.values():
                caller.close()
        return None

    def _accept(self, poll: select.poll, callers: dict[int, socket.socket]) -> None:
        """Accept a connection; with too many, close the one that has been silent longest."""
        try:
            caller, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it was closed again
            return
        callers[caller.fileno()] = caller
        poll.register(caller, select.POLLIN)
        if len(callers) > _MAX_CALLERS:
            silent = callers.pop(next(iter(callers)))
            poll.unregister(silent)
            silent.close()

    def _is_client(self, caller: socket.socket) -> bool:
        """Return whether a caller that has sent data knows the secret, and then sends PLAY.

        FFmpeg sends a request as a whole.
        """
        caller.settimeout(self._patience_s)
        with suppress(OSError):
            data = caller.recv(_MAX_REQUEST, socket.MSG_PEEK)
            return self._secret.encode() in data and self._plays(caller)
        return False

    def _plays(self, line: socket.socket) -> bool:
        """Answer requests up to PLAY; return whether it came."""
        with line.makefile("rb") as requests:
            while head := _head(requests):
                first, *lines = head.decode("utf-8", "replace").split("\r\n")
                method, _, rest = first.partition(" ")
                if self._secret not in rest:
                    return False
                headers = dict(field.split(": ", 1) for field in lines if ": " in field)
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
            # FFmpeg requests the tracks in their order, as channels 0-1, 2-3 and so on.
            lines.append(f"Transport: {headers.get('Transport', '')}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    # -- packets of the camera

    def _pass_on_until_fault(self, line: socket.socket) -> None:
        with line:
            try:
                self._pass_on(line)
            except SourceFault as fault:
                self.fault = fault  # the client reads it once the connection is closed

    def _pass_on(self, line: socket.socket) -> None:
        """Send packets until one side ends. OSError: the client closed. SourceFault."""
        line.settimeout(_POLL_S)
        poll = select.poll()
        poll.register(line, select.POLLIN)
        polled = time.monotonic()
        while not self._closing:
            with suppress(TimeoutError):  # nothing came for a while
                for piece in self._session.packets(self._quiet_s):
                    self._send(line, piece.channel, piece.data)
                    if time.monotonic() - polled > _POLL_S:
                        polled = time.monotonic()
                        _discard(line, poll)
            _discard(line, poll)

    def _send(self, line: socket.socket, channel: int, data: bytes) -> None:
        if channel not in self._channels:
            return
        relayed_channel, kind = self._channels[channel]
        self._bytes[kind] += len(data)
        if self._bytes[kind] > MAX_BYTES:
            text = f"{MAX_BYTES >> 20} MB arrived without a complete picture"
            raise self._session.fault(text, "damaged")
        left = memoryview(struct.pack("!cBH", b"$", relayed_channel, len(data)) + data)
        while left and not self._closing:
            with suppress(TimeoutError):  # the client is busy
                left = left[line.send(left) :]


def _discard(line: socket.socket, poll: select.poll) -> None:
    """Discard the client's reports and keep-alives: the session sends its own."""
    while poll.poll(0):
        if not line.recv(_CHUNK):
            raise ConnectionResetError


def _head(requests: BinaryIO) -> bytes:
    """Read a request; return nothing if the client closed or the request is too long."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = requests.readline(_MAX_REQUEST)
        head += more
        if not more or len(head) > _MAX_REQUEST:
            return b""
    return head
