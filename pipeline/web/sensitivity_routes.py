"""How small a change the gate sees in each tile of a source, as numbers and as a picture.

/sensitivity/NAME.json    grey levels by tile, row by row
/sensitivity/NAME.png     the same over the source's last picture
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.errors import FramegateError
from framegate.pipeline.records import GateView, Result
from framegate.pipeline.web.http_answers import FRESH, not_now, unknown
from framegate.pipeline.web.last_frames import LastFrame, LastFrames

AsMap = Callable[[Result, LastFrame | None], bytes]
Sources = Callable[[], Mapping[str, str]]


class Sensitivity(msgspec.Struct, frozen=True):
    """What the .json holds. It is of the frame `epoch`-`seq`, of `width` x `height` pixels.

    tile    side of a tile in these pixels; the last ones may reach over the border
    levels  rows of tiles: a change of a cell's mean brightness by so many grey levels (of 255) is
            looked at within two frames; 25.5 stands for that or more
    """

    source: str
    epoch: int
    seq: int
    width: int
    height: int
    tile: int
    levels: list[list[float]]


def sensitivity_routes(frames: LastFrames, as_map: AsMap, sources: Sources) -> list[Route]:
    """The routes. as_map: result with a map, and its frame if its pixels are there, to PNG."""

    def answer(request: Request, give: Callable[[Result, LastFrame | None], Response]) -> Response:
        name, known = request.path_params["source"], sources()
        if name not in known:
            return unknown([name], known)
        try:
            found = frames.last_map(name)
        except FramegateError as error:
            return not_now(str(error))
        if found is None:
            return not_now(
                f"source {name}: none of its last results tells it; run with --draw gate"
            )
        return give(*found)

    def numbers(request: Request) -> Response:
        return answer(request, lambda result, _: _as_json(result))

    def picture(request: Request) -> Response:
        def give(result: Result, frame: LastFrame | None) -> Response:
            return Response(as_map(result, frame), 200, FRESH, "image/png")

        return answer(request, give)

    return [
        Route("/sensitivity/{source}.json", numbers),
        Route("/sensitivity/{source}.png", picture),
    ]


def _as_json(result: Result) -> Response:
    gate = result.gate
    told = Sensitivity(
        source=result.source,
        epoch=result.epoch,
        seq=result.seq,
        width=result.width,
        height=result.height,
        tile=gate.tile if gate else 0,
        levels=levels_of(gate) if gate else [],
    )
    return Response(msgspec.json.encode(told), 200, FRESH, "application/json")


def levels_of(gate: GateView) -> list[list[float]]:
    """Grey levels of each tile, row by row; no rows where the view has none."""
    tenths = gate.sensitivity
    starts = range(0, len(tenths), gate.columns)
    return [[tenth / 10 for tenth in tenths[start : start + gate.columns]] for start in starts]
