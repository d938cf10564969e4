"""`framegate models judge`: what later footage says of a model that was tuned or trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from framegate.cli.arguments import add_registry, ending
from framegate.cli.lines import say
from framegate.cli.meter import Meter
from framegate.cli.tune import FRAMES, HEAVY, WithInterval, add_footage
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.system.loading import ours
from framegate.pipeline.system.process import give_way

_MOST_CLASSES: Final = 20


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """What is wanted.

    ref      of the model: NAME, NAME@VERSION or NAME@DIGEST
    sources  of footage, as read_footage takes them; frames  pictures of them at most
    teacher  heavy, or a model of the registry
    """

    ref: str
    sources: tuple[str, ...]
    frames: int = FRAMES
    teacher: str = HEAVY
    registry: Path | None = None


@dataclass(frozen=True, slots=True)
class JudgedClass:
    """A class in what judges: objects, and F1 of the general model and of this one."""

    label: str
    there: int
    general: float
    f1: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of it.

    model       NAME@VERSION and digest; general  what it was held against
    earlier     pictures that it may have learned from; they judge nothing
    frames, boxes  that judge: pictures, and objects of the teacher in them
    f1, general_f1, difference  with 95 % intervals
    ms, general_ms  for a picture on this machine
    forgotten   class -> objects of the teacher of classes that the model does not look for
    refused     why it may not serve; "" where it may
    """

    model: str
    general: str
    earlier: int
    frames: int
    boxes: int
    f1: WithInterval
    general_f1: WithInterval
    difference: WithInterval
    classes: tuple[JudgedClass, ...]
    ms: float
    general_ms: float
    forgotten: dict[str, int]
    refused: str


def register(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    verb = verbs.add_parser(
        "judge",
        help="hold a tuned or trained model against the general one, on later footage",
        description="The heavy pass says what is in footage that is later than what the model "
        "learned from; both models are held against it on the same pictures. Where the model may "
        "be worse by more than .05 of F1, or where fewer than 50 pictures or 100 objects judge, "
        "`models use` refuses it. What came of it is kept beside the model, and takes the place "
        "of what was said of it before.",
        epilog=ending(
            "framegate models judge gate --from tuesday.mp4",
            "framegate models judge gate --from data:gate",
            page="models",
        ),
    )
    verb.set_defaults(command=_judge, as_program=give_way)
    verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
    add_footage(verb, FRAMES, "other")
    add_registry(verb)


def _judge(parsed: argparse.Namespace) -> Exit:
    if parsed.frames < 1:
        raise ConfigFaults([f"--frames {parsed.frames}: allowed is 1 and more"])
    request = JudgeRequest(
        parsed.ref, tuple(parsed.sources), parsed.frames, parsed.teacher, parsed.registry
    )
    with Meter() as meter:
        found: Judged = ours("models_judge")(request, meter)
    console = Console(highlight=False)
    console.print(model_table(found))
    console.print(class_table(found.classes))
    if found.forgotten:
        told = ", ".join(f"{label} {n}" for label, n in found.forgotten.items())
        say(f"{told}: objects of classes that it does not look for", "forgotten: ")
    middle, low, high = found.difference
    gain = f"F1 {middle:+.3f} ({low:+.3f} to {high:+.3f}) against {found.general}"
    say(f"{gain}{'; ' if found.refused else ''}{found.refused}",
        "refused: " if found.refused else "may serve: ")  # fmt: skip
    return Exit.SOURCE_FAILED if found.refused else Exit.DONE


def model_table(found: Judged) -> Table:
    """The two models."""
    table = Table(title=f"judged on {found.frames} pictures, {found.boxes} objects")
    for name in ("model", "F1", "95 %", "ms"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for name, (middle, low, high), ms in (
        (found.general, found.general_f1, found.general_ms),
        (found.model, found.f1, found.ms),
    ):
        table.add_row(name, f"{middle:.3f}", f"{low:.3f} - {high:.3f}", f"{ms:.1f}")
    return table


def class_table(rows: Sequence[JudgedClass]) -> Table:
    """The classes, most objects first."""
    table = Table(title="by class")
    table.add_column("class")
    for name in ("objects", "F1 general", "F1 of its own"):
        table.add_column(name, justify="right")
    for row in rows[:_MOST_CLASSES]:
        table.add_row(row.label, str(row.there), f"{row.general:.3f}", f"{row.f1:.3f}")
    return table
