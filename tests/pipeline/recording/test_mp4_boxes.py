"""The boxes of recordings, made by hand from the fields of ISO/IEC 14496-12: each form of a field,
and each way in which bytes are no recording.
"""

from __future__ import annotations

import io
import struct

import pytest

from framegate.pipeline.recording.mp4_boxes import (
    LATEST,
    Head,
    Mp4Track,
    NotWhole,
    boxes,
    head_box,
    read_file,
    read_fragment,
    read_init,
    time_box,
    writable,
)

VIDEO, SOUND = 1, 2
TICKS = 1000
NO_SYNC = 0x10000
TRACKS = {
    VIDEO: Mp4Track(VIDEO, "vide", TICKS, duration=40, flags=NO_SYNC),
    SOUND: Mp4Track(SOUND, "soun", TICKS, duration=20),
}


def box(kind: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind.encode()) + body


def full(kind: str, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def track(number: int, handler: str, *, long: bool = False) -> bytes:
    """A `trak`; long: with times of 64 bits."""
    times = bytes(16 if long else 8)
    version = int(long)
    return box(
        "trak",
        full("tkhd", version, 0, times, words(number)),
        box(
            "mdia",
            full("mdhd", version, 0, times, words(TICKS)),
            full("hdlr", 0, 0, words(0), handler.encode()),
        ),
    )


def init(*tracks: bytes, extends: bytes = b"") -> bytes:
    return box("ftyp", b"isom") + box("moov", *tracks, box("mvex", extends))


def fragment(*trafs: bytes) -> bytes:
    return box("moof", *trafs)


def run_of(
    number: int,
    trun: bytes,
    *,
    begin: int = 0,
    flags: int = 0,
    fields: bytes = b"",
    long: bool = True,
) -> bytes:
    """A `traf`. flags, fields: those of `tfhd`."""
    tfdt = full("tfdt", 1, 0, struct.pack(">Q", begin))
    if not long:
        tfdt = full("tfdt", 0, 0, words(begin))
    return box("traf", full("tfhd", 0, flags, words(number), fields), tfdt, trun)


def samples(count: int, flags: int = 0, *fields: bytes, version: int = 0) -> bytes:
    return full("trun", version, flags, words(count), *fields)


WHOLE_INIT = init(
    track(VIDEO, "vide"),
    track(SOUND, "soun"),
    extends=full("trex", 0, 0, words(VIDEO, 1, 40, 0, 0)),
)


def test_a_box_may_have_a_size_of_64_bits() -> None:
    data = struct.pack(">I4sQ", 1, b"mdat", 20) + b"abcd" + box("free")
    assert [(each.kind, each.at, each.body, each.end) for each in boxes(data)] == [
        (b"mdat", 0, 16, 20),
        (b"free", 20, 28, 28),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0",  # less than a head
        struct.pack(">I4s", 1, b"mdat"),  # its size of 64 bits is missing
        struct.pack(">I4sQ", 1, b"mdat", 15),  # less than its own head
        struct.pack(">I4s", 7, b"mdat"),
        struct.pack(">I4s", 9, b"mdat"),  # a byte is missing
    ],
)
def test_bytes_that_end_within_a_box_are_refused(data: bytes) -> None:
    with pytest.raises(NotWhole):
        list(boxes(data))


@pytest.mark.parametrize("long", [False, True])
def test_tracks_are_read_from_either_version_of_their_boxes(long: bool) -> None:
    data = init(
        track(VIDEO, "vide", long=long),
        track(SOUND, "soun", long=long),
        extends=full("trex", 0, 0, words(VIDEO, 1, 40, 0, NO_SYNC)),
    )
    assert read_init(data) == {VIDEO: TRACKS[VIDEO], SOUND: Mp4Track(SOUND, "soun", TICKS)}


@pytest.mark.parametrize(
    "data",
    [
        box("ftyp", b"isom"),  # no moov
        init(box("trak", full("tkhd", 0, 0, bytes(8), words(1)))),  # no mdia
        init(track(VIDEO, "vide"), extends=full("trex", 0, 0, words(7, 1, 40, 0, 0))),
        init(track(VIDEO, "vide"), extends=full("trex", 0, 0, words(VIDEO))),
    ],
    ids=["without moov", "without mdia", "of an unknown track", "cut off"],
)
def test_an_init_part_that_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(NotWhole):
        read_init(data)


@pytest.mark.parametrize("long", [False, True])
def test_samples_take_what_they_lack_from_the_track(long: bool) -> None:
    found = read_fragment(fragment(run_of(VIDEO, samples(3), begin=500, long=long)), TRACKS)
    assert found is not None
    assert (found.dts, found.end, found.pts, found.pts_end) == (0.5, 0.62, 0.5, 0.62)
    assert (found.samples, found.is_key, found.sound) == (3, False, None)


def test_samples_take_what_they_lack_from_the_fragment() -> None:
    """All optional fields are there: base offset, description, duration, size, flags."""
    fields = struct.pack(">QIIII", 9, 9, 100, 9, 0)
    moof = fragment(run_of(VIDEO, samples(2), flags=0x3B, fields=fields))
    found = read_fragment(moof, TRACKS)
    assert found is not None
    assert (found.end, found.is_key) == (0.2, True)


def test_samples_have_fields_of_their_own() -> None:
    """Data offset, first flags; then of each sample: duration, size, flags, composition offset."""
    each = [struct.pack(">IIIi", 50, 9, NO_SYNC, 100), struct.pack(">IIIi", 70, 9, NO_SYNC, -50)]
    moof = fragment(run_of(VIDEO, samples(2, 0xF05, words(9, 0), *each, version=1)))
    found = read_fragment(moof, TRACKS)
    assert found is not None
    assert (found.dts, found.end) == (0.0, 0.12)
    assert (found.pts, found.pts_end) == (0.0, 0.15)
    assert not found.is_key


def test_the_first_flags_are_those_of_the_first_sample() -> None:
    moof = fragment(run_of(VIDEO, samples(2, 0x4, words(0))))
    found = read_fragment(moof, TRACKS)
    assert found is not None
    assert found.is_key


def test_sound_beside_pictures_has_an_end_and_alone_it_is_no_fragment_of_pictures() -> None:
    sound = run_of(SOUND, samples(5), begin=30)
    found = read_fragment(fragment(run_of(VIDEO, samples(1)), sound), TRACKS)
    assert found is not None
    assert found.sound == 0.13
    assert read_fragment(fragment(sound), TRACKS) is None
    assert read_fragment(fragment(run_of(VIDEO, samples(0)), sound), TRACKS) is None


@pytest.mark.parametrize(
    "moof",
    [
        fragment(run_of(7, samples(1))),
        fragment(box("traf", full("tfhd", 0, 0, words(VIDEO)), samples(1))),
        fragment(run_of(VIDEO, samples((1 << 20) + 1))),
        fragment(run_of(VIDEO, samples(2, 0x100, words(40)))),
        fragment(box("traf", full("tfhd", 0, 0, words(VIDEO)), box("tfdt"))),
    ],
    ids=["of an unknown track", "without a time", "of too many samples", "cut off", "empty time"],
)
def test_a_fragment_that_cannot_be_read_is_refused(moof: bytes) -> None:
    with pytest.raises(NotWhole):
        read_fragment(moof, TRACKS)


def recording(*parts: bytes) -> io.BytesIO:
    return io.BytesIO(b"".join((WHOLE_INIT, head_box(Head("gate", 1.5)), *parts)))


def second(begin: int, captured: float) -> bytes:
    dts = begin / TICKS
    moof = fragment(run_of(VIDEO, samples(25), begin=begin))
    return time_box(TRACKS[VIDEO], captured, dts) + moof + box("mdat", b"pictures")


def test_a_file_is_read_up_to_its_last_whole_fragment() -> None:
    first, then = second(0, 1_000_000.25), second(1000, 1_000_001.25)
    found = read_file(recording(first, then, bytes(64)))
    assert found.info == Head("gate", 1.5)
    assert found.nbytes == len(WHOLE_INIT) + len(head_box(Head("gate", 1.5))) + len(first + then)
    assert [captured for _, captured in found.fragments] == [1_000_000.25, 1_000_001.25]
    assert len(read_file(recording(first, then[:-1])).fragments) == 1


@pytest.mark.parametrize(
    ("odd", "fragments"),
    [
        (fragment(run_of(7, samples(1))) + box("mdat", b"x"), 1),
        (struct.pack(">I4s", 7, b"moof"), 1),
        (box("free", bytes(1 << 21)), 2),  # only what precedes all fragments must be short
    ],
    ids=["a fragment of no track", "a box of 7 bytes", "a long box"],
)
def test_what_follows_something_odd_is_not_read(odd: bytes, fragments: int) -> None:
    first = second(0, 1.0)
    found = read_file(recording(first, odd, second(1000, 2.0)))
    assert len(found.fragments) == fragments
    with pytest.raises(NotWhole):
        read_file(recording(odd, first))


def test_a_fragment_without_a_time_of_capture_counts_as_bytes_only() -> None:
    moof = fragment(run_of(VIDEO, samples(25))) + box("mdat", b"x")
    found = read_file(recording(moof, second(1000, 2.0), moof))
    assert found.nbytes == len(recording(moof, second(1000, 2.0), moof).getvalue())


@pytest.mark.parametrize("text", [b"", b"{}", b'{"source": 3}', b"\xff", b'{"source": "\xff"}'])
def test_a_file_that_does_not_name_its_source_is_refused(text: bytes) -> None:
    head = head_box(Head("gate"))
    ours = head[8:24]
    data = WHOLE_INIT + box("uuid", ours, text) + second(0, 1.0)
    with pytest.raises(NotWhole, match="does not name its source"):
        read_file(io.BytesIO(data))
    others = WHOLE_INIT + box("uuid", bytes(16), text) + second(0, 1.0)
    with pytest.raises(NotWhole, match="no whole fragment"):
        read_file(io.BytesIO(others))


@pytest.mark.parametrize(
    ("captured", "written"),
    [(-1.0, 0.0), (float("nan"), 0.0), (1.0, 1.0), (2_085_978_500.5, 2_085_978_500.5),
     (1e12, LATEST)],
)  # fmt: skip
def test_times_of_capture_are_those_that_a_file_can_store(captured: float, written: float) -> None:
    """Also after February 2036, when the seconds of NTP restart at 0."""
    assert writable(captured) == written
    [(_, read)] = read_file(recording(second(0, writable(captured)))).fragments
    assert read == pytest.approx(written, abs=1e-6)
