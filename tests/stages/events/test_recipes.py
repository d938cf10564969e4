"""The recipes of docs/events.md: they are read as they stand there, and tell what they promise."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.config.events import EventsConfig
from tests.support.commands import framegate
from tests.support.episodes import FPS, result, results, rules, seen, standing, told, walking

PAGE = (Path(__file__).parents[3] / "docs" / "events.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def as_it_stands(rule: str) -> str:
    """The recipe with this rule."""
    [text] = [text for text in RECIPES[1:] if f"[events.rules.{rule}]" in text]
    assert len(text.splitlines()) <= 15
    return text


def recipe(rule: str) -> EventsConfig:
    """The same for a source that is called `door`."""
    return rules(re.sub(r'source = "\w+"', 'source = "door"', as_it_stands(rule)))


def test_visitors_at_a_door() -> None:
    config = recipe("visitor")
    visit = {1: walking((0.0, 300.0), (40.0, 0.0)), 2: walking((300.0, 100.0), (5.0, 0.0))}
    midnight = 1_700_438_400.0

    def told_at(hour: int) -> list[str]:
        frames = [
            msgspec.structs.replace(one, captured=midnight + 3600 * hour + one.captured % 1000)
            for one in results(visit, 12.0)
        ]
        return [one.step for one in told(_in_utc(config), frames).of("visitor")]

    assert told_at(22) == ["start", "end"]
    assert told_at(12) == []


def _in_utc(config: EventsConfig) -> EventsConfig:
    return EventsConfig(timezone="UTC", areas=config.areas, lines=config.lines, rules=config.rules)


def test_cars_by_direction() -> None:
    frames = []
    for n in range(100):
        objects = [
            seen(1, (100.0, 150.0 + 4 * n), "car", size=(60.0, 40.0)),
            seen(2, (400.0, 300.0 - 2 * n), "truck", size=(60.0, 40.0)),
            seen(3, (500.0, 150.0 + 4 * n), "person"),
        ]
        frames.append(result(objects[: 3 if n < 60 else 2], n))
    found = told(recipe("cars"), frames).of("cars", "start")
    assert [(one.label, one.direction) for one in found] == [("car", "in"), ("truck", "out")]


@pytest.mark.whole_run
def test_cars_from_above_are_counted_by_the_detector_as_it_comes(tmp_path: Path) -> None:
    """Four cars, seen from above: by eye two come and two go."""
    data = os.environ.get("FRAMEGATE_DATA")
    if not data:
        pytest.skip("the clips are in FRAMEGATE_DATA")
    (tmp_path / "pipeline.toml").write_text(as_it_stands("cars"), encoding="utf-8")
    clip = Path(data) / "clips" / "car-detection.mp4"
    ran = framegate(tmp_path, "run", f"street={clip}", "-d", "data", "--http", "off")
    assert ran.code == 0, ran.err
    asked = "select direction, count(*) from episode group by direction order by direction"
    told_by = framegate(tmp_path, "events", "-d", "data", "--sql", asked)
    assert told_by.out.splitlines()[1:] == ["in\t2", "out\t2"]


@pytest.mark.parametrize("away_s", [200.0, 400.0])
def test_an_empty_desk(away_s: float) -> None:
    there = {1: walking((320.0, 300.0), (0.0, 0.0), 0.0, 10.0)}
    back = {2: standing(320.0, 300.0)}
    frames = results(there, 10.0 + away_s, fps=2.0)
    later = [
        msgspec.structs.replace(one, seq=len(frames) + n, pts=10.0 + away_s + n / 2)
        for n, one in enumerate(results(back, 20.0, fps=2.0))
    ]
    found = told(recipe("unattended"), [*frames, *later]).of("unattended")
    assert [one.step for one in found] == (["start", "update", "end"] if away_s > 300 else [])


def test_a_bag_that_was_left() -> None:
    frames = []
    for n in range(round(90 * FPS / 5)):
        t = n * 5 / FPS
        objects = [seen(1, (100.0 + 20 * t, 180.0))] if t < 20 else []
        if t >= 4:
            objects.append(seen(2, (180.0, 182.0), "suitcase", size=(10.0, 12.0)))
        frames.append(result(objects, n, pts=t))
    [start] = told(recipe("bag"), frames).of("bag", "start")
    assert (start.severity, start.label) == ("alert", "suitcase")
    assert 60 <= start.told.media_s - start.began.media_s < 61
