"""Cameras whose RTSP is odd or hostile: read, or refused with a reason, and bounded either way."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from urllib.parse import unquote, urlsplit

import av
import pytest
import trustme

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.camera import CameraSource
from framegate.stages.decode.file import FileSource
from framegate.stages.decode.open_video import Opened, open_video
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.rtsp.datagrams import RtpOrder
from framegate.stages.decode.rtsp.media import (
    ForeignMediaError,
    RelayedMedia,
    RtspMedia,
    RtspTracks,
    media_parts,
)
from framegate.stages.decode.rtsp.relay import RelayedTrack, RtspRelay, relayed_control
from framegate.stages.decode.rtsp.session import Interleaved, RtspSession
from tests.support.cameras.rtp import (
    PlayedCamera,
    description,
    encoded,
    interleaved,
    payloads,
    report,
    rtp,
)
from tests.support.runs import DEADLINE_S

PATIENT = DecodeOptions(open_timeout_s=60.0, read_timeout_s=60.0)
UNITS = encoded("h264", 12)
SDP = description("h264", UNITS[0])
FOREIGN = SDP.replace("packetization-mode=1", "packetization-mode=2")  # FFmpeg is asked
PCM = "m=audio 0 RTP/AVP 8\r\na=control:track2\r\n"


def stream(channel: int = 0) -> Iterator[bytes]:
    number = 0
    for at, unit in enumerate(UNITS):
        parts = payloads("h264", unit)
        for n, part in enumerate(parts):
            yield interleaved(channel, rtp(number, 9000 * at, n == len(parts) - 1, part))
            number += 1


def opened(camera: PlayedCamera, hears: bool = False) -> Opened:
    return open_video(Request(camera.url, live=True), PATIENT, at_once=True, hears=hears)


def pictures(camera: PlayedCamera, count: int) -> int:
    source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
    try:
        frames = (frame for frame in source if frame is not None)
        return len(list(itertools.islice(frames, count)))
    finally:
        source.close()


def refused(camera: PlayedCamera) -> SourceFault:
    with pytest.raises(SourceFault) as caught:
        opened(camera).close()
    assert "s3cret" not in f"{caught.value}{caught.value.__cause__}"
    return caught.value


def answer(method: str, *lines: str, status: str = "200 OK") -> Callable[[str, str], bytes | None]:
    """Answer one method in this way."""

    def reply(asked: str, number: str) -> bytes | None:
        if asked != method:
            return None
        return "\r\n".join([f"RTSP/1.0 {status}", f"CSeq: {number}", *lines, "", ""]).encode()

    return reply


# -- Logins.


def digest_of(said: dict[str, str], method: str, hash_name: str) -> str:
    """The response that RFC 7616, 3.4.1 and 3.4.2 ask for, from what the client says of itself."""

    def hashed(*words: str) -> str:
        return hashlib.new(hash_name, ":".join(words).encode()).hexdigest()

    secret = hashed("anna", said["realm"], "s3cret")
    if said.get("algorithm", "").endswith("-sess"):
        secret = hashed(secret, said["nonce"], said["cnonce"])
    request = hashed(method, said["uri"])
    if "qop" in said:
        numbers = (said["nc"], said["cnonce"], said["qop"])
        return hashed(secret, said["nonce"], *numbers, request)
    return hashed(secret, said["nonce"], request)


def locked(*challenges: str) -> tuple[PlayedCamera, list[str]]:
    """A camera that asks for a login in these ways; and the `Authorization` of each request."""
    given: list[str] = []

    def reply(method: str, number: str) -> bytes | None:
        given.append(camera.said[-1].get("Authorization", ""))
        if given[-1]:
            return None
        lines = [f"WWW-Authenticate: {each}" for each in challenges]
        return answer(method, *lines, status="401 Unauthorized")(method, number)

    camera = PlayedCamera(SDP, stream, reply)
    return camera, given


@pytest.mark.parametrize(
    ("challenges", "hash_name"),
    [
        (['Digest realm="a b", nonce="c,d=", opaque=, stale=FALSE'], "md5"),
        (['Digest realm="a", nonce="b", stale=, algorithm=MD5'], "md5"),
        (['Digest realm="a",nonce=b=='], "md5"),
        (['Digest realm="a", nonce="b", algorithm=MD5-sess'], "md5"),
        (['Digest realm="a", nonce="b", algorithm=MD5-sess, qop="auth-int, auth"'], "md5"),
        (['Digest realm="a", nonce="b", algorithm=SHA-256-sess, qop="auth"'], "sha256"),
        (['Digest nonce="b", algorithm=SHA-512-256', 'Digest realm="c", nonce="d"'], "md5"),
        (['Basic realm="a", Digest realm="c", nonce="d", algorithm=SHA-256, qop=auth'], "sha256"),
        (['Basic realm="a"', 'Digest realm="c", nonce="d", algorithm=MD5', "Bearer"], "md5"),
    ],
)  # fmt: skip
def test_a_login_that_can_be_answered_is_answered(challenges: list[str], hash_name: str) -> None:
    camera, given = locked(*challenges)
    with camera:
        assert pictures(camera, 5) == 5
    for header, (method, _) in zip(given[1:], camera.asked[1:], strict=True):
        found = re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]*))', header)
        said = {name: quoted or plain for name, quoted, plain in found}
        assert said["response"] == digest_of(said, method, hash_name), said
    assert [method for method, _ in camera.asked[:4]] == ["OPTIONS", "OPTIONS", "DESCRIBE", "SETUP"]


def test_basic_is_taken_where_nothing_better_can_be_answered() -> None:
    camera, given = locked('Digest realm="a", nonce="b", algorithm=SHA-512-256', "basic realm=x")
    with camera:
        assert pictures(camera, 5) == 5
    assert set(given[1:]) == {"Basic YW5uYTpzM2NyZXQ="}


@pytest.mark.parametrize("password", ["s3[cret", "s3]cr@t", "[s3:cret]", "s3%5Bcret"])
def test_a_password_in_a_url_may_have_brackets(password: str) -> None:
    camera, given = locked("Basic")
    with camera:
        url = camera.url.replace("s3cret", password)
        open_video(Request(url, live=True), PATIENT, at_once=True).close()
    login = f"anna:{unquote(password)}".encode()
    assert set(given[1:]) == {f"Basic {base64.b64encode(login).decode()}"}


@pytest.mark.parametrize(
    "challenge", ['Digest realm="a", nonce="b", algorithm=SHA-512-256', "Negotiate abc=", "\0="]
)
def test_a_login_that_nobody_here_knows_is_no_wrong_password(challenge: str) -> None:
    camera, _ = locked(challenge)
    with camera:
        fault = refused(camera)
    assert fault.reason == "permission"
    assert "by an unknown method" in str(fault)
    assert "MD5-sess" in str(fault)


# -- Words.


@pytest.mark.parametrize(
    "sdp",
    [
        SDP.replace("s=x", "s=cam=1"),
        SDP.replace("s=x", "s=m=video 0 RTP/AVP 96"),
        SDP + "m=\r\n",
        SDP + "m=audio\r\n",
        SDP.replace("\r\n", "\n"),
        SDP.replace("\r\n", "\r"),
        SDP.replace("m=video", " m=video"),
        SDP + "a=fmtp:97 sizelength=" + "1" * 5000 + "\r\n",
    ],
)
def test_a_description_is_read_as_ffmpeg_reads_it(sdp: str) -> None:
    with PlayedCamera(sdp, stream) as camera:
        source = opened(camera)
        assert isinstance(source.rtsp, RtspMedia)
        source.close()


@pytest.mark.parametrize("sdp", [SDP, FOREIGN])
def test_tracks_lie_below_the_url_that_the_description_names(sdp: str) -> None:
    """RFC 2326, C.1.1: the camera knows its tracks, and PLAY, by that URL only."""

    def reply(method: str, number: str) -> bytes | None:
        url = camera.asked[-1][1]
        if method in ("OPTIONS", "DESCRIBE") or url.startswith(aggregate):
            return None
        return answer(method, status="454 Session Not Found")(method, number)

    with PlayedCamera(sdp, stream, reply) as camera:
        aggregate = f"rtsp://127.0.0.1:{camera.port}/live/main"
        camera.describe(sdp.replace("a=control:*", f"a=control:{aggregate}", 1))
        opened(camera).close()
        assert camera.until_asked("TEARDOWN", 1)
    asked = dict(camera.asked)
    assert asked["SETUP"] == f"{aggregate}/track1"
    assert asked["PLAY"] == asked["TEARDOWN"] == aggregate


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_camera_that_sends_on_reads_the_goodbye(encrypted: bool) -> None:
    """A camera that reads requests only between packets, and drops the connection when it cannot
    send, would keep a session that it was never asked to end.
    """
    closing = threading.Event()
    has_sent_all = threading.Event()

    def much() -> Iterator[bytes]:
        assert closing.wait(DEADLINE_S)
        for number in range(200):  # 12 MB: more than the buffers of a connection take
            yield interleaved(0, rtp(number, 0, False, bytes(60_000)))
        has_sent_all.set()

    tls = None
    if encrypted:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("camera.invalid").configure_cert(tls)
    with PlayedCamera(SDP, much, tls=tls) as camera:
        session = RtspSession(camera.url, 60.0)
        session.play(["track1"])
        closing.set()
        session.close(patience_s=DEADLINE_S)
        assert has_sent_all.is_set()
        assert camera.until_asked("TEARDOWN", 1)


def test_a_camera_that_never_hangs_up_delays_no_stop() -> None:
    released = threading.Event()

    def nothing() -> Iterator[bytes]:
        assert released.wait(DEADLINE_S)
        yield from ()

    with PlayedCamera(SDP, nothing) as camera:
        session = RtspSession(camera.url, 60.0)
        session.play(["track1"])
        session.close()  # else it would wait for the camera, which waits for the next line
        released.set()
        assert camera.until_asked("TEARDOWN", 1)


def test_a_word_without_an_end_is_read_once() -> None:
    """Reading it again from each of its letters would take hours, and hold up all cameras."""
    word = "a" * (1 << 20)
    (part,) = media_parts(
        f"m=audio 0 RTP/AVP 97\na=rtpmap:97 MPEG4-GENERIC/8000\na=fmtp:97 {word}\n"
    )
    with pytest.raises(ForeignMediaError):
        part.units()


@pytest.mark.parametrize(
    "reply",
    [
        answer("OPTIONS", status="405 Method Not Allowed"),
        answer("OPTIONS", status="\xb200 OK"),
        answer("OPTIONS", f"CSeq: {'1' * 5000}", f"Session: {'1' * 999};timeout={'1' * 999}"),
        lambda method, _: b"RTSP/1.0 200 OK\n\n" if method == "OPTIONS" else None,
        lambda method, _: b"\r\nRTSP/1.0 200 OK\r\nCSeq: 77\r\n\r\n" if method == "PLAY" else None,
        lambda method, _: (
            b"RTSP/1.0 100 Continue\r\n\r\nRTSP/1.0 200 OK\r\n\r\n" if method == "PLAY" else None
        ),
        answer("SETUP", "Transport: RTP/AVP/TCP;unicast"),
    ],
)
def test_an_odd_answer_is_read(reply: Callable[[str, str], bytes | None]) -> None:
    with PlayedCamera(SDP, stream, reply) as camera:
        assert pictures(camera, 5) == 5


@pytest.mark.parametrize(
    ("reply", "reason", "words"),
    [
        (answer("DESCRIBE", f"Content-Length: {'9' * 5000}"), "unreachable", "more than 64 KB"),
        (answer("DESCRIBE", status="454 Gone"), "unreachable", "answers DESCRIBE with 454"),
        (answer("DESCRIBE", status=f"{'2' * 5000} OK"), "unreachable", "with 222222222"),
        (answer("SETUP", "Transport: RTP/AVP/TCP;interleaved=300-301"), "unreachable", "300"),
        (answer("SETUP", f"Transport: TCP;interleaved={'9' * 5000}"), "unreachable", "channel"),
        (answer("SETUP", "Transport: RTP/AVP;unicast;client_port=1-2"), "unreachable", "over TCP"),
        (answer("SETUP", status="461 No"), "unreachable", 'transport = "udp"'),
        (answer("DESCRIBE", "Location: http://[", status="302 Found"), "unreachable", "65535"),
        (answer("DESCRIBE", "Location: rtsp://a..b/", status="302 Found"), "unreachable", "host"),
        (answer("DESCRIBE", "Location: /cam", status="302 Found"), "unreachable", "redirects more"),
    ],
)
def test_an_answer_that_leads_nowhere_is_refused_in_our_words(
    reply: Callable[[str, str], bytes | None], reason: str, words: str
) -> None:
    with PlayedCamera(SDP, stream, reply) as camera:
        fault = refused(camera)
    assert fault.reason == reason
    assert words in str(fault)


@pytest.mark.parametrize("sdp", ["", "m=audio 0 RTP/AVP 0\r\n", "m=\r\n"])
def test_a_description_without_pictures_is_refused(sdp: str) -> None:
    with PlayedCamera(sdp, stream) as camera:
        assert refused(camera).reason == "no_video_stream"


def test_the_last_channel_has_none_for_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framegate.stages.decode.rtsp.session._REPORT_S", -1.0)
    reply = answer("SETUP", "Transport: RTP/AVP/TCP;unicast;interleaved=255-256")
    with PlayedCamera(SDP, lambda: stream(255), reply) as camera:
        assert pictures(camera, 5) == 5


def test_of_two_tracks_with_one_channel_the_pictures_have_it() -> None:
    reply = answer("SETUP", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: s1")
    with PlayedCamera(SDP + PCM, stream, reply) as camera:
        source = opened(camera, hears=True)
        assert source.rtsp is not None
        assert len(list(itertools.islice(source.rtsp.packets(), 5))) == 5
        source.close()


def test_a_session_stays_known_where_it_is_named_once() -> None:
    def reply(method: str, number: str) -> bytes | None:
        if method != "SETUP":
            return None
        said, url = camera.said[-1], camera.asked[-1][1]
        lines = [f"Transport: {said['Transport']}"]
        if url.endswith("track1"):
            lines.append("Session: s1;timeout=60")
        return answer(method, *lines)(method, number)

    with PlayedCamera(SDP + PCM, stream, reply) as camera:
        source = opened(camera, hears=True)
        assert source.rtsp is not None
        # A connection that is closed with data unread is reset, and its last request may be lost.
        with pytest.raises(TimeoutError):  # nothing more comes
            for _ in source.rtsp.packets():
                pass
        source.close()
        assert camera.until_asked("TEARDOWN", 1)
    asked = zip(camera.asked, camera.said, strict=True)
    named = {method: said.get("Session") for (method, _), said in asked}
    assert named["PLAY"] == named["TEARDOWN"] == "s1"


def test_packets_without_bytes_before_an_answer_are_counted() -> None:
    flood = b"$\0\0\0" * 500_000

    with PlayedCamera(SDP, stream, lambda asked, _: flood if asked == "PLAY" else None) as camera:
        fault = refused(camera)
    assert fault.reason == "damaged"
    assert "in place of an answer" in str(fault)


# -- Redirects.


@pytest.mark.parametrize(("host", "keeps"), [("127.0.0.1", True), ("localhost", False)])
def test_a_login_goes_along_to_the_same_host_only(host: str, keeps: bool) -> None:
    def basic(method: str, number: str) -> bytes | None:
        if "Authorization" in there.said[-1]:
            return None
        return answer(method, "WWW-Authenticate: Basic", status="401 No")(method, number)

    there = PlayedCamera(SDP, stream, basic)
    moved = answer("DESCRIBE", f"Location: rtsp://{host}:{there.port}/cam", status="301 Moved")
    with there, PlayedCamera("", stream, moved) as camera:
        if keeps:
            assert pictures(camera, 5) == 5
        else:
            assert refused(camera).reason == "permission"
    assert any("Authorization" in said for said in there.said) == keeps


# -- What FFmpeg puts together.


def test_packets_that_ffmpeg_puts_together_are_those_that_its_own_client_reads() -> None:
    with PlayedCamera(FOREIGN + PCM, stream) as camera:
        source = opened(camera, hears=True)
        assert isinstance(source.rtsp, RelayedMedia)
        # FFmpeg gives a picture when the next one begins.
        ours = [bytes(each) for each in itertools.islice(source.rtsp.packets(), 11)]
        source.close()
        assert camera.until_asked("TEARDOWN", 1)
        options = {"rtsp_transport": "tcp", "fpsprobesize": "0", "probesize": "32"}
        with av.open(camera.url, options=options) as container:
            theirs = [bytes(each) for each in itertools.islice(container.demux(video=0), 11)]
    assert ours == theirs


def endless(sound: bool, parts: int = 1000) -> Iterator[bytes]:
    """One unit without an end, in parts of 60 KB; between its parts sound comes."""
    yield from stream()
    piece = bytes([28, 1]) + bytes(60_000)
    yield interleaved(0, rtp(0, 0, False, bytes([28, 0x81]) + bytes(60_000)))
    for number in range(parts):
        yield interleaved(0, rtp(number + 1, 0, False, piece))
        if sound:
            yield interleaved(2, rtp(number, 400 * number, False, bytes(400), kind=8))


@pytest.mark.parametrize("sound", [False, True])
def test_a_picture_without_an_end_is_given_up_where_ffmpeg_reads(sound: bool) -> None:
    with PlayedCamera(FOREIGN + PCM * sound, lambda: endless(sound)) as camera:
        source = opened(camera, hears=sound)
        assert isinstance(source.rtsp, RelayedMedia)
        sizes: list[int] = []
        with pytest.raises(SourceFault) as caught:
            sizes.extend(packet.size for packet in source.rtsp.packets())
        source.close()
    assert caught.value.reason == "damaged"
    assert "16 MB arrived" in str(caught.value)
    assert max(sizes, default=0) < 40 << 20  # 16 MB, and what was in the connection


READING = """
import re, sys
from pathlib import Path
from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.camera import CameraSource

request = Request(sys.argv[1], live=True, stall_s=600.0)
source = CameraSource(request, DecodeOptions(open_timeout_s=60.0))
try:
    for frame in source:
        pass
except SourceFault as fault:
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    print(fault.reason, *re.findall("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()))
source.close()
"""


@pytest.mark.parametrize("sdp", [SDP, FOREIGN])
def test_a_picture_without_an_end_costs_bounded_memory(sdp: str) -> None:
    """The camera has 600 MB of it; a process that reads a sound one has some 50 MB."""
    with PlayedCamera(sdp, lambda: endless(False, 10_000)) as camera:
        reader = [sys.executable, "-c", READING, camera.url]
        out = subprocess.run(
            reader, capture_output=True, text=True, check=True, timeout=120, encoding="utf-8"
        ).stdout
    reason, most_kb = out.split()
    assert reason == "damaged"
    assert int(most_kb) < 250_000


def test_a_camera_that_ffmpeg_reads_ends_when_it_is_abandoned() -> None:
    with PlayedCamera(FOREIGN, stream) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        frames = iter(source)
        while next(frames) is None:
            pass
        reader = threading.Thread(target=_until_fault, args=(source,))
        reader.start()
        source.abandon()
        reader.join(DEADLINE_S)
        assert not reader.is_alive()
        source.close()


def _until_fault(source: CameraSource) -> None:
    with suppress(SourceFault):
        for _ in source:
            pass


def test_strangers_at_the_relay_learn_nothing_and_hold_up_nobody() -> None:
    """Any user of this host may connect to it, and before FFmpeg does."""
    with PlayedCamera(FOREIGN, stream) as camera, ExitStack() as stack:
        session = RtspSession(camera.url, 60.0)
        chosen = RtspTracks.of(session.description, hears=False)
        channels = session.play([part.control for part in chosen.wanted])
        tracks = [RelayedTrack("video", channels[0])]
        lines = chosen.described([relayed_control(0)])
        relay = RtspRelay(session, tracks, lines, patience_s=600.0, quiet_s=1.0)
        stack.callback(relay.close)
        place = ("127.0.0.1", urlsplit(relay.url).port)
        strangers = [stack.enter_context(socket.create_connection(place)) for _ in range(40)]
        for stranger in strangers[::2]:
            stranger.sendall(b"OPTIONS rtsp://127.0.0.1/guess RTSP/1.0\r\nCSeq: 1\r\n\r\n")
        options = {"rtsp_transport": "tcp", "fpsprobesize": "0", "probesize": "32"}
        with av.open(relay.url, format="rtsp", options=options, timeout=60.0) as container:
            assert len(list(itertools.islice(container.demux(video=0), 5))) == 5
        for stranger in strangers:
            with suppress(ConnectionResetError):
                assert stranger.recv(1) == b""


def goodbye(channel: int) -> bytes:
    """RTCP by which a track ends, behind a report as RFC 3550, 6.1 wants it."""
    return interleaved(channel, report(3.9e9, 0) + b"\x81\xcb\0\1\0\0\0\7")


def test_what_is_no_camera_is_read_to_its_end_with_its_sound() -> None:
    """`live = false`: a recording behind RTSP, say; it waits, and says where it ends."""

    def steps() -> Iterator[bytes]:
        for at, piece in enumerate(stream()):
            yield piece
            yield interleaved(2, rtp(at, 800 * at, True, bytes(800), kind=8))
        yield goodbye(1) + goodbye(3)

    with PlayedCamera(SDP + PCM, steps) as camera:
        source = FileSource(Request(camera.url, sound=8000), PATIENT)
        assert sum(1 for _ in source) == len(UNITS)
        assert source.counts["damaged"] == 0
        source.close()
    assert sum(method == "SETUP" for method, _ in camera.asked) == 2


# -- Over UDP.


def test_datagrams_are_put_in_order() -> None:
    def packet(number: int) -> bytes:
        return rtp(number, 0, False, b"x")

    def numbers(packets: list[bytes]) -> list[int]:
        return [int.from_bytes(one[2:4]) for one in packets]

    order = RtpOrder()
    assert numbers(order.add(packet(65_534), 0.0)) == [65_534]
    assert numbers(order.add(packet(0), 0.0)) == []
    assert numbers(order.add(packet(65_535), 0.05)) == [65_535, 0]
    assert order.add(packet(65_535), 0.05) == []  # twice
    assert numbers(order.add(packet(3), 1.0)) == []
    assert numbers(order.add(packet(2), 1.05)) == []
    assert order.waits
    assert order.overdue(1.09) == []
    assert numbers(order.overdue(1.11)) == [2, 3]  # the first never came
    assert order.add(packet(1), 1.12) == []  # too late
    assert not order.waits
    assert numbers(order.add(packet(5), 2.0)) == []
    assert numbers(order.add(packet(30_000), 2.0)) == [5, 30_000]  # another count
    assert order.add(b"", 2.0) == []
    held = [order.add(packet(30_002 + n), 2.0) for n in range(400)]
    assert sum(map(len, held)) >= 100  # what is held has a bound


@pytest.mark.parametrize("sdp", [SDP, FOREIGN])
def test_pictures_come_over_udp(sdp: str) -> None:
    """FFmpeg reads no datagrams of a camera: also what it puts together comes by our session."""
    pieces = list(stream())
    swapped = [piece for pair in zip(pieces[1::2], pieces[::2], strict=False) for piece in pair]
    with PlayedCamera(sdp, lambda: iter([pieces[0], *swapped[2:]])) as camera:
        request = Request(camera.url, live=True, transport="udp", stall_s=600.0)
        source = CameraSource(request, PATIENT)
        frames = (frame for frame in source if frame is not None)
        assert len(list(itertools.islice(frames, 10))) == 10
        source.close()
        assert camera.until_asked("TEARDOWN", 1)
    setups = [said["Transport"] for said in camera.said if "Transport" in said]
    assert ["client_port" in each for each in setups] == [True]


def test_datagrams_that_came_before_the_connection_was_lost_are_given() -> None:
    sent = threading.Event()

    def three() -> Iterator[bytes]:
        for number in range(3):
            yield interleaved(0, rtp(number, 0, False, b"x"))
        sent.set()

    with PlayedCamera(SDP, three) as camera:
        session = RtspSession(camera.url, 60.0, "udp")
        session.play(["track1"])
        assert sent.wait(DEADLINE_S)
    given: list[Interleaved] = []
    with pytest.raises(SourceFault):
        given.extend(session.packets(1.0))
    session.close()
    assert [int.from_bytes(one.data[2:4]) for one in given] == [0, 1, 2]


def test_a_camera_without_udp_is_refused_with_advice() -> None:
    reply = answer("SETUP", status="461 Unsupported Transport")
    with PlayedCamera(SDP, stream, reply) as camera, pytest.raises(SourceFault) as caught:
        open_video(Request(camera.url, live=True, transport="udp"), PATIENT, at_once=True)
    assert 'try transport = "tcp"' in str(caught.value)
