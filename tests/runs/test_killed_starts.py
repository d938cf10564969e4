"""A run whose start is killed, before or after each thing that it does, goes on with `--resume`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import footage
from tests.support.commands import Reader, framegate, user_folder
from tests.support.runs import environment
from tests.support.servers import server

pytestmark = pytest.mark.whole_run

FRAMES = 40
WORDS = ("-d", "data", "--http", "off")

# Begin a run again and again with the words in argv. The n-th one is killed before it does its n-th
# thing that others can see: a folder, a file, a socket, a process. A line for each: its exit code,
# and what the killed one was about to do.
KILLED_AT_EACH = """
import json, os, signal, sys

folder, words = os.path.abspath("data"), sys.argv[1:]
from framegate.pipeline.system import process
from framegate.cli.main import main
from framegate.pipeline.config.config import find_config, read_config
import framegate.pipeline.run.run

read_config(*find_config(None))  # imports all stages, once for all runs

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SEEN = ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen", "sqlite3.connect")

def is_seen(event, args):
    if event == "open":
        return str(args[0]).startswith(folder) and bool(args[2] & WRITES)
    if event == "socket.connect":  # while a server starts, as often as the machine is slow
        return os.path.exists(args[1])
    return event in SEEN

def begin(n, told):
    count = 0
    def hook(event, args):
        nonlocal count
        if is_seen(event, args):
            count += 1
            if count == n:
                os.write(told, f"{event} {args[0]}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
    process._parent = os.getpid()  # as it were had this one been started, not forked
    sys.addaudithook(hook)
    os._exit(main(words))

for n in range(1, 200):
    hear, told = os.pipe()
    child = os.fork()
    if not child:
        begin(n, told)
    os.close(told)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, os.read(hear, 1000).decode()]), flush=True)
    os.close(hear)
    if code != -signal.SIGKILL:
        break
"""


def starts(folder: Path, script: str, *words: str) -> tuple[list[list[Any]], str]:
    """Return the lines that a script prints, and what the runs in it said."""
    command = [sys.executable, "-c", script, "run", *words]
    # Only the first run would write byte code, and so the n-th thing would be another in the next.
    variables = {**environment(), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    return [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


def check_whole(folder: Path) -> None:
    """Check that the run in the folder has each frame once, in the first epoch."""
    with server(folder / "data" / "store") as store:
        reader = Reader(store.url)
        results = reader.whole("one", FRAMES)
        reader.close()
    assert {result["epoch"] for result in results} == {1}


@pytest.mark.parametrize("by", ["command", pytest.param("configuration", marks=pytest.mark.long)])
def test_a_run_is_killed_before_each_thing_that_it_does(tmp_path: Path, by: str) -> None:
    """The words are the same each time, as those of a service are."""
    sources = '[sources.one]\nurl = "clip.mp4"\n' if by == "configuration" else ""
    folder = user_folder(tmp_path / "user", sources)
    footage.write_scene(folder / "clip.mp4", footage.steady(FRAMES))
    named = () if sources else ("one=clip.mp4",)
    began, said = starts(folder, KILLED_AT_EACH, *named, *WORDS, "--resume")
    codes = [code for code, _ in began]
    assert codes[:-1] == [-signal.SIGKILL] * (len(began) - 1), said
    assert codes[-1] == 0, said
    killed_at = " ".join(thing for _, thing in began)
    for thing in ("os.mkdir", "data/lock", "data/run.new", "socket.connect"):
        assert thing in killed_at
    check_whole(folder)


def test_a_killed_start_needs_no_names_once_it_has_written_them(tmp_path: Path) -> None:
    """That is before it starts its store."""
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "clip.mp4", footage.steady(FRAMES))
    script = KILLED_AT_EACH.replace("if is_seen(event, args):", 'if event == "subprocess.Popen":')
    first = script.replace("range(1, 200)", "range(1, 2)")
    began, said = starts(folder, first, "one=clip.mp4", *WORDS)
    assert [code for code, _ in began] == [-signal.SIGKILL], said
    assert not (folder / "data" / "store" / "appendonlydir").exists()
    ended = framegate(folder, "run", *WORDS, "--resume")
    assert ended.code == 0, ended.err
    check_whole(folder)


def test_a_start_that_fails_leaves_no_run(tmp_path: Path) -> None:
    """The same words work without --resume once what was wrong is right."""
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "clip.mp4", footage.steady(FRAMES))
    (folder / "data").mkdir()
    with server(tmp_path / "server") as store:
        words = ("one=clip.mp4", *WORDS, "--store")
        wrong = framegate(folder, "run", *words, f"unix://{tmp_path}/nowhere.sock")
        assert wrong.code == 3, wrong.err
        assert not (folder / "data" / "run.json").exists()
        ended = framegate(folder, "run", *words, store.url)
        assert ended.code == 0, ended.err


# A run whose store is killed after its start, and then after the first call of each of these.
STORE_KILLED = """
import os, signal, sys
from framegate.cli.main import main
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.admin import StoreAdmin

stores = []

def kill_after(owner, name):
    real, calls = getattr(owner, name), []
    def call(self, *args, **kwargs):
        result = real(self, *args, **kwargs)
        if owner is EmbeddedStore:
            stores.append(self.process.pid)
        calls.append(name)
        if len(calls) == 1:
            os.kill(stores[-1], signal.SIGKILL)
            print(f'"{name}"', flush=True)
        return result
    setattr(owner, name, call)

kill_after(EmbeddedStore, "launch")
for name in ("prepare", "claim", "announce_models"):
    kill_after(StoreAdmin, name)
sys.exit(main(sys.argv[1:]))
"""
CALLS = ["launch", "prepare", "claim", "announce_models"]


def test_the_store_is_killed_while_a_run_starts(tmp_path: Path) -> None:
    """Fresh, and as it goes on: it is started again each time, as later."""
    folder = user_folder(tmp_path / "user")
    footage.write_scene(folder / "clip.mp4", footage.steady(FRAMES))
    for words in (("one=clip.mp4", *WORDS), (*WORDS, "--resume")):
        killed, said = starts(folder, STORE_KILLED, *words)
        assert killed == CALLS, said
        assert "the embedded store was killed while the run starts; starting it again" in said
        check_whole(folder)
