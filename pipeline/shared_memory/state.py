"""State that is too large for a hop: planes (one content) and rings (last rows).

A stage writes to a place that no committed state names, and puts the reference that it gets into
its small state, which the hop commits. If the worker is killed in between, its successor finds the
content of the committed reference. Content that is missing or torn reads as None, and the stage
begins with an empty state.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

import xxhash

from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.stage import PlaneRef, RingRef
from framegate.pipeline.shared_memory.frame_store import PAGE
from framegate.pipeline.shared_memory.mapping import map_shared

_HEADER = 64
_DIGEST = 16
_ROW_HEADER = struct.Struct(f"<qqqq{_DIGEST}s{_DIGEST}s")  # row, epoch, seq, nbytes, before, digest
SPARE = 16  # rows that can be written after the committed one without overwriting certified rows


def state_plane_bytes(nbytes: int) -> int:
    """Return the size of the file for a state of at most `nbytes`."""
    return PAGE + 2 * nbytes


class StatePlane:
    """One stage's large state of one source. One thread; the stage's token allows one writer.

    It has two buffers. A write goes to the buffer that the committed reference does not name.
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        """Map the file of state_plane_bytes(nbytes); the descriptor stays the caller's."""
        self.nbytes = nbytes
        whole = map_shared(descriptor)
        self._headers = [whole[i * _HEADER : (i + 1) * _HEADER] for i in range(2)]
        self._buffers = [whole[PAGE + i * nbytes : PAGE + (i + 1) * nbytes] for i in range(2)]

    def write(self, position: Position, data: bytes, committed: PlaneRef | None) -> PlaneRef:
        """Write new content beside the committed one; it is valid once a hop commits the reference.

        Raises ValueError if `data` is larger than the plane.
        """
        if len(data) > self.nbytes:
            raise ValueError(f"{len(data)} bytes for a state plane of {self.nbytes}")
        reference = PlaneRef(position, len(data), _digest(data))
        buffer = 0
        if committed is not None:
            buffer = 1 - self._buffer_of(committed)
        self._headers[buffer][:_DIGEST] = bytes(_DIGEST)
        self._buffers[buffer][: len(data)] = data
        self._headers[buffer][:_DIGEST] = reference.digest
        return reference

    def read(self, reference: PlaneRef) -> bytes | None:
        """Return the content of a reference; None if it is missing or torn."""
        buffer = self._buffer_of(reference)
        if bytes(self._headers[buffer][:_DIGEST]) != reference.digest:
            return None
        data = bytes(self._buffers[buffer][: reference.nbytes])
        if _digest(data) != reference.digest:
            return None
        return data

    def _buffer_of(self, reference: PlaneRef) -> int:
        """Return the number of the buffer with this content; 0 if neither has it."""
        return int(bytes(self._headers[1][:_DIGEST]) == reference.digest)


def state_ring_bytes(rows: int, row_bytes: int) -> int:
    """Return the size of the file for `rows` rows of at most `row_bytes`."""
    return (rows + SPARE) * (_ROW_HEADER.size + row_bytes) + PAGE


class StateRing:
    """One stage's last rows of one source. One thread; the stage's token allows one writer.

    A write to a plane replaces its whole content; a write to a ring adds one row, usually for one
    frame. The digest of a row covers the digest of the row before it, so the single committed
    reference certifies all rows. A successor writes rows that were not committed again, to the same
    slots. If any certified row is missing or torn, all are invalid.
    """

    def __init__(self, descriptor: int, rows: int, row_bytes: int) -> None:
        """Map the file of state_ring_bytes(rows, row_bytes); the descriptor stays the caller's."""
        self.rows = rows
        self.row_bytes = row_bytes
        self._stride = _ROW_HEADER.size + row_bytes
        self._view = map_shared(descriptor)

    def write(
        self, position: Position, data: bytes, after: RingRef | None, anew: bool = False
    ) -> RingRef:
        """Append a row after the one of `after`; it is valid once a hop commits the reference.

        At most SPARE rows may follow the committed one. Raises ValueError if `data` is larger than
        a row.

        anew  the new reference certifies only this row
        """
        if len(data) > self.row_bytes:
            raise ValueError(f"{len(data)} bytes for a row of {self.row_bytes}")
        row = 0
        if after is not None:
            row = after.row + 1
        held = 1
        before = bytes(_DIGEST)
        if after is not None and not anew:
            held = min(after.held + 1, self.rows)
            before = after.digest
        digest = _row_digest(row, position, before, data)
        start = self._start(row)
        self._view[start : start + _ROW_HEADER.size] = bytes(_ROW_HEADER.size)
        body = start + _ROW_HEADER.size
        self._view[body : body + len(data)] = data
        _ROW_HEADER.pack_into(self._view, start, row, *position, len(data), before, digest)
        return RingRef(position, row, held, digest)

    def read(self, reference: RingRef) -> tuple[bytes, ...] | None:
        """Return the rows that a reference certifies, oldest first; None if one is invalid."""
        rows: list[bytes] = []
        wanted = reference.digest
        for row in range(reference.row, reference.row - reference.held, -1):
            start = self._start(row)
            stored, epoch, seq, nbytes, before, digest = _ROW_HEADER.unpack_from(self._view, start)
            if stored != row or digest != wanted or not 0 <= nbytes <= self.row_bytes:
                return None
            body = start + _ROW_HEADER.size
            data = bytes(self._view[body : body + nbytes])
            if _row_digest(row, Position(epoch, seq), before, data) != digest:
                return None
            rows.append(data)
            wanted = before
        return tuple(reversed(rows))

    def _start(self, row: int) -> int:
        return row % (self.rows + SPARE) * self._stride


def unshared_plane(source: str, nbytes: int) -> StatePlane:
    """Return a plane of this process alone."""
    with _private_file(source, state_plane_bytes(nbytes)) as descriptor:
        return StatePlane(descriptor, nbytes)


def unshared_ring(source: str, rows: int, row_bytes: int) -> StateRing:
    """Return a ring of this process alone."""
    with _private_file(source, state_ring_bytes(rows, row_bytes)) as descriptor:
        return StateRing(descriptor, rows, row_bytes)


@contextlib.contextmanager
def _private_file(source: str, nbytes: int) -> Iterator[int]:
    """Make zeroed memory and close its descriptor after the block: a mapping does not need it."""
    descriptor = os.memfd_create(f"framegate-{source}")
    try:
        os.ftruncate(descriptor, nbytes)
        yield descriptor
    finally:
        os.close(descriptor)


def _digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)  # detects torn writes; not a defence against attacks


def _row_digest(row: int, position: Position, before: bytes, data: bytes) -> bytes:
    digest = xxhash.xxh3_128()
    digest.update(struct.pack("<qqq", row, *position))
    digest.update(before)
    digest.update(data)
    return digest.digest()
