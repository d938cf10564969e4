"""Guess the output format and the input of an unknown network from names and shapes.

Pure. `candidates` returns every format that fits; if several fit, the caller asks the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from framegate.models import coco
from framegate.models.formats.shared_decoding import Size
from framegate.models.registry.manifest import InputSpec

Shape = tuple[int | None, ...]  # None: an open axis


@dataclass(frozen=True, slots=True)
class Port:
    """An output of a network. `shape` includes the batch axis; None: even the rank is open."""

    name: str
    shape: Shape | None
    is_integer: bool = False

    def __str__(self) -> str:
        """Return name and axes, with `?` for an open axis."""
        return f"{self.name} {_words(self.shape)}"

    def axes(self, rank: int) -> Shape | None:
        """Return the shape as `rank` axes without the batch axis; None: it has another rank."""
        if self.shape is None:
            return None
        if len(self.shape) == rank + 1 and self.shape[0] in (1, None):
            return self.shape[1:]
        if len(self.shape) == rank:
            return self.shape
        return None

    def has_word(self, words: Sequence[str]) -> bool:
        """Return whether the name contains one of `words`."""
        return re.search("|".join(words), self.name, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class FormatGuess:
    """A format that fits the outputs of a network.

    format     a key of `formats.FORMATS`
    ports      indices of the outputs, in the order of the format
    n_classes  number of classes that the shapes imply; 0: any number
    why        the evidence, for the user
    options    of the format, as far as the shapes imply them
    """

    format: str
    ports: tuple[int, ...]
    n_classes: int
    why: str
    options: dict[str, Any] = field(default_factory=dict)


def candidates(ports: Sequence[Port], size: Size, n_classes: int | None) -> list[FormatGuess]:
    """Return every known format that fits the outputs.

    size       (width, height) of the input
    n_classes  None: not known. Formats that imply another number are omitted, except networks that
               number the 80 classes of COCO by its ids, which run to 90
    """
    used = [index for index, port in enumerate(ports) if not _is_count(port, len(ports))]
    guesses = []
    for guess in _formats([ports[index] for index in used], size, n_classes):
        if n_classes in (None, guess.n_classes):
            order = tuple(used[port] for port in guess.ports)
            guesses.append(replace(guess, ports=order))
    return guesses


def _formats(ports: Sequence[Port], size: Size, n_classes: int | None) -> Iterator[FormatGuess]:
    if len(ports) == 1:
        yield from _rows_of_boxes(ports[0], size, n_classes)
    elif len(ports) == 2:
        yield from _boxes_and_scores(ports, size, n_classes)
    elif len(ports) == 3:
        yield from _boxes_scores_labels(ports, n_classes)
        yield from _three_maps(ports)


def _is_count(port: Port, n_ports: int) -> bool:
    """Return whether it is the number of boxes, a fourth output of some exporters."""
    return n_ports == 4 and port.is_integer and port.shape in ((1, 1), (1,), (None, 1))


# -- One output: a row of numbers per box.


_MAX_QUERIES = 1000  # more rows are neither queries nor boxes after suppression
_GRIDS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8,), (16,), (32,))


def cells(size: Size, strides: Sequence[int]) -> int:
    """Return the number of cells in the grids of a network, with partial cells."""
    return sum(-(-size[0] // s) * -(-size[1] // s) for s in strides)


def _rows_of_boxes(port: Port, size: Size, n_classes: int | None) -> Iterator[FormatGuess]:
    """Yield formats of (N, numbers), a row per box, and of (numbers, N), a column per box."""
    if port.shape is not None and port.shape[-1] == 7:
        yield from _sevens(port, n_classes)
    shape = port.axes(2)
    if shape is None:
        return
    if shape[1] == 6 and (shape[0] is None or shape[0] <= _MAX_QUERIES):
        why = f"{_words(shape)}: box, score and class of at most {shape[0] or 'some'} boxes"
        yield FormatGuess("yolo_end_to_end", (0,), n_classes or 0, why)
    n, width = shape
    may_be_columns = n_classes is not None
    if n and width:
        may_be_columns = width > n
    if n is not None and n > 4 and may_be_columns and n_classes in (None, n - 4):
        why = f"{_words(shape)}: 4 numbers of a box and {n - 4} class scores, a column per box"
        yield FormatGuess("yolo", (0,), n - 4, why, {"layout": "columns"})
    if width is not None and width > 4 and (n is None or n >= width or n_classes is not None):
        yield from _rows(n, width, size, n_classes)


def _sevens(port: Port, n_classes: int | None) -> Iterator[FormatGuess]:
    shape = port.shape or ()
    if len(shape) >= 3 and shape[-3] == 1:
        why = f"{_words(shape)}: picture, class, score and box, as DetectionOutput gives them"
        yield FormatGuess("ssd_rows", (0,), n_classes or 0, why)
    rows = port.axes(2)
    if rows is not None and (rows[0] is None or rows[0] <= _MAX_QUERIES):
        why = f"{_words(rows)}: picture, box, class and score, as YOLO v7 gives them"
        yield FormatGuess("yolo_end_to_end", (0,), n_classes or 0, why)


def _rows(n: int | None, width: int, size: Size, n_classes: int | None) -> Iterator[FormatGuess]:
    """Yield formats with a row of `width` numbers per box."""
    shape = _words((n, width))
    grid = next((g for g in _GRIDS if n == cells(size, g)), None)
    anchors = next((g for g in _GRIDS if n == 3 * cells(size, g)), None)
    is_dense = n is None or n > _MAX_QUERIES
    rows = {"layout": "rows"}
    if width > 5 and grid is None and (is_dense or anchors):
        why = f"{shape}: box, objectness and {width - 5} class scores"
        if anchors:
            why += f", 3 boxes per cell of strides {_list(anchors)}"
        yield FormatGuess("yolo_objectness", (0,), width - 5, why, rows)
    if width > 5 and grid is not None:
        why = f"{shape}: box, objectness and {width - 5} class scores"
        why += f", a row per cell of strides {_list(grid)}"
        finished = f"{why}, finished boxes"
        yield FormatGuess("yolo_objectness", (0,), width - 5, finished, rows)
        in_cells = rows | {"strides": list(grid)}
        yield FormatGuess("yolox", (0,), width - 5, f"{why}, in cells", in_cells)
    if anchors is None and (is_dense or grid):
        why = f"{shape}: box and {width - 4} class scores, a row per box"
        yield FormatGuess("yolo", (0,), width - 4, why, rows)
    if n is not None and n <= _MAX_QUERIES and anchors is None:
        why = f"{shape}: box and {width - 4} class scores of {n} queries"
        yield FormatGuess("detr_joined", (0,), width - 4, why)
    if grid is not None:
        yield from _bins(shape, width, grid, n_classes)


def _bins(
    shape: str, width: int, grid: tuple[int, ...], n_classes: int | None
) -> Iterator[FormatGuess]:
    """Yield formats of NanoDet: 8 bins per side, or 11 in older versions."""
    for bins, centre in ((8, 0.0), (11, 0.5)):
        implied = width - 4 * bins
        if implied > 0 and (n_classes is not None or len(grid) > 2):
            why = f"{shape}: {implied} class scores and {bins} bins per side"
            why += f", a row per cell of strides {_list(grid)}"
            options = {"strides": list(grid), "centre": centre}
            yield FormatGuess("nanodet_joined", (0,), implied, why, options)


def _list(strides: tuple[int, ...]) -> str:
    return ", ".join(str(stride) for stride in strides)


def _words(shape: Shape | None) -> str:
    if shape is None:
        return "[...]"
    axes = ", ".join(str(n) for n in shape)
    return f"[{axes}]".replace("None", "?")


# -- Two or three outputs: boxes, and their scores or labels in separate outputs.


# The default boxes of torchvision's two SSDs, by size of the input and number of boxes.
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
_LABELS = ("label", "class")
_HEAT = ("heat", "hm", "cls")
_OFFSETS = ("off", "reg")


def _boxes_and_scores(
    ports: Sequence[Port], size: Size, n_classes: int | None
) -> Iterator[FormatGuess]:
    """Yield formats of boxes (N, 4) and numbers per class (N, C)."""
    for order in ((0, 1), (1, 0)):
        boxes, scores = (ports[i].axes(2) for i in order)
        if boxes is None or scores is None or boxes[1] != 4 or scores[1] is None:
            continue
        if None not in (boxes[0], scores[0]) and boxes[0] != scores[0]:
            continue
        # Both may have 4 columns; then the names decide.
        are_boxes = [ports[i].has_word(_BOXES) for i in order]
        if scores[1] == 4 and are_boxes == [False, True]:
            continue
        yield from _pair(ports, order, boxes[0], scores[1], size, n_classes)


def _pair(
    ports: Sequence[Port],
    order: tuple[int, int],
    n: int | None,
    width: int,
    size: Size,
    n_classes: int | None,
) -> Iterator[FormatGuess]:
    """Yield formats of boxes `order[0]` and numbers per class `order[1]`."""
    boxes, scores = (ports[i] for i in order)
    has_scores = scores.has_word(_SCORES)
    pair = f"boxes {boxes.name!r} [{n or '?'}, 4] and {scores.name!r} [{n or '?'}, {width}]"
    if not has_scores and (n is None or n <= _MAX_QUERIES):
        queries = f"of {n or 'some'} queries"
        count, options = _classes(width - 1, n_classes, coco_width=91)
        why = f"{pair}: softmax logits with a column for no object, {queries}"
        yield FormatGuess("detr_softmax", order[::-1], count, why, options)
        count, options = _classes(width, n_classes, coco_width=91)
        why = f"{pair}: independent sigmoid logits, {queries}"
        yield FormatGuess("detr_sigmoid", order[::-1], count, why, options)
    if not has_scores and (n is None or n > _MAX_QUERIES):
        count, options = _classes(width - 1, n_classes, coco_width=90)
        known = SSD_OPTIONS.get((size, n or 0), {})
        default_boxes = "default boxes in --option"
        if known:
            default_boxes = "default boxes of torchvision's SSD"
        why = f"{pair}: location deltas and logits with a background, {default_boxes}"
        yield FormatGuess("ssd_deltas", order, count, why, known | options)
    if has_scores or not scores.has_word(_LOGITS):
        count, options = _classes(width, n_classes, coco_width=91)
        yield FormatGuess("boxes_scores", order, count, f"{pair}: scores per class", options)


def _boxes_scores_labels(ports: Sequence[Port], n_classes: int | None) -> Iterator[FormatGuess]:
    """Yield the formats of boxes (N, 4), scores (N,) and labels (N,)."""
    boxes = [i for i, port in enumerate(ports) if (port.axes(2) or (0,))[-1] == 4]
    if len(boxes) != 1:
        return
    rest = [i for i in range(3) if i != boxes[0] and ports[i].axes(1) is not None]
    if len(rest) != 2:
        return
    # Labels are the only integers, or the only output with such a name; else either may be labels.
    by_type = [i for i in rest if ports[i].is_integer]
    by_name = [i for i in rest if ports[i].has_word(_LABELS) and not ports[i].has_word(_SCORES)]
    certain = by_type or by_name
    possible = rest
    if len(certain) == 1:
        possible = certain
    for labels in possible:
        scores = next(i for i in rest if i != labels)
        order = (boxes[0], scores, labels)
        names = [repr(ports[i].name) for i in order]
        why = f"boxes {names[0]}, scores {names[1]}, labels {names[2]}: a row per box"
        yield FormatGuess("boxes_labels", order, n_classes or 0, why)


def _classes(width: int, n_classes: int | None, coco_width: int) -> tuple[int, dict[str, Any]]:
    """Return the number of classes in `width` columns; the ids of COCO run to 90 with gaps."""
    if n_classes == coco.N_CLASSES and width == coco_width:
        return coco.N_CLASSES, {"class_numbers": list(coco.CATEGORY_IDS)}
    return width, {}


# -- Three outputs that are maps over the picture.


def _three_maps(ports: Sequence[Port]) -> Iterator[FormatGuess]:
    """Yield heat, width and height, offset. Only names distinguish the latter two."""
    maps = [port.axes(3) for port in ports]
    twos = [i for i, shape in enumerate(maps) if shape and shape[0] == 2]
    if len(twos) == 3:
        twos = [i for i in twos if not ports[i].has_word(_HEAT)]
    heats = [i for i in range(3) if i not in twos]
    if len(twos) != 2 or len(heats) != 1:
        return
    heat = maps[heats[0]]
    if heat is None or not heat[0] or any((maps[i] or ())[1:] != heat[1:] for i in twos):
        return
    named = [i for i in twos if ports[i].has_word(_OFFSETS)]
    possible = twos
    if len(named) == 1:
        possible = named
    for offset in possible:
        sides = next(i for i in twos if i != offset)
        order = (heats[0], sides, offset)
        names = [repr(ports[i].name) for i in order]
        why = f"heat {names[0]} of {heat[0]} classes, width and height {names[1]}, "
        yield FormatGuess("centernet_usual", order, heat[0], f"{why}offset {names[2]}")


# -- The input: the usual pre-processing of the family of detectors with these outputs.


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Usual:
    """The usual input of a family of detectors, as the fields of InputSpec without the size."""

    family: str
    fit: str = "letterbox"
    fill: int = 114
    colour: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


_DETR = Usual("DETR", "stretch", 0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_NANODET = Usual(
    "NanoDet", "stretch", 0, "bgr", 1.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
)
USUAL: dict[str, Usual] = {
    "yolo": Usual("YOLO v8 to v12"),
    "yolo_objectness": Usual("YOLO v5 to v7"),
    "yolo_end_to_end": Usual("YOLO"),
    "yolox": Usual("YOLOX", "corner", 114, "bgr", 1.0),
    "detr_softmax": _DETR,
    "detr_sigmoid": Usual("RT-DETR", "stretch", 0),
    "detr_joined": Usual("RT-DETR", "stretch", 0),
    "ssd_rows": Usual("Caffe's and OpenVINO's SSDs", "stretch", 0, "bgr", 1.0),
    "ssd_deltas": Usual("torchvision's SSD300", "stretch", 0, mean=(0.48235, 0.45882, 0.40784),
                        std=(1 / 255, 1 / 255, 1 / 255)),
    "centernet_usual": Usual("CenterNet", "letterbox", 0, "bgr", 1 / 255,
                             (0.408, 0.447, 0.470), (0.289, 0.274, 0.278)),
    "nanodet_joined": _NANODET,
    "boxes_labels": Usual("torchvision, which normalises inside and pads right and below",
                          "corner", 0),
    "boxes_scores": Usual("most exports"),
}  # fmt: skip
_SSDLITE = Usual("torchvision's SSDlite", "stretch", 0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def guess_input(format_: str, size: Size, given: dict[str, Any]) -> tuple[InputSpec, str]:
    """Return the input of a network of `size` (width, height), and the reason in a line.

    given  the user's values by field of InputSpec, which take precedence

    Raises ManifestRefused for invalid values.
    """
    usual = USUAL[format_]
    if format_ == "ssd_deltas" and size == (320, 320):
        usual = _SSDLITE
    values = {
        key: given.get(key, getattr(usual, key))
        for key in ("fit", "fill", "colour", "scale", "mean", "std")
    }
    spec = InputSpec(size[0], size[1], **values)
    reason = f"{spec}: usual for {usual.family}"
    if given:
        reason += f"; as given: {', '.join(sorted(given))}"
    return spec, reason
