"""Cameras that cannot be used, and a port that is taken; good.mp4 beside them is whole."""

from __future__ import annotations

import base64
import io
import socket
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.bad.case import DONE, GOOD_FRAMES, USAGE, Case, Play
from tests.bad.sources import unknown_codec
from tests.commands import Command, Ended, framegate
from tests.runs import wait_until

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


def beside(place: str, says: str) -> Play:
    """A camera beside good.mp4: a run with cameras goes on, so it is drained once it said why."""

    def play(folder: Path) -> Ended:
        unknown_codec(folder / "strange.avi")
        pages = {
            "/text": b"no stream here\n" * 500,
            "/sound": _sound(),
            "/strange": (folder / "strange.avi").read_bytes(),
        }
        with site(pages) as port:
            url = place.format(port=port, login=f"viewer:{SECRET}")
            with Command(folder, "run", "good.mp4", f"bad={url}", "-d", "data", "--json") as run:
                run.says(says)
                wait_until("good.mp4 is whole", lambda: run.out.count('"good"') == GOOD_FRAMES)
                run.interrupt()
                ended = run.wait()
        assert SECRET not in ended.err + ended.out
        assert base64.b64encode(SECRET.encode()).decode() not in ended.err
        assert ended.results("bad") == []
        return ended

    return play


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


CASES = [
    Case(
        "camera that is not there",
        beside("rtsp://{login}@127.0.0.1:9/door", "bad: connecting"),
        DONE,
        ("source bad: connecting: unreachable: rtsp://127.0.0.1:9/door: it cannot be reached",),
    ),
    Case(
        "camera with another password",
        beside("http://{login}@127.0.0.1:{port}/locked", "bad: connecting"),
        DONE,
        ("bad: connecting: permission: ", "the user name and password in use do not open it"),
    ),
    Case(
        "camera that is no stream",
        beside("http://127.0.0.1:{port}/text", "bad: connecting"),
        DONE,
        ("source bad: connecting: ", "allowed: a regular file, webcam:N, or a URL"),
    ),
    Case(
        "camera with sound only",
        beside("http://127.0.0.1:{port}/sound", "bad: connecting"),
        DONE,
        ("bad: connecting: no_video_stream: ", "there is no video track in it (audio)"),
    ),
    Case(
        "camera with an unknown codec",
        beside("http://127.0.0.1:{port}/strange", "bad: connecting"),
        DONE,
        ("bad: connecting: unsupported_codec: ", "there is no decoder for its video track"),
    ),
    Case(
        "webcam that is not there",
        beside("webcam:97", "bad: connecting"),
        DONE,
        ("source bad: connecting: missing: webcam:97: no such device here",),
    ),
    Case(
        "port of the page is taken",
        taken_port,
        USAGE,
        ("Address already in use", "take a free port, or off"),
    ),
]
