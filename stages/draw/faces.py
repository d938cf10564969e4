"""Blur faces in pictures, and in exported clips: best effort, recall measured."""

from __future__ import annotations

import math
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from framegate.models.boxes import FloatArray
from framegate.models.detector.faces import FaceNetwork
from framegate.models.picture import Picture
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.recording.index import Segment
from framegate.stages.decode.clip import write_clip
from framegate.stages.decode.file import FileSource
from framegate.stages.draw.canvas import Canvas, Plane
from framegate.stages.draw.video import VideoWriter
from framegate.stages.planes import as_picture

WIDER: Final = 1.3  # than the face's box, about its middle: hair and chin tell, too
_LEFT: Final = (
    4,
    5,
)  # samples of a face that are left, across and down: too few to know anybody by


class FaceBlur:
    """Finds faces and blurs them. Any thread; pictures come one after the other.

    Raises ModelUnreadable. What fails on a picture fails for it: it is never given as it was.
    """

    def __init__(self) -> None:
        self._network = FaceNetwork()
        self._turn = threading.Lock()

    def blurred(self, picture: Picture) -> Picture:
        """Return the picture with its faces blurred; itself where none is found."""
        with self._turn:
            found = self._network.faces(picture)
        return blurred(picture, found.xyxy) if len(found) else picture


def blurred(picture: Picture, faces: FloatArray) -> Picture:
    """Return a copy of the picture, blurred where faces (N, 4) are and a little around; in pixels.

    Of each remain four by five means, and what is smooth between them. Bytes elsewhere stay.
    """
    canvas = Canvas.of(picture)
    for left, top, right, bottom in faces.tolist():
        across, down = (right - left) * WIDER / 2, (bottom - top) * WIDER / 2
        x, y = (left + right) / 2, (top + bottom) / 2
        for plane, of in ((canvas.y, 1), (canvas.u, 2), (canvas.v, 2)):
            _smear(plane, (x - across) / of, (y - down) / of, (x + across) / of, (y + down) / of)
    return canvas.picture()


def _smear(plane: Plane, left: float, top: float, right: float, bottom: float) -> None:
    rows = slice(max(0, int(top)), max(0, int(bottom) + 1))
    columns = slice(max(0, int(left)), max(0, int(right) + 1))
    face = plane[rows, columns]
    if face.size:
        means = cv2.resize(face, _LEFT, interpolation=cv2.INTER_AREA)
        size = face.shape[1], face.shape[0]
        face[:] = cv2.resize(means, size, interpolation=cv2.INTER_LINEAR)


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
