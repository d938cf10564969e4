"""Frames that kill the process that works on them."""

from __future__ import annotations

from pathlib import Path

import msgpack  # type: ignore[import-untyped]

from framegate.pipeline.contracts.records import decode_record
from tests.runs.bad.case import DONE, GOOD_FRAMES, Case, Play
from tests.support.commands import Ended, Reader, framegate, user_folder
from tests.support.servers import server


def poisoned(by: str, at: int) -> Play:
    """The frame is published as failed and set aside with its bytes; no other is touched."""

    def play(folder: Path) -> Ended:
        kills = f'use = "user_stages:Kills"\nsource = "good"\nat = {at}\nby = "{by}"\n'
        # Alone: one worker of all stages writes nothing of the epoch at whose first frame it dies.
        user_folder(folder, main=kills, apart=at == 0)
        with server(folder / "server") as store:
            words = ("good.mp4", "healthy=good.mp4", "-d", "data", "--store", store.url)
            ended = framegate(folder, "run", *words)
            reader = Reader(store.url)
            bad = reader.whole("good", GOOD_FRAMES)
            whole = reader.whole("healthy", GOOD_FRAMES)
            asides = reader.asides("good")
            assert reader.asides("healthy") == []
            assert reader.counters("good")["failed"] == 1
            reader.close()
        assert [(r["seq"], r["reason"]) for r in bad if r["outcome"] == "failed"] == [
            (at, "worker_died")
        ]
        assert all(r["outcome"] == "detected" for r in whole)
        assert [(a["stage"], a["id"], a["reason"]) for a in asides] == [
            (b"extra", f"1-{at}".encode(), b"worker_died")
        ]
        record = decode_record(asides[0]["d"])
        assert record.number == at
        assert msgpack.unpackb(record.said["detect"])["models"] == ["crowd@0"]
        return ended

    return play


CASES = [
    Case(
        "a poison frame",
        poisoned("signal", at=20),
        DONE,
        ("ended (signal 9)", "source good frame 1-20: it killed its worker 3 times in stage extra"),
    ),
    Case(
        "a poison frame at the very start",
        poisoned("exit", at=0),
        DONE,
        ("ended (exit code 7)", "source good frame 1-0: it killed its worker 3 times"),
        long=True,
    ),
]
