"""What a camera says and sends over RTSP: read, or refused with an error that is documented.

Each target begins with its corpus: inputs that `seeds.py` made, odd ones by hand, and those at
which a target failed. Bounds are on sizes and counts, which a busy machine does not change.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from framegate.pipeline.contracts.errors import SourceFault
from framegate.stages.decode.rtsp.datagrams import RtpOrder
from framegate.stages.decode.rtsp.media import ForeignMediaError, MediaPart, RtspTracks, media_parts
from framegate.stages.decode.rtsp.messages import UnspokenError
from framegate.stages.decode.rtsp.packets import AacUnits, PictureUnits, RtpClock, RtpPacket
from framegate.stages.decode.rtsp.session import RtspSession
from tests.fuzz.budget import fuzz
from tests.fuzz.mutated import data_like
from tests.fuzz.seeds import CORPUS, corpus, unframed
from tests.support.cameras.faulty import LOOPBACK
from tests.support.cameras.rtp import rtp
from tests.support.runs import DEADLINE_S

SESSIONS: Final = corpus("rtsp_session")
DESCRIPTIONS: Final = corpus("rtsp_description")
PICTURES: Final = corpus("rtsp_pictures")
SOUNDS: Final = corpus("rtsp_sound")
MOST_UNITS: Final = 256  # of a packet

Target = Callable[[], None]


def replaying(inputs: list[bytes]) -> Callable[[Target], Target]:
    """Over `@given`: begin with these."""

    def replayed(target: Target) -> Target:
        for data in inputs:
            target = example(data)(target)
        return target

    return replayed


# -- The session.


class Speaker:
    """A camera that says `data` to each who connects, whatever it is asked.

    asked  bytes that it was asked with, of all connections since `data` was set
    """

    def __init__(self) -> None:
        self._data = b""
        self.asked = 0
        self._listener = socket.create_server((LOOPBACK, 0))
        port = self._listener.getsockname()[1]
        self.url = f"rtsp://anna:s3cretword@{LOOPBACK}:{port}/cam"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def say(self, data: bytes) -> None:
        self._data, self.asked = data, 0

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_S)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                with line, suppress(OSError):
                    line.settimeout(30.0)
                    line.sendall(self._data)
                    line.shutdown(socket.SHUT_WR)
                    while more := line.recv(65536):
                        self.asked += len(more)


@pytest.fixture(scope="module", autouse=True)
def speaker() -> Iterator[None]:
    global SPEAKER
    SPEAKER = Speaker()
    yield
    SPEAKER.close()


SPEAKER: Speaker


def converse(data: bytes) -> None:
    """Open it, play two tracks, and take all that comes."""
    SPEAKER.say(data)
    taken = 0
    fault: Exception | None = None
    try:
        session = RtspSession(SPEAKER.url, 30.0)
        try:
            assert len(session.description) <= len(data)
            channels = session.play(["track1", "track2"])
            assert all(0 <= channel <= 255 for channel in channels)
            for piece in session.packets(30.0):
                taken += 4 + len(piece.data)
        finally:
            session.close()
    except (OSError, UnspokenError, SourceFault) as error:
        fault = error
    assert "s3cretword" not in str(fault)
    assert taken <= len(data)
    # Five connections, some requests on each, and answers to what the camera asks.
    assert SPEAKER.asked <= 20_000 + 30 * len(data)


@fuzz(200)
@replaying(SESSIONS)
@given(data_like(*SESSIONS))
def test_what_a_camera_says_is_a_session_or_a_documented_error(data: bytes) -> None:
    converse(data)


def test_the_dialogues_of_the_corpus_play() -> None:
    """Else the target would try nothing behind the first answer."""
    for name in ("played", "gstreamer-digest", "login-md5-sess", "line-feeds-only"):
        SPEAKER.say((CORPUS / "rtsp_session" / name).read_bytes())
        session = RtspSession(SPEAKER.url, 30.0)
        assert session.play(["track1"]) == (0,)
        session.close()


# -- The description.


def units_of(part: MediaPart) -> object | None:
    try:
        return part.units()
    except ForeignMediaError:
        return None


def describe(data: bytes) -> None:
    """Read the parts, and choose among them."""
    parts = media_parts(data.decode("utf-8", "replace"))
    assert sum(len(part.lines) for part in parts) <= 3 * len(data) + 2
    for part in parts:
        units_of(part)
        assert -1 <= part.payload_type <= 999
    try:
        tracks = RtspTracks.of(data, hears=True)
    except UnspokenError:
        return
    assert len(tracks.wanted) <= 2
    assert tracks.wanted[0].kind in ("video", "audio")
    named = tracks.described([f"track{number}" for number in range(len(tracks.wanted))])
    again = RtspTracks.of(named.encode(), hears=True)
    assert [part.control for part in again.wanted] == ["track0", "track1"][: len(again.wanted)]
    assert [part.kind for part in again.wanted] == [part.kind for part in tracks.wanted]


@fuzz(200)
@replaying(DESCRIPTIONS)
@given(data_like(*DESCRIPTIONS))
def test_a_description_is_read_or_left_to_ffmpeg(data: bytes) -> None:
    describe(data)


# -- What packets hold.


def put_together(data: bytes) -> None:
    """The first byte names the codec; packets follow."""
    units = PictureUnits("hevc" if data[:1] == b"\1" else "h264")
    clock = RtpClock(90_000)
    given_bytes = 0
    for each in unframed(data[1:]):
        clock.see(each)  # a report, if it is one
        packet = RtpPacket.of(each)
        if packet is None:
            continue
        found = units.add(packet.stamp, packet.marker, packet.payload)
        assert len(found) <= MOST_UNITS
        for unit in found:
            assert unit.data  # FFmpeg takes a packet without bytes for the end of the track
            clock.ticks(unit.stamp)
            given_bytes += len(unit.data)
    given_bytes += sum(len(unit.data) for unit in units.rest())
    assert given_bytes <= 4 * len(data)  # a start code of 4 bytes before each unit


@fuzz(200)
@replaying(PICTURES)
@given(data_like(*PICTURES))
def test_packets_of_pictures_become_units(data: bytes) -> None:
    put_together(data)


def sound_together(data: bytes) -> None:
    """The first three bytes are the sizes of what describes a unit, in bits; packets follow."""
    sizes = [
        byte % limit for byte, limit in zip(data[:3].ljust(3, b"\0"), (17, 33, 33), strict=True)
    ]
    units = AacUnits(max(1, sizes[0]), sizes[1], sizes[2])
    given_bytes = 0
    for each in unframed(data[3:]):
        packet = RtpPacket.of(each)
        if packet is None:
            continue
        found = units.add(packet.stamp, packet.marker, packet.payload)
        assert len(found) <= MOST_UNITS
        assert all(unit.data for unit in found)
        given_bytes += sum(len(unit.data) for unit in found)
    assert units.rest() == []
    assert given_bytes <= len(data)


@fuzz(200)
@replaying(SOUNDS)
@given(data_like(*SOUNDS))
def test_packets_of_sound_become_units(data: bytes) -> None:
    sound_together(data)


# -- Datagrams.

numbers = st.integers(0, 65535) | st.integers(0, 40) | st.integers(65_500, 65_535)


@fuzz(200)
@given(st.lists(st.tuples(numbers, st.floats(0, 0.2)), max_size=600))
def test_datagrams_in_any_order_are_given_once_each(came: list[tuple[int, float]]) -> None:
    order, now = RtpOrder(), 0.0
    sent: Counter[bytes] = Counter()
    given: Counter[bytes] = Counter()
    for number, passed in came:
        now += passed
        packet = rtp(number, 0, False, b"")
        sent[packet] += 1
        given.update(order.add(packet, now))
        given.update(order.overdue(now))
        assert sent.total() - given.total() >= 0
    while order.waits:
        now += 1.0
        rest = order.overdue(now)
        assert rest
        given.update(rest)
    assert given <= sent
