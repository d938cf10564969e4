"""Files that give little: one of which few frames are wanted, and one whose frames are far apart.

Both are sound, and `hung_s` is the least there is.
"""

from __future__ import annotations

import os
import signal
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.support import footage
from tests.support.cameras.watched import WatchedRun

pytestmark = pytest.mark.whole_run

SKIPPED = 600
APART_S = 3.0


def repeated(path: Path, stamps_ms: list[int], size: footage.Size) -> Path:
    """A Matroska file with the same MJPEG picture at each time."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 1000)
    frame = footage.frame_of(footage.scene(0, size), "yuvj420p")
    [data] = [bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p"
        for pts in stamps_ms:
            packet = av.Packet(data)
            packet.stream, packet.is_keyframe = stream, True
            packet.pts = packet.dts = pts
            packet.time_base = Fraction(1, 1000)
            output.mux(packet)
    return path


def test_a_file_is_not_taken_for_hung_because_few_frames_come_of_it(tmp_path: Path) -> None:
    """Decoding what is not wanted, and waiting for what is due later, is no standing still; and a
    worker that begins anew goes on at the file's pace.
    """
    big = repeated(tmp_path / "big.mkv", list(range(SKIPPED + 1)), (1920, 1080))
    lapse = repeated(tmp_path / "lapse.mkv", [0, 3000, 6000], (64, 48))
    more = (
        f'[workers]\nhung_s = 2.0\n[sources.big]\nurl = "{big}"\nframes = {{every = {SKIPPED}}}\n'
        f'[sources.lapse]\nurl = "{lapse}"\n'
    )
    run = WatchedRun(
        tmp_path / "user",
        {},
        more,
        also=("big", "lapse"),
        words=("--pace", "realtime"),
        apart=True,
    )
    try:
        run.until_published("lapse", 1)
        os.kill(run.worker("ingest"), signal.SIGKILL)
        ended = run.command.wait()
    finally:
        run.close()
    assert ended.code == 0, ended.err
    assert "no progress" not in ended.err
    assert ended.err.count("worker ingest ended") == 1, ended.err
    assert [r["seq"] for r in ended.results("big")] == [0, 1]
    lapse_results = ended.results("lapse")
    assert [r["seq"] for r in lapse_results] == [0, 1, 2]
    first, *_, last = (r["published"] for r in lapse_results)
    assert last - first > 2 * APART_S - 0.5  # as the latency of both may differ
