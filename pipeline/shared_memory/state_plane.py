"""State too large for a hop: a double-buffered file in shared memory that outlives a worker.

A stage writes into the buffer that is not the committed one and puts the reference it gets into
its (small) state; the hop commits that. Killed in between, its successor still finds what the
committed reference names. What a reference names and is not there whole is None: start anew.
"""

from __future__ import annotations

import os

import xxhash

from framegate.pipeline.records import Position
from framegate.pipeline.shared_memory.frame_store import PAGE
from framegate.pipeline.shared_memory.shared_file import map_shared
from framegate.pipeline.stage import PlaneRef

_HEADER = 64
_DIGEST = 16


def state_plane_bytes(nbytes: int) -> int:
    """Size of the file for a state of at most `nbytes`."""
    return PAGE + 2 * nbytes


class StatePlane:
    """One stage's large state of one source. One thread; one writer at a time (its token)."""

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


def unshared_plane(source: str, nbytes: int) -> StatePlane:
    """A plane of this process alone, where there is no supervisor to outlive the worker."""
    descriptor = os.memfd_create(f"framegate-{source}")
    try:
        os.ftruncate(descriptor, state_plane_bytes(nbytes))
        return StatePlane(descriptor, nbytes)
    finally:
        os.close(descriptor)


def _digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)  # against torn writes, not against malice
