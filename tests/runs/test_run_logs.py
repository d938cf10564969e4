"""The logs of a real run, all of its processes together."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from framegate.pipeline.store.embedded import socket_path
from tests.support import footage
from tests.support.asked import workers
from tests.support.commands import Command, framegate, user_folder
from tests.support.runs import published, wait_until

MARK = "Hunter2"


def test_every_line_of_a_run_is_json_and_none_has_a_secret(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user", main='use = "user_stages:Raises"\nevery = 7\n')
    footage.write_scene(folder / "a.mp4", footage.steady(20))
    url = f"http://viewer:{MARK}@127.0.0.1:1/clip.mp4?token={MARK}"

    ended = framegate(folder, "run", "a.mp4", f"away={url}", "--log-format", "json", "-d", "data")

    assert ended.code == 1
    assert MARK not in ended.err
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert {"run", "shard-1"} <= {line["part"] for line in lines}
    assert any("no answer to frame 7" in line.get("exception", "") for line in lines)
    assert any("away: unreachable: http://127.0.0.1:1/" in line["message"] for line in lines)


def test_a_command_line_that_is_refused_is_said_without_its_secrets(tmp_path: Path) -> None:
    ended = framegate(user_folder(tmp_path / "user"), "watch", f"--rtsp://u:{MARK}@cam/1")
    assert ended.code == 2
    assert "unrecognized arguments: --rtsp://cam/***" in ended.err


def test_a_crash_of_native_code_leaves_a_trace(tmp_path: Path) -> None:
    """Of a worker, whose successor continues, and then of the run itself."""
    footage.write_scene(tmp_path / "a.mp4", footage.steady(200))
    folder = user_folder(tmp_path / "user")
    with Command(folder, "run", str(tmp_path / "a.mp4"), "-d", "data", "--pace", "realtime") as run:
        store = f"unix://{socket_path(folder / 'data' / 'store')}"
        wait_until("it has results", lambda: published(store, "a").results)
        os.kill(workers(run.process.pid)["shard-1"], signal.SIGSEGV)
        wait_until("it is noticed", lambda: "worker shard-1 ended (signal 11, SIGSEGV" in run.err)
        run.process.send_signal(signal.SIGSEGV)
        ended = run.wait()
    assert ended.code == -signal.SIGSEGV
    worker, _, itself = ended.err.partition("worker shard-1 ended")
    for trace, place in ((worker, "pipeline/run/worker_main.py"), (itself, "pipeline/run/run.py")):
        assert "Fatal Python error: Segmentation fault" in trace
        assert place in trace
