"""State too large for a hop: planes (one content) and rings (last rows) that outlive a worker.

A stage writes where nothing committed lies and puts the reference that it gets into its (small)
state; the hop commits that. If the worker is killed in between, its successor still finds what the
committed reference names. What a reference names and is not there whole reads as None: the stage
starts anew.
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
SPARE = 16  # rows written ahead of the committed one without touching those that it certifies


def state_plane_bytes(nbytes: int) -> int:
    """Size of the file for a state of at most `nbytes`."""
    return PAGE + 2 * nbytes


class StatePlane:
    """One stage's large state of one source. One thread; one writer at a time (its token).

    Of its two buffers the one is written that the committed reference does not name.
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        """Map the file of state_plane_bytes(nbytes); the descriptor stays the caller's."""
        self.nbytes = nbytes
        whole = map_shared(descriptor)
        self._headers = [whole[i * _HEADER : (i + 1) * _HEADER] for i in range(2)]
        self._buffers = [whole[PAGE + i * nbytes : PAGE + (i + 1) * nbytes] for i in range(2)]

    def write(self, position: Position, data: bytes, committed: PlaneRef | None) -> PlaneRef:
        """Write a new content beside the committed one; it counts once the hop took the reference.

        ValueError if `data` is larger than the plane.
        """
        if len(data) > self.nbytes:
            raise ValueError(f"{len(data)} bytes for a state plane of {self.nbytes}")
        reference = PlaneRef(position, len(data), _digest(data))
        buffer = 1 - self._buffer_of(committed) if committed else 0
        self._headers[buffer][:_DIGEST] = bytes(_DIGEST)
        self._buffers[buffer][: len(data)] = data
        self._headers[buffer][:_DIGEST] = reference.digest
        return reference

    def read(self, reference: PlaneRef) -> bytes | None:
        """What the reference names; None if it is not there, whole."""
        buffer = self._buffer_of(reference)
        if bytes(self._headers[buffer][:_DIGEST]) != reference.digest:
            return None
        data = bytes(self._buffers[buffer][: reference.nbytes])
        return data if _digest(data) == reference.digest else None

    def _buffer_of(self, reference: PlaneRef) -> int:
        """The buffer with this content; 0 where neither has it."""
        return int(bytes(self._headers[1][:_DIGEST]) == reference.digest)


def state_ring_bytes(rows: int, row_bytes: int) -> int:
    """Size of the file for `rows` rows of at most `row_bytes`."""
    return (rows + SPARE) * (_ROW_HEADER.size + row_bytes) + PAGE


class StateRing:
    """One stage's last rows of one source. One thread; one writer at a time (its token).

    Where a plane holds one content that is written whole each time, a ring holds a row a frame and
    keeps the last ones. Each row's digest covers the digest of the row before, so the one reference
    that the hop commits certifies all of them. Rows of frames that were not committed are written
    again by a successor, in the same slots. If any certified row is not there whole, none is.
    """

    def __init__(self, descriptor: int, rows: int, row_bytes: int) -> None:
        """Map the file of state_ring_bytes(rows, row_bytes); the descriptor stays the caller's."""
        self.rows, self.row_bytes = rows, row_bytes
        self._stride = _ROW_HEADER.size + row_bytes
        self._view = map_shared(descriptor)

    def write(
        self, position: Position, data: bytes, after: RingRef | None, anew: bool = False
    ) -> RingRef:
        """Append a row after the one that `after` names; it counts once the hop took the reference.

        anew  nothing before it belongs to it any more (a window begins). Up to SPARE rows may be
        written beyond the committed one. ValueError if `data` is larger than a row.
        """
        if len(data) > self.row_bytes:
            raise ValueError(f"{len(data)} bytes for a row of {self.row_bytes}")
        row = after.row + 1 if after else 0
        chain = None if anew else after
        held = min(chain.held + 1, self.rows) if chain else 1
        before = chain.digest if chain else bytes(_DIGEST)
        digest = _row_digest(row, position, before, data)
        start = self._start(row)
        self._view[start : start + _ROW_HEADER.size] = bytes(_ROW_HEADER.size)
        body = start + _ROW_HEADER.size
        self._view[body : body + len(data)] = data
        _ROW_HEADER.pack_into(self._view, start, row, *position, len(data), before, digest)
        return RingRef(position, row, held, digest)

    def read(self, reference: RingRef) -> tuple[bytes, ...] | None:
        """The rows that `reference` certifies, oldest first; None if one is not there whole."""
        rows: list[bytes] = []
        wanted = reference.digest
        for row in range(reference.row, reference.row - reference.held, -1):
            start = self._start(row)
            found, epoch, seq, nbytes, before, digest = _ROW_HEADER.unpack_from(self._view, start)
            if found != row or digest != wanted or not 0 <= nbytes <= self.row_bytes:
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
    """A plane of this process alone, where there is no supervisor to outlive the worker."""
    with _private_file(source, state_plane_bytes(nbytes)) as descriptor:
        return StatePlane(descriptor, nbytes)


def unshared_ring(source: str, rows: int, row_bytes: int) -> StateRing:
    """A ring of this process alone, where there is no supervisor to outlive the worker."""
    with _private_file(source, state_ring_bytes(rows, row_bytes)) as descriptor:
        return StateRing(descriptor, rows, row_bytes)


@contextlib.contextmanager
def _private_file(source: str, nbytes: int) -> Iterator[int]:
    """A descriptor of zeroed memory, closed at the end of the block: a mapping needs none."""
    descriptor = os.memfd_create(f"framegate-{source}")
    try:
        os.ftruncate(descriptor, nbytes)
        yield descriptor
    finally:
        os.close(descriptor)


def _digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)  # against torn writes, not against malice


def _row_digest(row: int, position: Position, before: bytes, data: bytes) -> bytes:
    digest = xxhash.xxh3_128()
    digest.update(struct.pack("<qqq", row, *position))
    digest.update(before)
    digest.update(data)
    return digest.digest()
