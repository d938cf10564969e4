"""A worker's view of shared memory: packets of undecoded frames while a decoder starts again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial

import pytest

from framegate.pipeline.contracts.errors import FrameLost
from framegate.pipeline.contracts.records import START, Position, Record
from framegate.pipeline.contracts.source import Form, Frame, SoundBlock, UndecodedFrame
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.child_line import ChildLine
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.ingest.decoder import DecoderContext
from framegate.pipeline.ingest.decoder_events import InFlight, ResumePoint
from framegate.pipeline.ingest.file_decoder import FileDecoder
from framegate.pipeline.run.shared_files import SharedFiles
from tests.support.runs import DEADLINE_S

FORM = Form(16, 8)
GROUP = b"the packets"
SPEC = SourceSpec("room.mp4", False, name="room", past=0, credit=4, slots=5, pace="fast")
# A key frame, two frames that were not decoded, and the key frame behind them, all unread.
UNDECODED = Item(
    "room", Position(1, 2), Record(1, 0.2, 0.0, 0.0, number=1, form=FORM, undecoded=True)
)
IN_FLIGHT = InFlight(Position(1, 0), 0, FORM), InFlight(Position(1, 3), 1, FORM, undecoded=2)


class Picture:
    """A decoded frame of one picture, with the frames before it."""

    pts = arrived_mono = captured = None
    key_frame = True
    camera_events = None
    sound: tuple[SoundBlock, ...] = ()
    form, nbytes = FORM, FORM.nbytes

    def __init__(self, undecoded: tuple[UndecodedFrame, ...] = ()) -> None:
        self.undecoded = undecoded

    def write(self, slot: memoryview) -> None:
        slot[: self.nbytes] = bytes(self.nbytes)


class Room:
    """The file of two groups; `at_next` is called before the second key frame."""

    counts: Mapping[str, int] = {}

    def __init__(self, at_next: Callable[[], None], pictures: tuple[Picture, ...]) -> None:
        self._at_next = at_next
        self._pictures = pictures

    def __iter__(self) -> Iterator[Frame]:
        yield Picture()
        self._at_next()
        yield from self._pictures

    def close(self) -> None:
        """Nothing is open."""


def decoded(packets: bytes, pts: float | None, form: Form) -> bytearray:
    assert (packets, pts) == (GROUP, 0.2)
    return bytearray(form.nbytes)


def is_lost(views: SharedViews) -> bool | None:
    """None: the pixels are there; else whether they are lost for good."""
    try:
        views.undecoded_pixels(UNDECODED, decoded)
    except FrameLost as lost:
        return lost.final
    return None


def restarted(
    shared: SharedViews, views: SharedViews, pictures: tuple[Picture, ...]
) -> list[object]:
    """Return what a reader of the undecoded frame finds before, while and after a decoder starts
    again with new memory.
    """
    seen = [is_lost(views)]
    wake = os.eventfd(0)
    context = DecoderContext(
        open_source=lambda guard: Room(lambda: seen.append(is_lost(views)), pictures),  # noqa: ARG005
        frame_store=partial(shared.frame_store, "room"),
        packet_store=partial(shared.packet_store, "room", make=True),
        token=1,
        credit_limit=4,
        wake=wake,
        announce=lambda position: nullcontext(),  # noqa: ARG005
        careful_until=START,
    )
    start = ResumePoint(Position(1, 3), 4, open=True, done=True, in_flight=IN_FLIGHT, undecoded=2)
    thread = FileDecoder("room", context, start)
    thread.start()
    thread.join(DEADLINE_S)
    os.close(wake)
    return [*seen, is_lost(views)]


GONE = UndecodedFrame(0.1, None, None, GROUP), UndecodedFrame(0.2, None, None, GROUP)


@pytest.mark.parametrize(
    ("pictures", "found"),
    [
        ((Picture(GONE),), None),
        ((Picture(), Picture(), Picture()), True),  # now all are decoded
        ((), True),  # the file is shorter now
    ],
)
def test_packets_are_awaited_until_the_frame_behind_them_is_there(
    pictures: tuple[Picture, ...], found: bool | None
) -> None:
    async def restart() -> list[object]:
        files = SharedFiles()
        ours, theirs = control_messages.make_pair()
        line, worker = ChildLine(ours, lambda _: None, files.answer), ControlLine(theirs)
        views = [SharedViews([SPEC], worker) for _ in range(2)]
        seen = await asyncio.to_thread(restarted, *views, pictures)
        line.close()
        return seen

    assert asyncio.run(restart()) == [False, False, found]
