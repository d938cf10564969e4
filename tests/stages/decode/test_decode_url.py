"""A file behind HTTP is a source like one on disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode import Decode
from framegate.stages.decode.file import FileSource, probe
from framegate.stages.decode.open_video import is_url
from framegate.stages.decode.options import DecodeOptions
from tests.support import footage
from tests.support.calm_rooms import write_room


class Site(SimpleHTTPRequestHandler):
    """Serves a folder; `/locked/...` asks for a password, `/half/...` breaks off in the middle,
    `/away/...` sends to the file itself.
    """

    def do_GET(self) -> None:
        if self.path.startswith("/locked"):
            self.send_error(401)
        elif self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", f"file://{self.directory}/{Path(self.path).name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.startswith("/half"):
            data = Path(self.directory, Path(self.path).name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) * 6 // 10])
        else:
            super().do_GET()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://anna:s3cret@127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def stamps(place: str) -> list[float | None]:
    source = FileSource(place)
    try:
        return [picture.pts for picture in source]
    finally:
        source.close()


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4")])
def test_every_frame_comes_over_http(tmp_path, site, name, codec):
    path = footage.write_scene(tmp_path / name, footage.steady(30), codec=codec, faststart=True)
    assert stamps(f"{site}/{name}") == stamps(str(path))
    assert probe(f"{site}/{name}") == probe(str(path))


def test_what_the_server_refuses(tmp_path, site):
    footage.write_scene(tmp_path / "a.mkv", footage.steady(3))
    for path, reason in (("none.mkv", "missing"), ("locked/a.mkv", "permission")):
        with pytest.raises(SourceFault) as caught:
            FileSource(f"{site}/{path}")
        assert caught.value.reason == reason
        assert "s3cret" not in str(caught.value)


SEGMENT = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
VARIANT = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n"
IMPATIENT = DecodeOptions(open_timeout_s=5.0, read_timeout_s=5.0)


@pytest.mark.parametrize("live", [True, False])
def test_nobody_far_away_has_files_of_this_machine_read(tmp_path, site, live):
    footage.write_scene(tmp_path / "a.ts", footage.steady(12), codec="libx264")
    here = f"file://{tmp_path}"
    lists = {
        "sound": SEGMENT.format("a.ts"),
        "segment": SEGMENT.format(f"{here}/a.ts"),
        "variant": VARIANT.format(f"{here}/sound.m3u8"),
        "files": "ffconcat version 1.0\nfile 'a.ts'\n",
        "file": f"ffconcat version 1.0\nfile '{here}/a.ts'\n",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.m3u8").write_text(text, encoding="utf-8")
    opened = Decode(IMPATIENT).open(Request(f"{site}/sound.m3u8", live))
    assert next(frame for frame in opened if frame is not None).form.width == 96
    opened.close()
    refused = ["segment.m3u8", "variant.m3u8", "file.m3u8", "away/a.ts", "away/sound.m3u8"]
    for name in [*refused, *["files.m3u8"] * live]:
        with pytest.raises(SourceFault):
            Decode(IMPATIENT).open(Request(f"{site}/{name}", live))


def test_a_playlist_in_a_file_names_no_place_far_away(tmp_path, site):
    footage.write_scene(tmp_path / "a.ts", footage.steady(12), codec="libx264")
    for number, text in enumerate((SEGMENT, VARIANT)):
        path = tmp_path / f"{number}.m3u8"
        path.write_text(text.format(f"{site}/a.ts"), encoding="utf-8")
        with pytest.raises(SourceFault):
            FileSource(str(path), IMPATIENT)


def test_a_connection_that_breaks_is_told(tmp_path, site):
    path = footage.write_scene(tmp_path / "a.mkv", footage.steady(40), codec="ffv1")
    assert len(stamps(str(path))) == 40
    with pytest.raises(SourceFault, match="connection was lost") as caught:
        stamps(f"{site}/half/a.mkv")
    assert caught.value.reason == "truncated"


def test_what_a_lazy_file_held_before_its_connection_broke_is_decoded(tmp_path, site):
    write_room(tmp_path / "a.ts", "h264-b")
    always, n_undecoded = times_until_it_breaks(Request(f"{site}/half/a.ts"))
    assert n_undecoded == 0
    lazy, n_undecoded = times_until_it_breaks(Request(f"{site}/half/a.ts", decode="lazy"))
    assert n_undecoded > 0
    assert lazy == always


def times_until_it_breaks(request):
    """Return the time of each frame, and how many were not decoded."""
    source = Decode(DecodeOptions(audited=0.0)).open(request)
    times = []
    n_undecoded = 0
    with suppress(SourceFault):
        for frame in source:
            times += [passed.pts for passed in frame.undecoded] + [frame.pts]
            n_undecoded += len(frame.undecoded)
    source.close()
    return times, n_undecoded


def test_shown():
    assert shown("rtsp://u:p@cam:554/live/1?key=k#x") == "rtsp://cam:554/***"
    assert shown("/videos/a b?.mp4") == "/videos/a b?.mp4"
    assert [is_url(p) for p in ("http://a", "RTSP://a", "a.mp4", "C:/a.mp4", "x:y")] == [
        True,
        True,
        False,
        False,
        False,
    ]
