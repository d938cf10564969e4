"""`framegate recordings export --blur-faces`: a range, encoded again, with faces blurred."""

from __future__ import annotations

import math
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.detector.faces import FaceNetwork
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.recording.index import Segment
from framegate.stages.decode.clip import write_clip
from framegate.stages.decode.file import FileSource
from framegate.stages.draw.faces import blurred
from framegate.stages.draw.video import VideoWriter
from framegate.stages.planes import as_picture

HOLD_S: Final = 0.5  # for which a face's place stays blurred: it may only be lost for a moment


def write_blurred_clip(
    folder: Path,
    segments: Sequence[Segment],
    path: Path,
    begin_s: float,
    seconds: float,
    tell: OnProgress,
) -> None:
    """Write what `write_clip` would, with faces blurred: VP9 in MP4, and without sound.

    Every frame is looked at. A voice tells who speaks as well as a face does, so there is none.
    ClipFailed, VideoUnwritable, SourceFault; then there is no file.
    """
    with tempfile.TemporaryDirectory(prefix=".framegate-", dir=path.absolute().parent) as beside:
        whole, new = Path(beside) / "whole.mp4", Path(beside) / "blurred.mp4"
        write_clip(folder, segments, whole, begin_s, seconds)
        _blur(whole, new, tell)
        new.replace(path)


def _blur(whole: Path, new: Path, tell: OnProgress) -> None:
    network, held = FaceNetwork(), HeldFaces()
    with closing(FileSource(str(whole))) as source, VideoWriter(new) as video:
        for number, frame in enumerate(source.frames()):
            tell("blurring faces, frames", number)
            pixels = bytearray(frame.nbytes)
            frame.write(memoryview(pixels))
            picture = as_picture(memoryview(pixels), frame.form)
            places = held.with_those(network.faces(picture).xyxy, frame.pts)
            video.add(blurred(picture, places), frame.pts)


class HeldFaces:
    """Where faces are, and were up to HOLD_S ago: one that is missed in a frame stays unknown."""

    def __init__(self) -> None:
        self._found: deque[tuple[float, FloatArray]] = deque()

    def with_those(self, faces: FloatArray, pts: float | None) -> FloatArray:
        """Return these (N, 4) of the next frame, and those of the frames before. pts in seconds."""
        now = -math.inf if pts is None else pts
        while self._found and not now - HOLD_S <= self._found[0][0] <= now:
            self._found.popleft()
        self._found.append((now, faces))
        return np.concatenate([places for _, places in self._found])
