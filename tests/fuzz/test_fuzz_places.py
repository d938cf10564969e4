"""What a file holds and what a camera sends: of it come frames, or a fault that says why."""

from __future__ import annotations

import functools
import gzip
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import av
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from framegate.stages.decode.frame import Orientations, Unconvertible
from tests.fuzz.budget import fuzz
from tests.fuzz.mutated import data_like
from tests.fuzz.reading import Outcome, Reader
from tests.support import footage
from tests.support.cameras.faulty import LOOPBACK
from tests.support.cameras.interleaved import Piece, Splitter
from tests.support.cameras.scripted import HEAD, jpeg, part
from tests.support.runs import DEADLINE_S

PASSWORD: Final = "s3cretword"
MOST_KB: Final = 200_000
READER: Final = Reader()


@pytest.fixture(scope="module", autouse=True)
def reader_ends() -> Iterator[None]:
    yield
    READER.close()


def check(outcome: Outcome) -> None:
    assert outcome.error is None, outcome.error
    assert PASSWORD not in outcome.text
    assert outcome.grew_kb < MOST_KB, outcome
    assert outcome.frames or outcome.reason, outcome


class Script:
    """Says these pieces to each who connects, one for each request, the rest after the last."""

    def __init__(self, answers: Sequence[bytes], rest: bytes) -> None:
        self._answers, self._rest = answers, rest
        self._listener = socket.create_server((LOOPBACK, 0))
        self.host = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        self._lines: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        for line in (self._listener, *self._lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_S)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self._lines.append(line)
                with line, suppress(OSError):
                    self._talk(line)

    def _talk(self, line: socket.socket) -> None:
        line.settimeout(DEADLINE_S)
        for answer in self._answers:
            if not line.recv(65536):
                return
            line.sendall(answer)
        line.sendall(self._rest)
        line.shutdown(socket.SHUT_WR)
        while line.recv(65536):
            pass


def test_what_is_not_bent_gives_frames(tmp_path: Path) -> None:
    with Script(ANSWERS, b"".join(map(bytes, MEDIA))) as camera:
        outcome = READER.read(f"rtsp://{camera.host}/a.mp4", True)
    assert (outcome.frames, outcome.reason) == (3, "closed"), outcome
    for answer in (SOUND_HEAD + PICTURES, chunked(PICTURES)):
        with Script([answer], b"") as camera:
            outcome = READER.read(f"http://{camera.host}/cam.mjpg", True)
        assert (outcome.frames, outcome.reason) == (8, "closed"), outcome
    for name, data in made().items():
        (tmp_path / name).write_bytes(data)
    for name in (*CODEC_OF, "a.gif", "a.png", "a.ffconcat"):
        assert READER.read(str(tmp_path / name), False).frames == (1 if name == "a.png" else 4), (
            name
        )


@pytest.mark.parametrize(("pix_fmt", "rows"), [("bayer_rggb8", 3), ("bayer_bggr16le", 31)])
def test_a_picture_at_which_the_converter_aborts_is_a_fault(
    tmp_path: Path, pix_fmt: str, rows: int
) -> None:
    path = tmp_path / "a.nut"
    footage.write_frames(path, [av.VideoFrame(32, rows, pix_fmt)], [0.0], "rawvideo")
    outcome = READER.read(str(path), False)
    assert (outcome.error, outcome.reason) == (None, "unsupported_codec")


@pytest.mark.parametrize("pix_fmt", ["bayer_rggb8", "yaf32le", "yaf32be"])
def test_which_pictures_the_converter_aborts_at_is_known(pix_fmt: str) -> None:
    with pytest.raises(Unconvertible):
        Orientations().of(av.VideoFrame(32, 3, pix_fmt))


# -- RTSP

RECORDED: Final = tuple(Splitter().feed(Path(__file__, "../camera.rtsp").resolve().read_bytes()))
ANSWERS: Final = tuple(piece.data for piece in RECORDED if piece.channel is None)
MEDIA: Final = tuple(piece for piece in RECORDED if piece.channel is not None)
CODECS: Final = (
    b"H264", b"H265", b"JPEG", b"VP8", b"VP9", b"AV1", b"H261", b"H263-1998", b"MP4V-ES", b"MPV",
    b"MP2T", b"theora", b"SVQ3", b"X-QT", b"raw", b"DV", b"MPEG4-GENERIC", b"vorbis", b"x-asf-pf",
)  # fmt: skip
LINES: Final = (
    b"Location: rtsp://other.invalid/a", b"Location: file:///etc/passwd", b"Location: rtsp://",
    b"WWW-Authenticate: Digest realm=\"\", nonce=, qop=", b"WWW-Authenticate: Basic",
    b"Content-Length: 4294967295", b"Content-Length: -1", b"Content-Length: 99999999",
    b"Transport: RTP/AVP;unicast;client_port=1-2;server_port=3-4;destination=1.2.3.4",
    b"Transport: RTP/AVP/TCP;interleaved=9999-", b"Transport: RAW/RAW/UDP;port=0",
    b"Session: " + b"x" * 5000, b"Server: Real", b"RealChallenge1: " + b"a" * 99,
    b"Content-Base: file:///etc/", b"Range: npt=-", b"x" * 70_000,
    b"a=control:file:///etc/passwd", b"a=control:rtsp://other.invalid/b", b"a=framesize:96 9-9",
    b"c=IN IP4 224.2.0.1/127", b"c=IN IP6 ::1", b"m=video 0 RTP/AVP 26", b"m=video 0 RTP/AVP 33",
    b"m=audio 0 RTP/AVP 0", b"m=application 0 RTP/AVP 97", b"m=video 99999 RTP/AVP 300",
    b"a=fmtp:96 sprop-parameter-sets=" + b"A" * 40_000, b"a=fmtp:96 config=" + b"f" * 9999,
    b"a=fmtp:96 sampling=YCbCr-4:2:0; width=99999; height=99999; depth=8", b"a=rtpmap:96 H264/0",
    b"a=OpaqueData:buffer;\"AAAA\"", b"a=ASMRuleBook:string;\"#($Bandwidth\"", b"b=AS:-1",
    b"a=pgmpu:data:application/vnd.ms.wms-hdr.asfv1;base64,AAAA", b"a=key-mgmt:mikey AAAA",
)  # fmt: skip
HEADS: Final = (b"RTSP/1.0 302 Moved", b"RTSP/1.0 401 No", b"RTSP/1.0 100 Wait", b"RTSP/9 0 ", b"")


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """The recorded exchange with some answers, lines and packets bent."""
    answers, media = list(ANSWERS), list(MEDIA)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(answers) - 1))
        lines = answers[at].split(b"\r\n")
        row = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            answers[at] = draw(data_like(answers[at]))
            continue
        if kind == 1:
            lines.insert(max(1, row), draw(st.sampled_from(LINES)))
        elif kind == 2:
            lines[row] = draw(st.sampled_from(LINES))
        elif kind == 3:
            lines[0] = draw(st.sampled_from(HEADS))
        else:
            codec = draw(st.sampled_from(CODECS))
            lines = [line.replace(b"H264", codec) for line in lines]
        answers[at] = b"\r\n".join(lines)
    head, found, body = answers[1].partition(b"\r\n\r\n")
    if found and draw(st.booleans()):  # what came into its body is a part of it
        answers[1] = head.replace(b"Content-Length: 319", b"Content-Length: %d" % len(body))
        answers[1] += found + body
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(media) - 1))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            media.insert(draw(st.integers(0, len(media))), media[at])
        elif kind == 1 and len(media) > 1:
            del media[at]
        else:
            channel = draw(st.sampled_from([0, 0, 1, 1, 2, 255]))
            body = draw(data_like(media[at].data, media[at].data[:12] + b"\x7c\x85" * 9))
            media[at] = Piece(body[:65535], channel)
    rest = b"".join(map(bytes, media))
    return answers, draw(st.just(rest) | data_like(rest))


@fuzz(25)
@given(exchange=exchanges())
@example((list(ANSWERS), b"".join(map(bytes, MEDIA))))
@example(([ANSWERS[0], *[ANSWERS[1].replace(b"200 OK", b"302 Moved")] * 3], b""))
def test_what_a_camera_says_over_rtsp_is_frames_or_a_fault(
    exchange: tuple[list[bytes], bytes],
) -> None:
    with Script(*exchange) as camera:
        check(READER.read(f"rtsp://anna:{PASSWORD}@{camera.host}/a.mp4", True))


# -- HTTP

PICTURES: Final = b"".join(part(jpeg(32, 24, grey)) for grey in range(8))
SOUND_HEAD: Final = HEAD + b"\r\n\r\n"


def chunked(data: bytes) -> bytes:
    head = HEAD.replace(b"1.0", b"1.1") + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    sizes = [data[at : at + 700] for at in range(0, len(data), 700)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in sizes) + b"0\r\n\r\n"


def answered(status: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", body])


PLAYLIST: Final = (
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nfile:///etc/a.ts\n"
    b'#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/passwd"\n#EXTINF:1,\nb.ts\n#EXT-X-ENDLIST\n'
)
WAYS: Final = (
    SOUND_HEAD + PICTURES,
    chunked(PICTURES),
    answered(b"200 OK", b"Content-Encoding: gzip", body=gzip.compress(PICTURES)),
    answered(b"200 OK", b"Content-Type: image/jpeg", body=jpeg()),
    answered(b"200 OK", b"Content-Type: application/sdp", body=ANSWERS[1][-319:]),
    answered(b"200 OK", body=b"ffconcat version 1.0\nfile 'a.mp4'\n"),
    answered(b"200 OK", body=PLAYLIST),
    *[
        answered(b"302 Found", b"Location: " + to)
        for to in (b"file:///etc/passwd", b"/cam", b"http://", b"http://[", b"ftp://a.invalid/")
    ],
    *[
        answered(b"401 No", b"WWW-Authenticate: " + how)
        for how in (
            b"", b"Basic", b"Bearer x", b"Digest", b"Digest nonce=", b"Digest realm=\"a",
            b"Digest realm=\"a\", nonce=\"b\", algorithm=SHA-512",
            b"Digest realm=\"\xff\", nonce=\"\xfe\", qop=\"auth-int\"", b"Negotiate",
        )
    ],
)  # fmt: skip


@fuzz(40)
@given(answer=data_like(*WAYS), live=st.booleans())
@example(WAYS[0], True)
@example(chunked(PICTURES), True)
def test_what_a_camera_says_over_http_is_frames_or_a_fault(answer: bytes, live: bool) -> None:
    with Script([answer], b"") as camera:
        check(READER.read(f"http://anna:{PASSWORD}@{camera.host}/cam.mjpg", live))


# -- files

CODEC_OF: Final = {
    "a.mp4": "libx264", "b.mp4": "mpeg4", "a.mkv": "libx264", "a.avi": "mpeg4", "a.ts": "libx264",
    "a.flv": "flv", "a.mjpeg": "mjpeg", "a.h264": "libx264", "a.mov": "mjpeg",
    "a.webm": "libvpx-vp9", "b.webm": "libvpx", "a.wmv": "wmv2", "b.mkv": "ffv1",
}  # fmt: skip


@functools.cache
def made() -> dict[str, bytes]:
    """Small files of the kinds that people have."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each, codec in CODEC_OF.items():
            footage.write_scene(folder / each, footage.steady(4), codec=codec)
        grey = [footage.frame_of(footage.scene(n, (48, 32))[:1], "gray") for n in range(4)]
        footage.write_frames(folder / "a.gif", grey, footage.steady(4), "gif")
        footage.write_tone(folder / "a.wav", 0.05)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files["a.m3u8"] = PLAYLIST
    files["a.png"] = footage.png(48, 32)
    files["a.ffconcat"] = b"ffconcat version 1.0\nfile 'a.mp4'\nduration 1\ninpoint 0.1\n"
    return files


NAMES: Final = (*CODEC_OF, "a.gif", "a.wav", "a.m3u8", "a.png", "a.ffconcat")


@fuzz(100)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_what_a_file_holds_is_frames_or_a_fault(data: st.DataObject, name: str) -> None:
    # Most of a file are pictures: what says how to read them stands at its ends.
    sound = made()[name]
    cut = data.draw(st.sampled_from([0, 300, len(sound) - 900, len(sound)]))
    cut = min(max(cut, 0), len(sound))
    bent = data.draw(data_like(sound[:cut] or b"\0")) + sound[cut:]
    if data.draw(st.booleans()):
        bent = sound[:cut] + data.draw(data_like(sound[cut:] or b"\0"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(bent)
        check(READER.read(str(path), False))
