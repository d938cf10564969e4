"""How far work is: on a terminal a line that goes, elsewhere whole lines."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from framegate.cli.console import terminal
from framegate.cli.console.terminal import Meter, as_line, left_s
from tests.support.runs import DEADLINE_S, environment


def test_what_is_said_of_work() -> None:
    assert as_line("frames", 0, 1000, "", 3.0) == "frames: 0 of 1000"
    assert as_line("frames", 250, 1000, "240 heavy passes", 60.0) == (
        "frames: 250 of 1000, 240 heavy passes, about 3.0 min left"
    )
    assert as_line("reading the model", 0, None, "", 60.0) == "reading the model"
    assert left_s(10, 10, 5.0) == 0.0


def test_in_a_file_each_is_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Meter() as tell:
        tell("frames", 1, 4)
        assert capsys.readouterr().err == ""  # work of a moment says nothing
        monkeypatch.setattr(terminal, "LINES_S", 0.0)
        tell("frames", 2, 4)
        tell("converting")
        tell("converting")
    said = capsys.readouterr().err
    assert said.endswith("\n")
    assert "\r" not in said
    assert re.sub(r"about [\d.]+ s", "about N s", said).splitlines()[:2] == [
        "frames: 2 of 4, about N s left",
        "converting",
    ]


AT_A_TERMINAL = """
from framegate.cli.console import terminal
from framegate.cli.console.terminal import Meter
with Meter() as tell:
    tell("frames", 1, 4)
    print("a result", flush=True)
    tell("frames", 3, 4, more="some")
"""


def test_on_a_terminal_nothing_of_it_is_left() -> None:
    ours, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    env = {**environment(), "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", AT_A_TERMINAL],
        env=env, stderr=terminal, stdout=subprocess.PIPE, timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    os.close(terminal)
    said = b""
    with contextlib.suppress(OSError):  # EIO: nothing is left
        while data := os.read(ours, 65536):
            said += data
    os.close(ours)
    assert done.stdout == b"a result\n"  # not drawn into the terminal
    assert b"frames" in said
    assert said.rstrip().endswith(b"\x1b[2K") or b"\x1b[2K" in said[-40:]


def test_it_is_one_line_however_much_there_is_to_say() -> None:
    """Of two the terminal would lose one that was printed above, as it is drawn anew."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "Console", lambda **_: console)
        patch.setenv("TERM", "xterm")
        with Meter() as tell:
            tell("pictures that the teacher looks at", 222, 428, "104 known from before")
            with tell.paused():
                pass
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    last = [line for line in re.split(r"[\r\n]+", shown) if line.strip()][-1]
    assert "222 of 428, about " in last
    assert " left 104 known from before" in last
