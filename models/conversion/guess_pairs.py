"""Readings of a network whose boxes and scores are outputs of their own."""

from collections.abc import Iterator, Sequence
from typing import Any

from framegate.models import coco
from framegate.models.conversion.guess_rows import FEW
from framegate.models.conversion.output_port import Candidate, Port
from framegate.models.formats.candidates import Size

# Of torchvision's two SSDs, by input and number of boxes.
SSD_OPTIONS: dict[tuple[Size, int], dict[str, Any]] = {
    ((300, 300), 8732): {
        "aspect_ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        "scales": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        "steps": [8, 16, 32, 64, 100, 300],
    },
    ((320, 320), 3234): {
        "aspect_ratios": [[2, 3]] * 6,
        "min_ratio": 0.2,
        "max_ratio": 0.95,
        "grids": [[20, 20], [10, 10], [5, 5], [3, 3], [2, 2], [1, 1]],
    },
}
_BOXES, _SCORES = ("box", "loc", "reg", "det"), ("score", "prob", "conf")
_LOGITS = ("logit", "cls", "class", "label")


def two(ports: Sequence[Port], size: Size, n_classes: int | None) -> Iterator[Candidate]:
    """Boxes (N, 4) and numbers a class (N, C)."""
    for order in ((0, 1), (1, 0)):
        boxes, scores = (ports[i].own(2) for i in order)
        if boxes is None or scores is None or boxes[1] != 4 or scores[1] is None:
            continue
        if None not in (boxes[0], scores[0]) and boxes[0] != scores[0]:
            continue
        says_boxes = [ports[i].named(*_BOXES) for i in order]
        if scores[1] == 4 and says_boxes == [False, True]:
            continue
        yield from _pair(ports, order, boxes[0], scores[1], size, n_classes)


def _pair(
    ports: Sequence[Port],
    order: tuple[int, int],
    n: int | None,
    width: int,
    size: Size,
    n_classes: int | None,
) -> Iterator[Candidate]:
    says_scores = ports[order[1]].named(*_SCORES)
    what = f"boxes {ports[order[0]].name!r} [{n or '?'}, 4] and {ports[order[1]].name!r}"
    what = f"{what} [{n or '?'}, {width}]"
    turned = order[::-1]
    if not says_scores and (n is None or n <= FEW):
        for name, spare, words in (
            ("detr_softmax", 1, "logits with one for no object"),
            ("detr_sigmoid", 0, "logits, each of its own"),
        ):
            count, options = _classes(width - spare, n_classes, coco_width=91)
            why = f"{what}: {words}, of {n or 'some'} queries"
            yield Candidate(name, turned, count, why, options)
    if not says_scores and (n is None or n > FEW):
        count, options = _classes(width - 1, n_classes, coco_width=90)
        known = SSD_OPTIONS.get((size, n or 0), {})
        whose = "as torchvision's SSD has them" if known else "default boxes in --option"
        why = f"{what}: location deltas and logits with a background, {whose}"
        yield Candidate("ssd_deltas", order, count, why, known | options)
    if says_scores or not ports[order[1]].named(*_LOGITS):
        count, options = _classes(width, n_classes, coco_width=91)
        yield Candidate("boxes_scores", order, count, f"{what}: scores a class", options)


def three(ports: Sequence[Port], n_classes: int | None) -> Iterator[Candidate]:
    """Boxes (N, 4), scores (N,) and labels (N,)."""
    boxes = [i for i, port in enumerate(ports) if (port.own(2) or (0,))[-1] == 4]
    if len(boxes) != 1:
        return
    rest = [i for i in range(3) if i != boxes[0] and ports[i].own(1) is not None]
    if len(rest) != 2:
        return
    whole = [i for i in rest if ports[i].is_integer] or [
        i for i in rest if ports[i].named("label", "class") and not ports[i].named(*_SCORES)
    ]
    for labels in whole if len(whole) == 1 else rest:
        scores = next(i for i in rest if i != labels)
        names = [repr(ports[i].name) for i in (boxes[0], scores, labels)]
        why = f"boxes {names[0]}, scores {names[1]}, labels {names[2]}: one a box"
        ports_of = (boxes[0], scores, labels)
        yield Candidate("boxes_labels", ports_of, n_classes or 0, why)


def _classes(width: int, n_classes: int | None, coco_width: int) -> tuple[int, dict[str, Any]]:
    """How many classes `width` columns are; COCO's own numbers run to 90 with gaps."""
    if n_classes == coco.N_CLASSES and width == coco_width:
        return coco.N_CLASSES, {"class_numbers": list(coco.CATEGORY_IDS)}
    return width, {}
