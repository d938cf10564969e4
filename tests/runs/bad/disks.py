"""File systems without room: shared memory, the data folder, the folder of --save.

Each is a tiny tmpfs in a mount namespace of the command's own, so nothing else sees it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.runs.bad.case import DONE, GOOD_FRAMES, SOURCE_FAILED, USAGE, Case
from tests.runs.bad.stores import WORDY
from tests.support import footage
from tests.support.commands import Command, Ended, framegate, user_folder
from tests.support.runs import wait_until


def small(place: Path | str, kib: int) -> Sequence[str]:
    """What stands before a command that is to see a tmpfs of that size there; skips if denied."""
    isolate = ["unshare", "-m"]
    allowed = shutil.which("unshare") and subprocess.run([*isolate, "true"], check=False)
    if not allowed or allowed.returncode:
        pytest.skip("this user may not make a mount namespace (unshare -m)")
    mount = f'mount -t tmpfs -o size={kib}k tmpfs "{place}" && exec "$@"'
    return [*isolate, "sh", "-c", mount, "sh"]


# A decoder waits 30 s for memory that others may free.
IMPATIENT = """
from framegate.pipeline.ingest.file_decoder import FileDecoder

FileDecoder.patience_s = 1.0
"""


def shared_memory(folder: Path) -> Ended:
    """Room for the small picture's frames, not for the large one's."""
    with (folder / "user_stages.py").open("a", encoding="utf-8") as stages:
        stages.write(IMPATIENT)
    footage.write_scene(folder / "large.mp4", footage.steady(5), size=(640, 480))
    words = ("run", "good.mp4", "large.mp4", "-d", "data", "--json")
    ended = framegate(folder, *words, before=small("/dev/shm", 2000))
    assert [r["seq"] for r in ended.results("good")] == list(range(GOOD_FRAMES))
    assert ended.results("large") == []
    return ended


def make_room(run: Command, place: Path) -> None:
    """What is mounted for a command gets larger."""
    inside = Path(f"/proc/{run.process.pid}/root{place}")
    remount = f'mount -o remount,size=64m "{place}"'
    enter = ["nsenter", "-m", "-t", str(run.process.pid)]
    subprocess.run([*enter, "sh", "-c", remount], check=True)
    wait_until("there is room", lambda: os.statvfs(inside).f_bavail > 4000)


def data_folder(folder: Path) -> Ended:
    """The store says that its disk is full, and goes on when there is room again."""
    user_folder(folder, more=WORDY)
    (folder / "data").mkdir()
    command = ("run", "good.mp4", "-d", "data", "--json")
    with Command(folder, *command, before=small(folder / "data", 2000)) as run:
        run.says("No space left on device")
        make_room(run, folder / "data")
        ended = run.wait()
    assert [r["seq"] for r in ended.results("good")] == list(range(GOOD_FRAMES))
    return ended


def drained_data_folder(folder: Path) -> Ended:
    """Ctrl-C while the store's disk is full: the drain says so, and ends once there is room."""
    user_folder(folder, more=WORDY)
    (folder / "data").mkdir()
    command = ("run", "good.mp4", "-d", "data", "--json")
    with Command(folder, *command, before=small(folder / "data", 2000)) as run:
        run.says("No space left on device")
        run.interrupt()
        run.says("the drain waits")
        make_room(run, folder / "data")
        ended = run.wait()
    told = ended.results("good")
    assert [r["seq"] for r in told] == list(range(len(told)))
    return ended


def save_folder(folder: Path) -> Ended:
    """Results do not need the video: all are published."""
    (folder / "videos").mkdir()
    footage.write_scene(folder / "good.mp4", footage.steady(GOOD_FRAMES), size=(640, 480))
    words = ("run", "good.mp4", "-d", "data", "--json", "--save", "videos")
    ended = framegate(folder, *words, before=small(folder / "videos", 8))
    assert [r["seq"] for r in ended.results("good")] == list(range(GOOD_FRAMES))
    return ended


def full_save_folder(folder: Path) -> Ended:
    """Seen before anything starts."""
    (folder / "videos").mkdir()
    words = ("run", "good.mp4", "-d", "data", "--save", "videos")
    ended = framegate(folder, *words, before=small(folder / "videos", 4))
    assert not (folder / "data").exists()
    return ended


CASES = [
    Case(
        "/dev/shm too small",
        shared_memory,
        SOURCE_FAILED,
        (
            "source large: ",
            "640x480",
            "MiB of shared memory, /dev/shm has ",
            "lower the credit",
        ),
    ),
    Case("disk full", data_folder, DONE, ("No space left on device",)),
    Case(
        "disk full at ctrl-c",
        drained_data_folder,
        DONE,
        ("the drain waits: ", "No space left on device", "MB free in ", "--resume"),
    ),
    Case(
        "disk of --save full",
        save_folder,
        DONE,
        ("source good: ", "the annotated video cannot be written (No space left on"),
    ),
    Case(
        "no room in --save",
        full_save_folder,
        USAGE,
        ("--save ", "videos: No space left on device; select a folder with room"),
    ),
]
