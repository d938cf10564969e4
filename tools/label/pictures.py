"""Draw frames for a labeller: enlarged, with a coordinate grid, numbered boxes and thin lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from benchmarks.truth.labels import ClipLabels, Edges, FrameLabels, corners, group, is_ignored
from framegate.models.boxes import area, iou
from framegate.models.picture import ByteArray
from tools.label.proposals import FrameProposals

WIDEST: Final = 1560  # pixels of a picture; viewers reduce larger ones
HIGHEST: Final = 1180
LARGEST: Final = 1_190_000  # pixels in all
_ENOUGH: Final = 2.2  # scale from which two frames share a picture
_MOST: Final = 5.0  # scale above which nothing more is visible
_MARGIN: Final = 30  # pixels for the coordinates, on each side
_TITLE: Final = 18
_GRID_STEPS: Final = (5, 10, 20, 50, 100, 200)
_GRID_LEAST: Final = 45  # pixels between two lines of the grid
_STATIC: Final = 0.4  # IoU from which a proposal is a static object
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_INK: Final = (0, 0, 0)
_PAPER: Final = (255, 255, 255)
_GREY: Final = (150, 150, 150)
# B, G, R; neighbouring numbers differ clearly, and all are bright against a dark outline.
_COLOURS: Final = (
    (0, 255, 255),
    (255, 255, 0),
    (80, 255, 80),
    (255, 120, 255),
    (60, 160, 255),
    (255, 180, 120),
    (120, 120, 255),
    (200, 255, 200),
    (230, 230, 230),
    (0, 200, 130),
    (200, 60, 255),
)

Colour = tuple[int, int, int]


class Region(NamedTuple):
    """A part of a frame, in whole pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Return the width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Return the height in pixels."""
        return self.bottom - self.top


class Mark(NamedTuple):
    """A box to draw, in pixels of the source, with its tag."""

    tag: str
    edges: Edges
    colour: Colour


@dataclass(frozen=True, slots=True)
class View:
    """A frame to draw: its picture, the part to show, a title, and the marks."""

    bgr: ByteArray
    region: Region
    title: str
    marks: tuple[Mark, ...]


def proposal_marks(frame: FrameProposals) -> tuple[Mark, ...]:
    """Return the proposals of a frame as marks: number and the first three letters of the class."""
    marks = []
    for proposal in frame.proposals:
        colour = _COLOURS[proposal.number % len(_COLOURS)]
        marks.append(Mark(f"{proposal.number}{proposal.label[:3]}", proposal.box, colour))
    return tuple(marks)


def without_static(frame: FrameProposals, static_objects: FrameLabels) -> tuple[Mark, ...]:
    """Return the proposals of a frame that are no static object, and the static boxes in grey.

    A proposal is a static object if it has its group, and overlaps it or lies in it.
    """
    left = []
    for proposal in frame.proposals:
        same_group = [
            label.edges
            for label in static_objects.boxes
            if group(label.label) == group(proposal.label)
        ]
        box = corners([proposal.box])
        is_static = (iou(box, corners(same_group)) >= _STATIC).any()
        regions = [*same_group, *static_objects.ignore]
        if not is_static and not is_ignored(box, regions)[0]:
            left.append(proposal)
    grey = [Mark("st", label.edges, _GREY) for label in static_objects.boxes]
    grey += [Mark("ign", edges, _GREY) for edges in static_objects.ignore]
    shown = FrameProposals(frame.frame, tuple(left))
    return (*grey, *proposal_marks(shown))


def label_marks(frame: FrameLabels) -> tuple[Mark, ...]:
    """Return the labels of a frame as marks; ignore regions are grey."""
    marks = [Mark("ign", edges, _GREY) for edges in frame.ignore]
    for row, label in enumerate(frame.boxes):
        marks.append(Mark(label.label[:5], label.edges, _COLOURS[row % len(_COLOURS)]))
    return tuple(marks)


def marks_of(labels: ClipLabels) -> dict[int, tuple[Mark, ...]]:
    """Return the marks of each labelled frame."""
    return {frame.frame: label_marks(frame) for frame in labels.frames}


def frames_per_picture(region: Region) -> int:
    """Return 2 where two frames of this size stay large enough in one picture, else 1."""
    if _scale(region, 2) >= _ENOUGH:
        return 2
    return 1


def draw(views: Sequence[View]) -> ByteArray:
    """Return one picture, uint8 (H, W, 3) in the order B, G, R, of views of one size."""
    scale = _scale(views[0].region, len(views))
    parts = [_panel(view, scale) for view in views]
    if _is_stacked(views[0].region, len(views)):
        return np.vstack(parts)
    return np.hstack(parts)


def _scale(region: Region, views: int) -> float:
    """Return the enlargement at which the views of one picture stay below its limits."""
    beside = _fit(region, WIDEST / views, HIGHEST)
    stacked = _fit(region, WIDEST, HIGHEST / views)
    scale = max(beside, stacked)
    width, height = region.width * scale + 2 * _MARGIN, region.height * scale + 2 * _MARGIN
    share = LARGEST / (views * width * (height + _TITLE))
    return min(scale, scale * math.sqrt(share), _MOST)


def _is_stacked(region: Region, views: int) -> bool:
    return _fit(region, WIDEST, HIGHEST / views) > _fit(region, WIDEST / views, HIGHEST)


def _fit(region: Region, width: float, height: float) -> float:
    across = (width - 2 * _MARGIN) / region.width
    down = (height - 2 * _MARGIN - _TITLE) / region.height
    return min(across, down)


def _panel(view: View, scale: float) -> ByteArray:
    """Return a view with its title and its grid."""
    region = view.region
    part = view.bgr[region.top : region.bottom, region.left : region.right]
    size = round(region.width * scale), round(region.height * scale)
    picture = cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)
    _draw_crossings(picture, region, scale)
    inside = [mark for mark in view.marks if _is_in(mark.edges, region)]
    _draw_marks(picture, region, scale, inside)
    panel = np.full((size[1] + 2 * _MARGIN + _TITLE, size[0] + 2 * _MARGIN, 3), 255, np.uint8)
    top = _MARGIN + _TITLE
    panel[top : top + size[1], _MARGIN : _MARGIN + size[0]] = picture
    cv2.putText(panel, view.title, (_MARGIN, 14), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
    _draw_margins(panel, region, scale, size)
    return panel


def _is_in(edges: Edges, region: Region) -> bool:
    left, top, right, bottom = edges
    is_across = left < region.right and right > region.left
    return is_across and top < region.bottom and bottom > region.top


def _step(scale: float) -> int:
    for step in _GRID_STEPS:
        if step * scale >= _GRID_LEAST:
            return step
    return _GRID_STEPS[-1]


def _ticks(first: int, last: int, step: int) -> range:
    return range(-(-first // step) * step, last + 1, step)


def _draw_crossings(picture: Any, region: Region, scale: float) -> None:
    """Draw a small dot at each crossing of the grid, so that objects stay visible."""
    step = _step(scale)
    for x in _ticks(region.left, region.right, step):
        for y in _ticks(region.top, region.bottom, step):
            at = round((x - region.left) * scale), round((y - region.top) * scale)
            cv2.circle(picture, at, 1, _PAPER, -1)
            cv2.circle(picture, at, 2, _INK, 1)


def _draw_margins(panel: Any, region: Region, scale: float, size: tuple[int, int]) -> None:
    """Write the coordinates on all four sides."""
    step = _step(scale)
    top, bottom = _MARGIN + _TITLE, _MARGIN + _TITLE + size[1]
    left, right = _MARGIN, _MARGIN + size[0]
    for x in _ticks(region.left, region.right, step):
        at = left + round((x - region.left) * scale)
        cv2.line(panel, (at, top - 5), (at, top), _INK)
        cv2.line(panel, (at, bottom), (at, bottom + 5), _INK)
        _write_centred(panel, str(x), (at, top - 8))
        _write_centred(panel, str(x), (at, bottom + 17))
    for y in _ticks(region.top, region.bottom, step):
        at = top + round((y - region.top) * scale)
        cv2.line(panel, (left - 5, at), (left, at), _INK)
        cv2.line(panel, (right, at), (right + 5, at), _INK)
        _write_centred(panel, str(y), (left - 17, at + 4))
        _write_centred(panel, str(y), (right + 17, at + 4))


def _write_centred(panel: Any, text: str, at: tuple[int, int]) -> None:
    width = cv2.getTextSize(text, _FONT, 0.35, 1)[0][0]
    cv2.putText(panel, text, (at[0] - width // 2, at[1]), _FONT, 0.35, _INK, 1, cv2.LINE_AA)


# -- Boxes and their tags.


def _draw_marks(picture: Any, region: Region, scale: float, marks: Sequence[Mark]) -> None:
    """Draw each box just outside its edges, and its tag where it hides least."""
    offset = np.array([region.left, region.top] * 2, np.float32)
    boxes = (corners([mark.edges for mark in marks]) - offset) * scale
    tags: list[Edges] = []
    for mark, box in zip(marks, boxes, strict=True):
        left, top, right, bottom = (round(edge) for edge in box.tolist())
        cv2.rectangle(picture, (left - 2, top - 2), (right + 1, bottom + 1), _INK, 1)
        cv2.rectangle(picture, (left - 1, top - 1), (right, bottom), mark.colour, 1)
    for mark, box in zip(marks, boxes, strict=True):
        width, height = cv2.getTextSize(mark.tag, _FONT, 0.4, 1)[0]
        place = _place(box.tolist(), (width + 3, height + 5), picture.shape, boxes, tags)
        tags.append(place)
        left, top, right, bottom = (round(edge) for edge in place)
        cv2.rectangle(picture, (left, top), (right, bottom), mark.colour, -1)
        at = left + 2, bottom - 3
        cv2.putText(picture, mark.tag, at, _FONT, 0.4, _INK, 1, cv2.LINE_AA)


def _place(
    box: Sequence[float],
    size: tuple[int, int],
    shape: tuple[int, ...],
    boxes: Any,
    tags: Sequence[Edges],
) -> Edges:
    """Return the place of a tag around its box that covers the least of other boxes and tags."""
    width, height = size
    left, top, right, bottom = box
    above, below = top - height - 2, bottom + 2
    beside_left, beside_right = left - width - 2, right + 2
    corners_of_tags = [
        (left - 2, above),
        (right - width + 2, above),
        (left - 2, below),
        (right - width + 2, below),
        (beside_right, top),
        (beside_left, top),
        (beside_right, bottom - height),
        (beside_left, bottom - height),
        (left + 1, top + 1),
    ]
    best: Edges = (left, top, left + width, top + height)
    least = float("inf")
    for x, y in corners_of_tags:
        cut_x = min(max(x, 0), shape[1] - width - 1)
        cut_y = min(max(y, 0), shape[0] - height - 1)
        place = (cut_x, cut_y, cut_x + width, cut_y + height)
        hidden = _covered(place, boxes) + 4 * _covered(place, corners(tags))
        if hidden < least:
            best, least = place, hidden
    return best


def _covered(place: Edges, boxes: Any) -> float:
    """Return the sum of the shares of the boxes that `place` covers."""
    if not len(boxes):
        return 0.0
    inner = np.concatenate(
        [np.maximum(boxes[:, :2], place[:2]), np.minimum(boxes[:, 2:], place[2:])], axis=1
    )
    return float((area(inner) / np.maximum(area(boxes), 1)).sum())
