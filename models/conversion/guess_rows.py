"""Readings of a network with one output: rows of numbers, one a box."""

from collections.abc import Iterator

from framegate.models.conversion.output_port import Candidate, Port, Shape, Size, cells

FEW = 1000  # more rows are no queries and no suppressed boxes
_GRIDS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8,), (16,), (32,))


def one(port: Port, size: Size, n_classes: int | None) -> Iterator[Candidate]:
    """What the one output may be."""
    if port.shape is not None and port.shape[-1] == 7:
        yield from _sevens(port, n_classes)
    shape = port.own(2)
    if shape is None:
        return
    if shape[1] == 6 and (shape[0] is None or shape[0] <= FEW):
        why = f"{_words(shape)}: box, score and class of at most {shape[0] or 'some'} boxes"
        yield Candidate("yolo_end_to_end", (0,), n_classes or 0, why)
    n, width = shape
    is_long = width > n if n and width else n_classes is not None
    if n is not None and n > 4 and is_long and n_classes in (None, n - 4):
        why = f"{_words(shape)}: 4 numbers of a box and {n - 4} class scores, a column a box"
        yield Candidate("yolo", (0,), n - 4, why, {"layout": "columns"})
    if width is not None and width > 4 and (n is None or n >= width or n_classes is not None):
        yield from _rows(n, width, size, n_classes)


def _sevens(port: Port, n_classes: int | None) -> Iterator[Candidate]:
    shape = port.shape or ()
    if len(shape) >= 3 and shape[-3] == 1:
        why = f"{_words(shape)}: picture, class, score and box, as DetectionOutput gives them"
        yield Candidate("ssd_rows", (0,), n_classes or 0, why)
    own = port.own(2)
    if own is not None and (own[0] is None or own[0] <= FEW):
        why = f"{_words(own)}: picture, box, class and score, as YOLO v7 gives them"
        yield Candidate("yolo_end_to_end", (0,), n_classes or 0, why)


def _rows(n: int | None, width: int, size: Size, n_classes: int | None) -> Iterator[Candidate]:
    """A row a box, of `width` numbers."""
    shape = _words((n, width))
    grid = next((g for g in _GRIDS if n == cells(size, g)), None)
    anchors = next((g for g in _GRIDS if n == 3 * cells(size, g)), None)
    if width > 5 and grid is None and (n is None or n > FEW or anchors):
        why = f"{shape}: box, objectness and {width - 5} class scores"
        why += f", 3 boxes a cell of strides {_list(anchors)}" if anchors else ""
        yield Candidate("yolo_objectness", (0,), width - 5, why, {"layout": "rows"})
    if width > 5 and grid is not None:
        why = f"{shape}: box, objectness and {width - 5} class scores, a cell of strides"
        for name, form in (("yolo_objectness", "finished boxes"), ("yolox", "in cells")):
            options = {"layout": "rows"} | ({"strides": list(grid)} if name == "yolox" else {})
            yield Candidate(name, (0,), width - 5, f"{why} {_list(grid)}, {form}", options)
    if anchors is None and (n is None or grid or n > FEW):
        why = f"{shape}: box and {width - 4} class scores, a row a box"
        yield Candidate("yolo", (0,), width - 4, why, {"layout": "rows"})
    if n is not None and n <= FEW and anchors is None:
        why = f"{shape}: box and {width - 4} class scores of {n} queries"
        yield Candidate("detr_joined", (0,), width - 4, why)
    if grid is not None:
        yield from _bins(shape, width, grid, n_classes)


def _bins(
    shape: str, width: int, grid: tuple[int, ...], n_classes: int | None
) -> Iterator[Candidate]:
    """NanoDet: 8 bins a side for its strides 8 to 64 or 8 to 32, 11 for the older ones."""
    for bins, centre in ((8, 0.0), (11, 0.5)):
        implied = width - 4 * bins
        if implied > 0 and (n_classes is not None or len(grid) > 2):
            why = f"{shape}: {implied} class scores and {bins} bins a side, a cell of strides "
            options = {"strides": list(grid), "centre": centre}
            yield Candidate("nanodet_joined", (0,), implied, why + _list(grid), options)


def _words(shape: Shape) -> str:
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


def _list(strides: tuple[int, ...]) -> str:
    return ", ".join(str(stride) for stride in strides)
