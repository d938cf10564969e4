"""A bridge of `examples` as a worker has it: opened, and given results."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framegate.pipeline.engine.alone import context_alone
from framegate.pipeline.loading import load
from framegate.pipeline.records import Position, encode, record_of_result
from framegate.pipeline.stage import Item, Stage
from framegate.pipeline.worker import options_of
from tests.support.published import result

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def opened(use: str, folder: Path, **options: Any) -> Iterator[Stage[Any]]:
    """The stage, with the folder of examples where a user's would be."""
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    kind = load(use)
    context = context_alone(None, lambda: 0.0, folder, "cache")  # type: ignore[arg-type]
    stage = kind(options_of(kind, options), context)
    try:
        yield stage
    finally:
        stage.close()


def items(seqs: Iterable[int], source: str = "gate") -> list[Item]:
    """Published results of one epoch, as a stage reads them."""
    return [
        Item(source, Position(1, seq), record_of_result(encode(result(source, 1, seq)), "cache"))
        for seq in seqs
    ]


def given(stage: Stage[Any], seqs: Iterable[int]) -> int:
    """Let it process these results; how many it says were dropped."""
    said, after = stage.process(items(seqs), {"gate": stage.State()})
    assert sum(each["dropped"] for each in said if each) == after["gate"].dropped
    return int(after["gate"].dropped)
