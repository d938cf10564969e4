"""Pixels: what a reader gets is the frame that it asked for, whole, or FrameLost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.pipeline.contracts.errors import Fenced, FrameLost, FrameStoreFull, MachineRefused
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.shared_memory.frame_store import (
    FrameStore,
    barrier,
    copy_newest,
    frame_store_bytes,
    retire_frame_store,
)
from framegate.pipeline.shared_memory.mapping import make_shared_file

SLOTS, NBYTES = 4, 1000


@pytest.fixture
def stores() -> Iterator[tuple[FrameStore, FrameStore]]:
    """Two views of one file, as two processes have them."""
    descriptor = make_shared_file(frame_store_bytes(SLOTS, NBYTES), "the test")
    views = (FrameStore(descriptor, SLOTS, NBYTES), FrameStore(descriptor, SLOTS, NBYTES))
    os.close(descriptor)
    yield views
    for view in views:
        view.close()


def put(store: FrameStore, slot: int, position: Position, fill: int) -> None:
    with store.writing(slot, position) as pixels:
        pixels[:] = bytes([fill]) * NBYTES


def test_another_view_reads_what_was_written(stores: tuple[FrameStore, FrameStore]) -> None:
    writer, reader = stores
    put(writer, 2, Position(1, 6), 7)
    with reader.reading(2, Position(1, 6)) as pixels:
        assert bytes(pixels) == bytes([7]) * NBYTES
        assert pixels.readonly
    assert reader.holds(2, Position(1, 6))
    assert not reader.holds(2, Position(2, 6))


@pytest.mark.parametrize("asked", [Position(1, 2), Position(2, 6), Position(0, 0)])
def test_another_frame_is_lost(stores: tuple[FrameStore, FrameStore], asked: Position) -> None:
    writer, reader = stores
    put(writer, 2, Position(1, 6), 7)
    with pytest.raises(FrameLost, match="1-6"), reader.reading(2, asked):
        raise AssertionError("not reached")


def test_a_frame_replaced_while_it_is_read_is_lost(stores: tuple[FrameStore, FrameStore]) -> None:
    writer, reader = stores
    put(writer, 0, Position(1, 0), 1)
    with pytest.raises(FrameLost, match="replaced"), reader.reading(0, Position(1, 0)):
        put(writer, 0, Position(1, 4), 2)


def test_the_same_frame_written_again_while_it_is_read_is_lost(
    stores: tuple[FrameStore, FrameStore],
) -> None:
    writer, reader = stores
    put(writer, 0, Position(1, 0), 1)
    with pytest.raises(FrameLost), reader.reading(0, Position(1, 0)):
        put(writer, 0, Position(1, 0), 1)


def test_a_frame_is_settled_once_it_is_complete_or_given_up(
    stores: tuple[FrameStore, FrameStore],
) -> None:
    writer, reader = stores
    assert not reader.is_settled(0)
    with writer.writing(2, Position(1, 6)):
        assert not reader.is_settled(2)
    assert [number for number in range(12) if reader.is_settled(number)] == [2]
    writer.give_up(2 + SLOTS, Position(1, 9))
    assert [number for number in range(12) if reader.is_settled(number)] == [2 + SLOTS]


def test_a_later_writer_fences_an_earlier_one(stores: tuple[FrameStore, FrameStore]) -> None:
    zombie, successor = stores
    zombie.become_writer(3)
    assert zombie.is_writer(3)
    successor.become_writer(4)
    assert not zombie.is_writer(3)
    with pytest.raises(Fenced):
        zombie.become_writer(3)
    assert successor.is_writer(4)


def test_a_zombie_that_finishes_the_same_frame_harms_nobody(
    stores: tuple[FrameStore, FrameStore],
) -> None:
    zombie, successor = stores
    with zombie.writing(1, Position(1, 5)) as pixels:
        put(successor, 1, Position(1, 5), 7)
        pixels[:] = bytes([7]) * NBYTES
    with successor.reading(1, Position(1, 5)) as read:
        assert bytes(read) == bytes([7]) * NBYTES


def test_a_zombie_that_writes_over_a_later_frame_is_told_from_it(
    stores: tuple[FrameStore, FrameStore],
) -> None:
    """The later frame's pixels are spoilt: its reader must not get them, nor wait for them."""
    zombie, successor = stores
    with zombie.writing(1, Position(1, 5)):
        put(successor, 1, Position(1, 9), 7)
    with pytest.raises(FrameLost) as lost, successor.reading(1, Position(1, 9)):
        raise AssertionError("not reached")
    assert lost.value.final


def test_who_waits_for_pixels_learns_whether_they_may_come(
    stores: tuple[FrameStore, FrameStore],
) -> None:
    """Not written yet, or a later frame in its place: it may be decoded again. Given up, or an
    older frame in its place (a zombie wrote last): never.
    """
    writer, reader = stores

    def is_final(position: Position) -> bool:
        with pytest.raises(FrameLost) as lost, reader.reading(1, position):
            raise AssertionError("not reached")
        return lost.value.final

    assert not is_final(Position(1, 5))
    put(writer, 1, Position(1, 9), 1)
    assert not is_final(Position(1, 5))
    assert is_final(Position(1, 13))
    writer.give_up(1, Position(1, 5))
    assert is_final(Position(1, 5))
    put(writer, 1, Position(1, 5), 2)
    assert reader.holds(1, Position(1, 5))


def test_a_writer_killed_in_the_middle_leaves_no_frame(
    stores: tuple[FrameStore, FrameStore],
) -> None:
    writer, reader = stores
    with pytest.raises(KeyboardInterrupt), writer.writing(1, Position(1, 1)):
        raise KeyboardInterrupt
    assert not reader.holds(1, Position(1, 1))
    with pytest.raises(FrameLost), reader.reading(1, Position(1, 1)):
        raise AssertionError("not reached")
    put(writer, 1, Position(1, 1), 3)
    assert reader.holds(1, Position(1, 1))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=40))
def test_slots_hold_the_last_frame_written(frames: list[tuple[int, int]]) -> None:
    descriptor = make_shared_file(frame_store_bytes(SLOTS, NBYTES), "the test")
    store = FrameStore(descriptor, SLOTS, NBYTES)
    os.close(descriptor)
    last: dict[int, Position] = {}
    for epoch, seq in frames:
        put(store, seq % SLOTS, Position(epoch, seq), seq)
        last[seq % SLOTS] = Position(epoch, seq)
    for slot in range(SLOTS):
        for epoch, seq in frames:
            if seq % SLOTS == slot:
                assert store.holds(slot, Position(epoch, seq)) == (
                    last[slot] == Position(epoch, seq)
                )
    store.close()


@pytest.mark.parametrize("everywhere", [False, True], ids=["in order", "with barriers"])
def test_a_reader_never_gets_a_torn_frame(
    stores: tuple[FrameStore, FrameStore], everywhere: bool
) -> None:
    """A writer that does not wait for its reader, as no credit would allow."""
    writer, reader = stores
    try:
        writer._in_order = barrier(everywhere=everywhere)
    except MachineRefused as error:
        pytest.skip(str(error))
    done = threading.Event()

    def write() -> None:
        for seq in range(0, 4000, SLOTS):
            put(writer, 0, Position(1, seq), seq % 251)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    got = 0
    while not done.is_set():
        for seq in range(0, 4000, SLOTS):
            try:
                with reader.reading(0, Position(1, seq)) as pixels:
                    copy = bytes(pixels)
            except FrameLost:
                continue
            assert copy == bytes([seq % 251]) * NBYTES
            got += 1
    thread.join()
    with reader.reading(0, Position(1, 3996)):
        got += 1
    assert got


def test_what_does_not_fit_says_what_is_needed_and_free() -> None:
    with pytest.raises(FrameStoreFull, match=r"camera needs .* MiB .* free"):
        make_shared_file(1 << 50, "camera")


def test_a_machine_that_may_tear_frames_is_refused() -> None:
    """One whose kernel has no barrier for all, or that nobody has thought about."""
    with pytest.raises(MachineRefused, match=r"sparc64\) does not order .* could be torn"):
        barrier("sparc64")


@pytest.fixture
def file() -> Iterator[int]:
    """A store of 64 slots of 256 KiB."""
    descriptor = make_shared_file(frame_store_bytes(64, 1 << 18), "the test")
    yield descriptor
    os.close(descriptor)


def test_a_retired_store_costs_nothing_and_shows_nothing_whoever_looks(file: int) -> None:
    views = [FrameStore(file, 64, 1 << 18) for _ in range(2)]
    writer, reader = views
    writer.become_writer(1)
    with writer.writing(3, Position(2, 3)) as pixels:
        pixels[:] = bytes([7]) * len(pixels)
    assert os.fstat(file).st_blocks * 512 > 16 << 20
    with pytest.raises(FrameLost), reader.reading(3, Position(2, 3)):
        retire_frame_store(file)  # while somebody reads, who must not take it for the frame
    assert os.fstat(file).st_blocks * 512 <= 16 << 10
    assert reader.retired
    with pytest.raises(FrameLost), reader.reading(3, Position(2, 3)):
        raise AssertionError("not reached")
    with pytest.raises(Fenced):
        writer.become_writer(2)
    for view in views:
        view.close()


def test_the_last_frame_alone_can_be_kept(file: int) -> None:
    writer = FrameStore(file, 64, 1 << 18)
    assert copy_newest(file, lambda nbytes: make_shared_file(nbytes, "the copy")) is None
    writer.become_writer(1)
    for slot, (epoch, seq) in enumerate([(1, 8), (2, 0), (1, 9)]):
        with writer.writing(slot, Position(epoch, seq)) as pixels:
            pixels[:] = bytes([slot]) * len(pixels)
    with pytest.raises(KeyboardInterrupt), writer.writing(3, Position(2, 1)):
        raise KeyboardInterrupt  # half of a frame is none
    copy = copy_newest(file, lambda nbytes: make_shared_file(nbytes, "the copy"))
    assert copy is not None
    assert os.fstat(copy).st_size == frame_store_bytes(1, 1 << 18)
    kept = FrameStore(copy, 64, 1 << 18)  # as who knows nothing of this opens it
    os.close(copy)
    with kept.finding(Position(2, 0)) as seen:
        assert bytes(seen) == bytes([1]) * (1 << 18)
    kept.close()
    writer.close()
