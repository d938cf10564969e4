"""Cameras that cannot be used, and a port that is taken; good.mp4 beside them is whole."""

from __future__ import annotations

import io
import socket
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.runs.bad.case import GOOD_FRAMES, USAGE, Case
from tests.runs.bad.sources import unknown_codec
from tests.support.commands import Command, Ended, framegate
from tests.support.runs import wait_until

SECRET = "correct-horse"


@contextmanager
def site(pages: dict[str, bytes]) -> Iterator[int]:
    """A web server of these pages; /locked asks for a password that nobody has. Its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/locked":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(pages[self.path])

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found.server_address[1]
        found.shutdown()
        thread.join()


@dataclass(frozen=True)
class BadCamera:
    """A camera that cannot be used.

    place  its URL, with {port} of the site and {login} where they go
    says   parts of what the user sees of it, with {name} where its source's name stands
    """

    name: str
    place: str
    says: tuple[str, ...]

    def told(self) -> tuple[str, ...]:
        """What the user sees of it."""
        return tuple(part.format(name=self.name) for part in self.says)


def all_beside_a_good_one(folder: Path) -> Ended:
    """All bad cameras and good.mp4 in one run, drained once each camera was told of."""
    unknown_codec(folder / "strange.avi")
    pages = {
        "/text": b"no stream here\n" * 500,
        "/sound": _sound(),
        "/strange": (folder / "strange.avi").read_bytes(),
    }
    with site(pages) as port:
        urls = {
            bad.name: bad.place.format(port=port, login=f"viewer:{SECRET}") for bad in BAD_CAMERAS
        }
        named = [f"{name}={url}" for name, url in urls.items()]
        with Command(folder, "run", "good.mp4", *named, "-d", "data", "--json") as run:
            for bad in BAD_CAMERAS:
                run.says(f"source {bad.name}: connecting: ")
            wait_until("good.mp4 is whole", lambda: run.out.count('"good"') == GOOD_FRAMES)
            run.interrupt()
            return run.wait()


def _sound() -> bytes:
    """A second of silence: a WAV."""
    made = io.BytesIO()
    with wave.open(made, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    return made.getvalue()


def taken_port(folder: Path) -> Ended:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = framegate(folder, "run", "good.mp4", "-d", "x", "--http", address)
    assert not (folder / "x").exists()
    return ended


BAD_CAMERAS = [
    BadCamera(
        "not_there",
        "rtsp://{login}@127.0.0.1:9/door",
        ("{name}: connecting: unreachable: rtsp://127.0.0.1:9/***: it cannot be reached",),
    ),
    BadCamera(
        "another_password",
        "http://{login}@127.0.0.1:{port}/locked",
        (
            "{name}: connecting: permission: ",
            "it refuses this user name and password",
        ),
    ),
    BadCamera(
        "no_stream",
        "http://127.0.0.1:{port}/text",
        ("{name}: connecting: ",),
    ),
    BadCamera(
        "sound_only",
        "http://127.0.0.1:{port}/sound",
        ("{name}: connecting: no_video_stream: ", "there is no video track in it (audio)"),
    ),
    BadCamera(
        "unknown_codec",
        "http://127.0.0.1:{port}/strange",
        ("{name}: connecting: unsupported_codec: ", "there is no decoder for its video track"),
    ),
    BadCamera(
        "no_webcam",
        "webcam:97",
        ("{name}: connecting: missing: webcam:97: no such device here",),
    ),
]

CASES = [
    Case(
        "port of the page is taken",
        taken_port,
        USAGE,
        ("Address already in use", "take a free port, or off"),
    ),
]
