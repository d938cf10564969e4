"""A camera with B-frames that sends its pictures in bursts, beside one that sends them singly."""

from __future__ import annotations

import functools
import itertools
import queue
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import pytest

from tests.support.cameras.rtp import (
    HZ,
    PlayedCamera,
    description,
    interleaved,
    payloads,
    rtp,
    units_of,
)
from tests.support.cameras.watched import WatchedRun
from tests.support.footage import frame_of, scene

pytestmark = pytest.mark.whole_run

FPS = 10
BURST = 8
BURSTS = 20  # at most; a busy machine may really be too slow for some
WHOLE = 3
REORDERED = 2  # pictures that the decoder keeps back
STEP_S = 0.01  # between the time stamps of pictures that are sent at once
NO_STALL = "[live]\nstall_s = 600.0\n"  # the test decides when a camera sends

Picture = tuple[int, list[bytes]]
"""Its place in the order in which pictures are shown, and its units."""


def pictures(b_frames: int) -> list[Picture]:
    """The pictures of a camera in decoding order; BURST of them need no others."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = 96, 64, "yuv420p"
    context.framerate, context.gop_size = FPS, BURST
    context.time_base = 1 / context.framerate
    options = {"preset": "ultrafast", "bf": str(b_frames), "b-adapt": "0", "keyint_min": str(BURST)}
    context.options = options
    packets = []
    for number in range(BURSTS * BURST):
        frame = frame_of(scene(number, (96, 64)), "yuv420p")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    return [(packet.pts, units_of(bytes(packet))) for packet in packets]


class ReleasedCamera:
    """Sends its pictures when the test says so, and stamps them with that time; `sent` counts."""

    def __init__(self, b_frames: int) -> None:
        self._pictures = pictures(b_frames)
        self._released: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sequence = itertools.count()
        self._began = time.monotonic()
        self.sent = 0
        steps = functools.partial(iter, self._released.get, None)
        self.played = PlayedCamera(description("h264", self._pictures[0][1]), steps)

    def send(self, n: int) -> None:
        """Send the next n pictures at once."""
        data, now_s = b"", time.monotonic() - self._began
        for place, units in self._pictures[self.sent : self.sent + n]:
            stamp = round((now_s + (place - self.sent) * STEP_S) * HZ)
            packets = payloads("h264", units, most=1400)
            for payload in packets:
                is_last = payload is packets[-1]
                data += interleaved(0, rtp(next(self._sequence), stamp, is_last, payload))
        self._released.put(data)
        self.sent += n

    def __enter__(self) -> ReleasedCamera:
        self.played.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.put(None)
        self.played.__exit__()


def settled(run: WatchedRun, name: str, frames: int) -> int:
    """Wait until so many frames are published or dropped; return how many were dropped so far."""

    def is_over() -> bool:
        found = run.accounts(name)
        return found.published + found.dropped >= frames

    run.until(f"{frames} frames of {name}", is_over)
    return run.accounts(name).dropped


def whole_bursts(run: WatchedRun, bursts: ReleasedCamera, steady: ReleasedCamera) -> Iterator[bool]:
    """Send burst after burst, and as many pictures singly; yield whether each came whole."""
    before = 0
    while bursts.sent < BURSTS * BURST:
        bursts.send(BURST)
        for _ in range(BURST):
            steady.send(1)
            settled(run, "steady", steady.sent)
        dropped = settled(run, "bursts", bursts.sent - REORDERED)
        yield dropped == before
        before = dropped


def test_a_burst_with_b_frames_loses_nothing(tmp_path: Path) -> None:
    """A busy machine may be too slow for a burst; then no reason but `replaced` is counted."""
    with ExitStack() as close:
        bursts = close.enter_context(ReleasedCamera(b_frames=2))
        steady = close.enter_context(ReleasedCamera(b_frames=0))
        sources = {"bursts": bursts.played.url, "steady": steady.played.url}
        run = WatchedRun(tmp_path / "user", sources, NO_STALL)
        close.callback(run.close)
        whole = 0
        for is_whole in whole_bursts(run, bursts, steady):
            whole += is_whole
            if whole == WHOLE:
                break
        assert whole == WHOLE
        for name in sources:
            assert run.counters(name).get("dropped:burst", 0) == 0
            run.check_positions(name)
        run.check_accounts()
