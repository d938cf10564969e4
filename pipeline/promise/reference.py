"""The heavy model with which a promise states agreement, and its accuracy by labels.

A promise is about agreement with that model, so it is worth as much as the model. `reference.toml`
has the accuracy; `python -m benchmarks.figures` writes it from the result of `benchmarks.truth`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

TABLE: Final = Path(__file__).parent / "reference.toml"


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """A heavy model, and its accuracy on labelled clips by which nothing was chosen.

    networks   its networks, with the longer side of their input
    f1         0 to 1, mean over the clips; null if not measured
    lowest_f1  0 to 1, of the clip on which it is worst
    clips      number of clips; labels: number of labelled objects in them
    """

    networks: tuple[str, ...]
    f1: float | None = None
    lowest_f1: float | None = None
    clips: int = 0
    labels: int = 0

    def __str__(self) -> str:
        """Return a sentence for users, without its full stop."""
        names = f"the heavy model is {' + '.join(self.networks)}"
        if self.f1 is None:
            return f"{names}; its accuracy by labels was not measured"
        return (
            f"{names}; by labels, its mean F1 is {self.f1:.2f} in {self.clips} clips "
            f"({self.labels} objects; lowest: {self.lowest_f1:.2f})"
        )


def reference_of(networks: tuple[str, ...]) -> Reference:
    """Return the accuracy of these networks together, if it was measured."""
    table = _table()
    if tuple(table["networks"]) != networks:
        return Reference(networks)
    return msgspec.convert(table, Reference)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))
