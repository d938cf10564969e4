"""Data folders and sources that belong to somebody else, or are not what they were."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from tests.runs.bad.case import DONE, GOOD_FRAMES, SOURCE_FAILED, TAKEN_OVER, USAGE, Case
from tests.support.commands import Command, Ended, Reader, framegate, user_folder
from tests.support.footage import steady, write_scene
from tests.support.runs import children, wait_until
from tests.support.servers import server

STANDS_STILL = 20
HELD_UP = f'use = "user_stages:Waits"\ngate = "gate"\nat = {STANDS_STILL}\n'


def held_up(folder: Path, *words: str) -> Command:
    """A run that stands still at a frame in the middle until `open_gate`."""
    user_folder(folder, main=HELD_UP, apart=True)
    return Command(folder, "run", *words)


def workers(pid: int) -> list[int]:
    """Process ids of a run's workers."""
    return [
        child
        for child, words in children(pid).items()
        if "framegate.pipeline.run.worker_main" in words
    ]


def open_gate(folder: Path) -> None:
    (folder / "gate").touch()


def other(folder: Path) -> Path:
    """Another user's folder with the same video."""
    user_folder(folder / "other")
    return folder / "other"


def in_use(folder: Path) -> Ended:
    """The run that has the folder is not harmed."""
    with held_up(folder, "good.mp4", "-d", "data", "--json") as first:
        wait_until("the first run has its folder", (folder / "data" / "run.json").exists)
        second = framegate(other(folder), "run", "../good.mp4", "-d", str(folder / "data"))
        open_gate(folder)
        ended = first.wait()
    assert (ended.code, len(ended.results("good"))) == (DONE, GOOD_FRAMES)
    return second


def used(folder: Path) -> Ended:
    """Neither is it begun anew, nor does another file go on in it."""
    assert framegate(folder, "run", "good.mp4", "-d", "data").code == DONE
    another = framegate(folder, "run", "more.mp4", "-d", "data", "--resume")
    assert another.code == USAGE
    for part in ("source more: it is not in the run of ", "(good); --resume continues with those"):
        assert part in another.err
    return framegate(folder, "run", "good.mp4", "-d", "data")


def fresh(folder: Path) -> Ended:
    ended = framegate(folder, "run", "-d", "data", "--resume")
    assert not (folder / "data").exists()
    return ended


def changed(folder: Path) -> Ended:
    with held_up(folder, "good.mp4", "-d", "data", "--json") as run:
        wait_until("something is printed", lambda: (folder / "out.txt").stat().st_size)
        run.interrupt()
        open_gate(folder)
        assert run.wait().code == DONE
    write_scene(folder / "good.mp4", steady(GOOD_FRAMES), size=(64, 64))
    return framegate(folder, "run", "-d", "data", "--resume")


def taken_over(folder: Path) -> Ended:
    """Who does not say --take-over is refused, and a source that is free stays free. Who does
    publishes all of it, in an epoch of its own; the first run ends.
    """
    with server(folder / "server") as store:
        words = ("--store", store.url, "-d")
        with held_up(folder, "good.mp4", *words, "data") as first:
            reader = Reader(store.url)
            wait_until(
                "frames are on their way", lambda: reader.client.exists("fg:{good}:out:detect")
            )
            free = ("free=../good.mp4", *words, "free")
            refused = framegate(other(folder), "run", "../good.mp4", *free)
            assert refused.code == USAGE
            for part in ("source good is owned by run ", "data)", "or take it over with"):
                assert part in refused.err
            assert framegate(other(folder), "run", *free).code == DONE
            assert first.process.poll() is None
            taker = framegate(other(folder), "run", "../good.mp4", "--take-over", *words, "data")
            assert taker.code == DONE
            open_gate(folder)
            ended = first.wait()
        reader.whole("free", GOOD_FRAMES)
        theirs = [r["seq"] for r in reader.results("good") if r["epoch"] == 2]
        assert theirs == list(range(GOOD_FRAMES))
        reader.close()
        return ended


def one_taken_over(folder: Path) -> Ended:
    """The source that is left is finished."""
    with server(folder / "server") as store:
        words = ("--store", store.url, "-d", "data")
        with held_up(folder, "good.mp4", "theirs=good.mp4", *words) as first:
            reader = Reader(store.url)
            for source in ("good", "theirs"):
                key = f"fg:{{{source}}}:out:detect"
                wait_until("frames are on their way", partial(reader.client.exists, key))
            taker = framegate(other(folder), "run", "theirs=../good.mp4", "--take-over", *words)
            assert taker.code == DONE
            open_gate(folder)
            ended = first.wait()
        reader.whole("good", GOOD_FRAMES)
        theirs = [r["seq"] for r in reader.results("theirs") if r["epoch"] == 2]
        assert theirs == list(range(GOOD_FRAMES))
        reader.close()
        return ended


CASES = [
    Case("a folder in use", in_use, USAGE, ("data is in use by another run; stop that run",)),
    Case("a used folder", used, USAGE, ("data contains a run already: add --resume to continue",)),
    Case("a fresh folder to resume", fresh, USAGE, ("data contains no run to resume",)),
    Case(
        "nothing to resume",
        lambda folder: framegate(folder, "run", "good.mp4", "--resume"),
        USAGE,
        ("--resume: needs -d DATA",),
    ),
    Case(
        "a folder that cannot be one",
        lambda folder: framegate(folder, "run", "good.mp4", "-d", "good.mp4"),
        USAGE,
        ("good.mp4 cannot be created or written: ", os.strerror(17)),
    ),
    Case(
        "a changed file",
        changed,
        USAGE,
        ("source good: ", "has another size or content", "new run"),
    ),
    Case("one taken over", one_taken_over, SOURCE_FAILED, ("theirs: another run took it over",)),
    Case("taken over", taken_over, TAKEN_OVER, ("another run took ",)),
]
