"""`subscribe`: results of a run, or what a stage of it gives, from any program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import RESULTS, Follower, Start, outputs
from framegate.pipeline.client.group import Consumer, GroupFollower
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.contracts.errors import ConfigFaults
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
    """Follow the results of a run; an iterator and async iterator over `Result`.

    store     URL of the store, or a data folder of this host. Where the run in the folder has
              ended, its results are read from what it left, and iterating stops after the last
    sources   names; None for all, those that appear later included
    start     "new", from the first time that it is iterated; "earliest", the oldest result that
              is left; or {source: "epoch-seq"}, the last result that was seen (sources that are
              not named there: earliest). In a group it counts where the group is new
    stage     what the stage of that name gives, instead of results: an iterator over `Output`. Of
              a stage on the main path there is only what the next one has not read yet
    output    type of these outputs, a msgspec.Struct say; without it they are dicts, lists, texts
              and numbers. An output that does not fit raises msgspec.ValidationError
    until_end   end when each source has ended; else it goes on for ever
    group, consumer   share the results among the consumers of a group, at least once: `ack` each.
              A consumer that comes back under its name first gets what it did not acknowledge
    claim_after_s   what another consumer has left lying for so long is taken over
    patience_s      StoreLost once the store has been away for so long; 0 or more

    ConfigFaults where there is no run, or nothing that could come.
    """
    if (group is None) != (consumer is None):
        raise ValueError("group and consumer go together: give both or neither")
    if stage is None and output is not Any:
        raise ValueError("output is the type of what a stage gives: give stage as well")
    if group is not None and until_end:
        raise ValueError("until_end: in a group only one consumer sees an end; leave it out")
    channel = RESULTS if stage is None else outputs(stage, output)
    if "://" in str(store):
        url, ended, close = str(store), False, _let_be
    else:
        opened = open_store(Path(store))
        url, ended, close = opened.url, opened.ended, opened.close
        if fault := _ended_fault(opened, start, group):
            close()
            raise ConfigFaults([fault])
    if group is None or consumer is None:
        follower = Follower(sources, start, until_end, channel, ended)
        return Subscription(Reader(url, follower, patience_s), close)
    member = Consumer(group, consumer, claim_after_s)
    shared = GroupFollower(sources, start, member, channel)
    return Subscription(Reader(url, shared, patience_s), close)


def _let_be() -> None:
    """Nothing is to be let go of."""


def _ended_fault(opened: OpenedStore, start: Start, group: str | None) -> str | None:
    """Return why nothing could be read so of a run that has ended."""
    if not opened.ended:
        return None
    what = f"the run in {opened.folder} has ended"
    if group is not None:
        return f"{what}, and a group would have to write into its store: read it without a group"
    if start == "new":
        return f'{what}, so that nothing new comes: give start="earliest", or positions'
    return None
