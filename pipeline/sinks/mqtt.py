"""Episodes to an MQTT broker, and what Home Assistant needs to show them: device discovery.

    TOPIC/status                online or offline (the broker's word once this process is gone)
    TOPIC/SOURCE/RULE/state     how a rule stands, retained: always the newest
    TOPIC/SOURCE/RULE/event     each step of an episode
    TOPIC/SOURCE/picture        the picture of the last start, retained
    TOPIC/SOURCE/lost           what was not told
    DISCOVERY/device/framegate_TOPIC_SOURCE/config   the device of a source, retained

A sink goes on once the broker has acknowledged all that a step changes (QoS 1).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import Any, Final, get_args
from urllib.parse import unquote, urlsplit

import msgspec

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.episodes import Change, Step, When
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.sinks.delivery import Away, CameraPictures, Message, MessageOutcome
from framegate.pipeline.sinks.position import NotTold

ANSWER_S: Final = 10.0
GOODBYE_S: Final = 1.0
KEEP_ALIVE_S: Final = 15
AGAIN_MOST_S: Final = 30
CROSSED: Final = ("in", "out")


class RuleStanding(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a rule stands with a source.

    open      episodes that go on
    episodes  that began, since this sink did; of a crossing also into and out
    last      id of the episode that changed last, with its label and value
    """

    when: When
    open: tuple[str, ...] = ()
    episodes: int = 0
    into: int = 0
    out: int = 0
    last: str | None = None
    label: str | None = None
    value: float | None = None


class RuleStandings(msgspec.Struct, frozen=True):
    """Of all rules of a source that are known, by name."""

    rules: dict[str, RuleStanding] = {}


class KnownRule(msgspec.Struct, frozen=True):
    """A rule that is configured. source: the only one that it judges; empty: every one."""

    when: When
    source: str = ""


class Mqtt:
    """A connection that is kept while the sink lives, and made again by itself.

    Thread: paho calls back in a thread of its own; what it needs is behind a lock.
    """

    state = RuleStandings()
    steps: Collection[Step] = get_args(Step)

    def __init__(
        self,
        name: str,
        config: SinkConfig,
        run: str,
        rules: Mapping[str, KnownRule],
        pictures: CameraPictures,
    ) -> None:
        """rules: those that are configured; none: it is not known which. ConfigFaults"""
        import paho.mqtt.client as paho  # of the extra `mqtt`
        from paho.mqtt.enums import CallbackAPIVersion

        self._topic, self._discovery = config.topic, config.discovery
        self._rules, self._pictures = rules, pictures if config.picture else CameraPictures()
        self._states: dict[str, RuleStandings] = {}
        self._lock = threading.Lock()
        self._settled = threading.Event()  # connected, or it is known why not
        self._fault = "no answer yet"
        self._begun = False
        url = urlsplit(config.place(name))
        self._host = url.hostname or ""
        self._port = url.port or (8883 if url.scheme == "mqtts" else 1883)
        client = paho.Client(
            CallbackAPIVersion.VERSION2, f"framegate-{run[:8]}-{name}", clean_session=True
        )
        if url.username is not None:
            client.username_pw_set(unquote(url.username), unquote(url.password or ""))
        if url.scheme == "mqtts":
            client.tls_set()
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, AGAIN_MOST_S)
        client.connect_timeout = ANSWER_S
        client.on_connect = self._connected
        client.on_connect_fail = self._failed
        client.on_disconnect = self._disconnected
        client.on_message = self._heard
        self._client = client

    # -- what the sink calls

    def begin(self, states: Mapping[str, RuleStandings]) -> None:
        """Announce these sources, and keep doing so whenever the broker, or Home Assistant, comes
        back.
        """
        with self._lock:
            self._states = dict(states)
        if not self._begun:
            self._begun = True
            self._client.connect_async(self._host, self._port, KEEP_ALIVE_S)
            self._client.loop_start()
        elif self._client.is_connected():
            self._announce()

    def tell(self, message: Message, state: RuleStandings) -> tuple[MessageOutcome, RuleStandings]:
        """Publish it, and wait for the broker. Away"""
        if not self._client.is_connected():
            self._settled.wait(ANSWER_S)
            if not self._client.is_connected():
                raise Away(f"the broker is away: {self._fault}")
        what, source = message.what, message.source
        after = _after_loss(state) if isinstance(what, NotTold) else stepped(state, what)
        said: list[tuple[str, bytes, bool]] = []
        if isinstance(what, NotTold):
            said.append((f"{source}/lost", msgspec.json.encode(what), False))
            said += [self._state_of(source, rule, after) for rule in after.rules]
        else:
            said.append(self._state_of(source, what.rule, after))
            if (event := event_of(what)) is not None:
                said.append((f"{source}/{what.rule}/event", msgspec.json.encode(event), False))
            if what.step == "start" and message.fresh and (picture := self._pictures.of(source)):
                said.append((f"{source}/picture", picture, True))
        with self._lock:
            self._states[source] = after
            if after.rules.keys() != state.rules.keys():
                self._announce_source(source, after)
            sent = [
                self._client.publish(f"{self._topic}/{topic}", payload, 1, retain)
                for topic, payload, retain in said
            ]
        for info in sent:
            self._await(info)
        return "delivered", after

    def _await(self, info: Any) -> None:
        try:
            info.wait_for_publish(ANSWER_S)
        except (RuntimeError, ValueError) as error:  # as the connection is lost
            raise Away(f"the broker is away: {error}") from error
        if not info.is_published():
            raise Away("the broker does not acknowledge")

    def close(self) -> None:
        """Say goodbye."""
        if self._client.is_connected():
            self._client.publish(f"{self._topic}/status", "offline", 1, True).wait_for_publish(
                GOODBYE_S
            )
        self._client.disconnect()
        if self._begun:
            self._client.loop_stop()

    # -- what paho calls

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, _: Any) -> None:  # noqa: ARG002
        if reason.is_failure:
            self._fault = redacted(str(reason))
            self._settled.set()
            return
        if self._discovery:
            client.subscribe(f"{self._discovery}/status", 1)
        self._fault = ""
        self._announce()
        self._settled.set()

    def _failed(self, client: Any, data: Any) -> None:  # noqa: ARG002
        self._fault = "it cannot be reached"
        self._settled.set()

    def _disconnected(self, client: Any, data: Any, flags: Any, reason: Any, _: Any) -> None:  # noqa: ARG002
        self._fault = self._fault or redacted(str(reason))  # else it never was connected

    def _heard(self, client: Any, data: Any, message: Any) -> None:  # noqa: ARG002
        if message.payload == b"online":  # Home Assistant begins
            self._announce()

    # -- how things stand

    def _announce(self) -> None:
        """Publish all that is retained.

        Nobody waits for the broker's word, and paho must not repeat it later, when it is old: hence
        QoS 0. Where the connection is lost, the next one begins with this.
        """
        with self._lock:  # what is newer must come after
            self._client.publish(f"{self._topic}/status", "online", 1, True)
            for source, known in self._states.items():
                self._announce_source(source, known)
                shown = self._shown(source, known)
                for rule in shown.rules:
                    topic, payload, retain = self._state_of(source, rule, shown)
                    self._client.publish(f"{self._topic}/{topic}", payload, 0, retain)

    def _shown(self, source: str, known: RuleStandings) -> RuleStandings:
        """Return how the configured rules stand."""
        if not self._rules:
            return known
        wanted = {n: rule for n, rule in self._rules.items() if rule.source in ("", source)}
        return RuleStandings(
            {name: known.rules.get(name, RuleStanding(rule.when)) for name, rule in wanted.items()}
        )

    def _announce_source(self, source: str, state: RuleStandings) -> None:
        if self._discovery:
            device = device_of(self._topic, source, self._shown(source, state), state)
            topic = f"{self._discovery}/device/{device_id(self._topic, source)}/config"
            self._client.publish(topic, msgspec.json.encode(device), 0, True)

    def _state_of(self, source: str, rule: str, states: RuleStandings) -> tuple[str, bytes, bool]:
        state = states.rules[rule]
        told = {"state": "ON" if state.open else "OFF", "count": len(state.open)}
        told |= msgspec.structs.asdict(state)
        told["in"] = told.pop("into")
        return f"{source}/{rule}/state", msgspec.json.encode(told), True


# -- What is told. Pure.


def stepped(states: RuleStandings, change: Change) -> RuleStandings:
    """Return how the rules stand after a step; the same step again changes what it changed."""
    before = states.rules.get(change.rule, RuleStanding(change.when))
    others = tuple(each for each in before.open if each != change.episode)
    starts = change.step == "start"
    after = RuleStanding(
        when=change.when,
        open=others if change.step == "end" else (*others, change.episode),
        episodes=before.episodes + starts,
        into=before.into + (starts and change.direction == "in"),
        out=before.out + (starts and change.direction == "out"),
        last=change.episode,
        label=change.label,
        value=change.value,
    )
    return RuleStandings({**states.rules, change.rule: after})


def _after_loss(states: RuleStandings) -> RuleStandings:
    """Return how rules stand after steps that nobody knows: none is said to go on."""
    return RuleStandings(
        {name: msgspec.structs.replace(each, open=()) for name, each in states.rules.items()}
    )


def event_of(change: Change) -> dict[str, Any] | None:
    """Return a step as Home Assistant's event entities read it; None for the end of a crossing,
    which is its start.
    """
    kind: str = change.step
    if change.when == "crosses":
        if change.step != "start":
            return None
        kind = change.direction or CROSSED[0]
    return {"event_type": kind, "id": change.id, **msgspec.to_builtins(change)}


def device_id(topic: str, source: str) -> str:
    """Return what names a source in Home Assistant."""
    return f"framegate_{re.sub(r'[^a-zA-Z0-9_-]', '_', topic)}_{source}"


def device_of(
    topic: str, source: str, shown: RuleStandings, known: RuleStandings
) -> dict[str, Any]:
    """Return the device of a source as Home Assistant's discovery has it.

    known: of these, what is not shown is taken away
    """
    id = device_id(topic, source)
    entities: dict[str, dict[str, Any]] = {}
    for name, rule in known.rules.items():
        if name not in shown.rules:
            gone = entities_of(topic, source, name, rule)
            entities |= {key: {"platform": one["platform"]} for key, one in gone.items()}
    entities["picture"] = {
        "platform": "image",
        "name": "Last picture",
        "image_topic": f"{topic}/{source}/picture",
        "content_type": "image/jpeg",
        "unique_id": f"{id}-picture",
    }
    for name, rule in shown.rules.items():
        for key, one in entities_of(topic, source, name, rule).items():
            entities[key] = {**one, "unique_id": f"{id}-{key}"}
    return {
        "device": {
            "identifiers": [id],
            "name": _as_title(source),
            "manufacturer": "Framegate",
            "sw_version": version("framegate"),
        },
        "origin": {"name": "Framegate", "sw_version": version("framegate")},
        "availability_topic": f"{topic}/status",
        "qos": 1,
        "components": entities,
    }


def entities_of(topic: str, source: str, name: str, rule: RuleStanding) -> dict[str, Any]:
    """Return the entities of a rule: whether it holds, how often it did, and each step."""
    said, state = _as_title(name), f"{topic}/{source}/{name}/state"
    entities: dict[str, Any] = {}
    if rule.when != "crosses":
        entities[f"{name}-open"] = {
            "platform": "binary_sensor",
            "name": said,
            "state_topic": state,
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": state,
        }
    if rule.when in ("inside", "count"):
        entities[f"{name}-open"]["device_class"] = "occupancy"
    for key in CROSSED if rule.when == "crosses" else ("episodes",):
        entities[f"{name}-{key}"] = {
            "platform": "sensor",
            "name": f"{said} {key}",
            "state_topic": state,
            "value_template": f"{{{{ value_json['{key}'] }}}}",
            "state_class": "total_increasing",
        }
    entities[f"{name}-event"] = {
        "platform": "event",
        "name": f"{said} event",
        "state_topic": f"{topic}/{source}/{name}/event",
        "event_types": list(CROSSED if rule.when == "crosses" else get_args(Step)),
    }
    return entities


def _as_title(name: str) -> str:
    return name.replace("_", " ").capitalize()
