"""`framegate models judge`: compare a tuned or trained model with the general one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from framegate.cli.arguments import add_registry
from framegate.cli.help import ending
from framegate.cli.terminal import Meter, say
from framegate.cli.tune import add_footage
from framegate.pipeline.contracts.errors import ConfigFaults, Exit
from framegate.pipeline.system.process import give_way
from framegate.stages.learning.choices import TUNE_FRAMES

if TYPE_CHECKING:
    from framegate.stages.learning.later_footage import Judged, JudgedClass

_MOST_CLASSES: Final = 20


def register(verbs: Any) -> None:
    """Add the verb to those of `framegate models`."""
    verb = verbs.add_parser(
        "judge",
        help="compare a tuned or trained model with the general one, on later footage",
        description="Compare a model with the general one on footage that is later than the "
        "footage it learned from. The heavy model labels the pictures. `models "
        "use` refuses the model if it may be worse by more than 0.05 of F1, or if "
        "fewer than 50 pictures or 100 objects judge it. The verdict is stored "
        "beside the model and replaces the earlier one.",
        epilog=ending(
            "framegate models judge gate --from tuesday.mp4",
            "framegate models judge gate --from data:gate",
            page="models",
        ),
    )
    verb.set_defaults(command=_judge, as_program=give_way)
    verb.add_argument("ref", metavar="REF", help="NAME, NAME@VERSION or NAME@SHA8")
    add_footage(verb, TUNE_FRAMES, "other")
    add_registry(verb)


def _judge(parsed: argparse.Namespace) -> Exit:
    if parsed.frames < 1:
        raise ConfigFaults([f"--frames must be at least 1, got {parsed.frames}"])
    from framegate.stages.learning.later_footage import judge

    with Meter() as meter:
        judged = judge(
            parsed.ref, parsed.sources, meter, parsed.frames, parsed.teacher, parsed.registry
        )
    console = Console(highlight=False)
    console.print(model_table(judged))
    console.print(class_table(judged.classes))
    if judged.forgotten:
        counts = ", ".join(f"{label} {n}" for label, n in judged.forgotten.items())
        say(f"{counts}: objects of classes that the model does not detect", "forgotten: ")
    middle, low, high = judged.difference
    gain = f"F1 {middle:+.3f} ({low:+.3f} to {high:+.3f}) against {judged.general}"
    if judged.refused:
        say(f"{gain}; {judged.refused}", "refused: ")
        return Exit.SOURCE_FAILED
    say(gain, "may serve: ")
    return Exit.DONE


def model_table(judged: Judged) -> Table:
    """Return a table of the two models."""
    table = Table(title=f"judged on {judged.frames} pictures, {judged.boxes} objects")
    table.add_column("model", overflow="fold")
    for name in ("F1", "95 %", "ms"):
        table.add_column(name, justify="right", overflow="fold")
    for name, (middle, low, high), ms in (
        (judged.general, judged.general_f1, judged.general_ms),
        (judged.model, judged.f1, judged.ms),
    ):
        table.add_row(name, f"{middle:.3f}", f"{low:.3f} - {high:.3f}", f"{ms:.1f}")
    return table


def class_table(rows: Sequence[JudgedClass]) -> Table:
    """Return a table of the classes with the most objects."""
    table = Table(title="by class")
    table.add_column("class")
    for name in ("objects", "F1 general", "F1 of this model"):
        table.add_column(name, justify="right")
    for row in rows[:_MOST_CLASSES]:
        table.add_row(row.label, str(row.there), f"{row.general:.3f}", f"{row.f1:.3f}")
    return table
