"""A large state is what its committed reference names, or is not there at all."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.stage import PlaneRef
from framegate.pipeline.shared_memory.mapping import make_shared_file
from framegate.pipeline.shared_memory.state import StatePlane, state_plane_bytes

NBYTES = 64


def planes(n: int) -> list[StatePlane]:
    """Views of one file, as a worker and its successors have them."""
    descriptor = make_shared_file(state_plane_bytes(NBYTES), "the test")
    views = [StatePlane(descriptor, NBYTES) for _ in range(n)]
    os.close(descriptor)
    return views


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=NBYTES), st.booleans()), max_size=12))
def test_a_successor_reads_the_last_committed_content(
    steps: list[tuple[bytes, bool]],
) -> None:
    """Each write is committed or lost with its worker; the last committed one is always there."""
    worker, successor = planes(2)
    committed: PlaneRef | None = None
    content = b""
    for seq, (data, is_committed) in enumerate(steps):
        reference = worker.write(Position(1, seq), data, committed)
        if is_committed:
            committed, content = reference, data
        if committed is not None:
            assert successor.read(committed) == content


def test_a_new_plane_has_nothing() -> None:
    (plane,) = planes(1)
    reference = planes(1)[0].write(Position(1, 0), b"of another plane", None)
    assert plane.read(reference) is None


def test_an_overwritten_content_is_not_taken_for_the_old_one() -> None:
    (plane,) = planes(1)
    first = plane.write(Position(1, 0), b"first", None)
    second = plane.write(Position(1, 1), b"second", first)
    third = plane.write(Position(1, 2), b"third", second)
    assert plane.read(first) is None
    assert plane.read(second) == b"second"
    assert plane.read(third) == b"third"


def test_a_torn_content_is_not_taken_for_whole() -> None:
    (plane,) = planes(1)
    reference = plane.write(Position(1, 0), b"whole", None)
    plane._buffers[0][2] ^= 1
    assert plane.read(reference) is None


def test_too_much_is_refused() -> None:
    (plane,) = planes(1)
    with pytest.raises(ValueError, match="65 bytes for a state plane of 64"):
        plane.write(Position(1, 0), bytes(65), None)
