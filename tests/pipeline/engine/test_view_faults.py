"""A worker's view of its sources when memory is missing, replaced or refused, and its settings."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from framegate.pipeline.contracts.errors import FrameLost, FrameStoreFull
from framegate.pipeline.contracts.object_filters import ObjectFilter
from framegate.pipeline.contracts.records import Position, Record
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.contracts.stage import Item
from framegate.pipeline.engine import control_messages
from framegate.pipeline.engine.child_line import ChildLine
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import (
    FramesKept,
    GetSharedMemory,
    SetFilters,
    SetModels,
    SetOptions,
    SharedMemory,
    ToSupervisor,
    ToWorker,
)
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.run.shared_files import SharedFiles
from tests.support.runs import DEADLINE_S, wait_until

FORM = Form(16, 8)
AT = Position(1, 0)
ROOM = SourceSpec("room.mp4", False, name="room", past=2, credit=4, slots=5, pace="fast")
CAM = SourceSpec("rtsp://host/cam", True, name="cam", past=0, credit=4, slots=5, pace="realtime")
FRAME = Item("room", AT, Record(1, 0.0, 0.0, 0.0, number=0, form=FORM))
Answer = Callable[[GetSharedMemory], tuple[SharedMemory, int | None]]


class Worker:
    """The views of a worker, and what its supervisor does."""

    def __init__(self, answer: Answer, files: SharedFiles) -> None:
        ours, theirs = control_messages.make_pair()
        self._loop = asyncio.get_running_loop()
        self._line = ChildLine(ours, self._heard, answer)
        self.line = ControlLine(theirs)
        self.files = files
        self.heard: list[ToSupervisor] = []
        models = {"room": "light"}
        self.views = SharedViews([ROOM, CAM], self.line, models, {"all": ObjectFilter()})

    def _heard(self, notice: ToSupervisor) -> None:
        self.heard.append(notice)
        if isinstance(notice, FramesKept):
            self.files.keep_frames(notice.source, notice.names)

    def tell(self, *messages: ToWorker) -> None:
        """Send messages to the worker, as the supervisor does."""
        for message in messages:
            self._loop.call_soon_threadsafe(self._line.tell, message)

    def put(self, store_of: SharedViews) -> None:
        """Store a frame as a decoder does."""
        store = store_of.frame_store("room", FORM)
        store.become_writer(1)
        with store.writing(0, AT) as slot:
            slot[:] = bytes([7]) * FORM.nbytes

    def close(self) -> None:
        self._line.close()
        self.files.close()


def with_worker(
    test: Callable[[Worker], None],
    answer: Answer | None = None,
    folder: Path | None = None,
) -> None:
    """Run a test in a thread, while an event loop is the supervisor."""

    async def run() -> None:
        files = SharedFiles(folder)
        worker = Worker(answer or files.answer, files)
        try:
            await asyncio.wait_for(asyncio.to_thread(test, worker), DEADLINE_S)
        finally:
            worker.close()

    asyncio.run(run())


def no_room(wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:
    return SharedMemory(f"{wanted.name} needs more than /dev/shm has"), None


def test_frames_without_a_store_are_lost_for_their_readers() -> None:
    def read(worker: Worker) -> None:
        views = worker.views
        assert not views.holds("room", FORM, 0, AT)
        with pytest.raises(
            FrameLost, match="source room frame 1-0: there is no frames 16x8"
        ) as lost:
            views.pixels(FRAME)
        assert not lost.value.final, "the decoder of a file may decode it again"
        undecoded = Item("room", AT, replace(FRAME.record, undecoded=True))
        with pytest.raises(FrameLost, match="frame 1-0 was not decoded") as never:
            views.pixels(undecoded)
        assert never.value.final
        with pytest.raises(FrameLost, match="source room: there is no packets of it"):
            views.packet_store("room")
        with pytest.raises(FrameLost, match="source room: there is no sound 1024 of it"):
            views.sound_store("room", 1024)
        worker.put(views)
        assert views.holds("room", FORM, 0, AT)
        with views.pixels(FRAME) as pixels:
            assert bytes(pixels) == bytes([7]) * FORM.nbytes

    with_worker(read)


def test_memory_for_which_there_is_no_room_is_refused_to_its_writer() -> None:
    def write(worker: Worker) -> None:
        views = worker.views
        for make in (
            lambda: views.frame_store("room", FORM),
            lambda: views.packet_store("room", make=True),
            lambda: views.sound_store("room", 1024, make=True),
        ):
            with pytest.raises(FrameStoreFull, match="needs more than /dev/shm has"):
                make()

    with_worker(write, no_room)


def test_states_for_which_there_is_no_room_are_those_of_the_worker_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The stage works on; only a restart of its worker loses the state."""

    def write(worker: Worker) -> None:
        views = worker.views
        plane = views.state_plane("detect", "room", 100)
        reference = plane.write(AT, b"content", None)
        assert views.state_plane("detect", "room", 100).read(reference) == b"content"
        ring = views.state_ring("audit", "room", 4, 64)
        row = ring.write(AT, b"row", None)
        assert views.state_ring("audit", "room", 4, 64).read(row) == (b"row",)
        views.forget_states("room", "detect")
        assert views.state_plane("detect", "room", 100).read(reference) is None

    with_worker(write, no_room)
    lost = "this worker alone has its state and loses it when it ends"
    assert caplog.messages == [
        f"source room: {name} needs more than /dev/shm has; {lost}"
        for name in ("state detect 100", "rows audit 4 64", "state detect 100")
    ]


def test_memory_that_cannot_be_mapped_is_refused_and_its_descriptor_is_closed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "read-only"
    file.write_bytes(bytes(1 << 16))

    def read_only(wanted: GetSharedMemory) -> tuple[SharedMemory, int | None]:  # noqa: ARG001
        return SharedMemory(), os.open(file, os.O_RDONLY)

    def write(worker: Worker) -> None:
        worker.line.tell(FramesKept("room", []))
        wait_until("the supervisor listens", lambda: worker.heard)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(FrameStoreFull, match="Permission denied"):
                worker.views.frame_store("room", FORM)
        wait_until("descriptors are closed", lambda: len(os.listdir("/proc/self/fd")) <= before)

    with_worker(write, read_only)


def test_a_store_that_is_replaced_is_mapped_again() -> None:
    def write(worker: Worker) -> None:
        views = worker.views
        worker.put(views)
        first = views.frame_store("room", FORM)
        other = Form(32, 8)
        views.frame_store("room", other)
        views.keep_frames("room", [other])
        wait_until("the supervisor retires it", lambda: first.retired)
        assert not views.holds("room", FORM, 0, AT)
        second = views.frame_store("room", FORM)
        assert second is not first
        assert not second.retired

    with_worker(write)


def test_a_source_that_comes_again_has_new_memory() -> None:
    def write(worker: Worker) -> None:
        views = worker.views
        worker.put(views)
        sound = views.sound_store("room", 1024, make=True)
        packets = views.packet_store("room", make=True)
        plane = views.state_plane("detect", "room", 100)
        ring = views.state_ring("detect", "room", 4, 64)

        def mapped() -> Sequence[object]:
            return (
                views.frame_store("room", FORM),
                views.sound_store("room", 1024),
                views.packet_store("room"),
                views.state_plane("detect", "room", 100),
                views.state_ring("detect", "room", 4, 64),
            )

        before = mapped()
        assert before[1:] == (sound, packets, plane, ring)
        views.take_sources([ROOM])
        assert mapped() == before
        assert (views.past_of("room"), views.is_live("room")) == (2, False)
        views.take_sources([replace(ROOM, past=3)])
        assert not set(map(id, mapped())) & set(map(id, before))
        assert views.past_of("room") == 3

    with_worker(write)


def test_a_lazy_camera_is_woken_once_its_pixels_were_read() -> None:
    def wake(worker: Worker) -> None:
        views = worker.views
        views.wake("cam")  # nothing of it is mapped
        store = views.frame_store("cam", FORM)
        assert not store.is_wanted(time.monotonic())
        views.wake("room")
        assert not store.is_wanted(time.monotonic())
        asked_s = time.monotonic()
        views.wake("cam")
        assert store.is_wanted(asked_s + 1.0)
        assert not store.is_wanted(time.monotonic() + 3.0)

    with_worker(wake)


def test_settings_of_the_supervisor_replace_those_of_the_start() -> None:
    def read(worker: Worker) -> None:
        views = worker.views
        assert (views.model_of("room"), views.model_of("cam")) == ("light", "")
        first = views.filters_of("room")
        assert list(first) == ["all"]
        assert views.options_of("detect") is None

        person = ObjectFilter(labels=("person",))
        yard = ObjectFilter(sources=("cam",))
        worker.tell(
            SetModels({"cam": "heavy"}),
            SetFilters({"person": person, "yard": yard}),
            SetOptions("detect", {"min_score": 0.5}),
        )
        wait_until("the settings arrive", lambda: views.options_of("detect") is not None)
        assert (views.model_of("room"), views.model_of("cam")) == ("", "heavy")
        assert views.filters_of("room") == {"person": person}
        assert views.filters_of("cam") == {"person": person, "yard": yard}
        assert views.filters_of("cam") is views.filters_of("cam")
        assert views.options_of("detect") == {"min_score": 0.5}

    with_worker(read)
