"""The logs of a real run, all of its processes together."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import footage
from tests.support.commands import framegate, user_folder

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
