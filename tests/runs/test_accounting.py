"""Law 4 with drops, kills and reconnects: at 50 moments, in the store, in metrics, in `sources`."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.cameras.background import Background
from tests.support.cameras.faulty import FaultyLine
from tests.support.cameras.pictures import Clips
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import WatchedRun, url
from tests.support.commands import framegate
from tests.support.runs import DEADLINE_S, stop_process

pytestmark = pytest.mark.whole_run

SAMPLES = 50
MORE = 40  # more than may wait, and longer
NAMES = ("one", "two")


@pytest.fixture
def cameras(tmp_path: Path) -> Iterator[tuple[dict[str, FaultyLine], str]]:
    """Lines to two cameras, and the path on both."""
    with ExitStack() as close:
        background = Background()
        close.callback(background.close)
        clips = Clips(tmp_path / "clips")
        clip = clips.clip(seconds=20)
        kit = ToolkitCamera(background, clips.folder)
        close.callback(kit.close)
        lines = {}
        for name in NAMES:
            lines[name] = FaultyLine(background)
            close.callback(lines[name].close)
            lines[name].on(kit.port)
        yield lines, kit.path(clip.name)


def scraped(run: WatchedRun) -> dict[str, tuple[float, float, float, float]]:
    """decoded, published, dropped and in flight of each source, as Prometheus gets them."""
    address = re.search(r"live page at (http://\S+)", run.command.err)
    assert address is not None
    answer = httpx.get(f"{address[1]}/metrics", timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    found = {name: [0.0, 0.0, 0.0, 0.0] for name in NAMES}
    kinds = ("decoded_total", "published_total", "dropped_total", "in_flight")
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            kind = sample.name.removeprefix("framegate_frames_")
            if kind in kinds:
                found[sample.labels["source"]][kinds.index(kind)] += sample.value
    return {name: (d, p, x, f) for name, (d, p, x, f) in found.items()}


def test_it_closes_at_any_moment(
    cameras: tuple[dict[str, FaultyLine], str], tmp_path: Path
) -> None:
    lines, path = cameras
    places = {name: url(lines[name].port, path) for name in NAMES}
    run = WatchedRun(tmp_path / "user", places, apart=True)
    workers = ("infer", "publish", "ingest", "infer")
    try:
        for name in NAMES:
            run.until_published(name, 3)
        for n in range(SAMPLES):
            if n == 3:
                _hold_up(run, lines["one"])
            if n % 12 == 6:
                os.kill(run.worker(workers[n // 12]), signal.SIGKILL)
            if n % 15 == 10:
                lines["one"].cut()
            run.check_accounts()
            for name, (decoded, published, dropped, in_flight) in scraped(run).items():
                assert decoded == published + dropped + in_flight, name
                assert in_flight >= 0
        run.until("frames were dropped", lambda: _dropped(run) > 0)
        run.until("it reconnected", lambda: run.counters("one").get("connects", 0) > 1)
        for line in lines.values():
            line.off()
        for name in NAMES:
            run.until_state(name, "lost")
            run.until("all is published", lambda name=name: run.accounts(name).in_flight == 0)
        told = framegate(tmp_path, "sources", "--json", "-d", str(run.data))
        by_name = {said["source"]: said for said in json.loads(told.out)}
        for name, (decoded, published, dropped, in_flight) in scraped(run).items():
            accounts, said = run.accounts(name), by_name[name]
            assert (decoded, published) == (accounts.decoded, accounts.published)
            assert (dropped, in_flight) == (accounts.dropped, 0)
            assert (decoded, published) == (said["decoded"], said["published"])
            assert (dropped, in_flight) == (sum(said["dropped"].values()), said["in_flight"])
            run.check_positions(name)
        assert run.finish() == 0
    finally:
        run.close()


def _hold_up(run: WatchedRun, line: FaultyLine) -> None:
    """Stop detecting until a camera has sent more than may wait."""
    worker, before = run.worker("infer"), line.pictures
    stop_process(worker)
    try:
        run.until("more came than may wait", lambda: line.pictures >= before + MORE)
        run.check_accounts()
    finally:
        os.kill(worker, signal.SIGCONT)


def _dropped(run: WatchedRun) -> int:
    return sum(run.accounts(name).dropped for name in NAMES)
