"""Read results or stage outputs as they are published, from any program: blocking or asyncio.

Users call `framegate.subscribe`, which makes a Subscription. `follower` decides where reading
starts and continues, `reader` which server gets a command and when it is tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.retry import Retry

from framegate.pipeline.client.follower import Given
from framegate.pipeline.client.reader import Leg, Legs, Reader, T
from framegate.pipeline.contracts.errors import ResultsTrimmed
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import Output, Result

ANSWER_S = 15.0

Read = TypeVar("Read", bound=Result | Output[Any])


class Subscription(Generic[Read]):
    """An iterator (blocking) or an async iterator over results; use it as one of the two.

    Raises  ResultsTrimmed if results were removed before they were read: iterate again to continue
            after the gap. StoreLost if the store is away for `patience_s`; until then the iterator
            reconnects. StoreRefused if the store was replaced or refuses the login. ValueError
            after `close`
    Thread  one thread or task at a time
    """

    def __init__(self, reader: Reader, close: Callable[[], None] = lambda: None) -> None:
        """Use `framegate.subscribe` instead. close: called after the connections are closed"""
        self._reader = reader
        self._close = close
        self._clients: dict[str, Any] = {}  # by the URL of the server
        self._async_clients: dict[str, Any] = {}
        self._is_closed = False

    @property
    def ends(self) -> dict[str, End]:
        """Return the end of each source that has ended so far; `fault` states why."""
        return self._reader.ends

    def _check_open(self) -> None:
        if self._is_closed:  # else it would wait for a store that may have ended with it
            raise ValueError("this subscription is closed; subscribe again")

    # -- blocking

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Read:
        self._check_open()
        given = self._drive(self._reader.next())
        if given is None:
            raise StopIteration
        read: Read = _result_of(given)
        return read

    def ack(self, result: Read) -> None:
        """Acknowledge a result of a group, so that it is not delivered again."""
        self._drive(self._reader.ack(result))

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self._is_closed = True
        clients = self._clients
        self._clients = {}
        for client in clients.values():
            client.close()
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
            retry = Retry(NoBackoff(), 0)
            client = redis.Redis.from_url(leg.url, socket_timeout=ANSWER_S, **_options(retry))
            self._clients[leg.url] = client
        replies = list(_pipe(self._clients[leg.url], leg).execute(raise_on_error=False))
        if _is_former_primary(replies):
            self._clients.pop(leg.url).close()
        return replies

    # -- asyncio: the same methods with `await`

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Read:
        self._check_open()
        given = await self._async_drive(self._reader.next())
        if given is None:
            raise StopAsyncIteration
        read: Read = _result_of(given)
        return read

    async def aack(self, result: Read) -> None:
        """Acknowledge a result of a group, with asyncio; see `ack`."""
        await self._async_drive(self._reader.ack(result))

    async def aclose(self) -> None:
        """Close the connection, with asyncio; see `close`."""
        self._is_closed = True
        clients = self._async_clients
        self._async_clients = {}
        for client in clients.values():
            await client.aclose()
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
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
            client = redis.asyncio.Redis.from_url(leg.url, socket_timeout=None, **_options(retry))
            self._async_clients[leg.url] = client
        # redis-py applies `socket_timeout` with asyncio.wait_for. In Python 3.11 that loses a
        # cancellation in the step in which the write completes, so the timeout is here instead.
        async with asyncio.timeout(ANSWER_S):
            pipe = _pipe(self._async_clients[leg.url], leg)
            replies = list(await pipe.execute(raise_on_error=False))
        if _is_former_primary(replies):
            await self._async_clients.pop(leg.url).aclose()
        return replies


def _result_of(given: Given) -> Any:
    if isinstance(given, ResultsTrimmed):
        raise given
    return given


def _pipe(client: Any, leg: Leg) -> Any:
    """Return a pipeline with a leg's commands, whose replies redis-py does not convert."""
    client.response_callbacks.clear()
    pipe = client.pipeline(transaction=leg.atomic)
    for command in leg.commands:
        pipe.execute_command(*command)
    return pipe


def _is_former_primary(replies: list[Any]) -> bool:
    """Return whether a group cannot use this connection: the server is a replica now.

    The URL may lead to another server meanwhile, also while this connection stays open.
    """
    return any(isinstance(reply, redis.ReadOnlyError) for reply in replies)


def _options(retry: Any) -> dict[str, Any]:
    """Return the options of a client, which must not retry: the reader starts the round again."""
    return {
        "protocol": 2,
        "retry": retry,
        "socket_connect_timeout": ANSWER_S,
    }
