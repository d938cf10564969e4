"""Decoders of cameras that die or hang: a camera that kills them ends up alone (law 10)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from framegate.pipeline.contracts.errors import Exit
from framegate.pipeline.store.admin import StoreAdmin
from tests.support.commands import APART, GRAPH
from tests.support.footage import steady, write_scene
from tests.support.runs import Run, published, published_in, stop_process, wait_until

pytestmark = pytest.mark.whole_run

FRAMES = 60


def test_a_camera_that_kills_its_decoder_is_set_aside(tmp_path: Path) -> None:
    graph = GRAPH.format(before_escalate="detect").replace("user_", "tests.support.user_")
    deadly = graph.replace(
        "framegate.stages.decode:Decode", "tests.support.deadly_camera:DeadlyDecode"
    )
    (tmp_path / "pipeline.toml").write_text(deadly, encoding="utf-8")
    clip = write_scene(tmp_path / "good.mp4", steady(FRAMES))
    run = Run(tmp_path / "data", "bad=rtsp://127.0.0.1:1/bad", f"good={clip}", cwd=tmp_path)
    try:
        wait_until("the camera is set aside", lambda: published(run.url, "bad").ended)
        wait_until("the file is done", lambda: published(run.url, "good").ended)
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == Exit.SOURCE_FAILED, run.log.read_text(encoding="utf-8")
    finally:
        run.kill()
    assert "it killed its worker 3 times in stage decode: set aside" in run.log.read_text(
        encoding="utf-8"
    )
    found = published_in(tmp_path / "data", ["bad", "good"])
    assert [at.seq for at in found["good"].positions] == list(range(FRAMES))
    assert len(set(found["bad"].positions)) == len(found["bad"].positions)


def test_a_worker_of_cameras_that_hangs_is_replaced(tmp_path: Path) -> None:
    graph = GRAPH.format(before_escalate="detect").replace("user_", "tests.support.user_")
    (tmp_path / "pipeline.toml").write_text(
        f"[workers]\nhung_s = 2\n{graph}{APART}", encoding="utf-8"
    )
    run = Run(tmp_path / "data", "off=rtsp://127.0.0.1:1/off", cwd=tmp_path)
    try:
        hung = wait_until("the decoder tries", lambda: _tries(run) and run.worker("ingest"))
        stop_process(hung)
        wait_until("another", lambda: (run.worker("ingest") or hung) != hung)
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == Exit.DONE, run.log.read_text(encoding="utf-8")
    finally:
        run.kill()
    assert "worker ingest: no progress for 2 s: killed" in run.log.read_text(encoding="utf-8")


def _tries(run: Run) -> bool:
    store = StoreAdmin(run.url)
    try:
        return store.counters("off").get("connect_failures", 0) > 0
    finally:
        store.close()
