"""Cameras come and go while a run goes on: the others stay connected, and a restart keeps them."""

from __future__ import annotations

import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from tests.support import footage
from tests.support.asked import Asked, kill, service, workers
from tests.support.cameras.background import Background
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.commands import user_folder
from tests.support.runs import wait_until

pytestmark = pytest.mark.whole_run

DONE = 0
PASSWORD = "swordfish9"


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
    folder = user_folder(tmp_path / "user", apart=True)
    asked = Asked(folder)
    with service(folder) as run:
        asked.does("add", f"stays={url}")
        asked.until("stays", 5)
        for n, worker in enumerate(("infer", "publish")):
            asked.does("add", f"comes={url}", f"more={url}")
            kill(run, worker)
            wait_until(
                "it came",
                lambda n=n: sum(epoch > n for epoch, _ in asked.seqs("comes")) >= 5,
            )
            assert asked.sources()["comes"]["state"] == "running"
            check_accounts(asked)
            asked.does("remove", "comes", "more")
            assert asked.seqs("comes")[-1][0] == n + 1, "the next epoch each time"
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
        seqs = asked.seqs("stays")
        assert seqs == sorted(set(seqs)), "none twice, all in order"
        check_accounts(asked)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait().code == DONE


def test_a_camera_with_a_password_is_added_and_nobody_is_told_the_password(tmp_path: Path) -> None:
    folder = user_folder(tmp_path / "user")
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        url = f"rtsp://me:{PASSWORD}@127.0.0.1:{port.getsockname()[1]}/yard"
    asked = Asked(folder)
    with service(folder) as run:
        asked.does("add", "yard=-", typed=f"{url}\n")
        wait_until("tried", lambda: "unreachable" in (asked.sources()["yard"]["fault"] or ""))
        [yard] = asked.sources().values()
        assert (yard["state"], yard["live"], yard["by"]) == ("connecting", True, "add")
        assert yard["place"] == url.replace(f"me:{PASSWORD}@", "").replace("/yard", "/***")
        seen = [asked.does("sources"), run.err, *command_lines(run.process.pid)]
        seen += [text(path) for path in (folder / "state").rglob("*")]
        assert stat.S_IMODE((folder / "data" / "control.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "data" / "run.json").stat().st_mode) == 0o600
        seen += [str(dump(asked.store.client))]
        asked.does("remove", "yard")
        run.interrupt()
        assert run.wait().code == DONE
    assert [each for each in seen if PASSWORD in each] == []


def test_cameras_of_the_configuration_follow_it_and_added_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "user"

    def configured(*names: str) -> None:
        tables = "".join(f'[sources.{name}]\nurl = "rtsp://127.0.0.1:9/{name}"\n' for name in names)
        user_folder(folder, more=tables)

    asked = Asked(folder)
    configured("one", "two")
    with service(folder) as run:
        asked.does("add", "mine=rtsp://127.0.0.1:9/mine")
        asked.does("remove", "two")
        run.kill()
    configured("two", "three")
    with service(folder):
        assert {name: s["by"] for name, s in asked.sources().items()} == {
            "mine": "add", "two": "config", "three": "config",
        }  # fmt: skip


def command_lines(parent: int) -> list[str]:
    return [
        Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        for pid in (parent, *workers(parent).values())
    ]


def text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def dump(client: Any) -> list[Any]:
    """All that a store holds, as text that shows every string."""
    found: list[Any] = []
    for key in client.scan_iter():
        kind = client.type(key)
        if kind == b"hash":
            found.append((key, client.hgetall(key)))
        elif kind == b"stream":
            entries = client.xrange(key)
            found.append((key, [msgpack.unpackb(f[b"d"]) for _, f in entries if b"d" in f]))
        else:
            found.append((key, client.get(key)))
    return found
