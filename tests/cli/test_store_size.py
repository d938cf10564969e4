"""`framegate check` states what a store needs for a fleet: expectations by hand."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import redis

from framegate.cli.main import main
from framegate.cli.setup.store_size import (
    HOP_CPU_MS,
    HOP_SOURCE,
    StoreLoad,
    StoreSize,
    size_doubts,
)
from framegate.pipeline.fleet.fleet_store import FleetStore
from framegate.pipeline.fleet.plan import FleetPlan, FleetSource, SlotRoom
from tests.support.servers import server

ROOT = Path(__file__).resolve().parents[2]


def test_the_cost_of_a_hop_is_the_measured_one() -> None:
    result = json.loads((ROOT / HOP_SOURCE).read_text(encoding="utf-8"))
    many = [point for point in result["points"] if point["cameras"] == 32]
    assert max(point["cpu_ms_by_process"]["valkey-server"] for point in many) == HOP_CPU_MS


def test_ten_thousand_cameras_need_primaries_and_connections() -> None:
    load = StoreLoad("", 10_000, 100_000.0, runs=800, workers=2, hops=1)
    assert load.primaries == 21  # 100,000 x 0.162 ms = 16.2 cores, of which 80 % may be used
    assert load.connections(1, is_cluster=False) == 800 * 16 + 2 * 800 * 2
    assert load.connections(21, is_cluster=True) == 800 * 16 + 2 * 477
    assert len(size_doubts(load, StoreSize(10_000, 1, is_cluster=False))) == 2
    assert size_doubts(load, StoreSize(20_000, 21, is_cluster=True)) == []


def test_check_compares_the_plan_of_a_fleet_with_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = {"url_env": "X", "frames": {"max_fps": 10}}
    sources = {f"s{n}": FleetSource(keys, 0.1, "a", 1) for n in range(500)}
    with server(tmp_path / "store") as store:
        with closing(FleetStore(store.url)) as fleet, redis.Redis.from_url(store.url) as client:
            fleet.write(FleetPlan(1, {"a": SlotRoom(50.0)}, sources))
            client.config_set("maxclients", 15)
        main(["check", "--store", store.url])
    shown = capsys.readouterr().out
    assert "500 sources in 1 slot with 5000 frames/s" in shown
    assert "need 5000 hops/s, 2 primaries" in shown
    assert "and maxclients is 15: raise it" in shown
