"""The checker of result streams finds each fault that it is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.published import Publisher
from tests.support.runs import wait_until
from tests.support.servers import server
from tests.support.stream_checker import checked

CAM = "cam"
OWN, COUNT = "fg:{cam}:own", "fg:{cam}:count"


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Publisher, str]]:
    with server(tmp_path_factory.mktemp("server")) as store:
        made = Publisher(store)
        yield made, store.url
        made.client.close()


def sound(at: Publisher) -> None:
    """Three frames of one owner, who dropped a fourth."""
    at.client.flushall()
    at.client.hset(OWN, mapping={"run": "a", "generation": 1, "epoch": 2})
    at.client.hset("fg:{cam}:at:decode", "p", "2-4")
    at.client.hset(COUNT, mapping={"decoded": 4, "published": 3, "dropped:late": 1})
    at.results(CAM, 2, range(3))


def late(at: Publisher) -> None:
    at.client.delete("fg:{cam}:results")
    at.results(CAM, 1, [7])
    at.results(CAM, 2, range(3))


def changed(at: Publisher) -> None:
    at.client.delete("fg:{cam}:results")
    at.results("other", 2, range(3))
    for entry, fields in at.client.xrange("fg:{other}:results"):
        at.client.xadd("fg:{cam}:results", fields, entry)


def two_owners(at: Publisher) -> None:
    at.client.hset(OWN, "run", "b")


def earlier_generation(at: Publisher) -> None:
    at.client.hset(OWN, "generation", 0)


def lost_frame(at: Publisher) -> None:
    at.client.hincrby(COUNT, "decoded", 1)


def more_in_flight_than_decoded(at: Publisher) -> None:
    at.client.hincrby(COUNT, "decoded", 3)


def uncounted_frame(at: Publisher) -> None:
    at.results(CAM, 2, [3])


def epoch_of_another(at: Publisher) -> None:
    at.client.hset(OWN, "epoch", 1)


def gone(at: Publisher) -> None:
    at.trim(CAM, 2)


def nothing(_: Publisher) -> None:
    pass


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (late, "1-7 came too late"),
        (changed, "2-0 came too late, or has changed"),
        (two_owners, "generation 1 has the owners"),
        (earlier_generation, "generation 0 after 1"),
        (lost_frame, "cam is not at rest"),
        (more_in_flight_than_decoded, "3 in flight, decoded to 2-4 and published to 2-2"),
        (uncounted_frame, "3 were counted as published, and there are 4 frames"),
        (epoch_of_another, "2-2 was published, given was 1"),
        (gone, "2-0 is gone"),
        (nothing, ""),
    ],
)
def test_each_fault_is_found(
    publisher: tuple[Publisher, str], fault: Callable[[Publisher], None], words: str
) -> None:
    at, url = publisher
    sound(at)
    with ExitStack() as expected:
        if words:
            expected.enter_context(pytest.raises(AssertionError, match=words))
        with checked(url, CAM) as checker:
            wait_until("it has looked", lambda: checker.looks > 0)
            fault(at)
            seen = checker.looks
            wait_until("it has looked again", lambda: checker.looks > seen + 1)
