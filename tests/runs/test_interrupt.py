"""Ctrl-C, twice, at any time; a reader that goes away; and what --resume makes of it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from framegate.pipeline.contracts.spec import TRAIL_FRAMES
from framegate.pipeline.ingest.credit import still_unread
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.runs.bad.case import DONE, STOPPED_TWICE
from tests.runs.bad.folders import held_up, open_gate, workers
from tests.support import footage
from tests.support.calm_rooms import FPS, write_room
from tests.support.commands import Command, Ended, framegate, user_folder
from tests.support.runs import DEADLINE_S, children, environment, stop_process, wait_until

pytestmark = pytest.mark.whole_run

FRAMES = 200
SECONDS = 150
CREDIT = 32  # of a file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "good.mp4", footage.steady(FRAMES))
    return folder


def resumed(folder: Path) -> Ended:
    ended = framegate(folder, "run", "-d", "data", "--resume", "--json")
    assert ended.code == DONE, ended.err
    return ended


def printed(*parts: Ended) -> list[tuple[int, int]]:
    return [(r["epoch"], r["seq"]) for part in parts for r in part.results("good")]


def test_ctrl_c_finishes_what_is_decoded_and_resume_goes_on_after_it(folder: Path) -> None:
    with held_up(folder, "good.mp4", "-d", "data", "--json") as run:
        wait_until("half a credit is printed", lambda: (folder / "out.txt").stat().st_size)
        run.interrupt()
        run.says("a second Ctrl-C stops at once")
        open_gate(folder)
        first = run.wait()
    assert first.code == DONE
    assert 0 < len(printed(first)) < FRAMES
    assert printed(first, resumed(folder)) == [(1, seq) for seq in range(FRAMES)]


def test_ctrl_c_at_the_very_end_changes_nothing(folder: Path) -> None:
    with held_up(folder, "good.mp4", "-d", "data") as run:
        open_gate(folder)
        run.says("results with:")  # the store is to be closed yet
        run.interrupt()
        assert run.wait().code == DONE


def test_ctrl_c_at_the_very_start(folder: Path) -> None:
    with held_up(folder, "good.mp4", "-d", "data", "--json") as run:
        open_gate(folder)
        wait_until("a worker starts", lambda: workers(run.process.pid))
        run.interrupt()
        first = run.wait()
    assert first.code == DONE
    assert len(printed(first)) < FRAMES


def test_a_second_ctrl_c_stops_at_once(folder: Path) -> None:
    with held_up(folder, "good.mp4", "-d", "data", "--json") as run:
        wait_until("something is printed", lambda: (folder / "out.txt").stat().st_size)
        started = children(run.process.pid)
        run.interrupt()
        run.says("a second Ctrl-C stops at once")
        run.interrupt()
        first = run.wait()
    assert first.code == STOPPED_TWICE
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    open_gate(folder)
    assert printed(first, resumed(folder)) == [(1, seq) for seq in range(FRAMES)]


def test_a_reader_that_goes_away_ends_the_run_in_peace(folder: Path) -> None:
    """As `framegate run ... --json | head -3` does."""
    command = [
        sys.executable,
        "-m",
        "framegate.cli",
        "run",
        "good.mp4",
        "-d",
        "data",
        "--json",
    ]
    env = {**environment(), "XDG_STATE_HOME": os.fspath(folder / "state")}
    run = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert run.stdout is not None
        assert run.stdout.readline().startswith('{"v":1,')
        run.stdout.close()
        assert run.stderr is not None
        err = run.stderr.read()
        assert run.wait(DEADLINE_S) == DONE, err
        assert "Traceback" not in err
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            run.wait()


def test_a_reader_that_ctrl_c_ends_too_does_not_stop_the_run_at_once(folder: Path) -> None:
    """As in `framegate run ... --json | jq`: the terminal interrupts both."""
    words = ("run", "good.mp4", "-d", "data", "--json")
    env = {**environment(), "XDG_STATE_HOME": os.fspath(folder / "state")}
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    said = folder / "err.txt"
    with said.open("wb") as err:
        run = subprocess.Popen(
            [sys.executable, "-m", "framegate.cli", *words],
            cwd=folder, env=env, stdout=theirs, stderr=err,
        )  # fmt: skip
    try:
        wait_until("more is published than fits", lambda: published_of(folder) >= 30)
        wait_until("the printer waits for its reader", lambda: is_full(theirs))
        run.send_signal(signal.SIGINT)
        wait_until("it drains", lambda: b"a second Ctrl-C" in said.read_bytes())
        os.close(ours)
        assert run.wait(DEADLINE_S) == DONE, said.read_text(encoding="utf-8")
    finally:
        run.kill()
        run.wait()
        os.close(theirs)


def test_a_second_ctrl_c_stops_at_once_while_the_store_hangs(folder: Path) -> None:
    with held_up(folder, "good.mp4", "-d", "data") as run:
        wait_until("workers start", lambda: workers(run.process.pid))
        stop_process(server_of(run))
        run.interrupt()
        run.says("a second Ctrl-C stops at once")
        run.interrupt()
        assert run.wait(DEADLINE_S).code == STOPPED_TWICE


def test_a_store_that_hangs_is_killed_and_started_again(folder: Path) -> None:
    user_folder(folder, more="[workers]\nhung_s = 2\n")
    with Command(folder, "run", "good.mp4", "-d", "data", "--json") as run:
        server = wait_until("something is printed", lambda: size(folder) and server_of(run))
        stop_process(server)
        run.says("the embedded store was silent for 2 s; killing it")
        ended = run.wait()
    assert ended.code == DONE, ended.err
    assert printed(ended) == [(1, seq) for seq in range(FRAMES)]


def test_a_second_ctrl_c_stops_at_once_while_nobody_reads(folder: Path) -> None:
    """As `framegate run ... --json | less` does."""
    command = [
        sys.executable,
        "-m",
        "framegate.cli",
        "run",
        "good.mp4",
        "-d",
        "data",
        "--json",
    ]
    env = {**environment(), "XDG_STATE_HOME": os.fspath(folder / "state")}
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    with (folder / "err.txt").open("wb") as err:
        run = subprocess.Popen(command, cwd=folder, env=env, stdout=theirs, stderr=err)
    try:
        # The pipe holds 4 KiB: a dozen lines at most.
        wait_until("more is published than fits", lambda: published_of(folder) >= 30)
        wait_until("the pipe is full", lambda: is_full(theirs))
        run.send_signal(signal.SIGINT)
        wait_until("it drains", lambda: b"a second Ctrl-C" in (folder / "err.txt").read_bytes())
        run.send_signal(signal.SIGINT)
        assert run.wait(DEADLINE_S) == STOPPED_TWICE
        assert b"Fatal" not in (folder / "err.txt").read_bytes()
    finally:
        run.kill()
        run.wait()
        os.close(ours)
        os.close(theirs)


def test_a_file_waits_while_nobody_reads(tmp_path: Path) -> None:
    """Its decoder may be ahead of the printer by TRAIL_FRAMES, its credit and the frames that were
    unread when it was woken.
    """
    folder = user_folder(tmp_path / "user")
    write_room(folder / "good.mp4", "h264", seconds=SECONDS)
    words = ("run", "good.mp4", "-d", "data", "--json", "--http", "off")
    env = {**environment(), "XDG_STATE_HOME": os.fspath(folder / "state")}
    run = subprocess.Popen(
        [sys.executable, "-m", "framegate.cli", *words],
        cwd=folder, env=env, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert run.stdout is not None
        fcntl.fcntl(run.stdout, fcntl.F_SETPIPE_SZ, 4096)
        wait_until("the decoder is far ahead", lambda: ahead_of(folder) >= TRAIL_FRAMES)
        ahead = max(ahead_of(folder) for _ in range(100))
        seqs = [msgspec.json.decode(line)["seq"] for line in run.stdout]
        assert run.wait(DEADLINE_S) == DONE
    finally:
        run.kill()
        run.wait()
    assert ahead <= TRAIL_FRAMES + CREDIT + still_unread(CREDIT)
    assert seqs == list(range(SECONDS * FPS))


def ahead_of(folder: Path) -> int:
    """Frames by which the decoder is ahead of the printer."""
    store = StoreAdmin(EmbeddedStore(folder / "data" / "store", "everysec").url)
    try:
        at = store.positions("good", ["decode", "print"])
    finally:
        store.close()
    return at["decode"].seq - at["print"].seq


def size(folder: Path) -> int:
    """Bytes printed so far."""
    return (folder / "out.txt").stat().st_size


def published_of(folder: Path) -> int:
    """Results of the run in the folder so far."""
    store = StoreAdmin(EmbeddedStore(folder / "data" / "store", "everysec").url)
    try:
        return store.counters("good").get("published", 0)
    finally:
        store.close()


def is_full(pipe: int) -> bool:
    """Whether a write to it would block."""
    return not select.select([], [pipe], [], 0)[1]


def server_of(run: Command) -> int:
    """Process id of a run's embedded server."""
    found = children(run.process.pid).items()
    return next(child for child, words in found if "valkey-server" in words[0])
