"""Opened places: the check of their replies, and the reason why a place is absent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import (
    PlaceFailed,
    Predictions,
    Query,
    RemotePlace,
    Reply,
    Unanswered,
)
from framegate.pipeline.heavy.places import CheckedPlace, open_asks
from tests.support.held_place import FORM, question
from tests.support.own_servers import free_port

STORE = "unix:///nowhere/valkey.sock"


class Says:
    """A place that gives the same answers to whatever it is asked."""

    lanes = most = 2
    sent_bytes, wire_s = 5, 0.5

    def __init__(self, *replies: Reply) -> None:
        self.replies = replies

    def answer(self, questions: Sequence[Query]) -> Sequence[Reply]:
        return self.replies[: len(questions)]

    def close(self) -> None:
        """Nothing is held."""


def coded(asked: Query) -> bytes:
    return asked.pixels


def remote(**facts: object) -> RemotePlace:
    return RemotePlace(encode=coded, policy_id="p", class_ids=frozenset({1}), **facts)  # type: ignore[arg-type]


def test_what_was_not_asked_for_is_left_out() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    found = Predictions((box, box, box), (0.9, 0.8, 0.7), (1, 2, 1), ("m@1",))
    place = CheckedPlace(Says(found, Unanswered("late")), {1})
    assert place.answer([question(), question(seq=1)]) == [
        Predictions((box, box), (0.9, 0.7), (1, 1), ("m@1",)),
        Unanswered("late"),
    ]
    assert (place.lanes, place.most, place.sent_bytes, place.wire_s) == (2, 2, 5, 0.5)


def test_a_box_outside_of_the_picture_is_no_answer() -> None:
    far = (0.0, 0.0, FORM.width + 2.0, 1.0)
    with pytest.raises(PlaceFailed):
        CheckedPlace(Says(Predictions((far,), (0.9,), (1,), ())), {1}).answer([question()])


@pytest.mark.parametrize("url", ["redis://:p@x:6379/0", "unix:///x.sock", None])
def test_opening_workers_connects_to_nobody(url: str | None) -> None:
    open_asks(remote(protocol="workers", url=url), 60.0, STORE).close()


def test_a_place_of_this_process_is_opened_by_calling_it() -> None:
    asks = open_asks(lambda: Says(Unanswered("late")), 60.0, STORE)
    assert asks.trial(question()) == Unanswered("late")
    asks.close()


def test_a_description_shows_no_url() -> None:
    assert "topsecret" not in repr(remote(protocol="workers", url="redis://:topsecret@x"))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there_is_absent(scheme: str) -> None:
    pytest.importorskip(f"tritonclient.{scheme}", reason="the extra kserve is not installed")
    url = f"{scheme}://127.0.0.1:{free_port()}"
    asks = open_asks(remote(protocol="kserve", url=url), 60.0, STORE)
    told = asks.absent()
    asks.close()
    assert told is not None
    assert told.startswith(url)
    assert told.endswith("start the server with the model, or correct escalate.url")


def test_a_url_that_is_no_servers_is_a_fault() -> None:
    with pytest.raises(ConfigFaults, match="KServe URL"):
        open_asks(remote(protocol="kserve", url="redis://x"), 60.0, STORE)
