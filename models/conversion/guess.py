"""What an unknown network may be: its output format and its input, guessed from names and shapes.

Pure. Every format that fits is given: the caller takes the only one, and asks the user where there
are several.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from framegate.models import coco
from framegate.models.formats.decoding import Size
from framegate.models.formats.nanodet import BINS, STRIDES
from framegate.models.registry.model_folder import InputSpec

Shape = tuple[int | None, ...]  # None: an axis that stays open


@dataclass(frozen=True, slots=True)
class Port:
    """One output of a network, batch axis and all; `shape` is None where even its rank is open."""

    name: str
    shape: Shape | None
    is_integer: bool = False

    def __str__(self) -> str:
        """Give its name and axes, `?` for one that is open."""
        return f"{self.name} {_words(self.shape)}"

    def own(self, rank: int) -> Shape | None:
        """Return its shape as `rank` axes without the batch axis; None if that cannot be."""
        if self.shape is None:
            return None
        if len(self.shape) == rank + 1 and self.shape[0] in (1, None):
            return self.shape[1:]
        return self.shape if len(self.shape) == rank else None

    def named(self, *words: str) -> bool:
        """Return whether its name has one of these in it."""
        return re.search("|".join(words), self.name, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class FormatGuess:
    """A format that a network's outputs may have, as their shapes fit it.

    format     a key of `formats.FORMATS`
    ports      indices of the outputs, in the order of the format
    n_classes  that the shapes imply; 0: any number
    why        what speaks for it, for people
    options    of the format, as far as the shapes tell
    """

    format: str
    ports: tuple[int, ...]
    n_classes: int
    why: str
    options: dict[str, Any] = field(default_factory=dict)


def candidates(ports: Sequence[Port], size: Size, n_classes: int | None) -> list[FormatGuess]:
    """Every format that fits the outputs; empty: none that is read.

    size       (width, height) of the input
    n_classes  None: not known. Formats that imply another number are left out, but for networks
               that count 80 classes by COCO's own numbers, to 90
    """
    used = [i for i, port in enumerate(ports) if not _is_count(port, len(ports))]
    found = [
        one
        for one in _formats([ports[i] for i in used], size, n_classes)
        if n_classes in (None, one.n_classes)
    ]
    return [_at(one, used) for one in found]


def _formats(ports: Sequence[Port], size: Size, n_classes: int | None) -> Iterator[FormatGuess]:
    if len(ports) == 1:
        yield from _rows_of_boxes(ports[0], size, n_classes)
    elif len(ports) == 2:
        yield from _boxes_and_scores(ports, size, n_classes)
        yield from _heat_and_sides(ports)
    elif len(ports) == 3:
        yield from _boxes_scores_labels(ports, n_classes)
        yield from _three_maps(ports, size)


def _is_count(port: Port, n_ports: int) -> bool:
    """The number of boxes, which some exporters give beside boxes, scores and labels."""
    return n_ports == 4 and port.is_integer and port.shape in ((1, 1), (1,), (None, 1))


def _at(one: FormatGuess, used: Sequence[int]) -> FormatGuess:
    ports = tuple(used[i] for i in one.ports)
    return FormatGuess(one.format, ports, one.n_classes, one.why, one.options)


# -- One output: rows of numbers, one a box.


_FEW = 1000  # more rows are no queries and no suppressed boxes
_GRIDS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8,), (16,), (32,))


def cells(size: Size, strides: Sequence[int]) -> int:
    """Cells of the grids of a network, parts of cells counted whole."""
    return sum(-(-size[0] // s) * -(-size[1] // s) for s in strides)


def _rows_of_boxes(port: Port, size: Size, n_classes: int | None) -> Iterator[FormatGuess]:
    """One output: (N, numbers), a row a box, or (numbers, N)."""
    if port.shape is not None and port.shape[-1] == 7:
        yield from _sevens(port, n_classes)
    shape = port.own(2)
    if shape is None:
        return
    if shape[1] == 6 and (shape[0] is None or shape[0] <= _FEW):
        why = f"{_words(shape)}: box, score and class of at most {shape[0] or 'some'} boxes"
        yield FormatGuess("yolo_end_to_end", (0,), n_classes or 0, why)
    n, width = shape
    is_long = width > n if n and width else n_classes is not None
    if n is not None and n > 4 and is_long and n_classes in (None, n - 4):
        why = f"{_words(shape)}: 4 numbers of a box and {n - 4} class scores, a column a box"
        yield FormatGuess("yolo", (0,), n - 4, why, {"layout": "columns"})
    if width is not None and width > 4 and (n is None or n >= width or n_classes is not None):
        yield from _rows(n, width, size, n_classes)


def _sevens(port: Port, n_classes: int | None) -> Iterator[FormatGuess]:
    shape = port.shape or ()
    if len(shape) >= 3 and shape[-3] == 1:
        why = f"{_words(shape)}: picture, class, score and box, as DetectionOutput gives them"
        yield FormatGuess("ssd_rows", (0,), n_classes or 0, why)
    own = port.own(2)
    if own is not None and (own[0] is None or own[0] <= _FEW):
        why = f"{_words(own)}: picture, box, class and score, as YOLO v7 gives them"
        yield FormatGuess("yolo_end_to_end", (0,), n_classes or 0, why)


def _rows(n: int | None, width: int, size: Size, n_classes: int | None) -> Iterator[FormatGuess]:
    """A row a box, of `width` numbers."""
    shape = _words((n, width))
    grid = next((g for g in _GRIDS if n == cells(size, g)), None)
    anchors = next((g for g in _GRIDS if n == 3 * cells(size, g)), None)
    if width > 5 and grid is None and (n is None or n > _FEW or anchors):
        why = f"{shape}: box, objectness and {width - 5} class scores"
        why += f", 3 boxes a cell of strides {_list(anchors)}" if anchors else ""
        yield FormatGuess("yolo_objectness", (0,), width - 5, why, {"layout": "rows"})
    if width > 5 and grid is not None:
        why = f"{shape}: box, objectness and {width - 5} class scores, a cell of strides"
        for name, form in (("yolo_objectness", "finished boxes"), ("yolox", "in cells")):
            options = {"layout": "rows"} | ({"strides": list(grid)} if name == "yolox" else {})
            yield FormatGuess(name, (0,), width - 5, f"{why} {_list(grid)}, {form}", options)
    if anchors is None and (n is None or grid or n > _FEW):
        why = f"{shape}: box and {width - 4} class scores, a row a box"
        yield FormatGuess("yolo", (0,), width - 4, why, {"layout": "rows"})
    if n is not None and n <= _FEW and anchors is None:
        why = f"{shape}: box and {width - 4} class scores of {n} queries"
        yield FormatGuess("detr_joined", (0,), width - 4, why)
    if grid is not None:
        yield from _bins(shape, width, grid, n_classes)


def _bins(
    shape: str, width: int, grid: tuple[int, ...], n_classes: int | None
) -> Iterator[FormatGuess]:
    """NanoDet: 8 bins a side for its strides 8 to 64 or 8 to 32, 11 for the older ones."""
    for bins, centre in ((8, 0.0), (11, 0.5)):
        implied = width - 4 * bins
        if implied > 0 and (n_classes is not None or len(grid) > 2):
            why = f"{shape}: {implied} class scores and {bins} bins a side, a cell of strides "
            options = {"strides": list(grid), "centre": centre}
            yield FormatGuess("nanodet_joined", (0,), implied, why + _list(grid), options)


def _list(strides: tuple[int, ...]) -> str:
    return ", ".join(str(stride) for stride in strides)


def _words(shape: Shape | None) -> str:
    axes = "..." if shape is None else ", ".join("?" if n is None else str(n) for n in shape)
    return f"[{axes}]"


# -- Two or three outputs: boxes, and what they are in outputs of their own.


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


def _boxes_and_scores(
    ports: Sequence[Port], size: Size, n_classes: int | None
) -> Iterator[FormatGuess]:
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
) -> Iterator[FormatGuess]:
    says_scores = ports[order[1]].named(*_SCORES)
    what = f"boxes {ports[order[0]].name!r} [{n or '?'}, 4] and {ports[order[1]].name!r}"
    what = f"{what} [{n or '?'}, {width}]"
    turned = order[::-1]
    if not says_scores and (n is None or n <= _FEW):
        for name, spare, words in (
            ("detr_softmax", 1, "logits with one for no object"),
            ("detr_sigmoid", 0, "logits, each of its own"),
        ):
            count, options = _classes(width - spare, n_classes, coco_width=91)
            why = f"{what}: {words}, of {n or 'some'} queries"
            yield FormatGuess(name, turned, count, why, options)
    if not says_scores and (n is None or n > _FEW):
        count, options = _classes(width - 1, n_classes, coco_width=90)
        known = SSD_OPTIONS.get((size, n or 0), {})
        whose = "as torchvision's SSD has them" if known else "default boxes in --option"
        why = f"{what}: location deltas and logits with a background, {whose}"
        yield FormatGuess("ssd_deltas", order, count, why, known | options)
    if says_scores or not ports[order[1]].named(*_LOGITS):
        count, options = _classes(width, n_classes, coco_width=91)
        yield FormatGuess("boxes_scores", order, count, f"{what}: scores a class", options)


def _boxes_scores_labels(ports: Sequence[Port], n_classes: int | None) -> Iterator[FormatGuess]:
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
        yield FormatGuess("boxes_labels", ports_of, n_classes or 0, why)


def _classes(width: int, n_classes: int | None, coco_width: int) -> tuple[int, dict[str, Any]]:
    """How many classes `width` columns are; COCO's own numbers run to 90 with gaps."""
    if n_classes == coco.N_CLASSES and width == coco_width:
        return coco.N_CLASSES, {"class_numbers": list(coco.CATEGORY_IDS)}
    return width, {}


# -- Two or three outputs that are maps over the picture.


def _heat_and_sides(ports: Sequence[Port]) -> Iterator[FormatGuess]:
    """Our CenterNet: heat (classes, h, w), sides (4, h, w)."""
    for order in ((0, 1), (1, 0)):
        heat, sides = (ports[i].own(3) for i in order)
        if heat is None or sides is None or sides[0] != 4 or heat[1:] != sides[1:]:
            continue
        if heat[0] == 4 and ports[order[1]].named("heat", "hm", "cls"):
            continue
        if heat[0]:
            why = f"heat {ports[order[0]].name!r} of {heat[0]} classes and four sides"
            yield FormatGuess("centernet", order, heat[0], why)


def _three_maps(ports: Sequence[Port], size: Size) -> Iterator[FormatGuess]:
    """NanoDet's three heads, or the usual CenterNet."""
    maps = [port.own(3) for port in ports]
    by_stride = {}
    for i, shape in enumerate(maps):
        for stride in STRIDES:
            if shape and shape[1:] == (size[1] // stride, size[0] // stride):
                by_stride[stride] = i
    channels = {shape[0] for shape in maps if shape}
    if len(by_stride) == 3 and len(channels) == 1:
        n_classes = (channels.pop() or 0) - 4 * BINS
        if n_classes > 0:
            order = tuple(by_stride[stride] for stride in STRIDES)
            why = f"heads of strides 8, 16, 32 with {n_classes} classes and {BINS} bins a side"
            yield FormatGuess("nanodet", order, n_classes, why)
    yield from _usual_centernet(ports)


def _usual_centernet(ports: Sequence[Port]) -> Iterator[FormatGuess]:
    """Heat, width and height, offset; of the latter two only names tell which is which."""
    maps = [port.own(3) for port in ports]
    twos = [i for i, shape in enumerate(maps) if shape and shape[0] == 2]
    if len(twos) == 3:
        twos = [i for i in twos if not ports[i].named("heat", "hm", "cls")]
    heats = [i for i in range(3) if i not in twos]
    if len(twos) != 2 or len(heats) != 1:
        return
    heat = maps[heats[0]]
    if heat is None or not heat[0] or any((maps[i] or ())[1:] != heat[1:] for i in twos):
        return
    offsets = [i for i in twos if ports[i].named("off", "reg")]
    for offset in offsets if len(offsets) == 1 else twos:
        sides = next(i for i in twos if i != offset)
        names = [repr(ports[i].name) for i in (heats[0], sides, offset)]
        why = f"heat {names[0]} of {heat[0]} classes, width and height {names[1]}, "
        order = (heats[0], sides, offset)
        yield FormatGuess("centernet_usual", order, heat[0], f"{why}offset {names[2]}")


# -- The input: what is usual for the family of detectors that has such outputs.


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Usual:
    """What a family of detectors takes, apart from the size; as InputSpec has it."""

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
    "centernet": Usual("our CenterNet", "corner", 0, "bgr", 1.0),
    "centernet_usual": Usual("CenterNet", "letterbox", 0, "bgr", 1 / 255,
                             (0.408, 0.447, 0.470), (0.289, 0.274, 0.278)),
    "nanodet": Usual("our NanoDet, which normalises inside", "corner", 0, "bgr", 1.0),
    "nanodet_joined": _NANODET,
    "boxes_labels": Usual("torchvision, which normalises inside and pads right and below",
                          "corner", 0),
    "boxes_scores": Usual("most exports"),
}  # fmt: skip
_SSDLITE = Usual("torchvision's SSDlite", "stretch", 0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def guess_input(format_: str, size: Size, said: dict[str, Any]) -> tuple[InputSpec, str]:
    """The input of a network of `size` (width, height), and a line that says why.

    said  what the user says of it, by the names of InputSpec's fields; that wins

    Raises ManifestRefused for values that cannot be.
    """
    usual = _SSDLITE if format_ == "ssd_deltas" and size == (320, 320) else USUAL[format_]
    values = {
        key: said.get(key, getattr(usual, key))
        for key in ("fit", "fill", "colour", "scale", "mean", "std")
    }
    spec = InputSpec(size[0], size[1], **values)
    words = f"{spec}: usual for {usual.family}"
    if said:
        words += f"; as given: {', '.join(sorted(said))}"
    return spec, words
