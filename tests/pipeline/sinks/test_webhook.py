"""A webhook gets each change of an episode at least once, in order, signed, with the same id."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as StandardWebhook
from standardwebhooks import WebhookVerificationError

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.sinks.delivery import Delivery
from framegate.pipeline.sinks.webhook import Webhook
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.clocks import HostClock, read_host_clock
from tests.support.host_clocks import SimulatedHost
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.told_episodes import Teller, change, following
from tests.support.webhooks import WebhookReceiver


def secret() -> str:
    return f"whsec_{base64.b64encode(os.urandom(32)).decode()}"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    made = WebhookReceiver()
    yield made
    made.may_answer.set()
    made.stop()


@pytest.fixture(autouse=True)
def signed(monkeypatch: pytest.MonkeyPatch) -> str:
    made = secret()
    monkeypatch.setenv("HOOK_SECRET", made)
    return made


def config(receiver: WebhookReceiver, **more: Any) -> SinkConfig:
    said = {"secret_env": "HOOK_SECRET"} if "secret_file" not in more else {}
    return SinkConfig("webhook", receiver.url, **{**said, **more})


@contextmanager
def delivering(
    store: EmbeddedStore,
    config: SinkConfig,
    *sources: str,
    name: str = "office",
    clock: Callable[[], HostClock] = read_host_clock,
) -> Iterator[None]:
    """A sink that follows these sources while the block lasts."""
    with following(store, name, config, Webhook(name, config, "run1"), *sources, clock=clock):
        yield


def test_without_a_secret_a_message_has_no_signature(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    with delivering(store, SinkConfig("webhook", receiver.url), "gate"):
        teller.tell(change("gate", 5))
        wait_until("it is there", lambda: len(receiver.taken) == 1)
    [posted] = receiver.taken
    assert posted.headers["webhook-id"]
    assert "webhook-signature" not in posted.headers


def test_a_change_is_a_signed_cloud_event(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver, signed: str
) -> None:
    began = change("gate", 5, captured=1_800_000_000.0)
    ended = change("gate", 30, "end", began=5, captured=1_800_000_000.0, ended_by="over")
    with delivering(store, config(receiver), "gate"):
        teller.tell(began)
        teller.tell(ended)
        wait_until("both are there", lambda: len(receiver.taken) == 2)
    for posted in receiver.taken:
        assert StandardWebhook(signed).verify(posted.body, posted.headers) == posted.event
        with pytest.raises(WebhookVerificationError):
            StandardWebhook(secret()).verify(posted.body, posted.headers)
    first, second = (posted.event for posted in receiver.taken)
    assert first == {
        "specversion": "1.0",
        "id": "gate/visitor/1-5/0/start",
        "source": "/framegate/run1/gate",
        "type": "org.framegate.episode.start",
        "subject": "visitor",
        "time": "2027-01-15T08:00:00.200Z",
        "datacontenttype": "application/json",
        "data": first["data"],
    }
    assert first["data"]["label"] == "person"
    assert second["type"] == "org.framegate.episode.end"
    assert second["time"] == "2027-01-15T08:00:01.200Z"
    assert receiver.taken[0].headers["content-type"] == "application/cloudevents+json"
    assert "." not in receiver.taken[0].id


def test_what_the_stage_says_at_the_end_of_a_source_is_told(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    with delivering(store, config(receiver), "gate"):
        (started,) = teller.starts("gate", 3)
        ended = change("gate", 9, "end", began=3, ended_by="source_ended")
        teller.end("gate", 9, ended)
        wait_until("both are there", lambda: receiver.ids() == [started, ended.id])


def test_a_receiver_that_says_later_gets_all_in_order(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver, caplog: Any
) -> None:
    receiver.answers = [503, 429, 500, 404]
    with delivering(store, config(receiver), "gate"):
        told = teller.starts("gate", *range(5))
        wait_until("it fails", lambda: "since" in teller.standing("gate", "office"))
        wait_until("all are there", lambda: len(receiver.taken) == 5)
    assert receiver.ids() == told
    assert receiver.tries == [told[0]] * 4 + told
    found = teller.standing("gate", "office")
    assert (found["p"], found["delivered"]) == ("1-4", "5")
    assert "since" not in found
    assert "the receiver answers 503; trying again" in caplog.text


def test_a_sink_that_begins_anew_goes_on_where_it_was(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    with delivering(store, config(receiver), "gate"):
        before = teller.starts("gate", 0, 1)
        wait_until("both are there", lambda: receiver.ids() == before)
    receiver.stop()
    with delivering(store, config(receiver), "gate"):
        later = teller.starts("gate", 2, 3)
        wait_until("it fails", lambda: "why" in teller.standing("gate", "office"))
    receiver.start()
    with delivering(store, config(receiver), "gate"):
        wait_until("all are there", lambda: receiver.ids() == before + later)


def test_a_new_sink_is_not_told_what_earlier_runs_said(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    teller.starts("gate", 0, 1, epoch=1)
    told = teller.starts("gate", 7, epoch=2)
    delivery = Delivery(
        "office", config(receiver), Webhook("office", config(receiver), "run2"), store.url
    )
    delivery.take_sources({"gate": 1})
    delivery.start()
    wait_until("it is there", lambda: receiver.ids() == told)
    teller.trim("gate", 1)  # what goes is not what this sink was to be told
    more = teller.starts("gate", 8, epoch=2)
    wait_until("and the next", lambda: receiver.ids() == told + more)
    delivery.finish()
    delivery.join(DEADLINE_S)
    assert "lost" not in teller.standing("gate", "office")


def test_what_was_trimmed_is_told_as_lost_with_its_range(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver, signed: str
) -> None:
    with delivering(store, config(receiver), "gate"):
        first = teller.starts("gate", 0)
        wait_until("it is there", lambda: receiver.ids() == first)
    teller.starts("gate", *range(10, 60, 10))
    teller.trim("gate", 2)
    with delivering(store, config(receiver), "gate"):
        wait_until("the rest is there", lambda: len(receiver.taken) == 4)
    lost = receiver.taken[1]
    assert lost.id == "gate/lost/1-0/1-30"
    assert lost.event["type"] == "org.framegate.lost"
    assert lost.event["data"] == {
        "after": "1-0",
        "until": "1-30",
        "entries": 3,
        "why": "trimmed",
    }
    assert StandardWebhook(signed).verify(lost.body, lost.headers)
    assert receiver.ids()[2:] == ["gate/visitor/1-40/0/start", "gate/visitor/1-50/0/start"]
    assert teller.standing("gate", "office")["lost"] == "3"


def test_what_is_older_than_give_up_s_is_told_as_lost_and_the_rest_as_it_was(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    host, wanted = SimulatedHost(1_790_000_000.0), config(receiver, give_up_s=60.0)
    receiver.refuses = lambda _: 503
    teller.starts("gate", 0, 1)
    with delivering(store, wanted, "gate", clock=host):
        wait_until("they wait", lambda: teller.noted("gate", "office") == "1-1")
        host.passes(61.0)
        teller.starts("gate", 2)
        receiver.refuses = lambda _: None
        wait_until("it is there", lambda: len(receiver.taken) == 2)
    assert receiver.taken[0].event["data"]["why"] == "given_up"
    assert receiver.ids() == ["gate/lost/0-4611686018427387904/1-1", "gate/visitor/1-2/0/start"]


def test_a_camera_in_1970_has_its_messages_told_though_one_had_to_wait(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    receiver.answers = [503]
    told = teller.starts("gate", 0, 1, captured=100.0)
    with delivering(store, config(receiver, give_up_s=60.0), "gate"):
        wait_until("both are there", lambda: receiver.ids() == told)


def test_what_waits_behind_another_source_is_given_up_like_that(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    """While a receiver is away, one source after the other is tried; all of them wait."""
    host, wanted = SimulatedHost(1_790_000_000.0), config(receiver, give_up_s=60.0)
    with delivering(store, wanted, "gate", "yard", clock=host):
        told = teller.starts("gate", 0) + teller.starts("yard", 0)
        wait_until("nothing waits", lambda: sorted(receiver.ids()) == told)
        receiver.refuses = lambda _: 503
        teller.starts("yard", 1)
        wait_until("it waits", lambda: teller.noted("yard", "office") == "1-1")
        host.passes(1.0)
        teller.starts("gate", 1)
        wait_until("this, too", lambda: teller.noted("gate", "office") == "1-1")
        host.passes(61.0)
        receiver.refuses = lambda _: None
        wait_until("all is told", lambda: len(receiver.taken) == 4)
    whys = [posted.event["data"].get("why") for posted in receiver.taken[2:]]
    assert whys == ["given_up", "given_up"]


def test_a_message_that_one_source_cannot_say_delays_no_other_source(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    receiver.refuses = lambda id: 400 if id.startswith("gate/") else None
    with delivering(store, config(receiver), "gate", "door"):
        refused = teller.starts("gate", 1)
        wait_until("it is refused", lambda: receiver.tries)
        told = teller.starts("door", *range(20))
        wait_until("the other's are there", lambda: receiver.ids() == told)
        receiver.refuses = lambda _: None
        wait_until("and then it", lambda: receiver.ids() == told + refused)


def test_a_receiver_that_is_slow_delays_no_other_sink(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    receiver.may_answer.clear()
    quick = WebhookReceiver()
    try:
        with (
            delivering(store, config(receiver), "gate"),
            delivering(store, config(quick), "gate", name="quick"),
        ):
            told = teller.starts("gate", *range(50))
            wait_until("the quick one has all", lambda: quick.ids() == told)
            assert receiver.taken == []
            receiver.may_answer.set()
            wait_until("and the slow one, too", lambda: receiver.ids() == told)
    finally:
        quick.stop()


def test_only_what_is_asked_for_is_told_and_the_rest_is_passed(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver
) -> None:
    wanted = config(receiver, rules=("visitor",), severities=("alert",), sources=("gate",))
    with delivering(store, wanted, "gate", "door"):
        teller.starts("door", 1)
        teller.starts("gate", 1, severity="detection")
        teller.starts("gate", 2, rule="crowd")
        told = teller.starts("gate", 3)
        teller.starts("gate", 4, rule="crowd")
        wait_until("all is passed", lambda: teller.standing("gate", "office").get("p") == "1-4")
    assert receiver.ids() == told
    assert teller.standing("door", "office") == {}


def test_secrets_are_replaced_without_a_message_that_cannot_be_verified(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    old, new = secret(), secret()
    file = tmp_path / "secrets"
    file.write_text(f"{old}\n", encoding="utf-8")
    with delivering(store, config(receiver, secret_file=str(file)), "gate"):
        teller.starts("gate", 1)
        wait_until("one", lambda: len(receiver.taken) == 1)
        (tmp_path / "next").write_text(f"{new} {old}\n", encoding="utf-8")
        (tmp_path / "next").replace(file)
        teller.starts("gate", 2)
        wait_until("two", lambda: len(receiver.taken) == 2)
        (tmp_path / "next").write_text(f"{new}\n", encoding="utf-8")
        (tmp_path / "next").replace(file)
        teller.starts("gate", 3)
        wait_until("three", lambda: len(receiver.taken) == 3)
    verified = [[verifies(each, posted) for each in (old, new)] for posted in receiver.taken]
    assert verified == [[True, False], [True, True], [False, True]]


def verifies(secret: str, posted: Any) -> bool:
    try:
        StandardWebhook(secret).verify(posted.body, posted.headers)
    except WebhookVerificationError:
        return False
    return True


@pytest.mark.parametrize(
    "said", ["", "hunter2hunter2", "whsec_hüntér2", "whsec_%%%%", "whsec_c2hvcnQ="]
)
def test_a_secret_that_is_none_is_refused_and_not_said(
    said: str, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text(said, encoding="utf-8")
    with pytest.raises(ConfigFaults, match="24 to 64 bytes in base64") as refused:
        Webhook("office", config(receiver, secret_file=str(file)), "run1")
    assert not said or said not in str(refused.value)


def test_a_login_in_the_url_is_shown_to_the_receiver_alone(
    store: EmbeddedStore, teller: Teller, receiver: WebhookReceiver, monkeypatch: Any, caplog: Any
) -> None:
    url = receiver.url.replace("://", "://viewer:Hunter2-hook@") + "?token=Hunter2-token"
    monkeypatch.setenv("HOOK_URL", url)
    said = SinkConfig("webhook", url_env="HOOK_URL", secret_env="HOOK_SECRET")
    receiver.answers = [503]
    with delivering(store, said, "gate"):
        teller.starts("gate", 1)
        wait_until("one", lambda: len(receiver.taken) == 1)
    assert base64.b64decode(receiver.taken[0].headers["authorization"].split()[1]) == (
        b"viewer:Hunter2-hook"
    )
    assert receiver.taken[0].path == "/in?token=Hunter2-token"
    assert "Hunter2" not in caplog.text + json.dumps(teller.standing("gate", "office"))
