"""/api/v1/filters: the filters of the run, and those that verdicts give: one that hides the object
of an episode, and one that mutes episodes like those that were judged false.

Programs and pages of this server may change filters; pages of other servers may not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.config.config import named_filter
from framegate.pipeline.contracts import keys, records
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError, RequestRefused
from framegate.pipeline.contracts.object_filters import (
    AddFilter,
    FilterList,
    GetFilters,
    NamedFilter,
    RemoveFilter,
)
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Result
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.search import Episode, episode_of
from framegate.pipeline.review.teach import (
    AskFilters,
    FilterOffer,
    added_filter,
    offer,
    switch_off,
    switch_on,
)
from framegate.pipeline.store.hop import FRAME
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.web.accounts.accounts import Caller
from framegate.pipeline.web.limits import JSON, NO_STORE, Refusal, posted, refused
from framegate.pipeline.web.openapi import SOURCE, Operation, parameter
from framegate.pipeline.web.route_table import caller_of, check_seen

MAX_BYTES: Final = 64 << 10  # of a filter in a request
MAX_FRAMES: Final = 4000  # results of an episode that are read, and of the time before it
STILL_IOU: Final = 0.8  # of every box with the place, for an object that did not move
_OBJECT: Final = "/api/v1/episodes/{id:path}/object"
_NAME: Final = parameter("name", "Name of the filter", place="path")
_RULE: Final = parameter("rule", "Name of the rule")
_ID: Final = parameter("id", "Id of the episode; its slashes are not escaped", place="path")

Shares = tuple[float, float, float, float]  # left, top, right, bottom, 0 to 1 of the picture


class FilterBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of an object filter.

    filter  the filter, as the table `[filters.NAME]`; null: remove the filter of this name
    """

    filter: dict[str, Any] | None


class HiddenSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wish to hide the object of an episode, or to show it again.

    hidden  true: add a filter for the object at its place. false: remove that filter
    """

    hidden: bool


class LearnedSaid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wish to mute episodes as verdicts teach, or to mute none.

    source  name of the source
    rule    name of the rule
    digest  digest of the filter that the user saw; null: switch the filter off
    """

    source: str
    rule: str
    digest: str | None


class HiddenObject(msgspec.Struct, frozen=True):
    """The object of an episode at one place, and the filter that hides it.

    labels  its classes
    box     its place: left, top, right, bottom, 0 to 1 of the picture; null: it moved, or the store
            does not have its boxes any more, so it cannot be hidden
    filter  name of the filter that hides it; null: it is not hidden
    """

    labels: tuple[str, ...]
    box: Shares | None
    filter: str | None


def filter_routes(folder: Path, store: str, ask: AskFilters) -> list[Route]:
    """Return the routes.

    folder  of the run's data
    store   URL of the store
    ask     asks the supervisor; may block for some ms
    """
    file = folder / FILE

    async def listed(request: Request) -> Response:
        """The object filters of the run: those of its configuration, then the added ones."""
        return await _answered(_seen_filters, ask, caller_of(request))

    async def changed(request: Request) -> Response:
        """Add an object filter of this name, or remove it (`null`); all filters are returned."""
        try:
            asked = await posted(request, FilterBody, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        return await _answered(_change, ask, request.path_params["name"], asked.filter)

    async def object_of(request: Request) -> Response:
        """The object of an episode at its place, if it did not move, and whether it is hidden."""
        return await _answered(_object, file, store, ask, request.path_params["id"])

    async def hide(request: Request) -> Response:
        """Hide the object of an episode at its place from now on, or show it again."""
        try:
            asked = await posted(request, HiddenSaid, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        return await _answered(_hide, file, store, ask, request.path_params["id"], asked.hidden)

    async def learned(request: Request) -> Response:
        """The filter that the verdicts about a rule at a source teach, and what it would have muted
        and kept. It does nothing until it is switched on.
        """
        source, rule = request.query_params.get("source"), request.query_params.get("rule")
        if not source or not rule:
            return refused(Refusal(400, "source, rule: one of each is needed"))
        return await _answered(_offer, file, ask, source, rule)

    async def switch(request: Request) -> Response:
        """Switch a learned filter on, by the digest of the trial that was seen, or off (`null`)."""
        try:
            asked = await posted(request, LearnedSaid, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        return await _answered(_switch, file, ask, asked, caller_of(request))

    return [
        Operation("/api/v1/filters", listed, gives=list[NamedFilter]),
        Operation(
            "/api/v1/filters/{name}", changed, [_NAME], gives=list[NamedFilter], body=FilterBody
        ),
        Operation("/api/v1/verdicts/filter", learned, [SOURCE, _RULE], gives=FilterOffer),
        Operation("/api/v1/verdicts/filter/on", switch, gives=FilterOffer, body=LearnedSaid),
        Operation(_OBJECT, object_of, [_ID], gives=HiddenObject),
        Operation(f"{_OBJECT}/hidden", hide, [_ID], gives=HiddenObject, body=HiddenSaid),
    ]


async def _answered(answer: Callable[..., Any], *arguments: Any) -> Response:
    """Call `answer` in a thread, and return its result or its error as JSON."""
    try:
        content = await run_in_threadpool(answer, *arguments)
    except RequestRefused as error:
        return refused(Refusal(400, str(error)))
    except ConfigFaults as error:  # there is no database: no run used this folder
        return refused(Refusal(404, str(error)))
    except (Refusal, FramegateError) as error:
        return refused(error)
    return Response(msgspec.json.encode(content), 200, NO_STORE, JSON)


def _seen_filters(ask: AskFilters, caller: Caller) -> list[NamedFilter]:
    """Return the filters of sources that the caller may see, with only these sources."""
    seen = []
    for each in ask(GetFilters()).filters:
        sources = tuple(caller.seen(each.sources))
        if sources or not each.sources:
            seen.append(replace(each, sources=sources))
    return seen


def _change(ask: AskFilters, name: str, table: dict[str, Any] | None) -> Sequence[NamedFilter]:
    if table is None:
        return ask(RemoveFilter(name)).filters
    try:
        new = named_filter(name, table)
    except ConfigFaults as error:
        raise Refusal(400, str(error)) from None
    return ask(AddFilter(new)).filters


def _offer(file: Path, ask: AskFilters, source: str, rule: str) -> FilterOffer:
    added = added_filter(ask(GetFilters()), source, rule)
    with opened(file) as database:
        return offer(database, source, rule, added)


def _switch(file: Path, ask: AskFilters, asked: LearnedSaid, caller: Caller) -> FilterOffer:
    check_seen(caller, [asked.source])
    if asked.digest is None:
        switch_off(ask, asked.source, asked.rule)
        return _offer_if_readable(file, ask, asked)
    offered = _offer(file, ask, asked.source, asked.rule)
    if asked.digest != offered.digest:
        raise Refusal(
            409,
            f"rule {asked.rule[:32]} at {asked.source[:32]}: the verdicts have changed since, so "
            "the filter would be another; look at what it would mute, and switch it on again",
        )
    name = switch_on(ask, offered)
    return msgspec.structs.replace(
        offered, filter=name, filter_digest=offered.digest, filter_version=offered.version
    )


def _offer_if_readable(file: Path, ask: AskFilters, asked: LearnedSaid) -> FilterOffer:
    """Return an offer; without a readable database, one that states why there is none."""
    try:
        return _offer(file, ask, asked.source, asked.rule)
    except (ConfigFaults, FramegateError) as error:
        return FilterOffer(asked.source, asked.rule, 0, 0, str(error))


def _object(file: Path, store: str, ask: AskFilters, name: str) -> HiddenObject:
    episode = _episode(file, name)
    labels, box = place_of(store, episode)
    return HiddenObject(labels, box, _filter_of(ask(GetFilters()), name))


def _hide(file: Path, store: str, ask: AskFilters, name: str, hidden: bool) -> HiddenObject:
    episode = _episode(file, name)
    labels, box = place_of(store, episode)
    known = _filter_of(ask(GetFilters()), name)
    if hidden and box is None:
        raise Refusal(
            409,
            f"episode {name[:100]}: its object moved, or the store does not have its boxes any "
            "more; only an object that stood at one place can be hidden there",
        )
    if hidden and box is not None and known is None:
        # Of any class: the class of a false object changes from look to look.
        new = NamedFilter(sources=(episode.source,), box=box, by="verdict", episode=name)
        known = _filter_of(ask(AddFilter(new)), name)
    elif not hidden and known is not None:
        ask(RemoveFilter(known))
        known = None
    return HiddenObject(labels, box, known)


def _filter_of(listed: FilterList, episode: str) -> str | None:
    """Return the name of the filter that hides the object of an episode."""
    names = [each.name for each in listed.filters if each.episode == episode]
    return next(iter(names), None)


def _episode(file: Path, name: str) -> Episode:
    with opened(file) as database:
        episode = episode_of(database, name)
    if episode is None:
        raise Refusal(404, f"no episode {name[:100]}")
    return episode


# -- The place of an object that does not move


def place_of(store: str, episode: Episode) -> tuple[tuple[str, ...], Shares | None]:
    """Return the labels of an episode's tracks, and their place; None if they moved.

    All stored boxes of these tracks count, from their first sighting to the end of the episode, in
    at most MAX_FRAMES results before the episode and MAX_FRAMES in it.
    """
    tracks = set(episode.tracks)
    first = str(Position(episode.began.epoch, episode.began.seq))
    last = str(Position(episode.last.epoch, episode.last.seq))
    results = keys.results(episode.source)
    with store_errors(store), closing(connect(store)) as client:
        before = client.xrevrange(results, f"({first}", f"{episode.began.epoch}-0", MAX_FRAMES)
        during = client.xrange(results, first, last, MAX_FRAMES)
    boxes: list[Shares] = []
    labels: set[str] = set()
    for _, entry in (*before, *during):
        if entry[b"k"] != FRAME.encode():
            continue
        result = records.decode_versioned(entry[b"d"], Result)
        for seen in result.objects:
            if seen.track in tracks:
                boxes.append(_share(seen.box, result.width, result.height))
                labels.add(seen.label)
    return tuple(sorted(labels)), still_place(boxes)


def _share(box: tuple[float, float, float, float], width: int, height: int) -> Shares:
    """Return a box in shares of the picture, cut at its edges."""
    x1, y1, x2, y2 = box
    shares = x1 / (width or 1), y1 / (height or 1), x2 / (width or 1), y2 / (height or 1)
    left, top, right, bottom = (round(min(max(share, 0.0), 1.0), 5) for share in shares)
    return left, top, right, bottom


def still_place(boxes: Sequence[Shares]) -> Shares | None:
    """Return the place of an object: the median of its boxes, edge by edge.

    None if one box has an IoU below STILL_IOU with it: the object moved. None without a box.
    """
    if not boxes:
        return None
    rows = np.array(boxes, np.float64)
    place = np.median(rows, axis=0)
    sides = np.minimum(rows[:, 2:], place[2:]) - np.maximum(rows[:, :2], place[:2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(rows[:, 2:] - rows[:, :2], axis=1) + np.prod(place[2:] - place[:2]) - common
    if not (common >= STILL_IOU * union).all() or union.min() <= 0:
        return None
    left, top, right, bottom = np.round(place, 5).tolist()
    return left, top, right, bottom
