"""A broker gets each step at least once; Home Assistant always shows the state of each rule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.sinks.delivery import CameraPictures
from framegate.pipeline.sinks.mqtt import KnownRule, Mqtt, RuleState, entities_of, event_of
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.brokers import ABSENT, PASSWORD, Broker, HomeAssistant
from tests.support.runs import wait_until
from tests.support.told_episodes import Teller, change, following

pytestmark = [
    pytest.mark.skipif(ABSENT, reason="needs Debian's mosquitto"),
]
RULES = {"visitor": KnownRule("inside", "gate"), "in_out": KnownRule("crosses")}


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker")
    monkeypatch.setenv("BROKER_URL", made.url)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def home(broker: Broker) -> Iterator[HomeAssistant]:
    made = HomeAssistant(broker.port)
    yield made
    made.close()


@contextmanager
def delivering(
    store: EmbeddedStore,
    *sources: str,
    rules: dict[str, KnownRule] = RULES,
    run: str = "run1",
) -> Iterator[None]:
    config = SinkConfig("mqtt", url_env="BROKER_URL")
    receiver = Mqtt("home", config, run, rules, CameraPictures())
    with following(store, "home", config, receiver, *sources):
        yield


VISITOR = "framegate_framegate_gate-visitor-open"
COUNT = "framegate_framegate_gate-visitor-episodes"


def test_home_assistant_shows_a_rule_before_anything_happened(
    store: EmbeddedStore, home: HomeAssistant
) -> None:
    with delivering(store, "gate", "yard"):
        wait_until("it is off", lambda: home.state(VISITOR) == "OFF")
        wait_until("the other's, too", lambda: len(home.entities()) == 11)
        count = "framegate_framegate_yard-in_out-in"
        wait_until("nobody came", lambda: home.state(count) == 0)
        assert home.state("framegate_framegate_gate-visitor-event") == "unknown"
    wait_until("it is away", lambda: home.state(VISITOR) == "unavailable")


def test_entities_stay_available_while_another_slot_of_the_fleet_runs(
    store: EmbeddedStore, broker: Broker, home: HomeAssistant
) -> None:
    with broker.reader("framegate/status") as events:

        def told() -> list[bytes]:
            return [payload for _, payload in list(events.came.queue)]

        with delivering(store, "gate"):
            wait_until("it is off", lambda: home.state(VISITOR) == "OFF")
            with delivering(store, "yard", run="run2"):
                wait_until("the other is there", lambda: told().count(b"online") > 1)
            wait_until("this one is left", lambda: told()[-2:] == [b"offline", b"online"])
            wait_until("it is available", lambda: home.state(VISITOR) == "OFF")
        wait_until("none is left", lambda: home.state(VISITOR) == "unavailable")
        wait_until("the topic says so", lambda: told()[-1] == b"offline")


def test_a_rule_is_on_while_one_of_its_episodes_goes_on(
    store: EmbeddedStore, teller: Teller, home: HomeAssistant
) -> None:
    with delivering(store, "gate"):
        teller.tell(change("gate", 1))
        wait_until("on", lambda: home.state(VISITOR) == "ON")
        teller.tell(change("gate", 2))
        teller.tell(change("gate", 3, "update", began=1, number=1))
        teller.tell(change("gate", 4, "end", began=1))
        wait_until("the end", lambda: home.state("framegate_framegate_gate-visitor-event") == "end")
        assert home.state(VISITOR) == "ON"
        teller.tell(change("gate", 5, "end", began=2))
        wait_until("off", lambda: home.state(VISITOR) == "OFF")
        assert home.state("framegate_framegate_gate-visitor-episodes") == 2


def test_crossings_are_counted_each_way_and_are_events(
    store: EmbeddedStore, teller: Teller, broker: Broker, home: HomeAssistant
) -> None:
    said: dict[str, Any] = {"rule": "in_out", "when": "crosses"}
    with broker.reader("framegate/gate/in_out/event") as events, delivering(store, "gate"):
        for seq, way in ((1, "in"), (2, "in"), (3, "out")):
            started = change("gate", seq, **said, direction=way)
            ended = change("gate", seq, "end", **said, direction=way)
            teller.tell(started, ended)
        wait_until("three", lambda: events.came.qsize() == 3)
        kinds = [json.loads(payload)["event_type"] for _, payload in list(events.came.queue)]
    assert kinds == ["in", "in", "out"]
    assert json.loads(home.last["framegate/gate/in_out/state"])["in"] == 2


def test_a_visit_is_one_event_and_no_sensor_that_switches_on_and_off() -> None:
    said: dict[str, Any] = {"rule": "van", "when": "like", "began": 1, "value": 0.9}
    start, end = change("gate", 9, **said), change("gate", 9, "end", **said)
    event = event_of(start)
    assert event is not None
    assert (event["event_type"], event["value"]) == ("visit", 0.9)
    assert event_of(end) is None
    entities = entities_of("framegate", "gate", "van", RuleState("like"))
    assert sorted(entities) == ["van-episodes", "van-event"]
    assert entities["van-event"]["event_types"] == ["visit"]


def test_home_assistant_and_broker_may_begin_anew(
    store: EmbeddedStore, teller: Teller, broker: Broker, home: HomeAssistant
) -> None:
    with delivering(store, "gate"):
        teller.tell(change("gate", 1))
        wait_until("on", lambda: home.state(VISITOR) == "ON")
        home.last.clear()
        home.born()  # retained words do not come again to who is subscribed already
        state = "framegate/gate/visitor/state"
        wait_until(
            "its device and state", lambda: state in home.last and VISITOR in home.entities()
        )
        assert home.entities()[VISITOR]["platform"] == "binary_sensor"
        broker.stop()
        teller.tell(change("gate", 2, "end", began=1))
        wait_until("it fails", lambda: "since" in teller.standing("gate", "home"))
        broker.start()
        wait_until("off", lambda: home.state(VISITOR) == "OFF")


@pytest.mark.parametrize("times", [4, pytest.param(50, marks=pytest.mark.long)])
def test_a_broker_that_is_away_many_times_loses_nothing(
    store: EmbeddedStore, teller: Teller, broker: Broker, times: int
) -> None:
    told: list[str] = []
    with broker.reader("framegate/gate/visitor/event") as events, delivering(store, "gate"):
        for number in range(times):
            told += teller.starts("gate", 10 * number + 1, 10 * number + 2)
            broker.stop()
            told += teller.starts("gate", 10 * number + 3)
            broker.start()
        wait_until("all are there", lambda: set(events.ids()) == set(told))
        assert list(dict.fromkeys(events.ids())) == told


@pytest.mark.whole_run
@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.long)])
def test_broker_and_home_assistant_are_killed_many_times_and_nothing_is_lost(
    store: EmbeddedStore, teller: Teller, broker: Broker, times: int
) -> None:
    """Each step comes, in order, and twice only with the same id; after each kill Home Assistant
    shows what is so.

    The broker keeps in memory alone what a reader that is away has not got. So the reader has all
    earlier steps when the broker is killed.
    """
    told: list[str] = []
    events = "framegate/gate/visitor/event"
    with broker.reader(events) as reader, delivering(store, "gate"):
        for number in range(times):
            seq = 10 * number + 1
            earlier = set(told)
            wait_until("all is read", lambda earlier=earlier: set(reader.ids()) == earlier)
            told += teller.starts("gate", seq)
            broker.kill()
            ended = change("gate", seq + 1, "end", began=seq)
            teller.tell(ended)
            told.append(ended.id)
            broker.start()
            told += teller.starts("gate", seq + 2)
            home = HomeAssistant(broker.port)
            wait_until("on again", lambda home=home: home.state(VISITOR) == "ON")
            wait_until(
                "its count, too",
                lambda home=home, number=number: home.state(COUNT) == 2 * number + 2,
            )
            home.client.socket().close()  # as it is killed: it says nothing more
            home.client.loop_stop()
            ended = change("gate", seq + 3, "end", began=seq + 2)
            teller.tell(ended)
            told.append(ended.id)
        wait_until("all are there", lambda: set(reader.ids()) == set(told))
        assert list(dict.fromkeys(reader.ids())) == told
        anew = HomeAssistant(broker.port)
        wait_until("off", lambda: anew.state(VISITOR) == "OFF")
        anew.close()


def test_a_sink_that_begins_anew_knows_how_rules_stood(
    store: EmbeddedStore, teller: Teller, home: HomeAssistant
) -> None:
    with delivering(store, "gate"):
        teller.tell(change("gate", 1))
        wait_until("on", lambda: home.state(VISITOR) == "ON")
    home.last.clear()
    with delivering(store, "gate"):
        wait_until("on again", lambda: home.state(VISITOR) == "ON")
        assert home.state("framegate_framegate_gate-visitor-episodes") == 1
        teller.tell(change("gate", 9, "end", began=1))
        wait_until("off", lambda: home.state(VISITOR) == "OFF")


def test_a_rule_that_is_not_configured_any_more_is_taken_away(
    store: EmbeddedStore, teller: Teller, home: HomeAssistant
) -> None:
    with delivering(store, "gate", rules={}):
        teller.tell(change("gate", 1))
        wait_until("on", lambda: home.state(VISITOR) == "ON")
    with delivering(store, "gate", rules={"in_out": KnownRule("crosses")}):
        wait_until("it is gone", lambda: VISITOR not in home.entities())
        wait_until(
            "the other is there",
            lambda: home.state("framegate_framegate_gate-in_out-in") == 0,
        )


def test_what_was_not_told_is_told_and_no_rule_stays_on_for_it(
    store: EmbeddedStore, teller: Teller, home: HomeAssistant
) -> None:
    with delivering(store, "gate"):
        teller.tell(change("gate", 1))
        wait_until("on", lambda: home.state(VISITOR) == "ON")
    teller.tell(change("gate", 2, "end", began=1))
    teller.tell(change("gate", 3, rule="in_out", when="crosses", direction="in"))
    teller.trim("gate", 1)
    with delivering(store, "gate"):
        wait_until("off", lambda: home.state(VISITOR) == "OFF")
    assert json.loads(home.last["framegate/gate/lost"]) == {
        "after": "1-1",
        "until": "1-2",
        "entries": 1,
        "why": "trimmed",
    }


def test_a_wrong_password_is_said_without_it(
    store: EmbeddedStore, teller: Teller, broker: Broker, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setenv("BROKER_URL", broker.url.replace(PASSWORD, "Hunter3-wrong"))
    with delivering(store, "gate"):
        teller.tell(change("gate", 1))
        found = wait_until("it fails", lambda: teller.standing("gate", "home").get("why"))
    assert "the broker cannot be reached: Not authorized" in found
    assert "Hunter" not in caplog.text + found
