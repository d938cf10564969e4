"""The rate of a camera is what it sends, not what it claims."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest

from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.file import probe, rate_of
from tests.support.cameras.rtp import (
    HZ,
    PlayedCamera,
    description,
    encoded,
    interleaved,
    payloads,
    rtp,
)

FPS = 5


@pytest.mark.parametrize(
    ("times", "fps"),
    [
        ([0.0, 0.2, 0.4, 0.6], 5.0),
        ([0.0, 0.4, 0.2, 0.6], 5.0),  # out of order
        ([7.0, 7.0, 7.0], None),
        ([0.0, 0.2], None),
        ([], None),
    ],
)
def test_a_rate_needs_three_frames_and_some_time(times: Sequence[float], fps: float | None) -> None:
    assert rate_of(times) == (fps if fps is None else pytest.approx(fps))


def test_a_camera_that_claims_25_and_sends_5_has_5() -> None:
    units = encoded("h264", 20)

    def play() -> Iterator[bytes]:
        sequence = itertools.count()
        for number, picture in enumerate(units):
            packets = payloads("h264", picture)
            for place, payload in enumerate(packets, 1):
                is_last = place == len(packets)
                packet = rtp(next(sequence), number * HZ // FPS, is_last, payload)
                yield interleaved(0, packet)

    sdp = description("h264", units[0]).replace(
        "a=control:track1", "a=framerate:25\r\na=control:track1"
    )
    with PlayedCamera(sdp, play) as camera:
        assert probe(Request(camera.url, live=True)).fps == pytest.approx(FPS, rel=0.01)
