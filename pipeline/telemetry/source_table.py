"""Show the sources of a run as a table on a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from framegate.pipeline.contracts.results import in_short
from framegate.pipeline.system.clocks import clock_in_words, span
from framegate.pipeline.telemetry.source_lines import objects_a_frame
from framegate.pipeline.telemetry.source_view import View

STYLES = {
    "waiting": "yellow",
    "connecting": "yellow",
    "running": "green",
    "lost": "red",
    "stopped": "yellow",
    "finished": "bold",
    "failed": "red",
    "removed": "dim",
}


LEFT_OUT = (
    *("p95 ms", "p50 ms", "degraded", "looked", "p99 ms", "late", "asked", "failed", "promise"),
    *("dropped", "done, left", "objects a frame"),
)
WRAPPED = ("promise", "objects a frame")
WORDS = 16  # characters of a column that may wrap
GAP = 2  # characters between two columns
HEAD = 2  # lines of the table's head


def as_table(views: Sequence[View], width: int | None = None, height: int | None = None) -> Group:
    """Return the views as a table, and below it a line for each fault.

    width, height  size of the terminal; None: unlimited. If there are too few lines, sources with
                   faults are shown first, and the last line has the number of hidden sources
    """
    faults = [v for v in views if v.fault]
    shown = list(views)
    hidden = 0
    if height is not None and len(views) + len(faults) + HEAD > height:
        faults = faults[: height // 3]
        rows = max(1, height - HEAD - len(faults) - 1)
        shown = sorted(views, key=lambda v: v.fault is None)[:rows]
        hidden = len(views) - len(shown)
    below = [Text(f"{v.source}: {v.fault}", STYLES[v.state], overflow="fold") for v in faults]
    for v in shown:
        below += [Text(f"{v.source}: {words}", "yellow", overflow="fold") for words in warnings(v)]
    if hidden:
        below.append(Text(f"and {hidden} more", "dim"))
    table = fitted(_columns(shown), WRAPPED, LEFT_OUT, width)
    return Group(table, *(Constrain(line, width) for line in below))


def fitted(
    columns: Mapping[str, Sequence[Text]],
    wrapped: Sequence[str],
    left_out: Sequence[str],
    width: int | None,
) -> Table:
    """Return a table in which no word and no number is cut.

    wrapped   columns of text that may wrap
    left_out  columns that a narrow terminal leaves out, in this order
    width     width of the terminal; None: unlimited
    """
    wants = {name: _wants(name, cells) for name, cells in columns.items()}
    for name in wrapped:
        wants[name] = min(wants.get(name, 0), WORDS)
    kept = list(columns)
    for name in left_out:
        if width is None or sum(wants[each] + GAP for each in kept) - GAP <= width:
            break
        kept = [each for each in kept if each != name]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in kept:
        justify: JustifyMethod = "right"
        if name in (*wrapped, "source", "state"):
            justify = "left"
        table.add_column(name, justify=justify, no_wrap=name not in wrapped, overflow="fold")
    for row in zip(*(columns[name] for name in kept), strict=True):
        table.add_row(*row)
    return table


def _wants(name: str, cells: Sequence[Text]) -> int:
    """Return the width of a column."""
    lines = "\n".join([name, *(cell.plain for cell in cells)]).split("\n")
    return max(len(line) for line in lines)


def _columns(views: Sequence[View]) -> dict[str, list[Text]]:
    """Return the columns of a table by name. Columns without content are left out."""
    shown: dict[str, list[str]] = {
        "frames": [str(v.published) for v in views],
        "fps": [rate(v.fps) for v in views],
    }
    if any(v.done is not None and v.state != "finished" for v in views):
        shown["done, left"] = [_progress(v) for v in views]
    if any(v.looked is not None for v in views):
        shown["looked"] = [_or_dash(v.looked, "{:.0%}") for v in views]
    if any(v.p50_s is not None for v in views):
        shown["p50 ms"] = [_or_dash(v.p50_s, "{:.0f}", 1e3) for v in views]
        shown["p95 ms"] = [_or_dash(v.p95_s, "{:.0f}", 1e3) for v in views]
        shown["p99 ms"] = [_or_dash(v.p99_s, "{:.0f}", 1e3) for v in views]
    shown["dropped"] = [str(v.dropped) for v in views]
    if any(v.failed for v in views):
        shown["failed"] = [str(v.failed) for v in views]
    if any(v.late for v in views):
        shown["late"] = [str(v.late) for v in views]
    if any(v.escalations for v in views):
        asked = [_asked(v) for v in views]
        shown["asked"] = [done for done, _ in asked]
        shown["degraded"] = [degraded for _, degraded in asked]
    if any(v.promise for v in views):
        shown["promise"] = [_promise_in_short(v) for v in views]
    shown["objects a frame"] = [objects_a_frame(v) or "-" for v in views]
    return {
        "source": [Text(v.source) for v in views],
        "state": [Text(v.state, STYLES[v.state]) for v in views],
        **{name: [Text(cell) for cell in cells] for name, cells in shown.items()},
    }


def _or_dash(value: float | None, form: str, factor: float = 1.0) -> str:
    if value is None:
        return "-"
    return form.format(value * factor)


def _promise_in_short(v: View) -> str:
    if v.promise is None:
        return "-"
    return in_short(v.promise)


def _progress(v: View) -> str:
    if v.done is None or v.state == "finished":
        return "-"
    if v.left_s is None:
        return f"{v.done:.0%}"
    return f"{v.done:.0%}, {span(v.left_s)}"


def warnings(v: View) -> list[str]:
    """Return warnings about a source that runs."""
    texts = []
    if v.clock_off_s:
        texts.append(clock_in_words(v.clock_off_s, time.time()))
    if v.url_fault:
        texts.append(f"the stream of url is away, and nothing is recorded: {v.url_fault}")
    return texts


def rate(fps: float | None) -> str:
    """Return frames per second for a table."""
    return _or_dash(fps, "{:.1f}")


def _asked(v: View) -> tuple[str, str]:
    """Return the shares of published frames that were escalated, and that are degraded."""
    done = v.escalations.get("done", 0)
    frames = max(1, v.published)
    return f"{done / frames:.1%}", f"{(sum(v.escalations.values()) - done) / frames:.1%}"
