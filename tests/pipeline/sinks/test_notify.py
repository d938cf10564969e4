"""One message is sent when an episode starts, except during the cool-down and quiet hours.

Apprise itself sends them, by its service for programs (json://), to a real HTTP server.
"""

from __future__ import annotations

import base64
import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.sinks.delivery import CameraPictures
from framegate.pipeline.sinks.notify import Notify, is_quiet
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.system.clocks import HostClock, read_host_clock
from tests.support.host_clocks import SimulatedHost
from tests.support.phones import PICTURE, Phone
from tests.support.runs import wait_until
from tests.support.told_episodes import Teller, change, following

NO_PICTURES, NOON = CameraPictures(), datetime(2026, 11, 27, 12, 0)


@pytest.fixture
def phone() -> Iterator[Phone]:
    made = Phone()
    yield made
    made.shutdown()
    made.server_close()


@contextmanager
def delivering(
    store: EmbeddedStore,
    url: str,
    *sources: str,
    pictures: CameraPictures = NO_PICTURES,
    now: datetime = NOON,
    clock: Callable[[], HostClock] = read_host_clock,
    **more: Any,
) -> Iterator[None]:
    config = SinkConfig("notify", url, **more)
    receiver = Notify("phone", config, pictures, lambda: now)
    with following(store, "phone", config, receiver, *sources, clock=clock):
        yield


def test_a_start_is_one_message_and_no_other_step_is(
    store: EmbeddedStore, teller: Teller, phone: Phone
) -> None:
    with delivering(store, phone.url(), "gate", cooldown_s=0.0):
        teller.tell(change("gate", 1, captured=1_800_000_000.0))
        teller.tell(change("gate", 5, "update", began=1, number=1))
        teller.tell(change("gate", 9, "end", began=1))
        teller.tell(change("gate", 10, rule="in_out", when="crosses", direction="in"))
        wait_until("both are there", lambda: len(phone.came) == 2)
    assert phone.titles() == ["visitor at gate", "in_out at gate"]
    when = datetime.fromtimestamp(1_800_000_000.04)
    assert phone.came[0]["message"] == f"person, Fri {when:%H:%M:%S}"
    assert phone.came[1]["message"].startswith("person in, ")


def test_another_within_the_cool_down_is_left_out_also_after_a_restart(
    store: EmbeddedStore, teller: Teller, phone: Phone
) -> None:
    with delivering(store, phone.url(), "gate", "door", cooldown_s=30.0):
        teller.tell(change("gate", 1, captured=1_800_000_000.0))
        teller.tell(change("gate", 2, captured=1_800_000_020.0))
        teller.tell(change("gate", 3, captured=1_800_000_020.0, rule="crowd"))
        teller.tell(change("door", 3, captured=1_800_000_020.0))
        wait_until("three", lambda: len(phone.came) == 3)
    with delivering(store, phone.url(), "gate", cooldown_s=30.0):
        teller.tell(change("gate", 4, captured=1_800_000_025.0))
        teller.tell(change("gate", 5, captured=1_800_000_031.0))
        wait_until("and one", lambda: len(phone.came) == 4)
    found = teller.standing("gate", "phone")
    assert (found["delivered"], found["muted"]) == ("3", "2")


def test_hours_may_be_quiet(store: EmbeddedStore, teller: Teller, phone: Phone) -> None:
    night = datetime(2026, 11, 27, 23, 15)
    with delivering(store, phone.url(), "gate", quiet=("22:00-07:00",), now=night):
        teller.tell(change("gate", 1))
        wait_until("it is passed", lambda: teller.standing("gate", "phone").get("muted") == "1")
    assert phone.came == []


@pytest.mark.parametrize(
    ("hours", "at", "quiet"),
    [
        ("22:00-07:00", (22, 0), True),
        ("22:00-07:00", (6, 59), True),
        ("22:00-07:00", (7, 0), False),
        ("12:00-13:30", (13, 29), True),
        ("12:00-13:30", (11, 59), False),
        ("00:00-00:00", (15, 0), True),
    ],
)
def test_quiet_hours(hours: str, at: tuple[int, int], quiet: bool) -> None:
    assert is_quiet((hours,), datetime(2026, 11, 27, *at)) is quiet


def test_a_service_that_fails_is_tried_again_and_the_other_is_told_once(
    store: EmbeddedStore, teller: Teller, phone: Phone, caplog: Any
) -> None:
    phone.fails = {"slow"}
    with delivering(store, f"{phone.url()} {phone.url('slow')}", "gate"):
        teller.tell(change("gate", 1))
        why = wait_until("it fails", lambda: teller.standing("gate", "phone").get("why"))
        phone.fails = set()
        wait_until("it is there", lambda: phone.titles("slow"))
    assert len(phone.titles("phone")) == 1
    assert why == "JSON did not accept the message"
    assert "Hunter2" not in caplog.text


def test_what_is_too_old_is_told_in_one_message(
    store: EmbeddedStore, teller: Teller, phone: Phone
) -> None:
    host = SimulatedHost(1_790_000_000.0)
    phone.fails = {"phone"}
    teller.starts("gate", 0, 1, 2)
    with delivering(store, phone.url(), "gate", clock=host):
        wait_until("they wait", lambda: teller.noted("gate", "phone") == "1-2")
        host.passes(3601.0)
        phone.fails = set()
        wait_until("it is there", lambda: phone.came)
        assert phone.came[0]["message"] == "3 entries of gate could not be sent (given up)"


def test_a_service_that_never_accepts_does_not_silence_the_other_for_ever(
    store: EmbeddedStore, teller: Teller, phone: Phone, caplog: Any
) -> None:
    host = SimulatedHost(1_790_000_000.0)
    phone.fails = {"gone"}
    teller.starts("gate", 0)
    with delivering(store, f"{phone.url()} {phone.url('gone')}", "gate", clock=host, cooldown_s=0):
        wait_until("it waits", lambda: teller.noted("gate", "phone") == "1-0")
        host.passes(3601.0)
        teller.starts("gate", 1)
        wait_until("the next one is there", lambda: len(phone.came) == 3)
    assert phone.titles() == ["visitor at gate", "Messages of gate are missing", "visitor at gate"]
    assert phone.came[1]["message"] == "1 entry of gate could not be sent (given up)"
    assert "sink phone: JSON did not accept the message; it is left out" in caplog.text
    assert teller.standing("gate", "phone")["lost"] == "1"


def test_a_muted_message_does_not_show_that_a_service_accepts_again(
    store: EmbeddedStore, teller: Teller, phone: Phone, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "framegate.pipeline.sinks.delivery")
    again = "sink phone: the receiver accepts messages again"
    config = SinkConfig("notify", phone.url(), quiet=("22:00-07:00",))
    times = [NOON]
    receiver = Notify("phone", config, NO_PICTURES, lambda: times[-1])
    phone.fails = {"phone"}
    with following(store, "phone", config, receiver, "gate"):
        teller.starts("gate", 1)
        wait_until("it fails", lambda: teller.standing("gate", "phone").get("why"))
        times.append(datetime(2026, 11, 27, 23, 15))
        wait_until("it is muted", lambda: teller.standing("gate", "phone").get("muted") == "1")
        assert again not in caplog.messages
        phone.fails = set()
        times.append(NOON)
        teller.starts("gate", 2)
        wait_until("the next is there", lambda: again in caplog.messages)


def test_a_picture_goes_along_where_it_is_of_now(
    store: EmbeddedStore, teller: Teller, phone: Phone
) -> None:
    pictures = CameraPictures(f"127.0.0.1:{phone.server_port}", "Hunter2-token")
    teller.tell(change("gate", 1, rule="before"))
    with delivering(store, phone.url(), "gate", pictures=pictures):
        wait_until("the one before", lambda: len(phone.came) == 1)
        wait_until("nothing waits", lambda: teller.standing("gate", "phone")["p"] == "1-1")
        for seq in itertools.count(
            2
        ):  # the first ones may come before the sink has read to the end
            teller.tell(change("gate", seq, rule=f"rule{seq}"))
            wait_until("and the new one", lambda: len(phone.came) == seq)  # noqa: B023
            if phone.came[-1]["attachments"]:
                break
    assert phone.asked == [("/snapshot/gate.jpg", "Bearer Hunter2-token")]
    assert [len(each["attachments"]) for each in phone.came] == [0] * (len(phone.came) - 1) + [1]
    assert base64.b64decode(phone.came[-1]["attachments"][0]["base64"]) == PICTURE


def test_what_apprise_does_not_know_is_refused_and_not_said() -> None:
    with pytest.raises(ConfigFaults, match="Apprise does not know URL 2") as refused:
        Notify(
            "phone", SinkConfig("notify", "json://localhost nonsense://Hunter2"), CameraPictures()
        )
    assert "Hunter2" not in str(refused.value)
