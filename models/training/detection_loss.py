"""The loss of a student: the distance of its outputs from the teacher's labels.

Needs torch (the `train` extra). It is the sum of three losses of "Generalized Focal Loss" (Li et
al., NeurIPS 2020): the target of a class's score is the overlap of the cell's box with the object
(quality focal loss), the target of the box is the object (GIoU, Rezatofighi et al., CVPR 2019), and
the target of each side's distribution is the side of the object (distribution focal loss). The
present outputs decide which cells answer for an object (task-aligned assignment, Feng et al., ICCV
2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from framegate.models.formats.nanodet import BINS, NANODET_PLUS

CELLS: Final = 6  # the most cells that answer for an object
BOX_WEIGHT, SIDES_WEIGHT = 2.0, 0.25
_LEAST_TARGET: Final = 0.5  # of the cell that suits an object best, even if its box is bad so far
_REACH: Final = BINS - 1  # the most strides from a cell to a side that its bins can express


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """A teacher's labels of a picture, in pixels of the student's input.

    boxes, class_ids    float (N, 4), left, top, right, bottom; int64 (N,), the student's class ids
    unsure, unsure_ids  the same for possible objects: inside, the class does not count; an id that
                        the student does not have means all classes
    """

    boxes: Tensor
    class_ids: Tensor
    unsure: Tensor
    unsure_ids: Tensor

    def to(self, device: torch.device) -> Objects:
        """Return a copy on a device."""
        parts = (self.boxes, self.class_ids, self.unsure, self.unsure_ids)
        return Objects(*(part.to(device) for part in parts))


@dataclass(frozen=True, slots=True, eq=False)
class BatchLoss:
    """The loss of a batch before the division by the sum of all targets, and that sum.

    The caller divides, so that several processes give the same result as a single one.
    """

    total: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _AnchorPoints:
    """Cells of all levels: centres (C, 2) in pixels, strides (C,)."""

    centres: Tensor
    strides: Tensor


def lost(cells: Tensor, taught: Sequence[Objects], size: tuple[int, int]) -> BatchLoss:
    """Return the loss of a batch.

    cells   output of the network (B, N, classes + 32), of any float type
    taught  one for each of the B pictures, on the same device
    size    (width, height) of the input
    """
    grid = _grid(size, cells.device)
    logits, sides = cells[..., : -4 * BINS].float(), cells[..., -4 * BINS :].float()
    sides = sides.reshape(*sides.shape[:2], 4, BINS)
    with torch.no_grad():
        scores, boxes = logits.sigmoid(), _boxes(sides, grid.centres, grid.strides)
        wanted, counts = torch.zeros_like(scores), torch.ones_like(scores)
        answers = []
        for i, objects in enumerate(taught):
            counts[i] = _counts(grid, objects, scores.shape[2])
            own, which, target = assigned(scores[i], boxes[i], grid, objects)
            ids = objects.class_ids[which]
            wanted[i, own, ids], counts[i, own, ids] = target, 1.0
            answers.append((torch.full_like(own, i), own, objects.boxes[which], target))
        picture, own, on, target = (torch.cat(column) for column in zip(*answers, strict=True))
    missed = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    total = (missed * (scores - wanted) ** 2 * counts).sum()
    answering, at, strides = sides[picture, own], grid.centres[own], grid.strides[own]
    gap = 1 - _giou(_boxes(answering, at, strides), on)
    spread = _spread(answering, at, strides, on)
    total = total + ((BOX_WEIGHT * gap + SIDES_WEIGHT * spread) * target).sum()
    return BatchLoss(total, wanted.sum())


def assigned(
    scores: Tensor, boxes: Tensor, grid: _AnchorPoints, objects: Objects
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells (K,) that answer for objects, the objects (K,), and the target scores (K,).

    scores (C, classes) and boxes (C, 4) are the present outputs of the cells. A cell suits an
    object by score^.5 * IoU^3, if its centre lies inside and all sides are within its reach. An
    object without such a cell gets the cell nearest to its middle among those that reach it.
    """
    n = len(objects.boxes)
    if not n:
        none = torch.zeros(0, dtype=torch.long, device=scores.device)
        return none, none, scores.new_zeros(0)
    overlap = _overlaps(boxes, objects.boxes)
    suits = scores[:, objects.class_ids].clamp(min=1e-4).sqrt() * overlap.clamp(min=1e-3) ** 3
    suits = suits * _may_answer(grid, objects.boxes)
    best = suits.topk(min(CELLS, len(suits)), dim=0)
    suits = torch.zeros_like(suits).scatter_(0, best.indices, best.values)
    value, which = suits.max(dim=1)
    cells = value.nonzero()[:, 0]
    which, value = which[cells], value[cells]
    own = overlap[cells, which]
    highest = value.new_zeros(n).scatter_reduce_(0, which, value, "amax")
    quality = own.new_zeros(n).scatter_reduce_(0, which, own, "amax").clamp(min=_LEAST_TARGET)
    return cells, which, value / highest[which] * quality[which]


def _may_answer(grid: _AnchorPoints, boxes: Tensor) -> Tensor:
    """Return a mask (C, N) of the cells that may answer for each object."""
    to_left_top = grid.centres[:, None] - boxes[None, :, :2]
    to_right_bottom = boxes[None, :, 2:] - grid.centres[:, None]
    sides = torch.cat([to_left_top, to_right_bottom], dim=2)
    reaches = sides.amax(2) < _REACH * grid.strides[:, None]
    may = reaches & (sides.amin(2) >= 0)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    far = (grid.centres[:, None] - middle[None]).abs().amax(2)
    nearest = far.masked_fill(~reaches, float("inf")).argmin(0)
    alone = (~may.any(0)).nonzero()[:, 0]
    may[nearest[alone], alone] = True
    return may


def _counts(grid: _AnchorPoints, objects: Objects, n_classes: int) -> Tensor:
    """Return weights (C, classes): 0 for an unsure class in a cell, 1 elsewhere."""
    counts = torch.ones(len(grid.centres), n_classes, device=grid.centres.device)
    for box, class_id in zip(objects.unsure, objects.unsure_ids, strict=True):
        inside = ((grid.centres >= box[:2]) & (grid.centres < box[2:])).all(1)
        counts[inside, class_id if class_id < n_classes else slice(None)] = 0.0
    return counts


def _boxes(sides: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Return boxes (..., 4) in pixels: the means of the distributions are the sides' distances."""
    bins = torch.arange(BINS, dtype=sides.dtype, device=sides.device)
    reach = (sides.softmax(-1) @ bins) * strides[:, None]
    return torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)


def _spread(sides: Tensor, centres: Tensor, strides: Tensor, on: Tensor) -> Tensor:
    """Return the cross entropy (K,) of the distributions with the two bins at each true side."""
    reach = torch.cat([centres - on[:, :2], on[:, 2:] - centres], dim=1) / strides[:, None]
    reach = reach.clamp(0, _REACH - 0.01)
    below = reach.long()
    logs = sides.log_softmax(-1)
    beyond = reach - below
    at_below = logs.gather(-1, below[..., None])[..., 0]
    at_above = logs.gather(-1, below[..., None] + 1)[..., 0]
    return -(at_below * (1 - beyond) + at_above * beyond).mean(-1)


def _giou(ours: Tensor, on: Tensor) -> Tensor:
    """Return the generalised IoU (K,), -1..1, of each box (K, 4) with its object (K, 4)."""
    both, either = _both_and_either(ours, on)
    around = (torch.max(ours[:, 2:], on[:, 2:]) - torch.min(ours[:, :2], on[:, :2])).prod(-1)
    around = around.clamp(min=1e-6)
    return both / either.clamp(min=1e-6) - (around - either) / around


def _overlaps(boxes: Tensor, objects: Tensor) -> Tensor:
    """Return the IoU (C, N)."""
    both, either = _both_and_either(boxes[:, None], objects[None])
    return both / either.clamp(min=1e-6)


def _both_and_either(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas of intersection and of union."""
    left_top, right_bottom = torch.max(a[..., :2], b[..., :2]), torch.min(a[..., 2:], b[..., 2:])
    both = (right_bottom - left_top).clamp(min=0).prod(-1)
    return both, _area(a) + _area(b) - both


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


@lru_cache(16)
def _grid(size: tuple[int, int], device: torch.device) -> _AnchorPoints:
    centres, strides = [], []
    for stride in NANODET_PLUS.strides:
        rows = torch.arange(-(-size[1] // stride), device=device)
        columns = torch.arange(-(-size[0] // stride), device=device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        points = torch.stack([x.flatten(), y.flatten()], dim=1) + NANODET_PLUS.centre
        centres.append(points * stride)
        strides.append(torch.full((x.numel(),), float(stride), device=device))
    return _AnchorPoints(torch.cat(centres), torch.cat(strides))
