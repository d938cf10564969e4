"""Results or counts to an MQTT broker: a user's stage. Needs aiomqtt (the extra `bridge`).

    [stages.mqtt]
    use = "mqtt_bridge:MqttBridge"
    input = "cache"
    on_lag = "drop"
    host = "broker.example"
    username = "framegate"
    password_env = "MQTT_PASSWORD"

A result goes to <topic>/<source> with QoS 1, and its position is stored once the broker has
acknowledged it: at least once, also across a kill of this worker. A broker that is away holds
nothing up: `keep` results wait in memory, older ones are dropped and counted, and these are all
that a kill can lose. <topic>/online is 1 while the bridge is there, else 0 (retained; Last Will).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiomqtt
import msgspec
from outbox import Message, Outbox

from framegate import Context, Item, Result, Stage, from_environment

GOODBYE_S = 1.0


@dataclass(frozen=True)
class MqttOptions:
    """content: whole results as --json prints them, or objects by label only.

    keep        results that wait while the broker is away
    patience_s  longest wait for an acknowledgement while it is there; below workers.hung_s
    """

    host: str
    port: int = field(default=1883, metadata={"least": 1, "most": 65535})
    tls: bool = False
    username: str | None = None
    password_env: str | None = None
    topic: str = "framegate"
    content: Literal["results", "counts"] = "results"
    keep: int = field(default=1000, metadata={"least": 1, "most": 1_000_000})
    patience_s: float = field(default=5.0, metadata={"least": 0.1, "most": 10.0})


class Bridged(msgspec.Struct, frozen=True):
    """Results that were dropped, since the beginning."""

    dropped: int = 0


class MqttBridge(Stage[Bridged]):
    """One result in, one message out; it says {dropped} when results were dropped."""

    Options = MqttOptions
    State = Bridged
    takes_failed = True
    options: MqttOptions

    def __init__(self, options: MqttOptions, context: Context) -> None:
        super().__init__(options, context)
        env = options.password_env
        self._password = from_environment(env, "password_env") if env is not None else None
        self._outbox = Outbox(self._session, (aiomqtt.MqttError, OSError), options.keep)

    def process(
        self, batch: Sequence[Item], states: Mapping[str, Bridged]
    ) -> tuple[list[dict[str, int] | None], dict[str, Bridged]]:
        """Hand the results on; wait for the broker's word, but not for a broker that is away."""
        self._outbox.put(self._message(item) for item in batch)
        self._outbox.wait(self.options.patience_s)
        after, said = dict(states), []
        for item in batch:
            dropped = self._outbox.dropped(item.source)
            after[item.source] = Bridged(after[item.source].dropped + dropped)
            said.append({"dropped": dropped} if dropped else None)
        return said, after

    def close(self) -> None:
        """Say goodbye to the broker."""
        self._outbox.close(GOODBYE_S)

    def _message(self, item: Item) -> Message:
        before = self.context.before
        if self.options.content == "counts":
            said = counts(item.output_of(before, Result))
        else:
            said = item.output_of(before, dict)
        key = f"{item.source}/{item.position}"
        return Message(item.source, key, msgspec.json.encode(said))

    async def _session(self, outbox: Outbox) -> None:
        """One connection, until it is lost."""
        online = f"{self.options.topic}/online"
        async with aiomqtt.Client(
            self.options.host,
            self.options.port,
            username=self.options.username,
            password=self._password,
            will=aiomqtt.Will(online, b"0", qos=1, retain=True),
            tls_params=aiomqtt.TLSParameters() if self.options.tls else None,
        ) as client:
            await client.publish(online, b"1", qos=1, retain=True)
            try:
                await _first_ended(self._send(client, outbox), _listen(client))
            finally:
                with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                    await client.publish(online, b"0", qos=1, retain=True, timeout=GOODBYE_S)

    async def _send(self, client: aiomqtt.Client, outbox: Outbox) -> None:
        while True:
            message = await outbox.first()
            topic = f"{self.options.topic}/{message.source}"
            await client.publish(topic, message.body, qos=1)
            outbox.sent(message)


def counts(result: Result) -> dict[str, Any]:
    """Count what is in a result, by label."""
    objects = Counter(thing.label for thing in result.objects)
    return {"source": result.source, "epoch": result.epoch, "seq": result.seq, "counts": objects}


async def _listen(client: aiomqtt.Client) -> None:
    """Notice a lost connection though nothing is to be sent."""
    async for _ in client.messages:
        pass


async def _first_ended(*parts: Any) -> None:
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
