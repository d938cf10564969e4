"""Programs of the duel: counted as said, run in a folder of their own, ended whole."""

from __future__ import annotations

import os
import select
import sys
import time
import tomllib
from pathlib import Path

import av

from benchmarks import first_contact
from benchmarks.figure_tables import SHAPES
from benchmarks.first_contact.running import PROGRAMS, Side, lines, running
from benchmarks.harness import code_behind
from tests.support.footage import steady, write_scene

SPEAKS = """\
import os, sys, time

# a line that is none
open("pid", "w").write(str(os.getpid()))

print("starts", file=sys.stderr)
print("a 1", open("clip.mp4").read(), "rtsp://camera.example/door")
time.sleep(600)
"""


def side(folder: Path, program: str, result: str = "") -> Side:
    task = folder / "programs" / "task"
    task.mkdir(parents=True)
    (task / "run.sh").write_text("# shell\npython speaks.py\n", encoding="utf-8")
    (task / "speaks.py").write_text(program, encoding="utf-8")
    return Side(sys.executable, task.parent, {"task": result} if result else {})


def test_lines_that_are_blank_or_a_comment_do_not_count(tmp_path: Path) -> None:
    speaks = side(tmp_path, SPEAKS)
    (speaks.folder / "task" / "pipeline.toml").write_text("[a]\n\n# b\nc = 1\n", encoding="utf-8")
    assert lines(speaks.folder / "task") == 1 + 5 + 2


def test_a_result_is_told_with_its_source_and_nothing_is_left(tmp_path: Path) -> None:
    clip = tmp_path / "some.mp4"
    clip.write_text("pixels", encoding="utf-8")
    speaks = side(tmp_path, SPEAKS, r"(\w+) 1 pixels rtsp://here")
    urls = {"rtsp://camera.example/door": "rtsp://here"}
    with running(speaks, "task", clip, urls) as (program, began, folder):
        assert program.first("a", began, 60.0) is not None
        assert program.first("b", began, 0.0) is None
        assert program.said() == "starts\n"
        process = os.pidfd_open(int((folder / "pid").read_text(encoding="utf-8")))
    assert not folder.exists()
    assert select.select([process], [], [], 60.0)[0] == [process]  # it has ended
    os.close(process)


def test_a_program_that_fails_gives_nothing(tmp_path: Path) -> None:
    fails = side(tmp_path, "raise SystemExit('no clip')", r"(\w+)")
    with running(fails, "task") as (program, began, _):
        assert program.first(None, began, 60.0) is None
        assert program.ended(time.monotonic(), 60.0) is None
        assert program.said() == "no clip\n"


def test_each_task_has_a_program_of_each_side() -> None:
    for task in first_contact.TASKS:
        told = first_contact.written(task)
        assert 1 <= told["lines"] < told["peer_lines"] <= told["peer_lines_custom"]
    paths = [path for path in PROGRAMS.rglob("*") if path.is_file()]
    for path in paths:
        if path.suffix == ".py":
            compile(path.read_text(encoding="utf-8"), path.name, "exec")
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text(encoding="utf-8"))
    assert set(paths) <= set(code_behind.code_behind("benchmarks.first_contact"))


def test_no_frame_of_the_minute_repeats_another(tmp_path: Path) -> None:
    clip = write_scene(tmp_path / "clip.mp4", steady(5), (96, 64))
    minute = first_contact.brighter_rounds(clip, tmp_path / "minute.mp4", 3)
    with av.open(str(minute)) as container:
        shown = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
    assert len(shown) == 15
    assert len({frame.tobytes() for frame in shown}) == 15
    brightness = [float(frame[:64].mean()) for frame in shown]
    assert brightness[0] < brightness[5] < brightness[10]


def test_a_round_without_a_result_of_ours_misses_the_target() -> None:
    task = {"task": "count", "lines": 1, "peer_lines": 2, "peer_lines_server": None}
    result = {"installed": None, "peer_installed": None, "outages": []}
    verdicts = []
    for ratio, lacking in ((0.5, 0), (0.5, 1), (None, 3), (None, 0)):
        row = {**task, "seconds_ratio": ratio, "without_result": lacking}
        seconds = first_contact.bars({**result, "tasks": [row]})[1]
        verdicts.append(seconds.verdict)
    assert verdicts == ["held", "MISSED", "MISSED", "not measured"]


def test_a_figure_that_is_lacking_once_is_not_told() -> None:
    outages = [
        {"absent": False, "beside_s": 1.0, "back_s": 2.0},
        {"absent": True, "beside_s": 3.0, "back_s": 4.0},
    ]
    away = [*outages, {"absent": True, "beside_s": None, "back_s": None}]
    result = {
        "tasks": [],
        "installed": {"mb": 700.0, "mb_cuda": 0.0, "seconds": 50.0},
        "peer_installed": None,
        "peer_import_s": None,
        "outages": outages,
        "peer_outages": away,
    }
    lines = SHAPES["first_contact"](result).splitlines()
    cells = [line.split(" | ")[1:] for line in lines[-7:]]
    assert [[cell.strip(" |") for cell in row] for row in cells] == [
        ["700", "-"],
        ["0", "-"],
        ["50", "-"],
        ["-", "-"],
        ["2", "2"],
        ["3", "-"],
        ["4", "-"],
    ]
