"""Read results as they are published: `subscribe` from any Python program, blocking or asyncio."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError
from redis.retry import Retry

from framegate.pipeline.client.follower import Ask, Follower, Given, Start, Steps
from framegate.pipeline.client.group import Consumer, GroupFollower
from framegate.pipeline.client.spread import Leg, gathered, is_elsewhere, pause_s, spread
from framegate.pipeline.errors import ResultsTrimmed, StoreBusy, StoreLost
from framegate.pipeline.records import End, Result
from framegate.pipeline.retry import Backoff
from framegate.pipeline.run.rpc import find_run
from framegate.pipeline.store.client import store_errors
from framegate.pipeline.store.links import Nodes

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
        return Subscription(url, Follower(sources, start, until_end), patience_s)
    if until_end:
        raise ValueError("until_end: in a group only one consumer sees an end; leave it out")
    member = Consumer(group, consumer, claim_after_s)
    return Subscription(url, GroupFollower(sources, start, member), patience_s)


class Subscription:
    """An iterator (blocking) or an async iterator over results: use it as one of the two.

    Fails   ResultsTrimmed where results were removed before they were read: iterating again goes
            on after the gap. StoreLost once the store was away for `patience_s`; up to then it
            reconnects by itself. StoreRefused if the store was replaced or refuses the login
    Thread  one thread or task at a time
    """

    def __init__(self, url: str, follower: Follower | GroupFollower, patience_s: float) -> None:
        self._url = url
        self._follower = follower
        self._patience_s = patience_s
        self._nodes: Nodes | None = None
        self._clients: dict[str, Any] = {}
        self._async_clients: dict[str, Any] = {}
        self._failures = 0
        self._away_mono: float | None = None

    @property
    def ends(self) -> dict[str, End]:
        """The end of each source that has ended so far; `fault` says why, if early."""
        return self._follower.ends

    # -- blocking

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        while not self._follower.ready:
            if self._follower.finished:
                raise StopIteration
            try:
                self._round()
                self._failures, self._away_mono = 0, None
            except (StoreLost, StoreBusy) as error:
                time.sleep(self._delay_s(error))
        return _result_of(self._follower.ready.popleft())

    def ack(self, result: Result) -> None:
        """Acknowledge a result of a group: it will not be given again."""
        self._answer(Ask([self._ack_command(result)]))

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

    def _round(self) -> None:
        steps = self._follower.steps()
        try:
            with store_errors(self._url):
                ask = _sent(steps, None)
                while ask is not None:
                    ask = _sent(steps, self._answer(ask))
        except BaseException:
            self._follower.interrupted()
            raise

    def _answer(self, ask: Ask) -> list[Any]:
        with store_errors(self._url):
            replies = self._replies(ask)
            if is_elsewhere(replies):
                (answer,) = self._leg(Leg(self._url, [("CLUSTER", "SLOTS")]), atomic=False)
                self._nodes = Nodes(self._url, answer)
                replies = self._replies(ask)
        time.sleep(ask.pause_s + pause_s(ask.commands, self._nodes, replies))
        return replies

    def _replies(self, ask: Ask) -> list[Any]:
        legs = spread(ask.commands, self._url, self._nodes)
        return gathered(ask.commands, legs, [self._leg(leg, ask.atomic) for leg in legs])

    def _leg(self, leg: Leg, atomic: bool) -> list[Any]:
        client = self._clients.get(leg.url)
        if client is None:
            client = redis.Redis.from_url(leg.url, **_options(Retry(NoBackoff(), 0)))
            client.response_callbacks.clear()
            self._clients[leg.url] = client
        pipe = client.pipeline(transaction=atomic)
        for command in leg.commands:
            pipe.execute_command(*command)
        try:
            return list(pipe.execute(raise_on_error=False))
        except AskError as elsewhere:  # a transaction
            return [elsewhere] * len(leg.commands)

    # -- asyncio

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        while not self._follower.ready:
            if self._follower.finished:
                raise StopAsyncIteration
            try:
                await self._async_round()
                self._failures, self._away_mono = 0, None
            except (StoreLost, StoreBusy) as error:
                await asyncio.sleep(self._delay_s(error))
        return _result_of(self._follower.ready.popleft())

    async def aack(self, result: Result) -> None:
        """The same as `ack`, for asyncio."""
        await self._async_answer(Ask([self._ack_command(result)]))

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

    async def _async_round(self) -> None:
        steps = self._follower.steps()
        try:
            with store_errors(self._url):
                ask = _sent(steps, None)
                while ask is not None:
                    ask = _sent(steps, await self._async_answer(ask))
        except BaseException:
            self._follower.interrupted()
            raise

    async def _async_answer(self, ask: Ask) -> list[Any]:
        with store_errors(self._url):
            replies = await self._async_replies(ask)
            if is_elsewhere(replies):
                slots = Leg(self._url, [("CLUSTER", "SLOTS")])
                (answer,) = await self._async_leg(slots, atomic=False)
                self._nodes = Nodes(self._url, answer)
                replies = await self._async_replies(ask)
        await asyncio.sleep(ask.pause_s + pause_s(ask.commands, self._nodes, replies))
        return replies

    async def _async_replies(self, ask: Ask) -> list[Any]:
        legs = spread(ask.commands, self._url, self._nodes)
        replies = [await self._async_leg(leg, ask.atomic) for leg in legs]
        return gathered(ask.commands, legs, replies)

    async def _async_leg(self, leg: Leg, atomic: bool) -> list[Any]:
        client = self._async_clients.get(leg.url)
        if client is None:
            retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
            client = redis.asyncio.Redis.from_url(leg.url, **_options(retry))
            client.response_callbacks.clear()
            self._async_clients[leg.url] = client
        pipe = client.pipeline(transaction=atomic)
        for command in leg.commands:
            pipe.execute_command(*command)
        try:
            return list(await pipe.execute(raise_on_error=False))
        except AskError as elsewhere:  # a transaction
            return [elsewhere] * len(leg.commands)

    # -- both

    def _ack_command(self, result: Result) -> Any:
        if not isinstance(self._follower, GroupFollower):
            raise ValueError("ack: only results of a group are acknowledged")
        return self._follower.ack(result.source, result.position)

    def _delay_s(self, error: StoreLost | StoreBusy) -> float:
        """Seconds until the next try; the error itself once patience is at its end."""
        now = time.monotonic()
        self._away_mono = now if self._away_mono is None else self._away_mono
        if now - self._away_mono >= self._patience_s:
            raise error
        self._failures += 1
        return Backoff().delay_s(self._failures, random.random())


def _sent(steps: Steps, replies: Any) -> Ask | None:
    """What the round asks next, None once it is over."""
    try:
        return steps.send(replies)
    except StopIteration:
        return None


def _result_of(given: Given) -> Result:
    if isinstance(given, ResultsTrimmed):
        raise given
    return given


def _options(retry: Any) -> dict[str, Any]:
    """Raw replies, no silent retries: a broken round begins again from what is known."""
    return {
        "protocol": 2,
        "retry": retry,
        "socket_timeout": ANSWER_S,
        "socket_connect_timeout": ANSWER_S,
    }
