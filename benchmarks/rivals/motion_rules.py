"""Motion rules of two widely used programs, rewritten from their documents.

PreviousFrame   Intel DL Streamer, `gvamotiondetect`: difference to the previous frame, in blocks
RunningAverage  Frigate: difference to a slow running average, in a picture 100 rows high

What is done with the places is in `region_rival`.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from framegate.models.picture import Picture

Array = npt.NDArray[Any]


class MotionRule(Protocol):
    """Told each frame once, in order; says what changed.

    watched  frames that a known object is looked at again without a change, until it stood still
             for so many
    """

    watched: int

    def changed(self, picture: Picture) -> Array:
        """float32 (M, 4): rectangles in source pixels; none in the first frame."""
        ...


class PreviousFrame:
    """Difference to the frame before, with the defaults of `gvamotiondetect`."""

    watched = 0
    _width, _least, _block, _share, _pad = 320, 15, 64, 0.05, 4

    def __init__(self) -> None:
        self._before: Array | None = None

    def changed(self, picture: Picture) -> Array:
        """See MotionRule."""
        width = min(self._width, picture.width)
        height = max(1, round(picture.height * width / picture.width))
        now = np.asarray(cv2.resize(picture.y, (width, height)))
        before, self._before = self._before, now
        if before is None:
            return np.zeros((0, 4), np.float32)
        difference = cv2.GaussianBlur(cv2.absdiff(now, before), (3, 3), 0)
        square = np.ones((3, 3), np.uint8)
        mask = cv2.morphologyEx(_above(difference, self._least), cv2.MORPH_OPEN, square)
        return self._blocks(np.asarray(cv2.dilate(mask, square)), picture)

    def _blocks(self, mask: Array, picture: Picture) -> Array:
        scale = picture.width / mask.shape[1]
        side = max(4, round(self._block / scale))
        found = []
        for top in range(0, mask.shape[0], side):
            for left in range(0, mask.shape[1], side):
                part = mask[top : top + side, left : left + side]
                if part.mean() >= self._share:
                    found.append((left, top, left + part.shape[1], top + part.shape[0]))
        grown = np.array(found, np.float32).reshape(-1, 4) * np.float32(scale)
        grown[:, :2] -= self._pad
        grown[:, 2:] += self._pad
        return merged(grown)


class RunningAverage:
    """Difference to a running average, with the defaults of Frigate's motion detector."""

    watched = 50
    _height, _least, _area, _slow, _fast, _patience = 100, 30, 10, 0.01, 0.2, 10
    _history: Final = 50

    def __init__(self) -> None:
        self._average: Array | None = None
        self._calibrating, self._frames_with_motion = True, 0
        self._ranges: list[tuple[float, float]] = []

    def changed(self, picture: Picture) -> Array:
        """See MotionRule."""
        now = self._small(picture)
        if self._average is None:
            self._average = now.astype(np.float32)
            return np.zeros((0, 4), np.float32)
        difference = cv2.absdiff(now, cv2.convertScaleAbs(self._average))
        mask = np.asarray(cv2.dilate(_above(difference, self._least), np.ones((3, 3), np.uint8)))
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        areas = [cv2.contourArea(contour) for contour in contours]
        large = [c for c, area in zip(contours, areas, strict=True) if area > self._area]
        self._learn(now, self._average, len(large), sum(areas) / mask.size)
        corners = [(x, y, x + w, y + h) for x, y, w, h in map(cv2.boundingRect, large)]
        scale = np.float32(picture.height / now.shape[0])
        return np.array(corners, np.float32).reshape(-1, 4) * scale

    def _small(self, picture: Picture) -> Array:
        size = (max(1, self._height * picture.width // picture.height), self._height)
        small = np.asarray(cv2.resize(picture.y, size, interpolation=cv2.INTER_NEAREST))
        dark, bright = np.percentile(small, (4, 96))
        if dark < bright:  # its contrast is stretched, by the mean of what it lately was
            self._ranges = [*self._ranges, (dark, bright)][-self._history :]
            low, high = np.mean(self._ranges, axis=0)
            small = ((np.clip(small, low, high) - low) / (high - low) * 255).astype(np.uint8)
        return np.asarray(cv2.GaussianBlur(small, (3, 3), 1))

    def _learn(self, now: Array, average: Array, motions: int, share: float) -> None:
        if share < 0.05 and motions <= 4:
            self._calibrating = False
        if share > 0.8:
            self._calibrating = True
        self._frames_with_motion = self._frames_with_motion + 1 if motions else 0
        if not motions or self._frames_with_motion >= self._patience:
            alpha = self._fast if self._calibrating else self._slow
            cv2.accumulateWeighted(now, average, alpha)


def merged(xyxy: Array) -> Array:
    """Rectangles of which no two overlap: those that do become one that holds both."""
    apart: list[Array] = []
    for box in xyxy:
        joined = box
        while met := [other for other in apart if _touch(joined, other)]:
            apart = [other for other in apart if not _touch(joined, other)]
            all_of = np.stack([joined, *met])
            joined = np.concatenate([all_of[:, :2].min(axis=0), all_of[:, 2:].max(axis=0)])
        apart.append(joined)
    return np.array(apart, np.float32).reshape(-1, 4)


def _touch(a: Array, b: Array) -> bool:
    return bool((a[:2] <= b[2:]).all() and (b[:2] <= a[2:]).all())


def _above(values: Array, least: int) -> Array:
    return (values > least).astype(np.uint8)
