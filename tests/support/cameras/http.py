"""A camera over HTTP: MJPEG as a multipart answer, and HLS with a live playlist."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import re
import time
from pathlib import Path

import av

from tests.support.cameras.background import Background
from tests.support.cameras.faulty import LOOPBACK
from tests.support.cameras.gstreamer import Login
from tests.support.cameras.pictures import FPS

_SEGMENT_S = 1.0
_LISTED = 4
_BOUNDARY = b"picture"


class HttpCamera:
    """Serves /cam.mjpg for ever, and /cam.m3u8 as long as the clip lasts.

    pictures  an MJPEG clip
    video     an H.264 clip with a key frame a second: cut into segments, which are listed as time
              passes from the first look at the playlist on
    login     asked for (basic) if given; for MJPEG only
    """

    def __init__(
        self,
        background: Background,
        folder: Path,
        pictures: Path,
        video: Path,
        login: Login | None = None,
    ) -> None:
        self._background = background
        self._jpegs = _packets(pictures)
        self._segments = _segments(video, folder)
        self._login = login
        self._began: float | None = None
        self._server = background.run(asyncio.start_server(self._answer, LOOPBACK, 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Listen no more; what is connected ends with the loop."""
        self._background.loop.call_soon_threadsafe(self._server.close)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ", 2)[1].partition("?")[0]
            if path == "/cam.mjpg":
                await self._pictures(head, writer)
            elif path == "/cam.m3u8":
                await _send(writer, self._playlist(), "application/vnd.apple.mpegurl")
            elif (number := re.fullmatch(r"/(\d+)\.ts", path)) is not None:
                await _send(writer, self._segments[int(number[1])], "video/mp2t")
            else:
                await _send(writer, b"", status="404 Not Found")
        writer.close()

    async def _pictures(self, head: str, writer: asyncio.StreamWriter) -> None:
        if not self._may(head):
            more = 'WWW-Authenticate: Basic realm="camera"\r\n'
            await _send(writer, b"", status="401 Unauthorized", more=more)
            return
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY.decode()}"
        writer.write(f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode())
        for jpeg in itertools.cycle(self._jpegs):
            head_of = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            writer.write(b"--" + _BOUNDARY + b"\r\n" + head_of + jpeg + b"\r\n")
            await writer.drain()
            await asyncio.sleep(1 / FPS)

    def _may(self, head: str) -> bool:
        if self._login is None:
            return True
        both = f"{self._login.user}:{self._login.password}"
        wanted = base64.b64encode(both.encode()).decode()
        return f"authorization: basic {wanted}".lower() in head.lower()

    def _playlist(self) -> bytes:
        now = time.monotonic()
        if self._began is None:
            self._began = now
        there = min(_LISTED + int((now - self._began) / _SEGMENT_S), len(self._segments))
        first = max(0, there - _LISTED)
        listed = "".join(f"#EXTINF:{_SEGMENT_S},\n{n}.ts\n" for n in range(first, there))
        return (
            f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{round(_SEGMENT_S)}\n"
            f"#EXT-X-MEDIA-SEQUENCE:{first}\n{listed}"
        ).encode()


async def _send(
    writer: asyncio.StreamWriter,
    body: bytes,
    kind: str = "text/plain",
    status: str = "200 OK",
    more: str = "",
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    await writer.drain()


def _packets(clip: Path) -> list[bytes]:
    with av.open(str(clip)) as given:
        return [bytes(packet) for packet in given.demux(video=0) if packet.size]


def _segments(clip: Path, folder: Path) -> list[bytes]:
    """The clip as MPEG-TS in pieces of a second, by FFmpeg's own HLS writer."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"hls_time": f"{_SEGMENT_S:g}", "hls_list_size": "0"}
    with (
        av.open(str(clip)) as given,
        av.open(str(folder / "all.m3u8"), "w", format="hls", options=options) as output,
    ):
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    named = sorted(folder.glob("*.ts"), key=lambda path: int(path.stem.removeprefix("all")))
    return [path.read_bytes() for path in named]
