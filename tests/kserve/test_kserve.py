"""A KServe v2 server as a place: MLServer and Triton as they are, over HTTP and gRPC."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from framegate.models.detector import detector
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.queries import (
    PlaceFailed,
    Predictions,
    Query,
    QueryId,
    Region,
    Reply,
    Unanswered,
)
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy.asks import Asks
from framegate.pipeline.heavy.kserve import KServe, address
from framegate.stages.escalate.heavy_pass import encode_question
from tests.support.kserve.servers import Served, mlserver, triton
from tests.support.kserve.told_model import HOLD, POLICY
from tests.support.runs import DEADLINE_S, wait_until

pytestmark = pytest.mark.whole_run

pytest.importorskip("tritonclient.http", reason="the extra kserve is not installed")
pytest.importorskip("tritonclient.grpc", reason="the extra kserve is not installed")

FORM = Form(40, 20)
both = pytest.mark.parametrize("scheme", ["http", "grpc"])


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipe: who reads it waits until the test opens it."""
    pipe = tmp_path_factory.mktemp("hold") / "pipe"
    os.mkfifo(pipe)
    os.environ[HOLD] = str(pipe)
    yield pipe
    del os.environ[HOLD]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, hold: Path) -> Iterator[Served]:  # noqa: ARG001
    with mlserver(tmp_path_factory.mktemp("mlserver"), told=True) as running:
        yield running


def url_of(served: Served, scheme: str) -> str:
    return served.http if scheme == "http" else served.grpc


def question(
    picture: bytes = b"\xff\xd8" * 50,
    seq: int = 0,
    due_mono: float | None = None,
    part: Region | None = None,
) -> Query:
    return Query(QueryId("a", Position(1, seq), part), FORM, picture, due_mono)


def seen(score: float, box: Region = (0, 0, 40, 20)) -> Predictions:
    left, top, right, bottom = (float(edge) for edge in box)
    rounded = score if score == 0 else float(f"{score:.6g}")
    return Predictions(((left, top, right, bottom),), (rounded,), (7,), ("told", "model"))


def shortened(answers: Sequence[Reply]) -> list[Reply]:
    """Scores with the digits that a float32 has."""
    return [
        Predictions(a.boxes, tuple(float(f"{s:.6g}") for s in a.scores), a.class_ids, a.models)
        if isinstance(a, Predictions)
        else a
        for a in answers
    ]


def waited_for(hold: Path) -> int:
    """Wait until a picture is held; closing what comes back lets it go."""

    def opened() -> int | None:
        with contextlib.suppress(OSError):  # nobody reads yet
            return os.open(hold, os.O_WRONLY | os.O_NONBLOCK)
        return None

    descriptor: int = wait_until("a picture is held", opened)
    return descriptor


def let_go(hold: Path) -> None:
    os.close(waited_for(hold))


@contextmanager
def asking(url: str, policy: str = POLICY) -> Iterator[KServe]:
    place = KServe(url, lambda asked: asked.pixels, policy)
    try:
        yield place
    finally:
        place.close()


class TestMLServer:
    @both
    def test_questions_are_answered_in_their_order(self, served: Served, scheme: str) -> None:
        every_byte = bytes(range(256)) * 3
        pictures = [every_byte, b"damaged", b"\0" * 1000]
        with asking(url_of(served, scheme)) as place:
            asked = [question(p, seq=n) for n, p in enumerate(pictures)]
            answers = place.answer([*asked, question(b"x" * 5, part=(3, 4, 30, 18))])
            assert shortened(answers) == [
                seen(0.768),
                Unanswered("unanswered"),
                seen(1.0),
                seen(0.005, (3, 4, 30, 18)),
            ]
            assert place.sent_bytes >= sum(map(len, pictures))
            assert place.wire_s > 0

    @both
    def test_what_is_damaged_altogether_leaves_nothing(self, served: Served, scheme: str) -> None:
        with asking(url_of(served, scheme)) as place:
            assert place.answer([question(b"damaged")]) == [Unanswered("unanswered")]

    @both
    def test_another_policy_is_refused(self, served: Served, scheme: str) -> None:
        refused = pytest.raises(PlaceFailed, match=r"policy policy-o, expected is wanted")
        with asking(url_of(served, scheme), "wanted") as place, refused:
            place.answer([question()])

    @both
    def test_name_and_version_must_be_ready(self, served: Served, scheme: str) -> None:
        base = f"{url_of(served, scheme)}/v2/models"
        with asking(f"{base}/framegate_heavy/versions/1") as place:
            assert shortened(place.answer([question()])) == [seen(0.1)]
        for path in ("framegate_heavy/versions/2", "another"):
            refused = pytest.raises(PlaceFailed, match=r"not ready|not found")
            with asking(f"{base}/{path}") as place, refused:
                place.answer([question()])

    @both
    def test_late_questions_do_not_go_out(self, served: Served, scheme: str) -> None:
        with asking(url_of(served, scheme)) as place:
            late = question(due_mono=time.monotonic() - 2)
            assert place.answer([late]) == [Unanswered("late")]
            assert place.sent_bytes == 0

    @both
    def test_no_answer_in_time_is_a_failure_and_the_next_call_works(
        self, served: Served, scheme: str, hold: Path
    ) -> None:
        with asking(url_of(served, scheme)) as place:
            with pytest.raises(PlaceFailed, match="gave no answer in time"):
                place.answer([question(b"hold", due_mono=time.monotonic() - 0.2)])
            assert shortened(place.answer([question()])) == [seen(0.1)]
            let_go(hold)

    @both
    def test_closing_ends_a_call(self, served: Served, scheme: str, hold: Path) -> None:
        ended: list[PlaceFailed] = []

        def ask(place: KServe) -> None:
            try:
                place.answer([question(b"hold")])
            except PlaceFailed as error:
                ended.append(error)

        with asking(url_of(served, scheme)) as place:
            thread = threading.Thread(target=ask, args=(place,))
            thread.start()
            held = waited_for(hold)
        thread.join(DEADLINE_S)
        os.close(held)
        assert len(ended) == 1

    @both
    def test_a_server_that_was_killed_and_is_back_answers_all(
        self, tmp_path: Path, hold: Path, scheme: str
    ) -> None:
        del hold
        questions = [question(bytes([n]) * n, seq=n) for n in range(1, 31)]
        with mlserver(tmp_path / "first", told=True) as first:
            ports = (address(first.http).place, address(first.grpc).place)
            place = KServe(url_of(first, scheme), lambda asked: asked.pixels, POLICY)
            asks = Asks(
                place, patience_s=math.inf
            )  # MLServer takes long to start on a busy machine
            try:
                for one in questions[:10]:
                    asks.ask(one)
                wait_until("an answer", lambda: asks.answer(questions[0].id))
                first.process.kill()
                first.process.wait()
                for one in questions[10:]:
                    asks.ask(one)
                http, grpc = (int(place.rpartition(":")[2]) for place in ports)
                wait_until("the breaker is open", lambda: asks.counts.breaker != "closed")
                with mlserver(tmp_path / "second", told=True, ports=(http, grpc)):
                    for n, one in enumerate(questions, 1):
                        answer = wait_until("an answer", lambda one=one: asks.answer(one.id))
                        assert shortened([answer]) == [seen(n / 1000)]
                    assert asks.counts.breaker == "closed"
                    assert asks.counts.degraded == {}
            finally:
                asks.close()


@pytest.fixture(scope="module")
def at_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with triton(tmp_path_factory.mktemp("triton")) as running:
        yield running


@pytest.mark.long
class TestTriton:
    @both
    def test_pictures_are_answered_however_large(self, at_triton: Served, scheme: str) -> None:
        with asking(url_of(at_triton, scheme)) as place:
            for n_bytes in (100, 3_000_000, 50):
                answers = place.answer([question(b"x" * n_bytes), question(b"\xff\0")])
                assert shortened(answers) == [seen(n_bytes / 1000), seen(0.002)]


@pytest.mark.long
@both
def test_the_deployed_model_looks(tmp_path: Path, scheme: str) -> None:
    form = Form(320, 240)
    grey = Query(QueryId("a", Position(1, 0)), form, b"\x80" * form.nbytes)
    with mlserver(tmp_path / "served", told=False) as running:
        place = KServe(url_of(running, scheme), encode_question, detector.policy_id("heavy"))
        (found,) = place.answer([grey])
        assert isinstance(found, Predictions)
        assert found.boxes == ()
        assert len(found.models) == 3
        place.close()


class TestAddress:
    def test_parts_of_a_url(self) -> None:
        at = address("https://me:pass%40@host/base/v2/models/m/versions/3")
        assert (at.place, at.model, at.version) == ("host:443/base", "m", "3")
        assert at.headers == {"authorization": "Basic bWU6cGFzc0A="}
        plain = address("grpc://[::1]:9000")
        assert (plain.place, plain.model, plain.version) == ("[::1]:9000", "framegate_heavy", "")
        assert plain.is_grpc

    @pytest.mark.parametrize("url", ["", "host:8000", "ftp://host", "http://host:x", "http://"])
    def test_others_are_refused(self, url: str) -> None:
        with pytest.raises(ConfigFaults, match="KServe URL"):
            address(url)

    def test_no_password_is_told(self) -> None:
        with pytest.raises(ConfigFaults) as refused:
            address("ftp://me:topsecret@host")
        assert "topsecret" not in str(refused.value)
        said = redacted(str(refused.value))
        assert "allowed is http, https, grpc or grpcs, as in http://host:8000; for" in said
        assert "topsecret" not in said
