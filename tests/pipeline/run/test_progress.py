"""What stands on a terminal at Ctrl-C, a run's last line, how paths and times are told."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest

from framegate.pipeline.run.progress import RunOutputs, closing, detector_line, shown_path
from framegate.pipeline.system.clocks import span
from framegate.pipeline.telemetry.source_view import Sample, view

ENDED = replace(view("a", None, Sample(1.0, {"published": 1394}, (), None, True)), state="finished")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who stands in a folder below home."""
    here = tmp_path / "work"
    here.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here)
    return tmp_path


def test_what_came_where_it_is_and_how_to_go_on(home: Path) -> None:
    kept = RunOutputs(home / ".local/state/framegate/r", videos=Path("videos"))
    assert closing([ENDED], 1394, 23.0, kept) == (
        "1394 frames in 23 s (60.6 a second); "
        "results with: framegate results -d ~/.local/state/framegate/r; "
        "videos in videos"
    )
    stopped = replace(ENDED, state="stopped")
    assert closing([ENDED, stopped], 849, 5.0, RunOutputs(Path("data"))) == (
        "849 frames of 2 sources in 5.0 s (169.8 a second); "
        "results with: framegate results -d data; "
        "continue with: framegate run --resume -d data"
    )
    again = ("-c", "my cameras.toml", "--env-file", "secrets.env")
    told = closing([stopped], 849, 5.0, RunOutputs(Path("data"), resume_with=again))
    assert told.endswith("--resume -d data -c 'my cameras.toml' --env-file secrets.env")
    slot = RunOutputs(Path("data"), resume_with=("--store", "env:STORE"), slot="box1")
    told = closing([stopped], 849, 5.0, slot)
    assert told.endswith("; continue with: framegate run --slot box1 -d data --store env:STORE")
    nothing = replace(ENDED, published=0)
    assert closing([nothing], 0, 0.4, RunOutputs(Path("data"))) == "0 frames in 0.4 s"
    there = RunOutputs(Path("data"), store="redis://user:secret@10.0.0.7:6379/0")
    assert "results in redis://10.0.0.7:6379/0" in closing([ENDED], 1, 1.0, there)


def test_paths_are_told_as_one_would_type_them(home: Path) -> None:
    assert shown_path(Path("my data")) == "'my data'"
    assert shown_path(home / "a b") == "~/'a b'"
    assert shown_path(Path("/srv/x")) == "/srv/x"
    assert shown_path(home / "work") == "~/work"


def test_times_are_told_as_people_do() -> None:
    told = [span(seconds) for seconds in (0.44, 9.97, 23.4, 119.4, 150, 1500, 9000)]
    assert told == ["0.4 s", "10 s", "23 s", "119 s", "2.5 min", "25 min", "2.5 h"]


DRAWS = """
import signal, sys
from framegate.pipeline.run.progress import open_screen
signal.signal(signal.SIGINT, lambda *_: print("heard", flush=True))
with open_screen(False) as screen:
    screen.print_line(chr(10).join(f"line {n} " + "-" * 60 for n in range(200)))
    print("drawn", flush=True)
    sys.stdin.readline()
"""


def test_nothing_that_was_drawn_is_lost_at_ctrl_c() -> None:
    """A terminal that reads slowly: the kernel holds what was drawn when the key comes."""
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    program = subprocess.Popen(
        [sys.executable, "-c", DRAWS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, text=True,
        env={**os.environ, "TERM": "xterm"}, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
     encoding="utf-8")  # fmt: skip
    with program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "drawn\n"
        os.write(ours, b"\x03")
        assert program.stdout.readline() == "heard\n"
        program.stdin.write("\n")
    assert program.returncode == 0
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 1 << 16):
            text += part
    except OSError:  # all is read, and nobody writes any more
        pass
    finally:
        os.close(ours)
    assert [line.split()[1] for line in text.decode().splitlines() if line.startswith("line")] == [
        str(n) for n in range(200)
    ]


def test_the_line_of_the_detector_fits_a_terminal() -> None:
    detector = "768x432, nanodet-plus-640-int8+bf16@2f968eaa"
    one, two = ["yard"], ["entrance", "yard"]
    assert detector_line(one, detector, 80) == f"detector of yard: {detector}"
    assert detector_line(two, detector) == f"detector of entrance, yard: {detector}"
    assert detector_line(two, detector, 80) == (
        "detector of entrance, yard: 768x432,\n  nanodet-plus-640-int8+bf16@2f968eaa"
    )
