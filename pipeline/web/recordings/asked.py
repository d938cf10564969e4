"""The part of the recordings that a request asks for: a source, a span of time, a frame."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request

from framegate.pipeline.contracts.errors import did_you_mean
from framegate.pipeline.recording.index import Index, RecordedPlace, Segment
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.web.limits import Refusal, time_in, whole_number
from framegate.pipeline.web.route_table import caller_of

_MAX_EPOCH: Final = 2**62  # above the epochs of all stores
_NEAR_S: Final = 0.5  # by which the clocks of a frame and of a recording may differ


def is_fixed(query: QueryParams) -> bool:
    """Return whether the same request is about the same time later: `15m` and `10:30` are not."""
    return re.fullmatch(r"[0-9.]*", query.get("at", "")) is not None


def asked_span(query: QueryParams) -> tuple[float, float]:
    """Return the time that a request is about. What it leaves out is unbounded. Refusal."""
    at = time_in(query, "at")
    if at is not None:
        return at - _NEAR_S, at + _NEAR_S
    since, until = time_in(query, "from"), time_in(query, "to")
    if since is None:
        since = -math.inf
    if until is None:
        until = math.inf
    return since, until


@contextmanager
def index_of(data: Path) -> Iterator[Index]:
    """Open the index of a run's folder. Refusal if nothing is recorded there."""
    if not (data / FOLDER).is_dir():
        raise Refusal(404, "nothing is recorded; [record] sources = true records all cameras")
    with closing(Index(data)) as index:
        yield index


def source_and_span(request: Request, index: Index) -> tuple[str, float, float]:
    """Return the source of a request, `from` and `to`; by default all of its recordings."""
    source = _source(request, index)
    first = next(each.since for each in index.recorded() if each.source == source)
    since = time_in(request.query_params, "from")
    if since is None:
        since = first
    until = time_in(request.query_params, "to")
    if until is None:
        until = math.inf
    if since >= until:
        raise Refusal(400, "from, to: the span ends before it begins")
    return source, since, until


def _source(request: Request, index: Index) -> str:
    """Return the source of a request. Refusal if it has no recordings."""
    source: str = request.path_params["source"]
    recorded = [each.source for each in index.recorded()]
    if source not in recorded:
        near = did_you_mean(source[:32], caller_of(request).seen(recorded))
        raise Refusal(404, f"nothing is recorded of {source[:32]!r}{near}")
    return source


def place_of(request: Request, index: Index) -> RecordedPlace:
    """Return the place of the requested picture in the recordings, by its frame or by its time."""
    source = _source(request, index)
    query = request.query_params
    if "epoch" in query and "pts" in query:
        epoch = whole_number(query, "epoch", 0, 0, _MAX_EPOCH)
        try:
            place = index.place(source, epoch, float(query["pts"]))
        except ValueError:
            raise Refusal(400, f"pts: {query['pts'][:20]!r}; allowed is a number") from None
        if place is not None:
            return place
    at = time_in(query, "at")
    if at is None and "pts" in query:
        raise Refusal(404, "that frame was not recorded")
    if at is None:
        raise Refusal(400, "a picture needs `at`, a time, or `epoch` and `pts` of a result")
    near = segments_between(index, source, at - _NEAR_S, at + _NEAR_S)
    segment = next((each for each in reversed(near) if each.captured <= at), near[0])
    share = (at - segment.captured) / max(segment.captured_end - segment.captured, 1e-3)
    return RecordedPlace(segment, segment.seconds * min(max(share, 0.0), 1.0))


def segments_between(index: Index, source: str, since: float, until: float) -> Sequence[Segment]:
    """Return the segments of a source in a span. Refusal if there are none."""
    segments = index.between(source, since, until)
    if not segments:
        raise Refusal(404, "nothing was recorded in this time")
    return segments
