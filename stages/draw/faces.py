"""Blur faces in pictures and in exported clips: best effort, with a measured recall."""

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
from framegate.stages.model_adapters import picture_of

WIDER: Final = 1.3  # blurred area relative to the box of a face: hair and chin identify, too
_SAMPLES: Final = (4, 5)  # samples of a blurred face, across and down: too few to identify a person


class FaceBlur:
    """A detector that blurs faces. Any thread; it processes one picture at a time.

    ModelUnreadable. A picture whose detection fails is never returned without blur.
    """

    def __init__(self) -> None:
        self._network = FaceNetwork()
        self._turn = threading.Lock()

    def blurred(self, picture: Picture) -> Picture:
        """Return the picture with its faces blurred; the same object if it has no faces."""
        with self._turn:
            faces = self._network.faces(picture)
        if not len(faces):
            return picture
        return blurred(picture, faces.xyxy)


def blurred(picture: Picture, faces: FloatArray) -> Picture:
    """Return a copy of the picture with blurred faces.

    faces  boxes (N, 4) in pixels; each is enlarged by WIDER

    Each face becomes four by five means with smooth transitions. All other bytes stay the same.
    """
    canvas = Canvas.of(picture)
    for left, top, right, bottom in faces.tolist():
        x = (left + right) / 2
        y = (top + bottom) / 2
        half_width = (right - left) * WIDER / 2
        half_height = (bottom - top) * WIDER / 2
        box = np.array((x - half_width, y - half_height, x + half_width, y + half_height))
        _blur_box(canvas.y, *box.tolist())
        _blur_box(canvas.u, *(box / 2).tolist())
        _blur_box(canvas.v, *(box / 2).tolist())
    return canvas.picture()


def _blur_box(plane: Plane, left: float, top: float, right: float, bottom: float) -> None:
    rows = slice(max(0, int(top)), max(0, int(bottom) + 1))
    columns = slice(max(0, int(left)), max(0, int(right) + 1))
    face = plane[rows, columns]
    if face.size:
        means = cv2.resize(face, _SAMPLES, interpolation=cv2.INTER_AREA)
        size = face.shape[1], face.shape[0]
        face[:] = cv2.resize(means, size, interpolation=cv2.INTER_LINEAR)


HOLD_S: Final = 0.5  # for which the place of a face stays blurred: a frame may miss the face


def write_blurred_clip(
    folder: Path,
    segments: Sequence[Segment],
    path: Path,
    begin_s: float,
    seconds: float,
    on_progress: OnProgress,
) -> None:
    """Write a clip as `write_clip` does, with faces blurred in each frame: VP9 in MP4.

    The clip has no sound, because a voice identifies a person as a face does. ClipFailed,
    VideoUnwritable, SourceFault: then there is no file.
    """
    parent = path.absolute().parent
    with tempfile.TemporaryDirectory(prefix=".framegate-", dir=parent) as temporary:
        whole = Path(temporary) / "whole.mp4"
        new = Path(temporary) / "blurred.mp4"
        write_clip(folder, segments, whole, begin_s, seconds)
        _blur_video(whole, new, on_progress)
        new.replace(path)


def _blur_video(whole: Path, new: Path, on_progress: OnProgress) -> None:
    network = FaceNetwork()
    held = HeldFaces()
    with closing(FileSource(str(whole))) as source, VideoWriter(new) as video:
        for number, frame in enumerate(source.frames()):
            on_progress("blurring faces, frames", number)
            picture = picture_of(frame)
            places = held.with_new(network.faces(picture).xyxy, frame.pts)
            video.add(blurred(picture, places), frame.pts)


class HeldFaces:
    """The faces of the last HOLD_S seconds, so that a face missed in a frame stays blurred."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, FloatArray]] = deque()

    def with_new(self, faces: FloatArray, pts: float | None) -> FloatArray:
        """Add the faces (N, 4) of the next frame. Return all faces of the last HOLD_S seconds.

        pts  seconds; None: unknown, then no earlier faces are returned
        """
        now = -math.inf
        if pts is not None:
            now = pts
        while self._recent and not now - HOLD_S <= self._recent[0][0] <= now:
            self._recent.popleft()
        self._recent.append((now, faces))
        return np.concatenate([boxes for _, boxes in self._recent])
