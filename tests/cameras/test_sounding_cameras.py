"""Cameras with a microphone: sound comes with the frames, over RTSP and over HTTP."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import SOUND_RATE, Request
from framegate.stages.decode.camera import CameraSource
from framegate.stages.decode.frame import DecodedFrame
from framegate.stages.decode.options import DecodeOptions
from tests.support import footage
from tests.support.cameras.background import Background
from tests.support.cameras.faulty import LOOPBACK
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import WatchedRun, url
from tests.support.footage import Track
from tests.support.runs import stop_process

pytestmark = pytest.mark.whole_run

BLOCK = SOUND_RATE // 2


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[ToolkitCamera]:
    background = Background()
    clips = tmp_path / "clips"
    clips.mkdir()
    footage.write_sounding(clips / "a.mkv", Track("aac", 44100, pictures="libx264"))
    kit = ToolkitCamera(background, clips)
    yield kit
    kit.close()
    background.close()


@pytest.fixture
def rtsp(kit: ToolkitCamera) -> str:
    return url(kit.port, kit.path("a.mkv", times=1))


@pytest.fixture
def rtsp_for_ever(kit: ToolkitCamera) -> str:
    return url(kit.port, kit.path("a.mkv"))


@pytest.fixture
def http(tmp_path: Path) -> Iterator[str]:
    """A transport stream (AAC with ADTS heads) at a place that names no file."""
    track = Track("aac", 48000, (440.0, 440.0), pictures="libx264")
    data = footage.write_sounding(tmp_path / "a.ts", track).read_bytes()

    class Stream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Stream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{LOOPBACK}:{server.server_port}/stream"
    server.shutdown()
    thread.join()
    server.server_close()


def until_it_ends(source: CameraSource) -> Iterator[DecodedFrame]:
    """Frames of a connection, until the camera ends it."""
    with contextlib.suppress(SourceFault):
        yield from (frame for frame in source if frame is not None)
    source.close()


@pytest.mark.parametrize("kind", ["rtsp", "http"])
def test_each_frame_has_the_sound_that_has_ended_by_its_time(
    kind: str, request: pytest.FixtureRequest
) -> None:
    camera = request.getfixturevalue(kind)
    source = CameraSource(Request(camera, live=True, sound=BLOCK), DecodeOptions())
    frames = list(until_it_ends(source))
    blocks = [block for frame in frames for block in frame.sound]
    assert len(frames) > 80
    for frame in frames:
        for block in frame.sound:
            assert frame.pts is not None
            assert 0 <= frame.pts - (block.begins_s + block.seconds) + 1e-6 < 0.2
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert len(blocks) >= 7
    steps = [b.begins_s - a.begins_s for a, b in itertools.pairwise(blocks)]
    assert steps == pytest.approx([0.5] * len(steps))
    wave = np.concatenate([np.frombuffer(block.samples, np.float32) for block in blocks[1:-1]])
    loudest = np.argmax(np.abs(np.fft.rfft(wave))) * SOUND_RATE / len(wave)
    assert loudest == pytest.approx(440, abs=1)
    assert {name: n for name, n in source.counts.items() if "sound" in name} == {
        "sound_damaged": 0,
        "sound_dropped": 0,
    }


def test_who_does_not_listen_gets_no_sound(rtsp: str) -> None:
    source = CameraSource(Request(rtsp, live=True), DecodeOptions())
    frames = [frame for frame in itertools.islice(source, 20) if frame is not None]
    source.close()
    assert frames
    assert not any(frame.sound for frame in frames)
    assert "sound_damaged" not in source.counts


def test_pictures_wait_for_nobody_who_listens_and_what_was_missed_is_told(
    rtsp_for_ever: str, tmp_path: Path
) -> None:
    more = "[sound]\nsources = true\n[workers]\nhung_s = 3600.0\n"
    run = WatchedRun(tmp_path / "user", {"gate": rtsp_for_ever}, more, apart=True)
    try:
        run.until("it listens", lambda: heard(run)["sound:heard"] > 2)
        listener = run.worker("sound")
        stop_process(listener)
        before = run.counters("gate")
        run.until(
            "eight seconds of pictures and their sound came meanwhile",
            lambda: (
                run.counters("gate")["published"] > before["published"] + 200
                and heard(run)["sound_blocks"] > before["sound_blocks"] + 15
            ),
        )
        run.check_accounts()
        os.kill(listener, signal.SIGCONT)
        at = heard(run)["sound_blocks"]
        run.until("it has caught up", lambda: told(heard(run)) >= at)
        assert run.finish() == 0
    finally:
        run.close()


def heard(run: WatchedRun) -> Counter[str]:
    return Counter({k: n for k, n in run.counters("gate").items() if k.startswith("sound")})


def told(counters: Counter[str]) -> int:
    return sum(n for name, n in counters.items() if name.startswith("sound:"))
