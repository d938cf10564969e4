"""The reference of the newest row certifies all rows before it, or there is nothing."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.stage import RingRef
from framegate.pipeline.shared_memory.mapping import make_shared_file
from framegate.pipeline.shared_memory.state import _ROW_HEADER, SPARE, StateRing, state_ring_bytes

ROWS, NBYTES = 4, 40


def rings(n: int) -> list[StateRing]:
    """Views of one file, as a worker and its successors have them."""
    descriptor = make_shared_file(state_ring_bytes(ROWS, NBYTES), "the test")
    views = [StateRing(descriptor, ROWS, NBYTES) for _ in range(n)]
    os.close(descriptor)
    return views


def written(ring: StateRing, n: int, after: RingRef | None = None) -> RingRef:
    for seq in range(n):
        after = ring.write(Position(1, seq), b"row %d" % seq, after)
    assert after is not None
    return after


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.binary(max_size=NBYTES), st.booleans()), max_size=SPARE),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_a_successor_reads_the_committed_rows(
    batches: list[tuple[list[tuple[bytes, bool]], bool]],
) -> None:
    """Batches of rows, some of them beginnings, are committed together or lost with a worker."""
    committed: RingRef | None = None
    content: list[bytes] = []
    worker, successor = rings(2)
    for seq, (rows, is_committed) in enumerate(batches):
        reference, after = committed, list(content)
        for data, anew in rows:
            reference = worker.write(Position(1, seq), data, reference, anew)
            after = [data] if anew else [*after, data][-ROWS:]
        if is_committed:
            committed, content = reference, after
        else:
            worker, successor = successor, worker
        if committed is not None:
            assert successor.read(committed) == tuple(content)


def test_a_new_ring_has_nothing() -> None:
    reference = written(rings(1)[0], 3)
    assert rings(1)[0].read(reference) is None


@pytest.mark.parametrize("row", range(3, 7))
def test_one_torn_row_and_none_is_taken_for_whole(row: int) -> None:
    (ring,) = rings(1)
    reference = written(ring, 7)
    assert ring.read(reference) == (b"row 3", b"row 4", b"row 5", b"row 6")
    body = row * ring._stride + _ROW_HEADER.size
    ring._view[body] ^= 1
    assert ring.read(reference) is None


def test_rows_of_an_overwritten_past_are_not_taken_for_it() -> None:
    """A zombie's rows in the slots of its successor: each reference reads its own rows or none."""
    (ring,) = rings(1)
    fork = written(ring, 5)
    ours = ring.write(Position(1, 5), b"ours", fork)
    theirs = ring.write(Position(1, 5), b"theirs", fork)
    assert ring.read(ours) is None
    assert ring.read(theirs) == (b"row 2", b"row 3", b"row 4", b"theirs")


def test_too_much_is_refused() -> None:
    (ring,) = rings(1)
    with pytest.raises(ValueError, match="41 bytes for a row of 40"):
        ring.write(Position(1, 0), bytes(41), None)
