"""`[sinks.NAME]`: receivers of episodes outside this host."""

from __future__ import annotations

import base64
import importlib.util
import ipaddress
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from framegate.pipeline.config.read_options import (
    from_environment,
    read_named,
    unreadable,
    unset_variable,
)
from framegate.pipeline.contracts.episodes import Severity
from framegate.pipeline.contracts.errors import ConfigFaults, did_you_mean
from framegate.pipeline.contracts.keys import EVENTS, NAME_RULE, is_name
from framegate.pipeline.contracts.redaction import remember, remember_url

SinkKind = Literal["webhook", "mqtt", "notify", "kafka", "heartbeat"]
AliveState = Literal["waiting", "connecting", "running", "lost", "stopped", "finished", "failed"]
"""A state of a source, as `framegate sources` shows it."""

_SECRET: Final = "whsec_"
_MIN_KEY: Final = 24  # bytes, by Standard Webhooks
_MAX_KEY: Final = 64
_SCHEMES: Final[Mapping[str, tuple[str, ...]]] = {
    "webhook": ("https", "http"),
    "mqtt": ("mqtt", "mqtts"),
    "kafka": ("kafka", "kafkas"),
    "heartbeat": ("https", "http"),
}
_PACKAGES: Final[Mapping[str, tuple[str, str]]] = {
    "mqtt": ("paho-mqtt", "paho"),
    "notify": ("apprise", "apprise"),
    "kafka": ("confluent-kafka", "confluent_kafka"),
}
"""The package that each kind needs, and a module of it."""
_QUIET: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
_TOPIC: Final = re.compile(r"[^\s+#\x00]+")
_TARGET: Final = re.compile(r"[!-~]*")  # path and query, as HTTP sends them
_KAFKA_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_OF: Final = "of"  # in a field's metadata: the kinds that have this key
_EPISODES: Final = ("webhook", "mqtt", "notify", "kafka")  # the kinds that send episodes


@dataclass(frozen=True)
class SinkConfig:
    """`[sinks.NAME]`: a receiver of episodes, or of heartbeats, outside this host.

    kind         webhook: signed POST requests (Standard Webhooks with a CloudEvents body). mqtt: a
                 broker, with discovery for Home Assistant. notify: messages to people through
                 Apprise. kafka: records in a topic of Kafka. heartbeat: a periodic GET request
                 while the run is healthy
    url          URL of the receiver (https://), of the broker (mqtts://HOST, kafkas://HOST), or of
                 a service as Apprise writes it (ntfy://TOPIC)
    url_env      name of an environment variable that contains the URL. A URL with a password must
                 be there. For notify it can contain several URLs, separated by spaces
    rules        rules whose episodes are sent. Default: all
    sources      sources whose episodes are sent, or that must be alive. Default: all
    severities   severities of the episodes that are sent. Default: all
    give_up_s    seconds after which an undelivered message is dropped and counted as lost. 0:
                 never, as long as the store keeps it. Default: 0, for notify 3600
    secret_env   name of an environment variable with the signing secret whsec_... (webhook).
                 Several secrets, separated by spaces, all sign each message, so that a secret can
                 be replaced. Only a receiver on this host can do without a secret
    secret_file  file with the signing secrets (webhook). Framegate reads it again when it changes
    topic        first part of all topics (mqtt), or the topic (kafka)
    discovery    first part of the discovery topics of Home Assistant (mqtt). "": no discovery
    metadata_fps  greatest number of frames per second and source whose boxes are published, as
                 ONVIF metadata (mqtt). 0: none
    commands     let programs of the broker switch the profile and rules, and snooze rules (mqtt):
                 TOPIC/set/profile, TOPIC/set/rule/RULE and TOPIC/set/snooze. All who may publish
                 there can then do so
    picture      send a picture of the camera when an episode starts (mqtt, notify)
    cooldown_s   seconds after a message in which no other message about the same rule and source is
                 sent (notify)
    quiet        hours of the day without messages, such as ["22:00-07:00"] (notify)
    every_s      seconds from a request to the next one (heartbeat)
    timeout_s    seconds for which a request may take (heartbeat)
    alive        states of a source that count as alive (heartbeat). If a source has another state,
                 no request is sent
    """

    kind: SinkKind
    url: str = ""
    url_env: str | None = None
    rules: tuple[str, ...] = field(default=(), metadata={_OF: _EPISODES})
    sources: tuple[str, ...] = ()
    severities: tuple[Severity, ...] = field(default=(), metadata={_OF: _EPISODES})
    give_up_s: float | None = field(
        default=None, metadata={_OF: _EPISODES, "least": 0.0, "most": 31_536_000.0}
    )
    secret_env: str | None = field(default=None, metadata={_OF: ("webhook",)})
    secret_file: str | None = field(default=None, metadata={_OF: ("webhook",)})
    topic: str = field(default="framegate", metadata={_OF: ("mqtt", "kafka")})
    discovery: str = field(default="homeassistant", metadata={_OF: ("mqtt",)})
    metadata_fps: float = field(default=0.0, metadata={_OF: ("mqtt",), "least": 0.0, "most": 60.0})
    commands: bool = field(default=False, metadata={_OF: ("mqtt",)})
    picture: bool = field(default=True, metadata={_OF: ("mqtt", "notify")})
    cooldown_s: float = field(
        default=60.0, metadata={_OF: ("notify",), "least": 0.0, "most": 86_400.0}
    )
    quiet: tuple[str, ...] = field(default=(), metadata={_OF: ("notify",)})
    every_s: float = field(
        default=60.0, metadata={_OF: ("heartbeat",), "least": 5.0, "most": 86_400.0}
    )
    timeout_s: float = field(
        default=10.0, metadata={_OF: ("heartbeat",), "least": 1.0, "most": 60.0}
    )
    alive: tuple[AliveState, ...] = field(
        default=("running", "finished"), metadata={_OF: ("heartbeat",)}
    )

    def faults(self) -> list[str]:
        """Return the faults of the sink."""
        faults = [
            f"{each.name}: only for kind {' and '.join(each.metadata[_OF])}"
            for each in fields(self)
            if self.kind not in each.metadata.get(_OF, (self.kind,))
            and getattr(self, each.name) != each.default
        ]
        package, module = _PACKAGES.get(self.kind, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            faults.append(
                f"kind = {self.kind!r}: needs the package {package}, which is not installed; run: "
                f"pip install {package}"
            )
        if bool(self.url) == bool(self.url_env):
            faults.append("url: give either url or url_env")
        elif self.url:
            remember_url(self.url)
            hide_services(self.kind, self.url)
            faults += [f"url: {fault}" for fault in url_faults(self.kind, self.url)]
        n_secrets = bool(self.secret_env) + bool(self.secret_file)
        may_be_unsigned = _is_on_this_host(self.url) and n_secrets == 0
        if self.kind == "webhook" and n_secrets != 1 and not may_be_unsigned:
            faults.append(
                "secret_env: give either secret_env or secret_file; only a receiver on this host "
                "(127.0.0.1) can do without"
            )
        if self.secret_file is not None and (reason := unreadable(self.secret_file)):
            faults.append(f"secret_file = {self.secret_file!r}: {reason}")
        for name in (*self.rules, *self.sources):
            if not is_name(name):
                faults.append(f"rules, sources: {name!r}: not a name; a name is {NAME_RULE}")
        if not self.alive:
            faults.append('alive = []: must name a state, such as "running"')
        for hours in self.quiet:
            if _QUIET.fullmatch(hours) is None:
                faults.append(f"quiet: {hours!r}: must be HH:MM-HH:MM")
        for key in ("topic", "discovery"):
            value = getattr(self, key)
            if _TOPIC.fullmatch(value) is None and (key == "topic" or value):
                faults.append(f"{key} = {value!r}: must be a topic without spaces, + and #")
        if self.kind == "kafka" and _KAFKA_TOPIC.fullmatch(self.topic) is None:
            faults.append(
                f"topic = {self.topic!r}: must be at most 249 letters, digits, dots, - and _"
            )
        return faults

    def place(self, name: str) -> str:
        """Return the URL with its secrets.

        Raises ConfigFaults if the variable is not set or has no URL of this kind.

        name  of the sink
        """
        if self.url_env is None:
            return self.url.strip()
        key = f"sinks.{name}.url_env"
        url = from_environment(self.url_env, key)
        hide_services(self.kind, url)
        faults = url_faults(self.kind, url)
        if faults:
            raise ConfigFaults([f"{key} = {self.url_env!r}: {fault}" for fault in faults])
        return url.strip()


def _is_on_this_host(url: str) -> bool:
    """Return whether the host of a URL is the loopback, by its name or address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # neither a URL nor an address
        return False


def hide_services(kind: SinkKind, urls: str) -> None:
    """Make `redacted` hide all of an Apprise URL but its scheme.

    The rest names the receiver and the account.
    """
    if kind == "notify":
        for url in urls.split():
            remember(url.partition("://")[2])


def signing_keys(secrets: str, key: str) -> list[bytes]:
    """Return the keys of signing secrets that are separated by spaces.

    Raises ConfigFaults with the path `key` and no part of a secret.
    """
    keys = []
    for secret in secrets.split():
        remember(secret)
        remember(secret.removeprefix(_SECRET))
        try:
            keys.append(base64.b64decode(secret.removeprefix(_SECRET), validate=True))
        except ValueError:  # no base64, or not even ASCII
            keys.append(b"")
    if not keys or not all(_MIN_KEY <= len(each) <= _MAX_KEY for each in keys):
        raise ConfigFaults(
            [
                f"{key}: must be {_SECRET} with {_MIN_KEY} to {_MAX_KEY} bytes in base64, as "
                f'from echo "{_SECRET}$(openssl rand -base64 32)"; separate several with spaces'
            ]
        )
    return keys


def url_faults(kind: SinkKind, url: str) -> list[str]:
    """Return the faults of a URL, without a part of it: it may contain a password."""
    allowed = _SCHEMES.get(kind)
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not rest:
        form = "a service as Apprise writes it"
        if allowed:
            form = f"{allowed[0]}://HOST"
        return [f"not a URL; must be {form}"]
    if allowed and scheme not in allowed:
        return [f"{scheme}:// does not fit kind {kind}; must be {' or '.join(allowed)}://"]
    if allowed and not _has_host_and_port(url.strip()):
        return [
            "it has no valid host, or its port is no number up to 65535; must be "
            f"{scheme}://HOST, with a colon and the port after it if needed. In a password, write "
            "/ as %2F, ? as %3F and # as %23"
        ]
    if scheme in ("http", "https") and not _TARGET.fullmatch(_target(url.strip())):
        return [
            "its path contains a space or a character that is not ASCII; write these as % and two "
            "digits for each byte, such as %20, or %C3%BC for ü"
        ]
    return []


def _target(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def _has_host_and_port(url: str) -> bool:
    """Return whether a URL has a host, and a port that is a number or none."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # as a connection does: no part of it may be empty
        return bool(parts.hostname) and (parts.port is None or parts.port >= 0)
    except ValueError:
        return False


def _secret_faults(name: str, sink: SinkConfig) -> list[str]:
    """Return the faults of the secrets in variables and files, without a part of a secret."""
    faults: list[str] = []
    try:
        if sink.url_env is not None and os.environ.get(sink.url_env):
            sink.place(name)
        if sink.secret_env is not None:
            secrets = os.environ.get(sink.secret_env)
            if secrets:
                signing_keys(secrets, f"sinks.{name}.secret_env = {sink.secret_env!r}")
        if sink.secret_file is not None:
            secrets = Path(sink.secret_file).read_text(encoding="utf-8")
            signing_keys(secrets, f"sinks.{name}.secret_file = {sink.secret_file!r}")
    except ConfigFaults as error:
        faults += error.faults
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"sinks.{name}.secret_file = {sink.secret_file!r}: {error}")
    return faults


def read_sinks(table: Mapping[str, Any], faults: list[str]) -> dict[str, SinkConfig]:
    """Return the sinks of `[sinks]`; append their faults."""
    sinks = read_named(SinkConfig, table, "sinks", "a table with kind and url or url_env", faults)
    for name, sink in sinks.items():
        for key in ("url_env", "secret_env"):
            faults += unset_variable(getattr(sink, key), f"sinks.{name}.{key}")
        faults += _secret_faults(name, sink)
    return sinks


def episode_sinks(sinks: Mapping[str, SinkConfig]) -> tuple[str, ...]:
    """Return the names of the sinks that get episodes, and so have a position in the store."""
    return tuple(name for name, sink in sinks.items() if sink.kind != "heartbeat")


def rule_faults(
    sinks: Mapping[str, SinkConfig], stages: Collection[str], rules: Collection[str]
) -> list[str]:
    """Return the faults of the rules that sinks name.

    stages  names of all stages
    rules   names of all rules
    """
    needs_rules = any(not sinks[name].metadata_fps for name in episode_sinks(sinks))
    if needs_rules and not rules and EVENTS not in stages:
        return ["sinks: there are no rules, so no episode would be sent; add [events.rules.NAME]"]
    if not rules:
        return []
    faults = []
    for name, sink in sinks.items():
        faults += [
            f"sinks.{name}.rules: there is no rule {rule!r}; rules are "
            f"{', '.join(sorted(rules))}{did_you_mean(rule, rules)}"
            for rule in sink.rules
            if rule not in rules
        ]
    return faults
