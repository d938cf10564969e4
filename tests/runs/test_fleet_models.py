"""A source moves between slots while its model changes again and again."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from framegate.pipeline.contracts.errors import RunRefused
from framegate.pipeline.run.rpc import Use, ask
from framegate.stages.detect.prepared_models import choose
from tests.runs.test_swaps import CONFIG, SIZE, named
from tests.support import footage
from tests.support.fleets import Fleet, fleet
from tests.support.own_models import own_model
from tests.support.runs import wait_until
from tests.support.stream_checker import checked

pytestmark = pytest.mark.whole_run

BEFORE = 20
CONFIGURED = "nanodet-plus-128"


def begins_with(name: str, model: str) -> bool:
    """Whether a result's name of a model is that of NAME@DIGEST."""
    begin, _, end = named(model).partition("*")
    return name.startswith(begin) and name.endswith(end)


def served(at: Fleet) -> str:
    """The model of the newest result."""
    return str(at.reader.results("gate")[-1]["models"][0])


def test_a_source_moves_while_its_model_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame once, with one model; the new slot continues with a model that was chosen."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    registry = tmp_path / "home" / "framegate" / "models"
    registry.mkdir(parents=True)
    for n in (1, 2):
        own_model(registry, "mine", str(n), size=SIZE, min_score=0.3 + n / 100)
    clip = tmp_path / "clip.mp4"
    footage.write_scene(clip, footage.steady(7500))  # 300 s
    source = {"gate": {"url": str(clip), "pace": "realtime", "cost": 0.5}}
    with fleet(tmp_path) as at, checked(at.url, "gate"):
        for host in ("host_a", "host_b"):
            (tmp_path / host).mkdir()
            (tmp_path / host / "pipeline.toml").write_text(CONFIG, encoding="utf-8")
        at.apply({"a": 2.0}, source)
        slots = [at.start("a", "host_a")]
        at.until("gate", BEFORE)
        at.apply({"a": 2.0, "b": 2.0}, source)
        slots.append(at.start("b", "host_b"))
        slots[1].says("slot b: version 2 of the fleet gives it no source")
        data = tmp_path / "host_a" / "data"
        models = [choose(f"mine@{n}", data, None) for n in (1, 2)]
        ask(data, Use(models[0], ["gate"]))
        wait_until("the first serves", lambda: begins_with(served(at), models[0]))
        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(at.does, "move", "gate", "b")
            for model in itertools.cycle(reversed(models)):
                try:
                    ask(data, Use(model, ["gate"]))
                except RunRefused:  # it has no such source any more
                    break
            moving.result()
        wait_until("it has moved", lambda: "(slot b," in at.owner("gate"))
        at.until("gate", at.published("gate") + BEFORE)
        assert any(begins_with(served(at), model) for model in models)
        for slot in slots:
            slot.interrupt()
            assert slot.wait().code == 0
        results = at.reader.results("gate")
    assert [(r["epoch"], r["seq"]) for r in results] == [(1, n) for n in range(len(results))]
    assert {len(r["models"]) for r in results} == {1}
    groups = [name for name, _ in itertools.groupby(r["models"][0] for r in results)]
    assert groups[0].startswith(CONFIGURED)
    assert not any(name.startswith(CONFIGURED) for name in groups[1:])
    assert len(groups) > 1, "the model changed before the move"
