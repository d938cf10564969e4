"""A run that follows the events of a camera, over RTSP and ONVIF, while its workers are killed."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from framegate.pipeline.contracts.results import Result
from tests.support.calm_rooms import write_room
from tests.support.cameras.background import Background
from tests.support.cameras.onvif_events import EventService
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.commands import framegate
from tests.support.episodes import check, stored_changes
from tests.support.runs import Run, published, published_in, wait_until

pytestmark = pytest.mark.whole_run

MOTION = "tns1:RuleEngine/CellMotionDetector/Motion"
CONFIG = """
[sources.yard]
url = "{url}"
events = "{events}"
[workers]
shards = 0
[http]
listen = "off"
[events.rules.camera_motion]
when = "state"
state = "reported"
labels = ["motion"]
until_s = 0
"""


def test_the_events_of_a_camera_are_in_its_results_and_episodes_whatever_is_killed(
    tmp_path: Path,
) -> None:
    """The decoder attaches them, so a stage that is killed meets them at the same frames again."""
    clip = write_room(tmp_path / "yard.mp4", "h264", seconds=60)
    with (
        closing(Background()) as background,
        closing(ToolkitCamera(background, tmp_path)) as kit,
        closing(EventService("viewer", "sword")) as service,
    ):
        config = tmp_path / "pipeline.toml"
        url = f"rtsp://viewer:sword@127.0.0.1:{kit.port}/{kit.path(clip.name)}"
        config.write_text(CONFIG.format(url=url, events=service.url), encoding="utf-8")
        folder = tmp_path / "data"
        run = Run(folder, "-c", str(config))

        def newest() -> list[Result]:
            return published(run.url, "yard").results[-1:]

        def is_last(events: tuple[str, ...]) -> bool:
            return any(each.camera_events == events for each in newest())

        def kill(worker: str) -> None:
            before = newest()[0].position
            os.kill(wait_until("there is a worker", lambda: run.worker(worker)), signal.SIGKILL)
            wait_until("it continues", lambda: newest()[0].position > before)

        wait_until("the camera reports nothing", lambda: is_last(()))
        service.send(MOTION, {"IsMotion": "true"})
        wait_until("it reports motion", lambda: is_last(("motion",)))
        for worker in ("publish", "infer"):
            kill(worker)
            assert is_last(("motion",))
        service.send(MOTION, {"IsMotion": "false"})
        wait_until("motion ends", lambda: is_last(()))
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0, run.log.read_text(encoding="utf-8")
    text = framegate(tmp_path, "results", "-d", str(folder))
    assert text.out.count("; camera: motion") > 0
    results = published_in(folder, ["yard"])["yard"].results
    moving = [each.position for each in results if each.camera_events == ("motion",)]
    changes = [change for _, stored in stored_changes(folder, "yard") for change in stored.changes]
    check(changes)
    assert [each.step for each in changes] == ["start", "end"]
    assert changes[0].label == "motion"
    assert (changes[0].began.epoch, changes[0].began.seq) == moving[0]
    assert (changes[1].last.epoch, changes[1].last.seq) == moving[-1]
