"""Records in a Kafka topic, at brokers that librdkafka brings for tests: its own protocol over TCP.

They are read by a consumer of the library, with nothing of ours.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.stage import NoState
from framegate.pipeline.sinks.delivery import Message, ReceiverUnavailable
from framegate.pipeline.sinks.kafka import Kafka, brokers_of
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.told_episodes import Teller, change, following

OFF = "kafka://127.0.0.1:1"


class Brokers:
    """One broker that lives as long as this object."""

    def __init__(self) -> None:
        self._cluster: Any = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        (broker,) = self._cluster.list_topics(timeout=DEADLINE_S).brokers.values()
        self.address = f"{broker.host}:{broker.port}"
        self.url = f"kafka://{self.address}"

    def records(self, topic: str, number: int) -> list[Any]:
        """The first records of a topic, once it has this number."""
        settings = {"bootstrap.servers": self.address, "group.id": topic}
        consumer: Any = Consumer({**settings, "auto.offset.reset": "earliest", "log_level": 0})

        def parts() -> list[Any]:
            """The partitions, from their beginnings; the first record makes them."""
            found = consumer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions
            return [TopicPartition(topic, part, 0) for part in found]

        def there() -> int:
            ends = [consumer.get_watermark_offsets(part, timeout=DEADLINE_S) for part in parts()]
            return sum(end for _, end in ends)

        try:
            wait_until(f"{number} records", lambda: there() >= number, DEADLINE_S)
            consumer.assign(parts())
            records: list[Any] = []
            while len(records) < number:
                records += consumer.consume(number - len(records), DEADLINE_S)
            return records
        finally:
            consumer.close()


@pytest.fixture(scope="module")
def brokers() -> Brokers:
    return Brokers()


@contextmanager
def delivering(store: EmbeddedStore, url: str, topic: str, *sources: str) -> Iterator[None]:
    config = SinkConfig("kafka", url, topic=topic)
    with following(store, topic, config, Kafka(topic, config, "abc", 1.0), *sources):
        yield


def test_each_step_is_a_record_with_its_source_as_key(
    store: EmbeddedStore, teller: Teller, brokers: Brokers
) -> None:
    with delivering(store, brokers.url, "steps", "gate", "door"):
        teller.tell(change("gate", 1, captured=1_800_000_000.0))
        teller.tell(change("door", 3))
        teller.tell(change("gate", 9, "end", began=1))
        records = brokers.records("steps", 3)
    events = [json.loads(record.value()) for record in records]
    keys = [record.key().decode() for record in records]
    assert sorted(keys) == ["door", "gate", "gate"]
    of_gate = [event for key, event in zip(keys, events, strict=True) if key == "gate"]
    assert [event["id"] for event in of_gate] == [
        "gate/visitor/1-1/0/start",
        "gate/visitor/1-1/0/end",
    ]
    assert {event["source"] for event in of_gate} == {"/framegate/abc/gate"}
    assert of_gate[0]["type"] == "org.framegate.episode.start"
    assert of_gate[0]["specversion"] == "1.0"
    header = ("content-type", b"application/cloudevents+json; charset=UTF-8")
    assert [record.headers() for record in records] == [[header]] * 3


def test_episodes_wait_while_the_brokers_are_away(
    store: EmbeddedStore, teller: Teller, brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with delivering(store, OFF, "later", "gate"):
        teller.tell(change("gate", 1))
        wait_until("it is reported", lambda: "the brokers" in caplog.text, DEADLINE_S)
    with delivering(store, brokers.url, "later", "gate"):
        teller.tell(change("gate", 9, "end", began=1))
        records = brokers.records("later", 2)
    ids = [json.loads(record.value())["id"] for record in records]
    assert ids == ["gate/visitor/1-1/0/start", "gate/visitor/1-1/0/end"]


def test_a_record_that_is_too_large_delays_only_its_own_source(
    store: EmbeddedStore, teller: Teller, brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with delivering(store, brokers.url, "large", "gate", "door"):
        teller.tell(change("gate", 1, rule="r" * 2_000_000))
        wait_until("it is refused", lambda: "refuse the record" in caplog.text, DEADLINE_S)
        teller.tell(change("door", 3))
        (record,) = brokers.records("large", 1)
    assert record.key() == b"door"


class Dying(Producer):
    """The library's producer, of which the first stores nothing, as after a fatal error."""

    made = 0

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._is_dead = Dying.made == 0
        Dying.made += 1

    def produce(self, *values: Any, **named: Any) -> None:
        if self._is_dead:
            raise KafkaException(KafkaError(KafkaError._FATAL, "it is dead", True))
        super().produce(*values, **named)


def test_after_a_fatal_error_of_the_library_a_new_connection_delivers(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confluent_kafka, "Producer", Dying)
    receiver = Kafka("lake", SinkConfig("kafka", brokers.url, topic="dying"), "abc", DEADLINE_S)
    message = Message("gate", change("gate", 1))
    with pytest.raises(ReceiverUnavailable, match="the brokers store no record: it is dead"):
        receiver.deliver(message, NoState())
    assert receiver.deliver(message, NoState()) == ("delivered", NoState())
    receiver.close()
    assert len(brokers.records("dying", 1)) == 1


def test_a_login_that_fails_is_reported_without_its_password(brokers: Brokers) -> None:
    url = brokers.url.replace("//", "//user:sword@")  # these brokers know no login
    receiver = Kafka("lake", SinkConfig("kafka", url), "abc", 1.0)
    with pytest.raises(ReceiverUnavailable, match="the brokers store no record") as refused:
        receiver.deliver(Message("gate", change("gate", 1)), NoState())
    receiver.close()
    assert "sword" not in str(refused.value)


def test_the_url_names_brokers_login_and_tls() -> None:
    assert brokers_of("kafka://broker.example", "sinks.a") == {
        "bootstrap.servers": "broker.example:9092",
        "security.protocol": "plaintext",
    }
    url = "kafkas://us%40er:p%3Aw@broker.example:1234?mechanism=SCRAM-SHA-512"
    assert brokers_of(url, "sinks.a") == {
        "bootstrap.servers": "broker.example:1234",
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "us@er",
        "sasl.password": "p:w",
    }
    assert brokers_of("kafkas://[::1]", "a")["bootstrap.servers"] == "[::1]:9093"
    for query in ("mechanism=MD5", "acks=0"):
        with pytest.raises(ConfigFaults, match=r"allowed is mechanism=PLAIN or") as refused:
            brokers_of(f"kafkas://user:sword@broker.example?{query}", "sinks.a")
        assert "sword" not in str(refused.value)


def test_what_is_wrong_is_refused_before_a_start() -> None:
    assert SinkConfig("kafka", OFF, topic="a/b").faults() == [
        "topic = 'a/b': must be at most 249 letters, digits, dots, - and _"
    ]
    assert SinkConfig("kafka", "mqtt://broker.example").faults() == [
        "url: mqtt:// does not fit kind kafka; must be kafka or kafkas://"
    ]
    assert "discovery: only for kind mqtt" in SinkConfig("kafka", OFF, discovery="x").faults()
