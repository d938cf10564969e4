"""Cameras come and go while a run goes on: the others stay connected, and a restart keeps them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import footage
from tests.cameras.background import Background
from tests.cameras.toolkit import ToolkitCamera
from tests.commands import user_folder
from tests.runs import wait_until
from tests.test_add_remove import DONE, Asked, kill, service


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A camera that any number may watch."""
    (tmp_path / "camera").mkdir()
    options = {"bf": "0", "g": "10"}
    footage.write_scene(
        tmp_path / "camera" / "yard.mkv", footage.steady(100), codec="libx264", options=options
    )
    with (
        closing(Background()) as background,
        closing(ToolkitCamera(background, tmp_path / "camera")) as camera,
    ):
        yield f"rtsp://127.0.0.1:{camera.port}{camera.path('yard.mkv')}"


def connects(asked: Asked, source: str) -> int:
    return asked.store.counters(source).get("connects", 0)


def check_accounts(asked: Asked) -> None:
    for source in asked.sources().values():
        dropped = sum(source["dropped"].values())
        assert source["decoded"] == source["published"] + dropped + source["in_flight"]
        assert 0 <= source["in_flight"] <= 4


def test_cameras_come_and_go(tmp_path: Path, url: str) -> None:
    folder = user_folder(tmp_path / "user")
    asked = Asked(folder)
    with service(folder) as run:
        asked.does("add", f"stays={url}")
        asked.until("stays", 5)
        for n, worker in enumerate(("infer", "publish")):
            asked.does("add", f"comes={url}", f"more={url}")
            kill(run, worker)
            asked.until("comes", 5 * (n + 1))
            assert asked.sources()["comes"]["state"] == "running"
            check_accounts(asked)
            asked.does("remove", "comes", "more")
            assert asked.seqs("comes")[-1][0] == n + 1
        at = len(asked.seqs("stays"))
        asked.until("stays", at + 5)
        assert connects(asked, "stays") == 1, "nothing that came or went cost its connection"
        assert {epoch for epoch, _ in asked.seqs("stays")} == {1}
        kill(run, "ingest")
        wait_until("it is back", lambda: connects(asked, "stays") == 2)
        run.kill()
    with service(folder) as run:
        wait_until("it is back", lambda: connects(asked, "stays") == 3)
        at = len(asked.seqs("stays"))
        asked.until("stays", at + 5)
        assert list(asked.sources()) == ["stays"]
        assert asked.seqs("stays") == sorted(set(asked.seqs("stays")))
        check_accounts(asked)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait().code == DONE
