"""One run with a camera for each thing that can go wrong."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tests.support.cameras import gstreamer
from tests.support.cameras.background import Background
from tests.support.cameras.faulty import FaultyLine
from tests.support.cameras.gstreamer import GStreamerCamera, Login
from tests.support.cameras.http import HttpCamera
from tests.support.cameras.pictures import SMALL, Clips
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.cameras.watched import LIVE, SECRET, USER, WatchedRun, url

ABSENT = gstreamer.missing()
LOGIN = Login(USER, SECRET)
STEADY = ("steady", "guarded", "datagrams")
OFF = ("late", "dead")
BEHIND_A_LINE = (
    *OFF,
    "flaky",
    "stalling",
    "changing",
    "restarting",
    "fast_clock",
    "bursts",
    "damaged",
    "silent",
)


class _Closes(Protocol):
    def close(self) -> None: ...


Closing = TypeVar("Closing", bound=_Closes)


@dataclass(frozen=True)
class Scene:
    """The run with its cameras; `lines` are the networks that tests disturb.

    kit               shows the same under the same path as `other` does, in another size and codec
    before_the_stall  what "stalling" had published when nothing more got through: a stall is long,
                      so it begins with the scene and is looked at late
    """

    run: WatchedRun
    lines: dict[str, FaultyLine]
    kit: ToolkitCamera
    other: ToolkitCamera
    before_the_stall: list[dict[str, Any]]


def set_up(folder: Path, close: ExitStack, patch: pytest.MonkeyPatch) -> Scene:
    """Start servers and run; `close` ends them."""
    background = Background()
    close.callback(background.close)
    clips, others = Clips(folder / "clips"), Clips(folder / "others")
    path = ToolkitCamera.path(clips.clip(name="cam.mkv", seconds=20).name)
    others.clip("hevc", SMALL, name="cam.mkv", seconds=20)
    kit = _closing(close, ToolkitCamera(background, clips.folder))
    other = _closing(close, ToolkitCamera(background, others.folder))
    lines = {name: _closing(close, FaultyLine(background)) for name in BEHIND_A_LINE}
    for name, line in lines.items():
        if name not in OFF:
            line.on(None if name == "silent" else kit.port)
    web = HttpCamera(background, folder / "hls", clips.clip("mjpeg"), clips.clip(), LOGIN)
    close.callback(web.close)
    sources = {name: url(line.port, path) for name, line in lines.items()} | {
        "steady": url(kit.port, path),
        "hls": url(web.port, "/cam.m3u8", "http"),
        "mjpeg": url(web.port, "/cam.mjpg", "http"),
        "sound": url(kit.port, kit.path(clips.sound().name)),
        "absent": url(kit.port, kit.path("nothing.mkv")),
        "no_camera": url(web.port, "/cam.m3u8"),
    }
    more, configured = LIVE, []
    if ABSENT is None:
        named, datagrams = _guarded(clips, close)
        sources |= named
        patch.setenv("DATAGRAMS", datagrams)
        more += '[sources.datagrams]\nurl_env = "DATAGRAMS"\ntransport = "udp"\n'
        configured.append("datagrams")
    run = _closing(close, WatchedRun(folder / "user", sources, more, also=configured, apart=True))
    before = run.until_published("stalling", 5)
    lines["stalling"].change(stalled=True)
    return Scene(run, lines, kit, other, before)


def _guarded(clips: Clips, close: ExitStack) -> tuple[dict[str, str], str]:
    """Cameras that ask for a password, by name: the right one and a wrong one; and one for UDP."""
    clip = clips.clip(seconds=240)
    logins = {
        "guarded": Login(USER, SECRET, "digest"),
        "locked": Login(USER, "another"),
        "datagrams": LOGIN,
    }
    places = {}
    for name, login in logins.items():
        camera = _closing(close, GStreamerCamera(clip, "/cam", login=login))
        places[name] = url(camera.port, "/cam")
    datagrams = places.pop("datagrams")
    return places, datagrams


def _closing(close: ExitStack, found: Closing) -> Closing:
    close.callback(found.close)
    return found
