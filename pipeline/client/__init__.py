"""Read results as they are published: `subscribe` from any Python program, blocking or asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.retry import Retry

from framegate.pipeline.client.follower import Follower, Given, Start
from framegate.pipeline.client.group import Consumer, GroupFollower
from framegate.pipeline.client.reader import Leg, Legs, Reader, T
from framegate.pipeline.errors import ResultsTrimmed
from framegate.pipeline.records import End, Result
from framegate.pipeline.run.rpc import find_run

__all__ = ["Result", "ResultsTrimmed", "Start", "Subscription", "subscribe"]

ANSWER_S = 15.0


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
) -> Subscription:
    """Follow the results of a run; an iterator and async iterator over `Result`.

    store     URL of the store, or the data folder of a run that goes on on this host
    sources   names; None for all, those that appear later included
    start     "new", from the first time that it is iterated; "earliest", the oldest result that
              is left; or {source: "epoch-seq"}, the last result that was seen (sources that are
              not named there: earliest). In a group it counts where the group is new
    until_end   end when each source has ended; else it goes on for ever
    group, consumer   share the results among the consumers of a group, at least once: `ack` each.
              A consumer that comes back under its name first gets what it did not acknowledge
    claim_after_s   what another consumer has left lying for so long is taken over
    patience_s      StoreLost once the store has been away for so long; 0 or more
    """
    if (group is None) != (consumer is None):
        raise ValueError("group and consumer go together: give both or neither")
    url = str(store) if "://" in str(store) else find_run(Path(store)).store
    if group is None or consumer is None:
        return Subscription(Reader(url, Follower(sources, start, until_end), patience_s))
    if until_end:
        raise ValueError("until_end: in a group only one consumer sees an end; leave it out")
    member = Consumer(group, consumer, claim_after_s)
    return Subscription(Reader(url, GroupFollower(sources, start, member), patience_s))


class Subscription:
    """An iterator (blocking) or an async iterator over results: use it as one of the two.

    Fails   ResultsTrimmed where results were removed before they were read: iterating again goes
            on after the gap. StoreLost once the store was away for `patience_s`; up to then it
            reconnects by itself. StoreRefused if the store was replaced or refuses the login
    Thread  one thread or task at a time
    """

    def __init__(self, reader: Reader) -> None:
        """What `subscribe` makes."""
        self._reader = reader
        self._clients: dict[str, Any] = {}  # by the URL of the server
        self._async_clients: dict[str, Any] = {}

    @property
    def ends(self) -> dict[str, End]:
        """The end of each source that has ended so far; `fault` says why, if early."""
        return self._reader.ends

    # -- blocking

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        given = self._drive(self._reader.next())
        if given is None:
            raise StopIteration
        return _result_of(given)

    def ack(self, result: Result) -> None:
        """Acknowledge a result of a group: it will not be given again."""
        self._drive(self._reader.ack(result))

    def close(self) -> None:
        """Close the connection; again is harmless."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _drive(self, legs: Legs[T]) -> T:
        try:
            leg = next(legs)
            while True:
                try:
                    replies = self._send(leg)
                except BaseException as error:
                    leg = legs.throw(error)
                else:
                    leg = legs.send(replies)
        except StopIteration as end:
            returned: T = end.value
            return returned

    def _send(self, leg: Leg) -> list[Any]:
        if not leg.commands:
            time.sleep(leg.pause_s)
            return []
        if leg.url not in self._clients:
            client = redis.Redis.from_url(leg.url, **_options(Retry(NoBackoff(), 0)))
            self._clients[leg.url] = client
        return list(_pipe(self._clients[leg.url], leg).execute(raise_on_error=False))

    # -- asyncio: the same with `await`

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        given = await self._async_drive(self._reader.next())
        if given is None:
            raise StopAsyncIteration
        return _result_of(given)

    async def aack(self, result: Result) -> None:
        """The same as `ack`, for asyncio."""
        await self._async_drive(self._reader.ack(result))

    async def aclose(self) -> None:
        """The same as `close`, for asyncio."""
        clients, self._async_clients = self._async_clients, {}
        for client in clients.values():
            await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _async_drive(self, legs: Legs[T]) -> T:
        try:
            leg = next(legs)
            while True:
                try:
                    replies = await self._async_send(leg)
                except BaseException as error:
                    leg = legs.throw(error)
                else:
                    leg = legs.send(replies)
        except StopIteration as end:
            returned: T = end.value
            return returned

    async def _async_send(self, leg: Leg) -> list[Any]:
        if not leg.commands:
            await asyncio.sleep(leg.pause_s)
            return []
        if leg.url not in self._async_clients:
            retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
            client = redis.asyncio.Redis.from_url(leg.url, **_options(retry))
            self._async_clients[leg.url] = client
        return list(await _pipe(self._async_clients[leg.url], leg).execute(raise_on_error=False))


def _result_of(given: Given) -> Result:
    if isinstance(given, ResultsTrimmed):
        raise given
    return given


def _pipe(client: Any, leg: Leg) -> Any:
    """A leg's commands, to be executed; their replies come as they are."""
    client.response_callbacks.clear()
    pipe = client.pipeline(transaction=leg.atomic)
    for command in leg.commands:
        pipe.execute_command(*command)
    return pipe


def _options(retry: Any) -> dict[str, Any]:
    """No silent retries: a broken round begins again from what is known."""
    return {
        "protocol": 2,
        "retry": retry,
        "socket_timeout": ANSWER_S,
        "socket_connect_timeout": ANSWER_S,
    }
