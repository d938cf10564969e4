"""Publish episodes to an MQTT broker, with device discovery for Home Assistant.

    TOPIC/status                online or offline; the broker publishes offline after a kill
    TOPIC/SOURCE/RULE/state     newest state of a rule, retained
    TOPIC/SOURCE/RULE/event     each step of an episode
    TOPIC/SOURCE/picture        picture of the last start, retained
    TOPIC/onvif-mj/...          boxes of frames; see `metadata`
    TOPIC/profile               selected profile or auto, retained; with `commands`
    TOPIC/SOURCE/lost           a range of entries that was never delivered
    DISCOVERY/device/framegate_TOPIC_SOURCE/config   device of a source, retained

A step is delivered once the broker acknowledged all its messages (QoS 1).
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
from framegate.pipeline.sinks.delivery import (
    CameraPictures,
    Message,
    MessageOutcome,
    ReceiverUnavailable,
)
from framegate.pipeline.sinks.metadata import MetadataThread
from framegate.pipeline.sinks.mqtt_commands import AUTO, MqttCommands, profile_device
from framegate.pipeline.sinks.position import Undelivered

TIMEOUT_S: Final = 10.0
CLOSE_S: Final = 1.0
KEEP_ALIVE_S: Final = 15
MAX_RECONNECT_S: Final = 30
DIRECTIONS: Final = ("in", "out")
VISIT: Final = "visit"
AT_ONCE: Final = ("crosses", "like")  # predicates whose episodes start and end in the same message

Publication = tuple[str, bytes, bool]
"""Topic below the sink's topic, payload, and whether the broker retains it."""


class RuleState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a rule with a source.

    open      ids of the open episodes
    episodes  number of episodes that began since the sink was first used
    into, out  for a crossing: those of the episodes in each direction
    last      id of the episode that changed last; `label` and `value` are of it
    """

    when: When
    open: tuple[str, ...] = ()
    episodes: int = 0
    into: int = 0
    out: int = 0
    last: str | None = None
    label: str | None = None
    value: float | None = None


class RuleStates(msgspec.Struct, frozen=True):
    """The states of the rules of a source, by name. The sink stores them with its position."""

    rules: dict[str, RuleState] = {}


class KnownRule(msgspec.Struct, frozen=True):
    """A configured rule. source: the only source that it applies to; empty: all sources."""

    when: When
    source: str = ""


class Profiles(msgspec.Struct, frozen=True):
    """The profiles of a run. selected: name of one of them; "": their schedules decide"""

    selected: str = ""
    names: tuple[str, ...] = ()


class Mqtt:
    """A receiver that publishes to a broker. The connection is restored whenever it is lost.

    The sink's thread calls the public methods; paho calls the callbacks in a thread of its own.
    `_lock` protects `_states` and the order of publications.
    """

    initial_state = RuleStates()
    steps: Collection[Step] = get_args(Step)

    def __init__(
        self,
        name: str,
        config: SinkConfig,
        run: str,
        rules: Mapping[str, KnownRule],
        pictures: CameraPictures,
        store: str = "",
        profiles: Profiles | None = None,
        commands: MqttCommands | None = None,
    ) -> None:
        """Prepare the connection; `begin` opens it.

        rules  the configured rules, by name; empty: unknown
        store  URL of the store, for the boxes of frames
        commands  carries out commands of the broker; None: there are none
        Raises ConfigFaults.
        """
        import paho.mqtt.client as paho  # of the extra `mqtt`
        from paho.mqtt.enums import CallbackAPIVersion

        self._topic = config.topic
        self._discovery = config.discovery
        self._rules = rules
        self._profiles = profiles or Profiles()
        self._commands = commands
        self._pictures = CameraPictures()
        if config.picture:
            self._pictures = pictures
        self._states: dict[str, RuleStates] = {}
        self._lock = threading.Lock()
        self._settled = threading.Event()  # the first connection succeeded or failed
        self._fault = "no answer so far"
        self._has_begun = False
        self._is_closing = False
        url = urlsplit(config.place(name))
        self._host = url.hostname or ""
        client = paho.Client(
            CallbackAPIVersion.VERSION2, f"framegate-{run[:8]}-{name}", clean_session=True
        )
        default_port = 1883
        if url.scheme == "mqtts":
            default_port = 8883
            client.tls_set()
        self._port = url.port or default_port
        if url.username is not None:
            client.username_pw_set(unquote(url.username), unquote(url.password or ""))
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, MAX_RECONNECT_S)
        client.connect_timeout = TIMEOUT_S
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client
        self._metadata: MetadataThread | None = None
        self._sent: dict[str, Any] = {}  # the last metadata of each topic
        if config.metadata_fps and store:
            self._metadata = MetadataThread(name, store, config.metadata_fps, self._publish_frame)

    # -- Called by the sink.

    def begin(self, states: Mapping[str, RuleStates]) -> None:
        """Announce these sources, now and whenever the broker or Home Assistant restarts."""
        with self._lock:
            self._states = dict(states)
        if not self._has_begun:
            self._has_begun = True
            self._client.connect_async(self._host, self._port, KEEP_ALIVE_S)
            self._client.loop_start()
            if self._metadata is not None:
                self._metadata.start()
        elif self._client.is_connected():
            self._announce()
        if self._metadata is not None:
            self._metadata.take_sources(states)

    def deliver(self, message: Message, state: RuleStates) -> tuple[MessageOutcome, RuleStates]:
        """Publish a message and wait for the broker's acknowledgement.

        Raises ReceiverUnavailable.
        """
        if not self._client.is_connected():
            self._settled.wait(TIMEOUT_S)
            if not self._client.is_connected():
                raise ReceiverUnavailable(f"the broker cannot be reached: {self._fault}")
        content = message.content
        source = message.source
        publications: list[Publication] = []
        if isinstance(content, Undelivered):
            after = without_open(state)
            publications.append((f"{source}/lost", msgspec.json.encode(content), False))
            publications += [_state_of(source, rule, after) for rule in after.rules]
        else:
            after = after_step(state, content)
            publications += self._step(message, content, after)
        with self._lock:
            self._states[source] = after
            if after.rules.keys() != state.rules.keys():
                self._announce_source(source, after)
            sent = [
                self._client.publish(f"{self._topic}/{topic}", payload, 1, retain)
                for topic, payload, retain in publications
            ]
        for info in sent:
            self._await_acknowledgement(info)
        return "delivered", after

    def _step(self, message: Message, change: Change, after: RuleStates) -> list[Publication]:
        source = message.source
        publications = [_state_of(source, change.rule, after)]
        event = event_of(change)
        if event is not None:
            topic = f"{source}/{change.rule}/event"
            publications.append((topic, msgspec.json.encode(event), False))
        if change.step == "start" and message.is_fresh:
            picture = self._pictures.newest(source)
            if picture:
                publications.append((f"{source}/picture", picture, True))
        return publications

    def _await_acknowledgement(self, info: Any) -> None:
        try:
            info.wait_for_publish(TIMEOUT_S)
        except (RuntimeError, ValueError) as error:  # the connection was lost before it was sent
            raise ReceiverUnavailable(f"the broker cannot be reached: {error}") from error
        if not info.is_published():
            raise ReceiverUnavailable(f"the broker does not acknowledge within {TIMEOUT_S:g} s")

    def _publish_frame(self, topic: str, payload: bytes) -> bool:
        """Publish the metadata of a frame, unless that of an earlier one still waits for the
        network. Called by its own thread.
        """
        before = self._sent.get(topic)
        if not self._client.is_connected() or not (before is None or before.is_published()):
            return False
        sent = self._client.publish(f"{self._topic}/{topic}", payload, 0)
        if sent.rc:
            return False
        self._sent[topic] = sent
        return True

    def close(self) -> None:
        """Publish `offline` and disconnect."""
        if self._metadata is not None:
            self._metadata.stop()
        self._is_closing = True
        if self._client.is_connected():
            info = self._client.publish(f"{self._topic}/status", "offline", 1, True)
            info.wait_for_publish(CLOSE_S)
        self._client.disconnect()
        if self._has_begun:
            self._client.loop_stop()

    # -- Called by paho.

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, _: Any) -> None:  # noqa: ARG002
        if reason.is_failure:
            self._fault = redacted(str(reason))
            self._settled.set()
            return
        client.subscribe(f"{self._topic}/status", 1)
        if self._discovery:
            client.subscribe(f"{self._discovery}/status", 1)
        if self._commands is not None:
            client.subscribe([(topic, 1) for topic in self._commands.topics])
        self._fault = ""
        self._sent.clear()  # paho drops the messages that the lost connection had not sent
        self._announce()
        self._settled.set()

    def _on_connect_fail(self, client: Any, data: Any) -> None:  # noqa: ARG002
        self._fault = "connection failed"
        self._settled.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, _: Any) -> None:  # noqa: ARG002
        # After a refused connection, `_fault` has the reason already.
        self._fault = self._fault or redacted(str(reason))

    def _on_message(self, client: Any, data: Any, message: Any) -> None:  # noqa: ARG002
        commands = self._commands
        if commands is not None and commands.take(message.topic, message.payload, message.retain):
            return
        if message.topic == f"{self._topic}/status":
            # The slots of a fleet share the topic: another one has stopped, and this one has not.
            if message.payload == b"offline" and not self._is_closing:
                client.publish(message.topic, "online", 1, True)
        elif message.payload == b"online":  # Home Assistant has started
            self._announce()

    # -- Announcements.

    def _announce(self) -> None:
        """Publish all retained messages.

        With QoS 0, because paho would repeat QoS 1 messages after a lost connection, when they are
        out of date. Each connection begins with an announcement, so none has to be repeated.
        """
        with self._lock:  # otherwise a newer state could be published before this one
            self._client.publish(f"{self._topic}/status", "online", 1, True)
            if self._commands is not None:
                self._announce_profile()
            for source, states in self._states.items():
                self._announce_source(source, states)
                shown = self._shown(source, states)
                for rule in shown.rules:
                    topic, payload, retain = _state_of(source, rule, shown)
                    self._client.publish(f"{self._topic}/{topic}", payload, 0, retain)

    def _announce_profile(self) -> None:
        selected = self._profiles.selected or AUTO
        self._client.publish(f"{self._topic}/profile", selected, 1, True)
        if self._discovery:
            device = device_id(self._topic, "")  # no source has this name
            content = profile_device(self._topic, device, self._profiles.names)
            topic = f"{self._discovery}/device/{device}/config"
            self._client.publish(topic, msgspec.json.encode(content), 0, True)

    def _shown(self, source: str, states: RuleStates) -> RuleStates:
        """Return the states of the configured rules; all states if the rules are unknown."""
        if not self._rules:
            return states
        return RuleStates(
            {
                name: states.rules.get(name, RuleState(rule.when))
                for name, rule in self._rules.items()
                if rule.source in ("", source)
            }
        )

    def _announce_source(self, source: str, states: RuleStates) -> None:
        if self._discovery:
            device = device_of(self._topic, source, self._shown(source, states), states)
            topic = f"{self._discovery}/device/{device_id(self._topic, source)}/config"
            self._client.publish(topic, msgspec.json.encode(device), 0, True)


# -- States and payloads. Pure functions.


def after_step(states: RuleStates, change: Change) -> RuleStates:
    """Return the states after a step."""
    before = states.rules.get(change.rule, RuleState(change.when))
    open_ = tuple(each for each in before.open if each != change.episode)
    if change.step != "end":
        open_ = (*open_, change.episode)
    is_start = change.step == "start"
    after = RuleState(
        when=change.when,
        open=open_,
        episodes=before.episodes + is_start,
        into=before.into + (is_start and change.direction == "in"),
        out=before.out + (is_start and change.direction == "out"),
        last=change.episode,
        label=change.label,
        value=change.value,
    )
    return RuleStates({**states.rules, change.rule: after})


def without_open(states: RuleStates) -> RuleStates:
    """Return the states after lost steps: it is unknown which episodes are open, so none is."""
    return RuleStates(
        {name: msgspec.structs.replace(each, open=()) for name, each in states.rules.items()}
    )


def _state_of(source: str, rule: str, states: RuleStates) -> Publication:
    state = states.rules[rule]
    payload: dict[str, Any] = {"state": "OFF", "count": len(state.open)}
    if state.open:
        payload["state"] = "ON"
    payload |= msgspec.structs.asdict(state)
    payload["in"] = payload.pop("into")
    return f"{source}/{rule}/state", msgspec.json.encode(payload), True


def event_of(change: Change) -> dict[str, Any] | None:
    """Return a step in the form of Home Assistant's event entities.

    A crossing and a visit are one event each: None for their other steps.
    """
    kind: str = change.step
    if change.when in AT_ONCE:
        if change.step != "start":
            return None
        kind = VISIT
        if change.when == "crosses":
            kind = change.direction or DIRECTIONS[0]
    return {"event_type": kind, "id": change.id, **msgspec.to_builtins(change)}


def device_id(topic: str, source: str) -> str:
    """Return the id of a source in Home Assistant."""
    return f"framegate_{re.sub(r'[^a-zA-Z0-9_-]', '_', topic)}_{source}"


def device_of(topic: str, source: str, shown: RuleStates, known: RuleStates) -> dict[str, Any]:
    """Return the device of a source for Home Assistant's discovery.

    shown  rules of the device
    known  rules that the device may have had; the entities of the others are removed
    """
    id_ = device_id(topic, source)
    entities: dict[str, dict[str, Any]] = {}
    for name, rule in known.rules.items():
        if name not in shown.rules:
            # An entity with nothing but its platform is removed from the device.
            for key, entity in entities_of(topic, source, name, rule).items():
                entities[key] = {"platform": entity["platform"]}
    entities["picture"] = {
        "platform": "image",
        "name": "Last picture",
        "image_topic": f"{topic}/{source}/picture",
        "content_type": "image/jpeg",
        "unique_id": f"{id_}-picture",
    }
    for name, rule in shown.rules.items():
        for key, entity in entities_of(topic, source, name, rule).items():
            entities[key] = {**entity, "unique_id": f"{id_}-{key}"}
    return {
        "device": {
            "identifiers": [id_],
            "name": _as_title(source),
            "manufacturer": "Framegate",
            "sw_version": version("framegate"),
        },
        "origin": {"name": "Framegate", "sw_version": version("framegate")},
        "availability_topic": f"{topic}/status",
        "qos": 1,
        "components": entities,
    }


def entities_of(topic: str, source: str, name: str, rule: RuleState) -> dict[str, Any]:
    """Return the entities of a rule: a binary sensor, counters of episodes, and its events."""
    title = _as_title(name)
    state = f"{topic}/{source}/{name}/state"
    counters: tuple[str, ...] = ("episodes",)
    event_types: tuple[str, ...] = get_args(Step)
    if rule.when == "crosses":
        counters = DIRECTIONS
        event_types = DIRECTIONS
    elif rule.when == "like":
        event_types = (VISIT,)
    entities: dict[str, Any] = {}
    if rule.when not in AT_ONCE:
        entities[f"{name}-open"] = {
            "platform": "binary_sensor",
            "name": title,
            "state_topic": state,
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": state,
        }
    if rule.when in ("inside", "count"):
        entities[f"{name}-open"]["device_class"] = "occupancy"
    for key in counters:
        entities[f"{name}-{key}"] = {
            "platform": "sensor",
            "name": f"{title} {key}",
            "state_topic": state,
            "value_template": f"{{{{ value_json['{key}'] }}}}",
            "state_class": "total_increasing",
        }
    entities[f"{name}-event"] = {
        "platform": "event",
        "name": f"{title} event",
        "state_topic": f"{topic}/{source}/{name}/event",
        "event_types": list(event_types),
    }
    return entities


def _as_title(name: str) -> str:
    return name.replace("_", " ").capitalize()
