"""Metrics, from readings made by hand: exact, closed under removal, and without gaps."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from framegate.pipeline.contracts.queries import CacheCounts, FootageCounts
from framegate.pipeline.system.process import ProcessUse
from framegate.pipeline.telemetry.counters import MOST_LABELS, OTHER, in_view
from framegate.pipeline.telemetry.histograms import (
    BOUNDS_S,
    SHORT_BOUNDS_S,
    Durations,
    bucket,
    latency_bounds,
    upper_bounds,
)
from framegate.pipeline.telemetry.metrics import Scrape, model_parts
from framegate.pipeline.telemetry.run_status import (
    RunStatus,
    SourceStatus,
    StageTimes,
    TimesOverLives,
    WorkerStatus,
)
from framegate.pipeline.telemetry.source_view import Sample, view
from framegate.pipeline.web.accounts.access import guarded
from framegate.pipeline.web.server import QuietServer

DEPLOY = Path(__file__).parents[3] / "deploy"
LOOKED = {"looked:part:changed": 4, "looked:no:unchanged": 2, "looked:no:stage_error": 1}
GATE = {
    "decoded": 12, "published": 7, "failed": 1, "dropped:replaced": 2, "dropped:burst": 1,
    "lost:stalled": 2, **LOOKED, "objects:person": 4, "objects:van": 1,
}  # fmt: skip

seconds = st.floats(0, 200)


def scrape(counters: Mapping[str, Mapping[str, int]], store: Mapping[str, object] | None) -> Scrape:
    sources = [
        SourceStatus(name, "rtsp://gate/", live=True, past=0, credit=4, slots=5, shared_bytes=4096)
        for name in counters
    ]
    workers = [WorkerStatus("infer", 4711, ready=True, restarts=2)]
    looked_up = CacheCounts(hits=30, misses=10, refused=1, sources=3, off=1)
    times = {"detect": StageTimes(cache=looked_up), "escalate": StageTimes()}
    kept = FootageCounts({"even": 4, "audit": 2}, {"same": 9}, removed=3, nbytes=1234)
    times["collect"] = StageTimes(footage=kept)
    for waited_us in (100, 3000):
        times["detect"].waited.add_us(waited_us)
    status = RunStatus("run", False, [], workers, sources, times)
    views = [view(name, None, Sample(0.0, c, [], None, True)) for name, c in counters.items()]
    uses = {"infer": ProcessUse(2**20, 1.5)}
    made_by = {name: ["nanodet-plus-416-int8@0123abcd"] for name in counters}
    seen = {name: ["person", "bus", "person"] for name in counters}
    own = ProcessUse(2**20, 0.5)
    return Scrape(status, counters, views, made_by, seen, uses, own, store)


def samples(of: Scrape) -> dict[str, float]:
    """By name and labels as the exposition writes them."""
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in text_string_to_metric_families(generate_latest(of).decode())
        for sample in family.samples
    }


def test_counters_are_the_stores_and_the_accounts_close() -> None:
    found = samples(scrape({"gate": GATE}, {"used_memory": 99, "aof_current_size": 7}))
    source = '{"source": "gate"}'
    assert found["framegate_frames_decoded_total" + source] == 12
    assert found["framegate_frames_published_total" + source] == 7
    assert found["framegate_frames_failed_total" + source] == 1
    assert found['framegate_frames_dropped_total{"reason": "replaced", "source": "gate"}'] == 2
    assert found['framegate_frames_dropped_total{"reason": "burst", "source": "gate"}'] == 1
    assert found['framegate_source_losses_total{"reason": "stalled", "source": "gate"}'] == 2
    assert {name: n for name, n in found.items() if name.startswith("framegate_looks")} == {
        'framegate_looks_total{"looked": "part", "reason": "changed", "source": "gate"}': 4,
        'framegate_looks_total{"looked": "no", "reason": "unchanged", "source": "gate"}': 2,
        'framegate_looks_total{"looked": "no", "reason": "stage_error", "source": "gate"}': 1,
    }
    assert found["framegate_frames_in_flight" + source] == 12 - 7 - 3
    assert found["framegate_credit_left" + source] == 4 - 2
    assert found["framegate_frame_store_slots_used" + source] == 2
    assert found['framegate_worker_restarts_total{"worker": "infer"}'] == 2
    assert found['framegate_stage_queue_wait_seconds_count{"stage": "detect"}'] == 2
    assert found['framegate_stage_queue_wait_seconds_sum{"stage": "detect"}'] == 0.0031
    stage = '{"stage": "detect"}'
    assert found["framegate_cache_hits_total" + stage] == 30
    assert found["framegate_cache_refused_total" + stage] == 1
    assert found["framegate_cache_sources_off" + stage] == 1
    assert 'framegate_cache_hits_total{"stage": "escalate"}' not in found
    assert found['framegate_footage_kept_total{"why": "audit"}'] == 2
    assert found['framegate_footage_dropped_total{"reason": "same"}'] == 9
    assert found["framegate_footage_removed_total{}"] == 3
    assert found["framegate_footage_bytes{}"] == 1234
    model = '{"model": "nanodet-plus-416@0123abcd", "precision": "int8", "source": "gate"}'
    assert found["framegate_model_info" + model] == 1
    assert found["framegate_store_aof_bytes{}"] == 7
    assert found["framegate_ready{}"] == found["framegate_store_up{}"] == 1


def test_a_removed_source_has_no_series() -> None:
    there = {"used_memory": 1}
    assert any('"gate"' in name for name in samples(scrape({"gate": GATE, "yard": {}}, there)))
    assert not any('"gate"' in name for name in samples(scrape({"yard": {}}, there)))


def test_without_a_store_processes_are_still_told() -> None:
    found = samples(scrape({}, None))
    assert found["framegate_store_up{}"] == found["framegate_ready{}"] == 0
    assert found['framegate_worker_ready{"worker": "infer"}'] == 1


@given(st.lists(seconds, max_size=30))
def test_latency_buckets_hold_what_the_store_counted(latencies: list[float]) -> None:
    counters: dict[str, int] = {}
    for latency in latencies:
        counters[bucket(latency)] = counters.get(bucket(latency), 0) + 1
    bounds = latency_bounds(counters)
    assert bounds[-1] == ("+Inf", len(latencies))
    exact = BOUNDS_S[2::3]
    assert len(bounds) == len(exact) + 1
    for (_, below), bound in zip(bounds, exact, strict=False):
        assert below == sum(latency <= bound for latency in latencies)


@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_durations_are_in_the_bucket_below_their_bound(microseconds: list[int]) -> None:
    durations = Durations()
    for us in microseconds:
        durations.add_us(us)
    assert durations.sum_us == sum(microseconds)
    bounds = upper_bounds(durations.counts, SHORT_BOUNDS_S)
    assert bounds[-1] == ("+Inf", len(microseconds))
    for (_, below), bound in zip(bounds, SHORT_BOUNDS_S[2::3], strict=False):
        assert below == sum(us <= bound * 1e6 for us in microseconds)


def test_objects_are_told_by_label_those_that_left_as_none() -> None:
    found = samples(scrape({"gate": GATE}, None))
    told = {name: n for name, n in found.items() if name.startswith("framegate_objects")}
    assert told == {
        'framegate_objects_total{"label": "person", "source": "gate"}': 4,
        'framegate_objects_total{"label": "van", "source": "gate"}': 1,
        'framegate_objects_in_view{"label": "person", "source": "gate"}': 2,
        'framegate_objects_in_view{"label": "bus", "source": "gate"}': 1,
        'framegate_objects_in_view{"label": "van", "source": "gate"}': 0,
    }


def test_labels_are_so_many_at_most() -> None:
    counted = {f"objects:plate {n}": 1 for n in range(MOST_LABELS)}
    seen = in_view(["plate 7", "never seen", "nor this"], counted)
    assert (seen["plate 7"], seen[OTHER], len(seen)) == (1, 2, MOST_LABELS + 1)


def test_times_go_on_growing_when_a_worker_begins_anew() -> None:
    lives, first, second = TimesOverLives(), StageTimes(cache=CacheCounts()), StageTimes()
    second.cache = CacheCounts(hits=2, misses=1, sources=2)
    first.cache = CacheCounts(hits=5, misses=3, refused=1, sources=4, off=4)
    first.worked.add_us(11)
    lives.update({"detect": first})
    lives.restart()
    second.worked.add_us(7)
    assert lives.total()["detect"].worked.sum_us == 11
    lives.update({"detect": second})
    assert lives.total()["detect"].worked.sum_us == 18
    assert lives.total()["detect"].cache == CacheCounts(hits=7, misses=4, refused=1, sources=2)


def test_kept_footage_goes_on_being_counted_when_a_worker_begins_anew() -> None:
    lives = TimesOverLives()
    lives.update({"collect": StageTimes(footage=FootageCounts({"even": 4}, {"same": 1}, 1, 900))})
    lives.restart()
    later = FootageCounts({"even": 1, "audit": 2}, {"lost": 3}, 0, 1000)
    lives.update({"collect": StageTimes(footage=later)})
    assert lives.total()["collect"].footage == FootageCounts(
        {"audit": 2, "even": 5}, {"lost": 3, "same": 1}, 1, 1000
    )


def test_model_names_come_in_parts() -> None:
    assert model_parts("nanodet-plus-416-int8+bf16@b5e579a4") == (
        "nanodet-plus-416@b5e579a4",
        "int8+bf16",
    )
    assert model_parts("my own") == ("my own", "")


def test_the_server_ends_when_nobody_asks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = QuietServer(guarded(_nothing, listening, "", ()), idle_s=0.05)
        asyncio.run(server.serve([listening]))
        assert server.started


async def _nothing(scope: object, receive: object, send: object) -> None: ...


def test_the_rules_are_what_prometheus_takes() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian: prometheus)")
    rules = DEPLOY / "prometheus-rules.yml"
    subprocess.run([promtool, "check", "rules", "--lint-fatal", str(rules)], check=True)


def test_the_dashboard_asks_what_prometheus_takes(tmp_path: Path) -> None:
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    variables = {"$__rate_interval": "1m", "$instance": ".*", "$source": ".*"}
    rules = []
    for number, expression in enumerate(asked):
        for name, value in variables.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        rules.append({"record": f"asked:{number}", "expr": expression})
    file = tmp_path / "asked.yml"
    file.write_text(
        json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8"
    )
    promtool = shutil.which("promtool")
    if promtool is not None:
        subprocess.run([promtool, "check", "rules", str(file)], check=True)
