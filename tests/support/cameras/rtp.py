"""Pictures as RTP packets (RFC 6184, RFC 7798), and a camera that plays them as a test says."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import av

from tests.support.cameras.faulty import LOOPBACK
from tests.support.cameras.interleaved import Splitter
from tests.support.footage import frame_of, scene
from tests.support.runs import DEADLINE_S

HZ = 90_000
PAYLOAD_TYPE = 96
_START = re.compile(rb"\x00\x00\x00?\x01")
_PORTS = re.compile(r"client_port=(\d+)-(\d+)")
_QUIET = {"h264": {}, "hevc": {"x265-params": "log-level=none:repeat-headers=1"}}
_ENCODERS = {"h264": "libx264", "hevc": "libx265"}


def encoded(codec: str, pictures: int, **options: str) -> list[list[bytes]]:
    """Units of each access unit, in decoding order, of a scene with a key frame each 6 pictures."""
    context = av.CodecContext.create(_ENCODERS[codec], "w")
    context.width, context.height, context.pix_fmt = 96, 64, "yuv420p"
    context.framerate, context.gop_size = 10, 6
    context.time_base = 1 / context.framerate
    context.options = {"preset": "ultrafast", "bf": "0", **_QUIET[codec], **options}
    packets = []
    for number in range(pictures):
        frame = frame_of(scene(number, (96, 64)), "yuv420p")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    return [units_of(bytes(packet)) for packet in packets]


def units_of(picture: bytes) -> list[bytes]:
    """Take an encoder's picture apart into its units."""
    return [one for one in _START.split(picture) if one]


def annexb(units: Sequence[bytes]) -> bytes:
    """As FFmpeg's demuxer writes them."""
    return b"".join(b"\0\0\0\1" + unit for unit in units)


def payloads(codec: str, units: Sequence[bytes], most: int = 60) -> list[bytes]:
    """What the packets of an access unit carry: small units together, large ones in fragments."""
    found: list[bytes] = []
    head = 1 if codec == "h264" else 2
    small = [unit for unit in units if len(unit) <= most]
    if len(small) > 1 and small == list(units[: len(small)]):
        top = bytes([24]) if codec == "h264" else bytes([48 << 1, 1])
        found.append(top + b"".join(struct.pack("!H", len(one)) + one for one in small))
        units = units[len(small) :]
    for unit in units:
        if len(unit) <= most:
            found.append(unit)
            continue
        pieces = [unit[at : at + most] for at in range(head, len(unit), most)]
        for number, piece in enumerate(pieces):
            ends = 0x80 * (number == 0) | 0x40 * (number == len(pieces) - 1)
            if codec == "h264":
                fragment = bytes([unit[0] & 0xE0 | 28, ends | unit[0] & 31])
            else:
                fragment = bytes([unit[0] & 0x81 | 49 << 1, unit[1], ends | unit[0] >> 1 & 63])
            found.append(fragment + piece)
    return found


def rtp(
    number: int,
    stamp: int,
    marker: bool,
    payload: bytes,
    *,
    odd: bool = False,
    kind: int = PAYLOAD_TYPE,
) -> bytes:
    """A packet of a payload type; odd: with contributing sources, an extension, and padding."""
    head = struct.pack(
        "!BBHII",
        0xB2 if odd else 0x80,
        marker << 7 | kind,
        number % (1 << 16),
        stamp % (1 << 32),
        7,
    )
    if odd:
        head += struct.pack("!IIHHI", 1, 2, 0xBEDE, 1, 5)
        payload += b"\0\0\3"
    return head + payload


def report(ntp_s: float, stamp: int) -> bytes:
    """A sender report (RFC 3550, 6.4.1): at this time of NTP's clock a track stood there."""
    part = round(ntp_s % 1 * (1 << 32))
    return struct.pack("!BBHIIIIII", 0x80, 200, 6, 7, int(ntp_s), part, stamp % (1 << 32), 0, 0)


def interleaved(channel: int, data: bytes) -> bytes:
    """A packet on its way over RTSP's connection."""
    return struct.pack("!cBH", b"$", channel, len(data)) + data


def description(codec: str, units: Sequence[bytes] = ()) -> str:
    """SDP of a video track; of H.264 with its parameters, where `units` begin with them."""
    name = {"h264": "H264", "hevc": "H265"}[codec]
    known = [one for one in units if codec == "h264" and one[0] & 31 in (7, 8)]
    sets = [base64.b64encode(one).decode() for one in known]
    more = f";sprop-parameter-sets={','.join(sets)}" if sets else ""
    return (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\na=control:*\r\n"
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}\r\nc=IN IP4 0.0.0.0\r\n"
        f"a=rtpmap:{PAYLOAD_TYPE} {name}/{HZ}\r\n"
        f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1{more}\r\na=control:track1\r\n"
    )


Reply = Callable[[str, str], bytes | None]


class PlayedCamera:
    """Answers as RTSP asks, sends what it is given after PLAY, and then waits to be hung up.

    Where it is asked to send over UDP, it does: each packet of the steps is a datagram.

    asked  (method, URL) of all requests, of all connections
    said   the headers of each
    """

    def __init__(
        self,
        sdp: str,
        steps: Callable[[], Iterator[bytes]],
        reply: Reply = lambda *_: None,
        session: str = "s1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """reply: what is sent in place of the usual answer to a method and its number."""
        self._tls = tls
        self._sdp, self._steps, self._reply, self._session = sdp, steps, reply, session
        self.asked: list[tuple[str, str]] = []
        self.said: list[dict[str, str]] = []
        self.heard = threading.Condition()
        self._lines: list[socket.socket] = []
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"rtsp{'s' if tls else ''}://anna:s3cret@{LOOPBACK}:{self.port}/cam"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def __enter__(self) -> PlayedCamera:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)

    def describe(self, sdp: str) -> None:
        """Change the description from now on."""
        self._sdp = sdp

    def until_asked(self, method: str, times: int) -> bool:
        """Wait until a method was asked for so often; whether it was."""
        with self.heard:
            return self.heard.wait_for(
                lambda: [one for one, _ in self.asked].count(method) >= times, 60
            )

    def _accept(self) -> None:
        threads = []
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self._lines.append(line)
                threads.append(threading.Thread(target=self._serve, args=(line,)))
                threads[-1].start()
        for thread in threads:
            thread.join(DEADLINE_S)

    def _serve(self, line: socket.socket) -> None:
        if self._tls is not None:
            line = self._tls.wrap_socket(line, server_side=True)
        there: list[int] = []
        with line, line.makefile("rb") as came, suppress(OSError):
            while head := came.read(1):
                if head == b"$":
                    came.read(int.from_bytes(came.read(3)[1:]))
                    continue
                first, *lines = (head + _head(came)).decode().split("\r\n")
                method, url, _ = first.split()
                said = dict(each.split(": ", 1) for each in lines if ": " in each)
                number = said["CSeq"]
                with self.heard:
                    self.asked.append((method, url))
                    self.said.append(said)
                    self.heard.notify_all()
                answer = self._reply(method, number)
                line.sendall(self._usual(method, said) if answer is None else answer)
                if (ports := _PORTS.search(said.get("Transport", ""))) is not None:
                    there += map(int, ports.groups())
                if method == "PLAY":
                    # A client that has hung up no longer takes packets. Its last request may still
                    # be there to read.
                    with suppress(OSError):
                        self._play(line, there)

    def _play(self, line: socket.socket, there: Sequence[int]) -> None:
        """Send the steps; there: the ports of the channels over UDP."""
        splitter = Splitter()
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            for data in self._steps():
                if not there:
                    line.sendall(data)
                    continue
                for piece in splitter.feed(data):
                    if piece.channel is not None:
                        datagrams.sendto(piece.data, (LOOPBACK, there[piece.channel]))

    def _usual(self, method: str, said: dict[str, str]) -> bytes:
        more, body = f"Session: {self._session}\r\n", ""
        if method == "OPTIONS":
            more = "Public: DESCRIBE, SETUP, PLAY, GET_PARAMETER\r\n"
        elif method == "DESCRIBE":
            body = self._sdp
            more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            transport = said["Transport"]
            if "client_port" in transport:
                transport += ";server_port=9-10"  # discard: what comes there is of no interest
            more += f"Transport: {transport}\r\n"
        return f"RTSP/1.0 200 OK\r\nCSeq: {said['CSeq']}\r\n{more}\r\n{body}".encode()


def _head(came: object) -> bytes:
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        more = came.readline()  # type: ignore[attr-defined]
        if not more:
            break
        said += more
    return said
