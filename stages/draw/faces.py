"""Faces in pictures, made unknown before anybody gets the picture: best effort, recall measured."""

from __future__ import annotations

import threading
from typing import Final

import cv2

from framegate.models.boxes import FloatArray
from framegate.models.detector.faces import FaceNetwork
from framegate.models.picture import Picture
from framegate.stages.draw.canvas import Canvas, Plane

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
