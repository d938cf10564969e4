"""An RTSP camera's picture comes with its last packet, and is what FFmpeg's demuxer gives."""

from __future__ import annotations

import itertools
import ssl
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import pytest
import trustme

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.source import Request
from framegate.stages.decode.camera import CameraSource
from framegate.stages.decode.frame import DecodedFrame
from framegate.stages.decode.open_video import open_video
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.rtsp.packets import (
    TRUSTED,
    AacUnits,
    AccessUnit,
    PictureUnits,
    RtpClock,
    RtpOrigin,
)
from tests.support.cameras import gstreamer
from tests.support.cameras.background import Background
from tests.support.cameras.gstreamer import GStreamerCamera, Login
from tests.support.cameras.rtp import (
    PlayedCamera,
    annexb,
    description,
    encoded,
    interleaved,
    payloads,
    report,
    rtp,
)
from tests.support.cameras.toolkit import ToolkitCamera
from tests.support.recorded import write_both

STEP = 9000
PATIENT = DecodeOptions(open_timeout_s=60.0, read_timeout_s=60.0)

Sent = list[tuple[int, bool, bytes]]


def sent(codec: str, units: list[list[bytes]], first: int = 0) -> Sent:
    """Stamp, marker and payload of each packet."""
    found = []
    for number, unit in enumerate(units):
        parts = payloads(codec, unit)
        stamp = (first + number * STEP) % (1 << 32)
        found += [(stamp, n == len(parts) - 1, part) for n, part in enumerate(parts)]
    return found


def over(codec: str, packets: Sent) -> tuple[list[AccessUnit], list[int]]:
    """Units, and after which packet each was given; the rest at the end."""
    units = PictureUnits(codec)
    found: list[AccessUnit] = []
    after: list[int] = []
    for number, packet in enumerate(packets):
        given = units.add(*packet)
        found += given
        after += [number] * len(given)
    rest = units.rest()
    return found + rest, after + [len(packets)] * len(rest)


KINDS = [("h264", {}), ("h264", {"slices": "3"}), ("h264", {"aud": "1"}), ("hevc", {})]


def test_half_a_unit_is_no_unit_where_markers_are_trusted() -> None:
    """A connection that is cut or silent in the middle of a picture must not record half of it."""
    units = encoded("h264", 14, slices="3")
    packets = sent("h264", units)
    assert packets[-1][1]
    found, _ = over("h264", packets[:-1])
    assert [one.data for one in found] == [annexb(unit) for unit in units[:-1]]


@pytest.mark.parametrize(("codec", "options"), KINDS)
def test_a_unit_is_over_with_its_marker(codec: str, options: dict[str, str]) -> None:
    units = encoded(codec, 14, **options)
    packets = sent(codec, units)
    found, after = over(codec, packets)
    assert [one.data for one in found] == [annexb(unit) for unit in units]
    assert [one.stamp for one in found] == [STEP * n for n in range(14)]
    assert [one.is_key for one in found] == [n % 6 == 0 for n in range(14)]
    last = [n for n, (_, marker, _) in enumerate(packets) if marker]
    # With the next one's first packet, until markers were right so often: then with the own last.
    assert after == [n + 1 for n in last[:TRUSTED]] + last[TRUSTED:]


@pytest.mark.parametrize(("codec", "options"), KINDS)
def test_a_camera_without_markers_is_cut_where_the_next_picture_begins(
    codec: str, options: dict[str, str]
) -> None:
    units = encoded(codec, 14, **options)
    found, _ = over(codec, [(stamp, False, part) for stamp, _, part in sent(codec, units)])
    assert [one.data for one in found] == [annexb(unit) for unit in units]
    assert [one.is_key for one in found] == [n % 6 == 0 for n in range(14)]


@pytest.mark.parametrize(("codec", "options"), KINDS)
def test_a_camera_that_marks_every_packet_is_not_believed(
    codec: str, options: dict[str, str]
) -> None:
    units = encoded(codec, 14, **options)
    found, _ = over(codec, [(stamp, True, part) for stamp, _, part in sent(codec, units)])
    assert [one.data for one in found] == [annexb(unit) for unit in units]


def test_a_marker_that_turns_wrong_costs_one_picture_and_is_never_believed_again() -> None:
    units = encoded("h264", 30, slices="3")
    packets = sent("h264", units)
    stamps = [stamp for stamp, _, _ in packets]
    turns = next(n for n in range(len(units)) if n > TRUSTED and stamps.count(n * STEP) > 1)
    lying = [(stamp, mark or stamp >= turns * STEP, part) for stamp, mark, part in packets]
    found, _ = over("h264", lying)
    whole = [annexb(unit) for unit in units]
    assert b"".join(one.data for one in found) == b"".join(whole)  # nothing is lost
    assert [one.data for one in found[:turns]] == whole[:turns]
    assert [one.data for one in found[turns + 2 :]] == whole[turns + 1 :]
    assert found[turns].stamp == found[turns + 1].stamp == turns * STEP


def test_a_marker_without_a_picture_gives_no_unit() -> None:
    """FFmpeg takes a packet without bytes for the end of the track."""
    units = encoded("h264", 8)
    packets = [*sent("h264", units), (8 * STEP, True, b"\x1f"), (9 * STEP, True, b"\x1f\0")]
    found, _ = over("h264", packets)
    assert [one.data for one in found] == [annexb(unit) for unit in units]


def test_stamps_wrap() -> None:
    clock = RtpClock(90_000)
    first = (1 << 32) - 2 * STEP
    assert [clock.ticks((first + n * STEP) % (1 << 32)) for n in range(5)] == [
        n * STEP for n in range(5)
    ]
    assert clock.ticks((first + STEP) % (1 << 32)) == STEP  # B-frames go back


NTP_ERA = 1 << 32


def test_a_report_without_a_wall_clock_tells_no_time() -> None:
    """RFC 3550, 6.4.1: such a sender sets the NTP time stamp to zero."""
    clock = RtpClock(90_000, RtpOrigin())
    clock.begin(0)
    for n in range(3):
        clock.see(report(0.0, n * 90_000))
        assert clock.captured(n * 90_000) is None
        assert clock.ticks(n * 90_000) == n * 90_000, "a report says nothing of ticks, either"


def test_ticks_go_on_where_ntp_seconds_overflow() -> None:
    clock = RtpClock(90_000, RtpOrigin())
    clock.see(report(NTP_ERA - 2, 0))
    assert clock.ticks(90_000) == 90_000
    clock.see(report(2, 4 * 90_000))
    assert clock.ticks(5 * 90_000) == 5 * 90_000


@pytest.mark.parametrize("origin", [None, RtpOrigin()])
def test_a_single_report_gives_the_times_of_two_days(origin: RtpOrigin | None) -> None:
    """A camera may report at the start only; stamps of 90 kHz wrap every 13 hours."""
    hour = 3600 * 90_000
    first = (1 << 32) - hour
    clock = RtpClock(90_000, origin)
    clock.begin(first)
    clock.see(report(NTP_ERA - 100, first))
    began = clock.captured(first)
    assert began is not None
    for n in range(1, 48):
        stamp = (first + n * hour) % (1 << 32)
        assert clock.ticks(stamp) == n * hour
        assert clock.captured(stamp) == began + n * 3600


def test_a_first_report_after_a_day_keeps_the_count() -> None:
    hour = 3600 * 90_000
    clock = RtpClock(90_000, RtpOrigin())
    for n in range(24):
        assert clock.ticks(n * hour % (1 << 32)) == n * hour
    clock.see(report(NTP_ERA - 100, 24 * hour))
    assert clock.ticks(25 * hour % (1 << 32)) == 25 * hour


def test_what_recovers_counts_as_a_key_frame() -> None:
    """A camera with intra refresh has no other; FFmpeg's parser says so, too."""
    units = encoded("h264", 40, **{"intra-refresh": "1", "x264-params": "keyint=8:intra-refresh=1"})
    found, _ = over("h264", sent("h264", units))
    marked = [any(unit[0] & 31 == 6 and unit[1] == 6 for unit in one) for one in units]
    assert sum(marked) > 2
    assert [one.is_key for one in found] == [mark or n == 0 for n, mark in enumerate(marked)]


def test_a_recovery_point_is_found_behind_other_messages_but_not_behind_thousands() -> None:
    """Each message costs time: a unit of 65,000 bytes has room for 32,000 of them."""
    idle, recovery = b"\x05\x00", b"\x06\x01\x84"
    long = b"\x05\xff\xff\x02" + b"\xff" * 512  # 255 for each 255 bytes
    for before, is_key in ((b"", True), (idle * 20, True), (long, True), (idle * 30_000, False)):
        units = PictureUnits("h264")
        units.add(0, False, b"\x06" + before + recovery)
        units.add(0, False, b"\x41\x80")
        assert [one.is_key for one in units.rest()] == [is_key]


def test_a_packet_of_thousands_of_units_gives_the_first_of_them() -> None:
    slices = b"\x18" + b"\0\x02\x41\x80" * 16_000  # each begins a picture
    assert 100 < len(PictureUnits("h264").add(0, False, slices)) < 1000


# -- Beside FFmpeg's own demuxer, of the same camera.


def by_ffmpeg(url: str, count: int) -> list[tuple[bytes, bool]]:
    found = []
    options = {"rtsp_transport": "tcp", "fpsprobesize": "0", "probesize": "32"}
    with av.open(url, options=options) as container:
        for packet in container.demux(video=0):
            if packet.size:
                found.append((bytes(packet), packet.is_keyframe))
            if len(found) == count:
                break
    return found


def by_us(url: str, count: int) -> list[tuple[bytes, bool]]:
    opened = open_video(Request(url, live=True), PATIENT, at_once=True)
    assert opened.rtsp is not None
    found = []
    try:
        for packet in opened.packets():
            found.append((bytes(packet), packet.is_keyframe))
            if len(found) == count:
                break
    finally:
        opened.close()
    return found


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_packets_of_the_toolkits_camera_are_those_of_ffmpeg(tmp_path: Path, codec: str) -> None:
    name = "a.mkv"
    write_both(tmp_path / name, 2.0, codec, None, fps=25.0, gop=6, options={"bf": "2"})
    background = Background()
    kit = ToolkitCamera(background, tmp_path)
    try:
        url = f"rtsp://127.0.0.1:{kit.port}{kit.path(name, 1)}"
        assert by_us(url, 40) == by_ffmpeg(url, 40)
    finally:
        kit.close()
        background.close()


ABSENT = gstreamer.missing()


@pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
@pytest.mark.parametrize(("codec", "encoder"), [("h264", "libx264"), ("hevc", "libx265")])
@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_packets_of_gstreamers_camera_are_those_of_ffmpeg(
    tmp_path: Path, codec: str, encoder: str, scheme: str
) -> None:
    clip = write_both(tmp_path / "a.mkv", 2.0, encoder, None, fps=25.0, gop=6)
    camera = GStreamerCamera(clip, "/a", codec, Login("anna", "s3cret x", scheme))
    try:
        url = f"rtsp://anna:s3cret%20x@127.0.0.1:{camera.port}/a"
        assert by_us(url, 25) == by_ffmpeg(url, 25)
        with pytest.raises(SourceFault) as caught:
            by_us(url.replace("s3cret", "wr0ng"), 1)
        assert caught.value.reason == "permission"
        assert "wr0ng" not in f"{caught.value}{caught.value.__cause__}"
    finally:
        camera.close()


# -- A camera that does step by step what a test says.


def stream(
    codec: str, units: list[list[bytes]], *, odd: bool = False, first: int = 0
) -> list[bytes]:
    """What comes by the connection for each access unit."""
    number, found = 65_530, []
    for at in range(len(units)):
        data = b""
        for stamp, marker, part in sent(codec, units[at : at + 1], first + at * STEP):
            data += interleaved(0, rtp(number, stamp, marker, part, odd=odd))
            number += 1
        found.append(data)
    return found


def pictures(source: CameraSource, count: int) -> list[DecodedFrame]:
    frames = (frame for frame in source if frame is not None)
    return list(itertools.islice(frames, count))


def test_a_picture_is_there_before_the_next_begins() -> None:
    """Nothing follows the last one, and the connection stays open."""
    units = encoded("h264", 12)
    with PlayedCamera(description("h264", units[0]), lambda: iter(stream("h264", units))) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        found = pictures(source, 12)
        assert [frame.pts for frame in found] == [n / 10 for n in range(12)]
        source.close()
        assert camera.until_asked("TEARDOWN", 1)


def test_a_camera_with_tls_may_sign_its_own_certificate() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("camera.invalid").configure_cert(tls)
    units = encoded("h264", 12)
    steps = stream("h264", units)
    with PlayedCamera(description("h264", units[0]), lambda: iter(steps), tls=tls) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        assert len(pictures(source, 12)) == 12  # by FFmpeg the last one waits for its next
        source.close()


def test_the_last_picture_of_a_camera_without_markers_comes_when_it_is_quiet() -> None:
    units = encoded("hevc", 3)
    with PlayedCamera(description("hevc"), lambda: iter(stream("hevc", units))) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=0.5), PATIENT)
        assert len(pictures(source, 3)) == 3  # too few yet for its markers to be believed
        source.close()


def test_headers_garbage_and_what_a_camera_says_between_packets(
    capfd: pytest.CaptureFixture[str],
) -> None:
    units = encoded("h264", 12)
    sequence = stream("h264", units, odd=True, first=(1 << 32) - 3 * STEP)
    told_at = report(2_208_988_800 + 500.5, 0)

    def steps() -> Iterator[bytes]:
        yield sequence[0]
        yield b"OPTIONS rtsp://127.0.0.1/ RTSP/1.0\r\nCSeq: 7\r\n\r\n"
        yield interleaved(1, told_at) + sequence[1]
        yield b"RTSP/1.0 200 OK\r\nCSeq: 900\r\nContent-Length: 4\r\n\r\n$$$$" + sequence[2]
        yield b"\0\1\2" + sequence[3]
        yield interleaved(9, b"of another channel") + interleaved(0, b"\x80") + sequence[4]
        yield from (bytes([byte]) for byte in sequence[5])
        yield b"".join(sequence[6:])

    with PlayedCamera(description("h264", units[0]), steps) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        found = pictures(source, 12)
        source.close()
    assert [frame.pts for frame in found] == [n / 10 for n in range(12)]
    # Its clock says that stamp 0, which is that of the fourth, was 500.5 s after 1970 began.
    told = [frame.captured for frame in found[3:]]
    assert told == pytest.approx([500.5 + n / 10 for n in range(9)], abs=1e-6)
    assert "s3cret" not in "".join(capfd.readouterr())


def test_what_comes_before_the_answer_to_play_is_not_lost() -> None:
    units = encoded("h264", 12)
    sequence = stream("h264", units)

    def reply(method: str, number: str) -> bytes | None:
        if method != "PLAY":
            return None
        return sequence[0] + f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nSession: s1\r\n\r\n".encode()

    with PlayedCamera(description("h264", units[0]), lambda: iter(sequence[1:]), reply) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        assert [frame.pts for frame in pictures(source, 12)] == [n / 10 for n in range(12)]
        source.close()


def test_a_camera_is_told_that_somebody_looks() -> None:
    units = encoded("h264", 2)
    steps = stream("h264", units)
    with PlayedCamera(description("h264"), lambda: iter(steps), session="s1;timeout=1") as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        frames = iter(source)
        while sum(method == "GET_PARAMETER" for method, _ in camera.asked) < 2:
            next(frames)
        source.close()


def test_what_this_client_does_not_know_ffmpeg_is_left_to() -> None:
    units = encoded("h264", 12)
    with PlayedCamera(description("h264", units[0]), lambda: iter(stream("h264", units))) as there:

        def elsewhere(method: str, number: str) -> bytes | None:
            if method != "DESCRIBE":
                return None
            where = f"Location: {there.url}\r\n"
            return f"RTSP/1.0 302 Found\r\nCSeq: {number}\r\n{where}\r\n".encode()

        with PlayedCamera("", lambda: iter(()), elsewhere) as camera:
            source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
            assert len(pictures(source, 5)) == 5
            source.close()


def test_a_password_that_is_not_encoded_is_in_no_fault() -> None:
    for place in ("rtsp://anna:s3c/ret@127.0.0.1:1/", "rtsp://anna:s3c#ret@127.0.0.1:1/"):
        with pytest.raises(SourceFault) as caught:
            CameraSource(Request(place, live=True), PATIENT)
        assert "s3c" not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"


def test_an_abandoned_camera_ends_though_nothing_comes() -> None:
    with PlayedCamera(description("h264"), lambda: iter(())) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        source.abandon()
        with pytest.raises(SourceFault) as caught:
            list(source)
        assert caught.value.reason == "closed"
        assert "s3cret" not in str(caught.value)
        source.close()


def test_a_picture_without_an_end_is_given_up() -> None:
    """More than a picture may have, all of it one unit."""
    piece = bytes([28, 1]) + bytes(60_000)

    def steps() -> Iterator[bytes]:
        yield interleaved(0, rtp(0, 0, False, bytes([28, 0x81]) + bytes(60_000)))
        for number in range(400):
            yield interleaved(0, rtp(number + 1, 0, False, piece))

    with PlayedCamera(description("h264"), steps) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        with pytest.raises(SourceFault) as caught:
            list(source)
        assert caught.value.reason == "damaged"
        source.close()


# -- Sound.


AAC = (
    "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 MPEG4-GENERIC/16000/1\r\n"
    "a=fmtp:97 streamtype=5;profile-level-id=15;mode=AAC-hbr;sizelength=13;indexlength=3;"
    "indexdeltalength=3;config=1408\r\na=control:track2\r\n"
)
PCM = "m=audio 0 RTP/AVP 8\r\na=control:track2\r\n"


def aac(units: Sequence[bytes], declared: int | None = None) -> bytes:
    """A packet's payload (RFC 3640, 3.3.6); declared: the size of the unit that it is a part of."""
    heads = b"".join(struct.pack("!H", (declared or len(one)) << 3) for one in units)
    return struct.pack("!H", 8 * len(heads)) + heads + b"".join(units)


def with_sound(units: list[list[bytes]], kind: str) -> list[bytes]:
    """Pictures ten a second from one stamp on, sound from another one, and reports of both after a
    second: by these the sound began 40 ms after the pictures.
    """
    sequence = stream("h264", units, first=5 * STEP)
    for number in range(len(units)):
        stamp, data = 70_000 + 1600 * number, bytes([33, number]) * 400
        if kind == "PCM":
            packets = [(70_000 + 800 * number, data)]
        elif number % 3 == 0:  # a unit in two packets
            packets = [(stamp, aac([data[:500]], 800)), (stamp, aac([data[500:]], 800))]
        else:
            packets = [(stamp, aac([data[:300], data[300:]]))]
        for n, (at, payload) in enumerate(packets, 1):
            of, is_last = 8 if kind == "PCM" else 97, n == len(packets)
            sequence[number] += interleaved(2, rtp(number + n, at, is_last, payload, kind=of))
    hz = 8000 if kind == "PCM" else 16_000
    sequence[10] += interleaved(1, report(3e9 + 1.0, 15 * STEP))
    sequence[10] += interleaved(3, report(3e9 + 1.04, 70_000 + hz))
    return sequence


def all_of(packets: Iterator[Any], least: int) -> dict[int, list[tuple[Any, ...]]]:
    """Bytes, pts and time base of each track's packets, until the first has so many."""
    found: dict[int, list[tuple[Any, ...]]] = {0: [], 1: []}
    for one in packets:
        found[one.stream.index].append((bytes(one), one.pts, one.time_base))
        if len(found[0]) == least:
            break
    return found


@pytest.mark.parametrize(("kind", "sdp"), [("AAC", AAC), ("PCM", PCM)])
def test_sound_beside_pictures_is_that_of_ffmpeg(kind: str, sdp: str) -> None:
    units = encoded("h264", 24)
    steps = with_sound(units, kind)
    with PlayedCamera(description("h264", units[0]) + sdp, lambda: iter(steps)) as camera:
        opened = open_video(Request(camera.url, live=True), PATIENT, at_once=True, hears=True)
        assert opened.rtsp is not None
        assert opened.sound is not None
        ours = all_of(opened.rtsp.packets(), 22)
        opened.close()
        options = {"rtsp_transport": "tcp", "fpsprobesize": "0", "probesize": "32"}
        with av.open(camera.url, options=options) as container:
            theirs = all_of(container.demux(), 22)
    assert theirs[0][0][1] is None  # FFmpeg has no time of a connection's first picture
    assert ours[0][0][0] == theirs[0][0][0]
    assert ours[0][1:] == theirs[0][1:]
    n = min(len(ours[1]), len(theirs[1]))
    assert n >= 20
    assert [data for data, *_ in ours[1][:n]] == [data for data, *_ in theirs[1][:n]]
    timed = [(one, other) for one, other in zip(ours[1], theirs[1], strict=False) if other[1]]
    assert len(timed) > n // 2  # of several units in a packet FFmpeg gives the first a time
    assert all(one == other for one, other in timed)


def test_sound_that_nobody_wants_is_not_asked_for() -> None:
    units = encoded("h264", 12)
    sdp = description("h264", units[0]) + AAC
    with PlayedCamera(sdp, lambda: iter(stream("h264", units))) as camera:
        source = CameraSource(Request(camera.url, live=True, stall_s=600.0), PATIENT)
        assert len(pictures(source, 12)) == 12
        source.close()
        assert [url[-6:] for method, url in camera.asked if method == "SETUP"] == ["track1"]


def test_damaged_sound_is_left_out() -> None:
    units = AacUnits(13, 3, 3)
    whole = aac([b"ab", b"cde"])
    assert [one.data for one in units.add(5, True, whole)] == [b"ab", b"cde"]
    assert [one.data for one in units.add(6, True, whole[:-1])] == [b"ab"]
    assert units.add(7, True, aac([b"abc"], 9)) == []
    assert [one.data for one in units.add(8, True, whole)] == [b"ab", b"cde"]
    for cut in range(len(whole)):
        units.add(9, True, whole[:cut])


def test_a_packet_of_thousands_of_units_of_sound_gives_the_first_of_them() -> None:
    heads, data = b"\xff" * 8000, b"x" * 56_000  # a bit for each size: 64,000 units of one byte
    found = AacUnits(1, 0, 0).add(0, True, struct.pack("!H", 64_000) + heads + data)
    assert 100 < len(found) < 1000
    assert {one.data for one in found} == {b"x"}


def test_a_unit_of_sound_without_bytes_is_left_out_and_counts() -> None:
    """FFmpeg takes a packet without bytes for the end of the track."""
    found = AacUnits(13, 3, 3).add(5, True, aac([b"ab", b"", b"cde"]))
    assert [(one.data, one.stamp) for one in found] == [(b"ab", 5), (b"cde", 5 + 2048)]
