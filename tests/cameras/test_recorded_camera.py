"""A camera that is recorded: what a kill costs, and that each result's picture is found."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from framegate.pipeline.recording.adopt_files import rebuild
from framegate.pipeline.recording.index import Index
from framegate.pipeline.recording.index_tables import FOLDER
from framegate.pipeline.recording.recorder_states import OPEN
from tests.support.cameras.background import Background
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import LIVE, WatchedRun, url
from tests.support.recorded import payload, write_both
from tests.support.runs import published_in

pytestmark = pytest.mark.whole_run

LOST_S = 1.0
ROUNDING_S = 0.001  # the first picture that is lost begins where the last one that is not ends


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL of a camera, and the file that it plays."""
    background = Background()
    clips = tmp_path / "clips"
    clips.mkdir()
    clip = write_both(clips / "gate.mp4", 60.0, options={"bf": "0"}, fps=20.0, gop=20)
    kit = ToolkitCamera(background, clips)
    try:
        yield url(kit.port, kit.path(clip.name)), clip
    finally:
        kit.close()
        background.close()


def test_a_killed_worker_costs_a_second_of_the_recording(
    tmp_path: Path, camera: tuple[str, Path]
) -> None:
    place, clip = camera
    more = LIVE + "[record]\nsources = true\n"
    run = WatchedRun(tmp_path / "user", {"gate": place}, more, apart=True)
    try:
        folder = run.data / FOLDER
        first = run.until_published("gate", 130)[0]["epoch"]
        run.until("a file that grows", lambda: [*folder.rglob(f"*{OPEN}")])
        os.kill(run.worker("ingest"), signal.SIGKILL)
        told = [one for one in run.results("gate") if one["epoch"] == first]
        run.until_published("gate", 60, epoch=first)
        run.finish()
    finally:
        run.close()
    results = published_in(run.data, ["gate"])["gate"].results
    assert not [*folder.rglob(f"*{OPEN}")]
    index = Index(run.data)
    assert rebuild(index) == 0
    held = index.between("gate", 0.0, 1e12)
    before = [one for one in held if one.epoch == first]
    assert told[-1]["captured"] - before[-1].captured_end < LOST_S
    assert {one.epoch for one in held} == {one.epoch for one in results}
    assert all(one.is_key and one.sound for one in held)
    for one in results:
        if one.pts is None:  # FFmpeg knows no time of a connection's first packet
            assert one.seq == 0
        elif one.epoch != first or one.captured < before[-1].captured_end - ROUNDING_S:
            found = index.place("gate", one.epoch, one.pts)
            assert found is not None, one
            assert found.segment.captured - 0.5 < one.captured
    index.close()
    came = payload(clip, parameters=False)
    for file in (folder / segment.path for segment in held):
        packets = payload(file, parameters=False)
        begins = [at for at, packet in enumerate(came) if packet == packets[0]]
        assert any((came + came)[at : at + len(packets)] == packets for at in begins)
        with av.open(str(file)) as opened:
            assert len([*opened.decode(video=0)]) == len(packets)
