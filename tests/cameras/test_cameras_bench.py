"""The cameras of the tests, looked at with plain PyAV: what they claim to do they do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error
import pytest

from tests.support.cameras import gstreamer
from tests.support.cameras.background import Background
from tests.support.cameras.faulty import LOOPBACK, FaultyLine
from tests.support.cameras.gstreamer import GStreamerCamera, Login
from tests.support.cameras.http import HttpCamera
from tests.support.cameras.interleaved import Piece, Splitter
from tests.support.cameras.pictures import SIZE, Clips
from tests.support.cameras.toolkit import ToolkitCamera

ABSENT = gstreamer.missing()
QUICK = {"rtsp_transport": "tcp", "probesize": "32", "fpsprobesize": "0"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    found = Background()
    yield found
    found.close()


@pytest.fixture(scope="module")
def kit(background: Background, clips: Clips) -> Iterator[ToolkitCamera]:
    found = ToolkitCamera(background, clips.folder)
    yield found
    found.close()


@pytest.fixture
def line(background: Background, kit: ToolkitCamera) -> Iterator[FaultyLine]:
    found = FaultyLine(background)
    found.on(kit.port)
    yield found
    found.close()


def look(port: int, path: str, frames: int, scheme: str = "rtsp", **options: str) -> dict[str, Any]:
    """Open, decode so many frames, and say what was seen."""
    how = {**(QUICK if scheme.startswith("rtsp") else {}), **options}
    with av.open(f"{scheme}://{path_at(port, path)}", options=how, timeout=(5, 5)) as container:
        track = container.streams.video[0]
        seen: dict[str, Any] = {"codec": track.codec_context.name, "frames": 0, "sizes": set()}
        for packet in container.demux(track):
            for frame in packet.decode():
                seen["frames"] += 1
                seen["sizes"].add((frame.width, frame.height))
            seen["told_time"] = packet.has_sidedata("prft")
            if seen["frames"] >= frames:
                break
        return seen


def path_at(port: int, path: str) -> str:
    user, found, rest = path.rpartition("@")
    return f"{user}{found}{LOOPBACK}:{port}{rest}"


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_the_toolkit_serves(kit: ToolkitCamera, clips: Clips, codec: str) -> None:
    seen = look(kit.port, kit.path(clips.clip(codec).name), 5)
    assert seen == {"codec": codec, "frames": 5, "sizes": {SIZE}, "told_time": True}


@pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "mjpeg"])
def test_gstreamer_serves(clips: Clips, codec: str) -> None:
    camera = GStreamerCamera(clips.clip(codec), "/cam", codec)
    try:
        seen = look(camera.port, "/cam", 5)
        assert (seen["codec"], seen["sizes"]) == (codec, {SIZE})
        if codec == "h264":
            assert look(camera.port, "/cam", 5, rtsp_transport="udp")["frames"] == 5
    finally:
        camera.close()


@pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_gstreamer_asks_for_a_password(clips: Clips, scheme: str) -> None:
    camera = GStreamerCamera(clips.clip(), "/cam", login=Login("viewer", "right", scheme))
    try:
        assert look(camera.port, "viewer:right@/cam", 2)["frames"] == 2
        for who in ("viewer:wrong@", ""):
            with pytest.raises(av.error.HTTPUnauthorizedError):
                look(camera.port, f"{who}/cam", 1)
    finally:
        camera.close()


def test_http_serves(background: Background, clips: Clips, tmp_path: Path) -> None:
    login = Login("viewer", "right")
    camera = HttpCamera(background, tmp_path, clips.clip("mjpeg"), clips.clip(), login)
    try:
        assert look(camera.port, "/cam.m3u8", 5, "http")["codec"] == "h264"
        assert look(camera.port, "viewer:right@/cam.mjpg", 5, "http")["codec"] == "mjpeg"
        with pytest.raises(av.error.HTTPUnauthorizedError):
            look(camera.port, "viewer:wrong@/cam.mjpg", 1, "http")
    finally:
        camera.close()


def test_a_line_refuses_and_is_cut(line: FaultyLine, kit: ToolkitCamera, clips: Clips) -> None:
    path = kit.path(clips.clip().name)
    assert look(line.port, path, 2)["frames"] == 2
    line.off()
    with pytest.raises(av.error.ConnectionRefusedError):
        look(line.port, path, 1)
    line.on(kit.port)
    with av.open(f"rtsp://{path_at(line.port, path)}", options=QUICK, timeout=(5, 5)) as opened:
        packets = opened.demux(video=0)
        next(packets)
        line.cut()
        assert list(packets)[-1].size == 0


def test_a_line_says_nothing_or_stalls(line: FaultyLine, kit: ToolkitCamera, clips: Clips) -> None:
    url = f"rtsp://{path_at(line.port, kit.path(clips.clip().name))}"
    line.on(None)
    with pytest.raises(av.error.InvalidDataError):
        av.open(url, options=QUICK, timeout=(0.3, 0.3))
    line.on(kit.port)
    with av.open(url, options=QUICK, timeout=(5, 0.3)) as opened:
        packets = opened.demux(video=0)
        next(packets)
        line.change(stalled=True)
        with pytest.raises(av.error.ExitError):
            list(packets)
        line.change(stalled=False)
        assert next(iter(opened.demux(video=0))).size


def test_a_line_damages_payloads(line: FaultyLine, kit: ToolkitCamera, clips: Clips) -> None:
    line.change(spoil_every=3)
    assert look(line.port, kit.path(clips.clip().name), 8)["sizes"] == {SIZE}
    assert line.spoilt > 0


def test_pieces_are_found_however_the_bytes_come() -> None:
    rtp = bytes([0x80, 96]) + bytes(2) + (9000).to_bytes(4, "big") + bytes(4) + b"payload"
    pieces = [
        Piece(b"RTSP/1.0 200 OK\r\nContent-Length: 4\r\n\r\n$abc"),
        Piece(rtp, 0),
        Piece(bytes([0x80, 200]) + bytes(26), 1),
    ]
    sent = b"".join(bytes(piece) for piece in pieces)
    for step in (1, 7, len(sent)):
        splitter = Splitter()
        parts = [sent[at : at + step] for at in range(0, len(sent), step)]
        assert [piece for part in parts for piece in splitter.feed(part)] == pieces
    assert pieces[1].stamp == 9000
    assert pieces[1].at(5).stamp == 5
    assert len(pieces[1].spoilt().data) == len(rtp)
    assert pieces[1].spoilt().data[:14] == rtp[:14]
