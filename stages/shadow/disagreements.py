"""What shadow found, for people: how far two models agree, and a page of where they differ."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import Region
from framegate.pipeline.store.ownership import SideOutputs
from framegate.pipeline.system.outputs import Inputs, output_faults, write_whole
from framegate.stages.shadow import Disagreement, Named, ShadowState

# -- The page of disagreements: one file with all pictures in it, and no script.


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --soft: #667; --line: #d9dce1;
  --served: #c2410c; --new: #0f766e; --agreed: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --ink: #e8eaed; --soft: #9aa3af;
  --line: #30353d; --served: #fb923c; --new: #2dd4bf; --agreed: #9ca3af; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  margin: 2rem auto; max-width: 78rem; padding: 0 1.25rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem 1.2rem .3rem 0; text-align: right; }
th { color: var(--soft); font-weight: 500; } td:first-child, th:first-child { text-align: left; }
.grid { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
figure { border: 1px solid var(--line); border-radius: 6px; margin: 0; overflow: hidden; }
svg { background: #000; display: block; height: auto; max-height: 18rem; width: 100%; }
figcaption { font-size: .85rem; padding: .5rem .7rem .6rem; }
.served { color: var(--served); } .new { color: var(--new); } .agreed { color: var(--agreed); }
rect { fill: none; stroke: currentColor; stroke-width: 2.5; vector-effect: non-scaling-stroke; }
rect.new { stroke-dasharray: 7 4; } rect.agreed { stroke-width: 1; }
.mark { display: inline-block; width: 1.4em; border-top: 3px solid currentColor;
  vertical-align: middle; margin-right: .35em; } .mark.new { border-top-style: dashed; }
"""


def page(beside: Sequence[ShadowReport]) -> str:
    """A whole HTML document: a table over all sources, then each source's frames, newest first."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Disagreements</title><style>{_STYLE}</style></head><body>",
        "<h1>Where two models disagree</h1>",
        "<p><span class='served'><span class='mark'></span>served, and the other does not see"
        "</span> &emsp; <span class='new'><span class='mark new'></span>the other sees, and is not"
        " served</span> &emsp; <span class='agreed'><span class='mark'></span>both</span></p>",
        _table(beside),
    ]
    for source, state, found in beside:
        parts.append(f"<h2>{_text(source)}</h2>")
        parts.append(f"<p class='soft'>beside: {_text(', '.join(state.other))}</p>")
        if not found:
            parts.append("<p>No frame in which they differ is kept.</p>")
        parts.append("<div class='grid'>")
        parts += [_figure(one) for one in reversed(found)]
        parts.append("</div>")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _table(beside: Sequence[ShadowReport]) -> str:
    rows = [
        f"<tr><td>{_text(source)}</td><td>{state.frames}</td><td>{state.differing}</td>"
        f"<td>{state.f1:.3f}</td><td>{state.served}</td><td>{state.said}</td>"
        f"<td>{1000 * state.cpu_s / max(1, state.frames):.1f}</td></tr>"
        for source, state, _ in beside
    ]
    return (
        "<table><tr><th>source</th><th>frames looked at</th><th>differ</th><th>agreement (F1)</th>"
        "<th>boxes only served</th><th>boxes only new</th><th>CPU ms a frame</th></tr>"
        f"{''.join(rows)}</table>"
    )


def _figure(one: Disagreement) -> str:
    left, top, right, bottom = one.rect
    width, height = right - left, bottom - top
    data = base64.b64encode(one.picture).decode()
    boxes = [
        _rect(named, kind, left, top)
        for kind, group in (("agreed", one.agreed), ("served", one.served), ("new", one.said))
        for named in group
        if _is_shown(named, one.rect)  # that both have may be elsewhere
    ]
    what = f"frame {one.epoch}-{one.seq} of {one.source}"
    when = "" if one.pts is None else f", {one.pts:.2f} s"
    return (
        f"<figure><svg viewBox='0 0 {width} {height}' role='img' aria-label='{_text(what)}'>"
        f"<image width='{width}' height='{height}' href='data:image/jpeg;base64,{data}'/>"
        f"{''.join(boxes)}</svg><figcaption>"
        f"{_listed('served', one.served)}{_listed('new', one.said)}"
        f"<span class='soft'>{one.epoch}-{one.seq}{when}</span></figcaption></figure>"
    )


def _is_shown(named: Named, part: Region) -> bool:
    """Whether some of a box lies in a part of the picture."""
    x1, y1, x2, y2 = named.box
    left, top, right, bottom = part
    return x1 < right and x2 > left and y1 < bottom and y2 > top


def _rect(named: Named, kind: str, left: int, top: int) -> str:
    x1, y1, x2, y2 = named.box
    title = _text(f"{named.label} {named.score:.2f}")
    return (
        f"<rect class='{kind}' x='{x1 - left:.1f}' y='{y1 - top:.1f}' width='{x2 - x1:.1f}' "
        f"height='{y2 - y1:.1f}'><title>{title}</title></rect>"
    )


def _listed(kind: str, group: Sequence[Named]) -> str:
    if not group:
        return ""
    names = ", ".join(f"{_text(named.label)} {named.score:.2f}" for named in group)
    return f"<span class='{kind}'><span class='mark {kind}'></span>{names}</span><br>"


def _text(said: str) -> str:
    return html.escape(said, quote=True)


class ShadowReport(NamedTuple):
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


def _read(each: SideOutputs, model: str | None) -> ShadowReport:
    state = records.decode(each.state, ShadowState) if each.state else ShadowState()
    found = [records.decode(said, Disagreement) for said in each.said]
    if model is not None and not _is_of(state.asked, model):
        state = ShadowState()
    return ShadowReport(each.source, state, [one for one in found if one.other == state.other])


def _is_of(asked: str, model: str) -> bool:
    """Whether what was asked for is what a user calls so: NAME, or NAME@DIGEST or its beginning."""
    return asked == model or asked.startswith(model if "@" in model else f"{model}@")


def _print(beside: Sequence[ShadowReport]) -> None:
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
