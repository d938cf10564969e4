"""Readings of a network whose outputs are maps over the picture."""

from collections.abc import Iterator, Sequence

from framegate.models.conversion.output_port import Candidate, Port, Size
from framegate.models.formats.nanodet import BINS, STRIDES


def heat_and_sides(ports: Sequence[Port]) -> Iterator[Candidate]:
    """Our CenterNet: heat (classes, h, w), sides (4, h, w)."""
    for order in ((0, 1), (1, 0)):
        heat, sides = (ports[i].own(3) for i in order)
        if heat is None or sides is None or sides[0] != 4 or heat[1:] != sides[1:]:
            continue
        if heat[0] == 4 and ports[order[1]].named("heat", "hm", "cls"):
            continue
        if heat[0]:
            why = f"heat {ports[order[0]].name!r} of {heat[0]} classes and four sides"
            yield Candidate("centernet", order, heat[0], why)


def three(ports: Sequence[Port], size: Size) -> Iterator[Candidate]:
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
            yield Candidate("nanodet", order, n_classes, why)
    yield from _usual_centernet(ports)


def _usual_centernet(ports: Sequence[Port]) -> Iterator[Candidate]:
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
        yield Candidate("centernet_usual", order, heat[0], f"{why}offset {names[2]}")
