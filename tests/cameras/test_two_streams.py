"""A camera with two streams under one name: the small one is looked at, the large one recorded."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import msgspec
import numpy as np
import pytest

from framegate.pipeline.recording.index import Index, Segment
from framegate.pipeline.recording.index_tables import FOLDER
from tests.support.cameras.background import Background
from tests.support.cameras.faulty import FaultyLine
from tests.support.cameras.pictures import FPS, Clips
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import LIVE, SECRET, WatchedRun, url
from tests.support.recorded import payload
from tests.support.runs import DEADLINE_S, published_in

pytestmark = pytest.mark.whole_run

LARGE, SMALL = (320, 240), (160, 120)
TABLES = """
[sources.gate]
url_env = "GATE"
look_at_env = "GATE_SMALL"

[record]
sources = true
"""


@dataclass
class Story:
    """What the run published, recorded and stated about a stream that was away."""

    results: list[dict[str, Any]]
    segments: list[Segment]
    folder: Path
    data: Path
    clip: Path
    url_fault: str
    look_at_fault: str
    epochs: list[int]
    counters: dict[str, int]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One run: both streams, the large one away, the small one away, the worker killed."""
    folder = tmp_path_factory.mktemp("two_streams")
    with ExitStack() as close, pytest.MonkeyPatch.context() as patch:
        background = Background()
        close.callback(background.close)
        clips = Clips(folder / "clips")
        large = clips.clip(size=LARGE, seconds=120.0)
        small = clips.clip(size=SMALL, seconds=120.0)
        kit = ToolkitCamera(background, clips.folder)
        close.callback(kit.close)
        line_of_url, line_of_look_at = FaultyLine(background), FaultyLine(background)
        for line in (line_of_url, line_of_look_at):
            close.callback(line.close)
            line.on(kit.port)
        patch.setenv("GATE", url(line_of_url.port, kit.path(large.name)))
        patch.setenv("GATE_SMALL", url(line_of_look_at.port, kit.path(small.name)))
        main = 'use = "user_stages:Quarter"\n'
        run = WatchedRun(folder / "user", {}, LIVE + TABLES, main, also=["gate"])
        close.callback(run.close)

        first = run.until_published("gate", 7 * FPS)[0]["epoch"]
        run.until("a large snapshot", lambda: snapshot_size(run) == LARGE)
        line_of_url.off()
        away = run.until("url is away", lambda: run.connection("gate").get("url_fault"))
        assert run.connection("gate")["state"] == "connected"
        n = len(run.results("gate"))
        run.until_published("gate", n + FPS, first - 1)
        line_of_url.on(kit.port)
        run.until("url is back", lambda: "url_fault" not in run.connection("gate"))

        pictures = line_of_url.pictures
        line_of_look_at.off()
        lost = run.until_state("gate", "lost", "look_at: ")["fault"]
        run.until("more pictures", lambda: line_of_url.pictures > pictures + 6 * FPS)
        line_of_look_at.on(kit.port)
        run.until_published("gate", 7 * FPS, first)
        second = run.results("gate")[-1]["epoch"]
        os.kill(run.worker("shard-1"), signal.SIGKILL)
        run.until_published("gate", 2 * FPS, second)
        run.until("url is back", lambda: run.counters("gate").get("url_connects") == 3)
        run.check_positions("gate")
        counters = run.counters("gate")
        run.finish()

        results = published_in(run.data, ["gate"])["gate"].results
        index = Index(run.data)
        close.callback(index.close)
        told = [msgspec.to_builtins(each) for each in results]
        yield Story(
            results=told,
            segments=index.between("gate", 0.0, 1e12),
            folder=run.data / FOLDER,
            data=run.data,
            clip=large,
            url_fault=away,
            look_at_fault=lost,
            epochs=sorted({each["epoch"] for each in told}),
            counters=counters,
        )


def snapshot_size(run: WatchedRun) -> tuple[int, int] | None:
    """Width and height of the snapshot that the live page has now, None if it has none."""
    [page] = re.findall(r"live page at (http://\S+)", run.command.err)
    answer = httpx.get(f"{page}/snapshot/gate.jpg", timeout=DEADLINE_S)
    if answer.status_code != 200:
        return None
    pixels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    return pixels.shape[1], pixels.shape[0]


def test_results_are_in_the_pixels_of_the_large_picture(story: Story) -> None:
    width, height = LARGE
    for result in story.results:
        assert (result["width"], result["height"]) == LARGE
        assert tuple(result["looked_at"]) == SMALL
        (car,) = result["objects"]
        assert car["box"] == pytest.approx((width / 2, height / 2, width, height))


def test_the_recording_is_the_large_stream_byte_by_byte(story: Story) -> None:
    came = payload(story.clip, parameters=False)
    assert len(story.segments) > 5
    # The end of the run may have cut the last one.
    for segment, after in pairwise(story.segments):
        file = story.folder / segment.path
        packets = payload(file, parameters=False)
        if not after.follows(segment):
            packets.pop()  # the end of the connection may have cut it off
        begins = [at for at, packet in enumerate(came) if packet == packets[0]]
        assert any((came + came)[at : at + len(packets)] == packets for at in begins)
        with av.open(str(file)) as opened:
            sizes = {(frame.width, frame.height) for frame in opened.decode(video=0)}
        assert sizes == {LARGE}


def test_each_stream_is_named_when_it_is_away(story: Story) -> None:
    assert SECRET not in story.url_fault + story.look_at_fault
    assert story.look_at_fault.startswith(("closed: look_at: ", "unreachable: look_at: "))
    assert story.counters["url_lost"] == 1
    assert story.counters["url_connects"] == 3
    assert story.counters["connects"] == 3


def test_the_small_stream_alone_keeps_results_in_their_epoch(story: Story) -> None:
    assert len(story.epochs) == 3  # the small stream was lost once, and the worker killed once


def test_the_large_stream_alone_is_recorded(story: Story) -> None:
    last = [each for each in story.results if each["epoch"] == story.epochs[0]][-1]["captured"]
    later = next(each for each in story.results if each["epoch"] == story.epochs[1])["captured"]
    assert later - last > 4.0
    middle = (last + later) / 2
    assert any(each.captured <= middle < each.captured_end for each in story.segments)


def test_each_result_has_its_recorded_picture(story: Story) -> None:
    """Except around the change of a stream, where a key frame is awaited."""
    index = Index(story.data)
    found = dict.fromkeys(story.epochs[:2], 0)
    for result in story.results:
        place = index.place("gate", result["epoch"], result["pts"])
        if place is not None and result["epoch"] in found:
            found[result["epoch"]] += 1
            recorded = place.segment.captured + place.offset_s
            assert abs(recorded - result["captured"]) < 1.5 / FPS
    index.close()
    assert min(found.values()) > 3 * FPS
