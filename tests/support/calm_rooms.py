"""Videos of a room in which nothing happens, but for some frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support import footage

FPS, GOP, SECONDS = 10, 10, 18
CODECS = {
    "h264": ("libx264", {"bf": "0"}),
    "h264-b": ("libx264", {"bf": "2"}),
    "h264-open": ("libx264", {"bf": "2", "x264-params": "open-gop=1"}),
    "hevc": ("libx265", {"x265-params": "bframes=2:open-gop=0:scenecut=0:log-level=none"}),
    "mpeg4": ("mpeg4", {"bf": "0"}),
}


def write_room(
    path: Path,
    kind: str,
    moves: range = range(0),
    seconds: int = SECONDS,
    turn: int | None = None,
    *,
    grain: int = 0,
) -> Path:
    """Write a noisy room, in which a bright square is in the frames of `moves`.

    turn   degrees counter-clockwise of its display matrix; None: it has none
    grain  levels of more noise in every third frame, so that packets are of very different sizes;
           the square is faint then
    """
    codec, options = CODECS[kind]
    noise = np.random.default_rng(7)
    rows, columns = 96, 128
    room = np.repeat(np.arange(rows, dtype=np.uint8)[:, None] + 60, columns, 1)
    frames = []
    for number in range(seconds * FPS):
        y = room + noise.integers(0, 3, room.shape).astype(np.uint8)
        if grain and number % 3 == 0 and number % GOP:
            y += noise.integers(0, grain, room.shape).astype(np.uint8)
            y -= np.uint8(grain // 2)
        if number in moves:
            left = 8 + 4 * (number - moves.start) % 80
            square = slice(30, 62), slice(left, left + 32)
            y[square] = 230
            if grain:
                y[square] = room[square] + 40
        grey = np.full((rows // 2, columns // 2), 128, np.uint8)
        frames.append(footage.frame_of((y, grey, grey), "yuv420p"))
    times = [number / FPS for number in range(len(frames))]
    options = {"g": str(GOP), "sc_threshold": "0", **options}
    return footage.write_frames(path, frames, times, codec, options, rotation=turn)
