"""Work that lets all others go first, as a process of its own; and how a process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from framegate.cli.main import parser
from framegate.pipeline.system.process import give_way
from tests.support.runs import DEADLINE_S

AUTOGROUP = Path("/proc/self/autogroup")
BEGIN = (
    "import os, signal, sys\n"
    "from framegate.pipeline.system.process import give_way, step_back\n"
    "give_way()\n"
)
TELL = (
    "from pathlib import Path\n"
    "group = Path('/proc/self/autogroup')\n"
    "text = group.read_text() if group.exists() else '10'\n"
    "print(os.nice(0), ['none', *text.split()][-1], flush=True)\n"  # the first session has none
)


@contextmanager
def program(text: str, session: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Runs it; it is gone after the block."""
    words = (sys.executable, "-c", text)
    running = subprocess.Popen(
        words, stdout=-1, stderr=-1, text=True, start_new_session=session, encoding="utf-8"
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def test_it_is_the_last_of_all_and_ends_as_it_would_alone() -> None:
    with program(BEGIN + TELL + "sys.exit(3)") as running:
        out, _ = running.communicate(timeout=DEADLINE_S)
    assert (out, running.returncode) == ("19 10\n", 3)


def test_a_session_steps_back_as_a_whole_if_it_is_its_leaders_wish() -> None:
    if not AUTOGROUP.exists():
        pytest.skip("this kernel does not share the CPU between sessions")
    text = BEGIN.replace("give_way()\n", "step_back(0)\n") + TELL + "step_back(7)\n" + TELL
    with program(text, session=True) as running:
        out, _ = running.communicate(timeout=DEADLINE_S)
    nice = os.nice(0)
    assert out.splitlines() == [f"{nice} 0", f"{nice + 7} {min(nice + 7, 10)}"]
    with program(text) as running:  # of another's session: its shell stays as it is
        out, _ = running.communicate(timeout=DEADLINE_S)
    assert [line.split()[0] for line in out.splitlines()] == [str(nice), str(nice + 7)]
    assert len({line.split()[1] for line in out.splitlines()}) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_it(number: signal.Signals) -> None:
    text = BEGIN + (
        "def end(which, _):\n"
        "    print('heard', which, flush=True)\n"
        "    sys.exit(5)\n"
        f"signal.signal({int(number)}, end)\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    with program(text) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        out, _ = running.communicate(timeout=DEADLINE_S)
    assert (out, running.returncode) == (f"heard {int(number)}\n", 5)


def test_it_does_not_outlive_who_started_it() -> None:
    text = BEGIN + "print('ready', flush=True)\nwhile True: signal.pause()\n"
    with program(text) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.kill()
        assert running.stdout.read() == ""  # whoever could write to it has ended


def test_who_is_killed_is_told_of_as_a_shell_does() -> None:
    with program(BEGIN + "os.kill(os.getpid(), signal.SIGKILL)") as running:
        running.communicate(timeout=DEADLINE_S)
    assert running.returncode in (128 + signal.SIGKILL, -signal.SIGKILL)


@pytest.mark.parametrize(
    "words",
    [
        ("tune", "gate", "--from", "monday.mp4"),
        ("train", "gate", "--from", "monday.mp4"),
        ("models", "judge", "gate@1", "--from", "monday.mp4"),
    ],
)
def test_what_learns_lets_a_run_beside_it_go_first(words: tuple[str, ...]) -> None:
    assert parser(words[0]).parse_args(words).as_program is give_way


LEAVES = """
import atexit, sys
from framegate.pipeline.system.process import leave

class Held:
    def __del__(self):
        print("freed")

held = Held()
held.itself = held
atexit.register(print, "registered")
print("printed")
print("an error", file=sys.stderr)
leave(3)
"""


def test_leaving_runs_what_was_registered_and_loses_no_output() -> None:
    with program(LEAVES) as running:
        out, err = running.communicate(timeout=DEADLINE_S)
    assert (out, err, running.returncode) == ("printed\nregistered\n", "an error\n", 3)


def test_output_that_cannot_be_written_is_no_success() -> None:
    """The output is in Python's buffer when the process ends."""
    into_full = "import sys\nsys.stdout = open('/dev/full', 'w')\n"
    with program(into_full + LEAVES.replace("leave(3)", "leave(0)")) as running:
        _, err = running.communicate(timeout=DEADLINE_S)
    assert (err, running.returncode) == ("an error\n", 1)
