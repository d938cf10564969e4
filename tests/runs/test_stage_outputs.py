"""What a stage gives is read as results are: by position, typed, over --listen, and afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import pytest

from framegate import Output, subscribe
from framegate.stages.detections import Detections
from tests.support import footage
from tests.support.commands import framegate, user_folder
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

FRAMES = 90
STAGES = """
[stages.numbers]
use = "user_stages:Numbers"
input = "cache"
on_lag = "wait"
[stages.people]
use = "user_stages:PeoplePerMinute"
input = "cache"
on_lag = "wait"
[stages.alerts]
use = "user_stages:Alerts"
input = "people"
"""


class Alert(msgspec.Struct, frozen=True):
    minute: int
    people: int
    pts: float | None = None  # none at the end of the source


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store to which a run has written what its stages gave of two and a half minutes."""
    made = user_folder(tmp_path_factory.mktemp("user"), more=STAGES)
    footage.write_scene(made / "slow.mkv", footage.steady(FRAMES, fps=0.6))
    with server(made / "server") as store:
        ended = framegate(made, "run", "slow.mkv", "-d", "data", "--store", store.url)
        assert ended.code == 0, ended.err
        yield store.url


def test_outputs_are_plain_values_with_their_frames_place_time_and_size(url: str) -> None:
    with subscribe(url, start="earliest", stage="numbers", until_end=True) as found:
        outputs = list(found)
    assert [out.output for out in outputs] == list(range(FRAMES))
    assert [out.seq for out in outputs] == list(range(FRAMES))
    last = outputs[-1]
    assert isinstance(last, Output)
    assert (last.source, last.stage, str(last.position)) == ("slow", "numbers", f"1-{FRAMES - 1}")
    assert last.pts == pytest.approx((FRAMES - 1) / 0.6, abs=0.001)
    assert (last.width, last.height) == (96, 64)


def test_outputs_are_of_the_type_that_is_asked_for(url: str) -> None:
    with subscribe(url, ["slow"], "earliest", stage="alerts", output=Alert, until_end=True) as read:
        alerts = [out.output for out in read]
        ends = read.ends
    with subscribe(url, ["slow"], "earliest", stage="people", until_end=True) as plain:
        people = [out.output for out in plain]
    assert [msgspec.to_builtins(alert) | {"pts": None} for alert in alerts] == [
        said | {"pts": None} for said in people
    ]
    assert [alert.pts for alert in alerts] == [60.0, 120.0, None], "what is said at the end, too"
    assert ends["slow"].last


def test_an_output_that_does_not_fit_is_said(url: str) -> None:
    with (
        subscribe(url, ["slow"], "earliest", stage="numbers", output=Alert) as read,
        pytest.raises(msgspec.ValidationError, match="Expected `object`, got `int`"),
    ):
        next(read)
    with pytest.raises(ValueError, match="give stage as well"):
        subscribe(url, output=Alert)  # type: ignore[call-overload]


def test_a_stage_on_the_main_path_is_read_too(url: str) -> None:
    """Only what the next stage keeps in the stream is there."""
    with subscribe(
        url, start="earliest", stage="detect", output=Detections, until_end=True
    ) as read:
        seen = list(read)
    assert seen
    assert {object.label for out in seen for object in out.output.objects} <= {"person", "car"}


def test_a_group_shares_what_a_stage_gives(url: str) -> None:
    with subscribe(url, start="earliest", stage="numbers", group="g", consumer="one") as read:
        first = next(read)
        read.ack(first)
        assert next(read).output == first.output + 1
    with subscribe(url, start="earliest", stage="alerts", group="g", consumer="one") as shared:
        alerts = list(itertools.islice(shared, 3))
        shared.ack(alerts[-1])
    assert str(alerts[-1].position) == f"1-{FRAMES}", "the end's own position"
