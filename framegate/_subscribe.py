"""`subscribe`: follow the results of a run, or the outputs of a stage, from any program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import RESULTS, Follower, Start, outputs
from framegate.pipeline.client.group import Consumer, GroupFollower
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.results import Output, Result
from framegate.pipeline.run.ended import OpenedStore, open_store

T = TypeVar("T")


@overload
def subscribe(
    store: str | Path,
    sources: Sequence[str] | None = None,
    start: Start = "new",
    *,
    until_end: bool = False,
    group: str | None = None,
    consumer: str | None = None,
    claim_after_s: float = 60.0,
    patience_s: float = 60.0,
) -> Subscription[Result]: ...


@overload
def subscribe(
    store: str | Path,
    sources: Sequence[str] | None = None,
    start: Start = "new",
    *,
    stage: str,
    output: type[T],
    until_end: bool = False,
    group: str | None = None,
    consumer: str | None = None,
    claim_after_s: float = 60.0,
    patience_s: float = 60.0,
) -> Subscription[Output[T]]: ...


@overload
def subscribe(
    store: str | Path,
    sources: Sequence[str] | None = None,
    start: Start = "new",
    *,
    stage: str,
    until_end: bool = False,
    group: str | None = None,
    consumer: str | None = None,
    claim_after_s: float = 60.0,
    patience_s: float = 60.0,
) -> Subscription[Output[Any]]: ...


def subscribe(
    store: str | Path,
    sources: Sequence[str] | None = None,
    start: Start = "new",
    *,
    stage: str | None = None,
    output: Any = Any,
    until_end: bool = False,
    group: str | None = None,
    consumer: str | None = None,
    claim_after_s: float = 60.0,
    patience_s: float = 60.0,
) -> Subscription[Any]:
    """Follow the results of a run; return an iterator and async iterator over `Result`.

        with subscribe("data", start="earliest", until_end=True) as results:
            for result in results:
                print(result.source, result.position, len(result.objects))

    store     URL of the store, or a data folder of this host. If the run in the folder has ended,
              the iteration stops after its last result
    sources   names; None for all, including those that appear later
    start     "new": results from the first iteration on; "earliest": from the oldest stored result;
              or {source: position}: after this result (sources that are not named: earliest); a
              position is that of a result, or a text such as "1-250". In a group, it counts when
              the group is created
    stage     name of a stage whose outputs are read instead of results: an iterator over `Output`.
              Of a stage on the main path, only outputs that the next stage has not read are
              available. With a data folder, an unknown name is refused
    output    type of these outputs, such as a msgspec.Struct; without it, they are dicts, lists,
              texts and numbers. An output of another type raises msgspec.ValidationError
    until_end   stop when each source has ended; otherwise continue forever
    group, consumer   share the results among the consumers of a group, at least once: `ack` each.
              A consumer that reconnects under its name first gets its unacknowledged results
    claim_after_s   seconds after which results that another consumer did not acknowledge are taken
    patience_s      seconds, 0 or more, that the store may be away (StoreLost) or accept no request
                    (StoreBusy) before the error is raised; iterate again to wait as long again

    ConfigFaults if there is no run, or no result can arrive. ValueError for wrong arguments.
    """
    _check_wanted(sources, start)
    if (group is None) != (consumer is None):
        raise ValueError("group and consumer go together: give both or neither")
    if stage is None and output is not Any:
        raise ValueError("output is the type of a stage's outputs: give stage as well")
    if group is not None and until_end:
        raise ValueError("until_end: in a group only one consumer sees an end; leave it out")
    channel = RESULTS if stage is None else outputs(stage, output)
    if "://" in str(store):
        opened = OpenedStore(str(store))
    else:
        opened = open_store(Path(store))
    try:
        if fault := _ended_fault(opened, start, group):
            raise ConfigFaults([fault])
        if stage is not None:
            opened.check_stage(stage)
    except FramegateError:
        opened.close()
        raise
    if group is None or consumer is None:
        follower = Follower(sources, start, until_end, channel, opened.ended)
        return Subscription(Reader(opened.url, follower, patience_s), opened.close)
    member = Consumer(group, consumer, claim_after_s)
    shared = GroupFollower(sources, start, member, channel)
    return Subscription(Reader(opened.url, shared, patience_s), opened.close)


def _check_wanted(sources: Sequence[str] | None, start: Start) -> None:
    """Raise ValueError if the sources are one text, or the start is none of the allowed ones."""
    if isinstance(sources, str):
        raise ValueError(f"sources = {sources!r}: it must be a list of names: [{sources!r}]")
    if not isinstance(start, Mapping):
        if start not in ("new", "earliest"):
            raise ValueError(
                f'start = {start!r}: it must be "new", "earliest", or the last position that you '
                'have seen of each source, such as {"door": "1-250"}'
            )
        return
    for source, position in start.items():
        try:
            Position.parse(str(position))
        except ValueError:
            raise ValueError(
                f"start: the position of source {source} is {position!r}: it must be EPOCH-SEQ, "
                'such as "1-250"'
            ) from None


def _ended_fault(opened: OpenedStore, start: Start, group: str | None) -> str | None:
    """Return why an ended run cannot be read with these arguments; None if it can, or is active."""
    if not opened.ended:
        return None
    if group is not None:
        return (
            f"the run in {opened.folder} has ended, and a group would have to write into its "
            "store: read it without a group"
        )
    if start == "new":
        return (
            f"the run in {opened.folder} has ended and has no new results: give "
            'start="earliest", or positions'
        )
    return None
