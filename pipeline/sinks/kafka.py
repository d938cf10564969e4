"""Send episodes to a Kafka topic as CloudEvents, in the structured mode of their Kafka binding.

The key of a record is the source, so one partition has all episodes of a source in order. A record
is delivered once all replicas that are in sync have it. A repeated record has the same id.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, get_args
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.episodes import Step
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.stage import NoState
from framegate.pipeline.sinks.delivery import (
    Message,
    MessageOutcome,
    MessageRefused,
    ReceiverUnavailable,
)
from framegate.pipeline.sinks.webhook import cloud_event

TIMEOUT_S: Final = 10.0
CLOSE_S: Final = 1.0
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_CONTENT_TYPE: Final = ("content-type", b"application/cloudevents+json; charset=UTF-8")
_REFUSED: Final = (
    "MSG_SIZE_TOO_LARGE",
    "INVALID_RECORD",
    "RECORD_LIST_TOO_LARGE",
    "INVALID_MSG",
    "POLICY_VIOLATION",
)  # errors about this record; others are about the brokers


class Kafka:
    """A receiver that produces records. The sink's thread calls the methods."""

    initial_state = NoState()
    steps: Collection[Step] = get_args(Step)

    def __init__(
        self, name: str, config: SinkConfig, teller: str, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Prepare the connection; the first record opens it. ConfigFaults for its URL.

        teller     id in the source of the events
        timeout_s  limit for the acknowledgement of one record
        """
        self._teller = teller
        self._topic = config.topic
        self._timeout_s = timeout_s
        self._fault = ""
        self._is_dead = False  # a fatal error came: this producer stores no record any more
        self._settings = {
            **brokers_of(config.place(name), f"sinks.{name}"),
            "client.id": f"framegate-{name}",
            "acks": "all",
            "enable.idempotence": True,  # a repeat within the library stores no second record
            "message.timeout.ms": int(timeout_s * 1000),
            "linger.ms": 0,
            "error_cb": self._note_fault,
            "log_level": 0,
        }
        self._producer = self._new_producer()

    def _new_producer(self) -> Any:
        from confluent_kafka import Producer  # of the extra `kafka`

        self._is_dead = False
        return Producer(self._settings)

    def _note_fault(self, error: Any) -> None:
        self._fault = error.str()
        self._is_dead = self._is_dead or error.fatal()

    def begin(self, states: Mapping[str, NoState]) -> None:
        """Do nothing."""

    def deliver(self, message: Message, state: NoState) -> tuple[MessageOutcome, NoState]:
        """Produce a record and wait until the brokers have it.

        Raises ReceiverUnavailable, and MessageRefused if the brokers refuse this record.
        """
        from confluent_kafka import KafkaError, KafkaException

        errors: list[Any] = []
        self._fault = ""
        if self._is_dead:
            self.close()
            self._producer = self._new_producer()
        try:
            self._producer.produce(
                self._topic,
                msgspec.json.encode(cloud_event(message, self._teller)),
                message.source.encode(),
                headers=[_CONTENT_TYPE],
                on_delivery=lambda error, _record: errors.append(error),
            )
        except KafkaException as refusal:  # by the library itself
            errors.append(refusal.args[0])
        self._producer.flush(self._timeout_s + 1.0)
        if not errors:
            self._producer.purge()
            raise ReceiverUnavailable(f"the brokers do not answer within {self._timeout_s:g} s")
        (error,) = errors
        if error is None:
            return "delivered", state
        if error.name() in _REFUSED:
            raise MessageRefused(f"the brokers refuse the record: {error.str()}")
        self._is_dead = self._is_dead or error.code() == KafkaError._FATAL
        raise ReceiverUnavailable(f"the brokers store no record: {self._fault or error.str()}")

    def close(self) -> None:
        """Close the connections."""
        self._producer.purge()
        self._producer.flush(CLOSE_S)


def brokers_of(url: str, key: str) -> dict[str, str]:
    """Return the library's settings for a URL kafka://[USER:PASSWORD@]HOST[:PORT].

    kafkas:// uses TLS. The query may name the mechanism of the login: ?mechanism=SCRAM-SHA-512.
    Raises ConfigFaults with `key` and no part of a password.
    """
    parts = urlsplit(url)
    default_port, protocol = 9092, "plaintext"
    if parts.scheme == "kafkas":
        default_port, protocol = 9093, "ssl"
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    settings = {"bootstrap.servers": f"{host}:{parts.port or default_port}"}
    query = parse_qs(parts.query)
    mechanism = query.pop("mechanism", ["PLAIN"])[-1]
    if query or mechanism not in MECHANISMS:
        wrong = ", ".join(sorted(query)) or f"mechanism={mechanism}"
        raise ConfigFaults(
            [f"{key}: the URL has {wrong}; allowed is mechanism={' or '.join(MECHANISMS)}"]
        )
    if parts.username is not None:
        protocol = f"sasl_{protocol}"
        settings |= {
            "sasl.mechanism": mechanism,
            "sasl.username": unquote(parts.username),
            "sasl.password": unquote(parts.password or ""),
        }
    return {**settings, "security.protocol": protocol}
