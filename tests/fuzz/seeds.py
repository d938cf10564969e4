"""Writes the inputs that fuzz targets of RTSP begin with: python -m tests.fuzz.seeds

What cameras say is recorded from cameras; packets are of made pictures. The files stay as they are,
because a target replays them: only what is missing is written.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from framegate.stages.decode.rtsp.session import RtspSession
from tests.support.cameras import gstreamer
from tests.support.cameras.gstreamer import GStreamerCamera, Login
from tests.support.cameras.rtp import (
    PlayedCamera,
    description,
    encoded,
    interleaved,
    payloads,
    report,
    rtp,
)
from tests.support.recorded import write_both

CORPUS: Final = Path(__file__, "../corpus").resolve()
MOST_BYTES: Final = 8000  # of a file


def corpus(kind: str) -> list[bytes]:
    """Return the inputs for a target."""
    return [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]


def framed(packets: Iterable[bytes]) -> bytes:
    """Return packets as one input: each after its length in two bytes (RFC 4571)."""
    return b"".join(struct.pack("!H", len(one)) + one for one in packets)


def unframed(data: bytes) -> Iterator[bytes]:
    """Yield the packets of an input; the last one may be short."""
    at = 0
    while at + 2 <= len(data):
        begin = at + 2
        at = begin + int.from_bytes(data[begin - 2 : begin])
        yield data[begin:at]


class _Recorder(RtspSession):
    """Remembers what the camera said."""

    def _receive(self) -> None:
        at = len(self._kept) - self._at
        super()._receive()
        self.said = getattr(self, "said", b"") + self._kept[at:]


def _recorded(url: str, controls: list[str]) -> bytes:
    session = _Recorder(url, 30.0)
    session.play(controls)
    with suppress(TimeoutError):  # it has said all
        for _ in session.packets(1.0):
            if len(session.said) >= MOST_BYTES:
                break
    session.close()
    return session.said[:MOST_BYTES]


def _rtp_packets(codec: str, count: int, most: int = 200, **options: str) -> list[bytes]:
    packets: list[bytes] = []
    for at, unit in enumerate(encoded(codec, count, **options)):
        parts = payloads(codec, unit, most)
        for n, part in enumerate(parts):
            packets.append(rtp(len(packets), 9000 * at, n == len(parts) - 1, part))
    return packets


def _played() -> bytes:
    units = encoded("h264", 60)

    def steps() -> Iterator[bytes]:
        yield interleaved(1, report(3.9e9, 0))
        yield from (interleaved(0, one) for one in _rtp_packets("h264", 60))
        yield b"OPTIONS rtsp://127.0.0.1/ RTSP/1.0\r\nCSeq: 7\r\n\r\n" * 200

    with PlayedCamera(description("h264", units[0]), steps, session="s1;timeout=60") as camera:
        return _recorded(camera.url, ["track1"])


def _gstreamer() -> bytes:
    assert gstreamer.missing() is None, gstreamer.missing()
    with tempfile.TemporaryDirectory() as folder:
        clip = write_both(Path(folder, "a.mkv"), 2.0, "libx264", None, fps=25.0, gop=6)
        camera = GStreamerCamera(clip, "/a", "h264", Login("anna", "s3cret", "digest"))
        try:
            return _recorded(f"rtsp://anna:s3cret@127.0.0.1:{camera.port}/a", ["stream=0"])
        finally:
            camera.close()


def _sound() -> bytes:
    """Two units in a packet, and one unit in two (RFC 3640)."""
    two = struct.pack("!HHH", 32, 3 << 3, 5 << 3) + b"abcdefgh"
    parts = [struct.pack("!HH", 16, 9 << 3) + piece for piece in (b"abcde", b"fghi")]
    packets = [rtp(n, 1024 * n, True, one) for n, one in enumerate([two, *parts, two])]
    return bytes([13, 3, 3]) + framed(packets)


SEEDS: Final[dict[str, Callable[[], bytes]]] = {
    "rtsp_session/played": _played,
    "rtsp_session/gstreamer-digest": _gstreamer,
    "rtsp_pictures/h264": lambda: b"\0" + framed(_rtp_packets("h264", 8)),
    "rtsp_pictures/h264-slices": lambda: b"\0" + framed(_rtp_packets("h264", 8, slices="3")),
    "rtsp_pictures/h264-refresh": lambda: (
        b"\0" + framed(_rtp_packets("h264", 8, **{"x264-params": "keyint=8:intra-refresh=1"}))
    ),
    "rtsp_pictures/hevc": lambda: b"\1" + framed(_rtp_packets("hevc", 8)),
    "rtsp_sound/aac-hbr": _sound,
}


def main() -> None:
    """Write what is missing."""
    for name, make in SEEDS.items():
        path = CORPUS / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make())


if __name__ == "__main__":
    main()
