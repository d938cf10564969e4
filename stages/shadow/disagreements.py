"""What shadow found, for people: how far two models agree, what it cost, where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from framegate.pipeline import records
from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.outputs import Inputs, output_faults, write_whole
from framegate.pipeline.store.retention import SideOutputs
from framegate.stages.shadow import ShadowState
from framegate.stages.shadow.compared import Disagreement
from framegate.stages.shadow.disagreement_page import page


class Beside(NamedTuple):
    """What another model did beside one source's."""

    source: str
    state: ShadowState
    found: list[Disagreement]


def tell(
    outputs: Sequence[SideOutputs], model: str | None, html: Path | None, overwrite: bool = False
) -> None:
    """Print how far they agree, and write the page.

    model  the other one, by the beginning of its name; None: whichever looked last

    ConfigFaults if it never looked, and if the page cannot be written.
    """
    beside = [_read(each, model) for each in outputs]
    beside = [each for each in beside if each.state.frames]
    if not beside:
        what = f"model {model}" if model else "no model"
        raise ConfigFaults([f"{what} has looked at no frame; framegate models shadow starts one"])
    _print(beside)
    if html is not None:
        if faults := output_faults("--html", html, Inputs({}), overwrite):
            raise ConfigFaults(faults)
        write_whole("--html", html, page(beside).encode(), overwrite)
        print(f"page: {html}")


def _read(each: SideOutputs, model: str | None) -> Beside:
    state = records.decode(each.state, ShadowState) if each.state else ShadowState()
    found = [records.decode(said, Disagreement) for said in each.said]
    if model is not None and not _is_of(state.asked, model):
        state = ShadowState()
    return Beside(each.source, state, [one for one in found if one.other == state.other])


def _is_of(asked: str, model: str) -> bool:
    """Whether what was asked for is what a user calls so: NAME, or NAME@DIGEST or its beginning."""
    return asked == model or asked.startswith(model if "@" in model else f"{model}@")


def _print(beside: Sequence[Beside]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("source", "beside", "frames", "differ", "agree (F1)", "only served", "only new"):
        table.add_column(column, justify="left" if column in ("source", "beside") else "right")
    table.add_column("CPU ms a frame", justify="right")
    for source, state, _ in beside:
        table.add_row(
            source,
            ", ".join(state.other),
            str(state.frames),
            str(state.differing),
            f"{state.f1:.3f}",
            str(state.served),
            str(state.said),
            f"{1000 * state.cpu_s / state.frames:.1f}",
        )
    Console().print(table)
