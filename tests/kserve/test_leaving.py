"""What a KServe server holds for a worker's lanes is let go of when they end."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from pipeline.asks import Asks
from pipeline.kserve import KServe
from pipeline.questions import Question, QuestionId
from pipeline.records import Position
from pipeline.source import Form
from tests.kserve.servers import Served, triton
from tests.kserve.told_model import POLICY
from tests.runs import wait_until

pytest.importorskip("tritonclient.http", reason="the extra kserve is not installed")
pytest.importorskip("tritonclient.grpc", reason="the extra kserve is not installed")

FORM = Form(40, 20)


@pytest.fixture(scope="module")
def at_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with triton(tmp_path_factory.mktemp("triton")) as running:
        yield running


def regions(served: Served) -> list[str]:
    """What the server has of ours, by name."""
    with urllib.request.urlopen(f"{served.http}/v2/systemsharedmemory/status") as said:
        return [region["name"] for region in json.load(said)]


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_keeps_no_region_of_a_lane_that_ended(at_triton: Served, scheme: str) -> None:
    url = at_triton.http if scheme == "http" else at_triton.grpc
    place = KServe(url, lambda asked: asked.pixels, POLICY)
    with closing(Asks(place, delay_s=0.0)) as asks:
        for seq in range(40):
            pixels = bytes([seq]) * 50
            one = Question(QuestionId("a", Position(1, seq)), FORM, pixels)
            asks.ask(one)
            wait_until("an answer", lambda one=one: asks.answer(one.id))
        assert 1 <= len(regions(at_triton)) <= place.lanes
    assert regions(at_triton) == []
