"""Frames drawn at random from footage, as pictures of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from framegate.models.picture import Picture
from framegate.stages.decode import FileSource
from framegate.stages.planes import as_picture


@dataclass(frozen=True, slots=True)
class Draw:
    """Which frames of a file: those of its earlier part and those of its later part, by number."""

    path: str
    earlier: tuple[int, ...]
    later: tuple[int, ...]


def draws(files: Mapping[str, str], most: int, seed: int = 0) -> list[Draw]:
    """`most` frames, each of the footage as likely as the others, none twice; all if it has fewer.

    files   path by source. Each file's frames are split in the middle of what was drawn of it, so
            no moment is on both sides

    Decodes every file once, to count. Raises SourceFault.
    """
    counts = [_count(path) for path in files.values()]
    total = sum(counts)
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(most, total), replace=False))
    found, start = [], 0
    for path, count in zip(files.values(), counts, strict=True):
        inside = drawn[(drawn >= start) & (drawn < start + count)] - start
        half = len(inside) // 2
        found.append(Draw(path, tuple(inside[:half].tolist()), tuple(inside[half:].tolist())))
        start += count
    return found


def frames_at(path: str, numbers: Collection[int]) -> Iterator[Picture]:
    """Those frames of a file, counted from 0, in order. Raises SourceFault."""
    wanted, last = set(numbers), max(numbers, default=-1)
    with closing(FileSource(path)) as source:
        for number, frame in enumerate(source.frames()):
            if number > last:
                return
            if number in wanted:
                held = bytearray(frame.nbytes)
                frame.write(memoryview(held))
                yield as_picture(memoryview(held), frame.form)


def _count(path: str) -> int:
    with closing(FileSource(path)) as source:
        return sum(1 for _ in source.frames())
