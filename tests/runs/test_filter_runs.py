"""Object filters in runs of the shipped demo clip, a street with parked cars, with the gate on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from framegate.cli.demo import shipped_clip
from framegate.pipeline.contracts.results import Object, Result
from tests.support import footage
from tests.support.commands import Command, framegate
from tests.support.runs import DEADLINE_S, published_in, wait_until

pytestmark = pytest.mark.whole_run

CLIP = shipped_clip()
DONE = 0
RIGHT = """
[record]
sources = ["street"]
[filters.right]
sources = ["street"]
labels = ["car"]
area = [[0.7, 0], [1, 0], [1, 1], [0.7, 1]]
"""
CARS = """
[events.areas.all]
points = [[0, 0], [1, 0], [1, 1], [0, 1]]
[events.rules.parked]
when = "inside"
area = "all"
labels = ["car"]
min_score = 0.5
for_s = 1
"""


def cars(result: Result) -> list[Object]:
    return [found for found in result.objects if found.label == "car"]


def is_right(found: Object, result: Result) -> bool:
    return (found.box[0] + found.box[2]) / 2 > 0.7 * result.width


def test_a_class_is_dropped_in_an_area_also_where_boxes_are_carried_and_recorded(
    tmp_path: Path,
) -> None:
    clip = footage.opening(CLIP, tmp_path / "street.mp4", 120)
    seen: dict[str, list[Result]] = {}
    for name, table in (("all", ""), ("filtered", RIGHT)):
        (tmp_path / "pipeline.toml").write_text(table, encoding="utf-8")
        ended = framegate(tmp_path, "run", str(clip), "-d", name, "--http", "off")
        assert ended.code == DONE, ended.err
        seen[name] = published_in(tmp_path / name, ["street"])["street"].results
    carried = [result for result in seen["all"] if result.outcome == "carried"]
    assert sum(is_right(found, result) for result in carried for found in cars(result)) > 50
    filtered = seen["filtered"]
    assert len(filtered) == len(seen["all"]) == 120
    assert not any(is_right(found, result) for result in filtered for found in cars(result))
    assert sum(bool(cars(result)) for result in filtered if result.outcome == "carried") > 50
    assert [result.filters for result in filtered] == [("right",)] + [None] * 119
    recorded = framegate(tmp_path, "recordings", "-d", "filtered", "--json")
    assert "street" in recorded.out, recorded.err


def overlap(a: Any, b: Any) -> float:
    """The intersection over union of two boxes."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / union


def has_passing(results: list[Result], number: int, place: Any) -> bool:
    """Whether a car that was elsewhere less than 5 s before covers a part of the place."""
    shown = results[number]
    covering = {each.track for each in cars(shown) if overlap(each.box, place) >= 0.3}
    assert shown.pts is not None
    before = [each for each in results[:number] if shown.pts - (each.pts or 0) < 5]
    away = {
        found.track
        for result in before
        for found in cars(result)
        if overlap(found.box, place) < 0.8
    }
    return bool((covering & away) - {None})


def test_a_verdict_hides_a_parked_car_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(CARS, encoding="utf-8")
    data, aside = tmp_path / "data", tmp_path / "aside"
    aside.mkdir()
    words = ("run", f"street={CLIP}", "-d", "data", "--http", "127.0.0.1:0")
    with Command(tmp_path, *words, "--pace", "realtime") as run:
        run.says("live page at http://")
        found = re.search(r"live page at (http://[^/\s]+)", run.err)
        assert found is not None
        api = f"{found[1]}/api/v1"

        def post(path: str, content: Any) -> dict[str, Any]:
            answer = httpx.post(f"{api}/{path}", json=content, timeout=DEADLINE_S)
            assert answer.status_code == 200, answer.text
            said: dict[str, Any] = answer.json()
            return said

        def parked() -> tuple[str, Any] | None:
            """An episode whose car has stood at one place, and this place."""
            listed = httpx.get(f"{api}/episodes", timeout=DEADLINE_S).json()
            for episode in listed.get("episodes", ()):
                path = f"{api}/episodes/{episode['id']}/object"
                place = httpx.get(path, timeout=DEADLINE_S).json()["box"]
                if place is not None:
                    return episode["id"], place
            return None

        episode, place = wait_until("a parked car is an episode", parked)
        assert post(f"episodes/{episode}/verdict", {"verdict": "false"})["verdict"] == "false"
        assert post(f"episodes/{episode}/object/hidden", {"hidden": True})["filter"] == "hidden_1"
        run.process.kill()
        run.process.wait()
    resumed = framegate(tmp_path, *words, "--resume", "--pace", "fast")
    assert resumed.code == DONE, resumed.err
    results = published_in(data, ["street"])["street"].results
    assert len({result.position for result in results}) == len(results) == 500
    named = [number for number, result in enumerate(results) if result.filters is not None]
    assert [results[number].filters for number in named] == [("hidden_1",)]
    first = named[0]
    hidden = [edge * size for edge, size in zip(place, (624, 256) * 2, strict=True)]
    here = [any(overlap(found.box, hidden) >= 0.8 for found in cars(result)) for result in results]
    assert sum(here[:first]) >= 5
    behind = [number for number in range(first, 500) if here[number]]
    assert all(has_passing(results, number, hidden) for number in behind)
    assert any(cars(result) for result in results[first:]), "other cars stay"
    listed = framegate(aside, "filters", "list", "-d", str(data))
    assert f"# by the verdict about {episode}\n[filters.hidden_1]\n" in listed.out, listed.err
    shown = framegate(aside, "filters", "remove", "hidden_1", "-d", str(data))
    assert "no run is active" in shown.err
