"""Which output formats a network may have, by the names, shapes and types of its outputs.

Pure. Whatever fits is a candidate; who asks takes the only one and puts several to the user.
"""

from collections.abc import Iterator, Sequence

from framegate.models.conversion import guess_maps, guess_pairs, guess_rows
from framegate.models.conversion.output_port import Candidate, Port, Size


def candidates(ports: Sequence[Port], size: Size, n_classes: int | None) -> list[Candidate]:
    """Every reading that fits.

    size       (width, height) of the input
    n_classes  if it is known: readings with another number are left out, but for those of networks
               that count 80 classes by COCO's own numbers, to 90
    """
    used = [i for i, port in enumerate(ports) if not _is_count(port, len(ports))]
    found = [
        one
        for one in _readings([ports[i] for i in used], size, n_classes)
        if n_classes in (None, one.n_classes)
    ]
    return [_at(one, used) for one in found]


def _readings(ports: Sequence[Port], size: Size, n_classes: int | None) -> Iterator[Candidate]:
    if len(ports) == 1:
        yield from guess_rows.one(ports[0], size, n_classes)
    elif len(ports) == 2:
        yield from guess_pairs.two(ports, size, n_classes)
        yield from guess_maps.heat_and_sides(ports)
    elif len(ports) == 3:
        yield from guess_pairs.three(ports, n_classes)
        yield from guess_maps.three(ports, size)


def _is_count(port: Port, n_ports: int) -> bool:
    """The number of boxes, which some exporters give beside boxes, scores and labels."""
    return n_ports == 4 and port.is_integer and port.shape in ((1, 1), (1,), (None, 1))


def _at(one: Candidate, used: Sequence[int]) -> Candidate:
    ports = tuple(used[i] for i in one.ports)
    return Candidate(one.format, ports, one.n_classes, one.why, one.options)
