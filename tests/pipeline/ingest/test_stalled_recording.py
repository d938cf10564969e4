"""A recorded stream whose camera sends no more pictures and closes nothing."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pytest

from framegate.pipeline.contracts.source import SOUND_RATE, Request
from framegate.pipeline.ingest.recorded_stream import RecordedStream, RecordedStreamState
from framegate.pipeline.recording.segment_writer import Take
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.packet_stream import PacketStream
from tests.support.cameras.rtp import (
    PlayedCamera,
    description,
    encoded,
    interleaved,
    payloads,
    rtp,
)
from tests.support.cameras.scripted import ScriptedCamera, paced
from tests.support.runs import DEADLINE_S

STALL_S = 1.0
STALLED = f"stalled: no picture for {STALL_S} s"
UNITS = encoded("h264", 6)
SDP = description("h264", UNITS[0]) + "m=audio 0 RTP/AVP 8\r\na=control:track2\r\n"


@contextmanager
def silent_over_http() -> Iterator[str]:
    with ScriptedCamera(partial(paced, 5, 25.0)) as camera:
        yield camera.url


@contextmanager
def sound_only_over_rtsp(foreign: bool = False) -> Iterator[str]:
    """The pictures end, and the sound continues. foreign: FFmpeg assembles the packets."""
    sdp = SDP.replace("packetization-mode=1", "packetization-mode=2") if foreign else SDP
    with closing_steps() as steps, PlayedCamera(sdp, steps) as camera:
        yield camera.url


@contextmanager
def closing_steps() -> Iterator[Callable[[], Iterator[bytes]]]:
    over = threading.Event()

    def steps() -> Iterator[bytes]:
        number = 0
        for at, units in enumerate(UNITS):
            parts = payloads("h264", units)
            for n, part in enumerate(parts):
                yield interleaved(0, rtp(number, 9000 * at, n == len(parts) - 1, part))
                number += 1
        for number in itertools.count():
            yield interleaved(2, rtp(number, 160 * number, True, bytes(160), kind=8))
            if over.wait(0.02):  # the pace of the sound
                return

    yield steps
    over.set()


@pytest.mark.parametrize(
    "camera",
    [silent_over_http, sound_only_over_rtsp, partial(sound_only_over_rtsp, foreign=True)],
    ids=["http", "rtsp", "rtsp-foreign"],
)
def test_a_stream_without_pictures_is_connected_again(
    camera: Callable[[], AbstractContextManager[str]],
) -> None:
    with camera() as url:
        request = Request(url, live=True, stall_s=STALL_S, sound=SOUND_RATE // 2)

        def open_stream(take: Take | None) -> PacketStream:
            stream = PacketStream(request, DecodeOptions(), take=take)
            stream.is_heard = True
            return stream

        reports: queue.Queue[RecordedStreamState] = queue.Queue()
        changed = threading.Condition()
        recorded = RecordedStream(
            "gate", open_stream, lambda _: None, changed, reports.put, STALL_S, 0.01
        )
        recorded.start()
        faults: list[str | None] = []
        try:
            while faults[-2:] != [STALLED, None]:
                faults.append(reports.get(timeout=DEADLINE_S).fault)
        finally:
            recorded.stop()
            recorded.join(DEADLINE_S)
        assert not recorded.is_alive()
    assert {STALLED, None} == set(faults), "no other fault"
