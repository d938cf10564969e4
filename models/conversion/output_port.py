"""One output of a network that nobody knows yet, and a reading of several of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int | None, ...]  # None: an axis that stays open
Size = tuple[int, int]  # width, height of the network's input


@dataclass(frozen=True, slots=True)
class Port:
    """As the network has it, batch axis and all. `shape` is None where even its rank is open."""

    name: str
    shape: Shape | None
    is_integer: bool = False

    def own(self, rank: int) -> Shape | None:
        """Its shape as `rank` axes without the batch axis; None if that cannot be."""
        if self.shape is None:
            return None
        if len(self.shape) == rank + 1 and self.shape[0] in (1, None):
            return self.shape[1:]
        return self.shape if len(self.shape) == rank else None

    def named(self, *words: str) -> bool:
        """Whether its name says one of these."""
        return re.search("|".join(words), self.name, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reading of a network's outputs that fits their shapes.

    format     a key of `formats.FORMATS`
    ports      indices of the outputs, in the order of the format
    n_classes  that it implies
    why        what speaks for it, for people
    options    of the format
    """

    format: str
    ports: tuple[int, ...]
    n_classes: int
    why: str
    options: dict[str, Any] = field(default_factory=dict)


def cells(size: Size, strides: Sequence[int]) -> int:
    """Cells of the grids of a network, parts of cells counted whole."""
    return sum(-(-size[0] // s) * -(-size[1] // s) for s in strides)
