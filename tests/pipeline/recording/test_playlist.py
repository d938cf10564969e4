"""Segments as one file, as recorded times and as an HLS playlist."""

from __future__ import annotations

import msgspec
import pytest

from framegate.pipeline.recording.index import Segment
from framegate.pipeline.recording.playlist import (
    RecordedStretch,
    iso_time,
    parts,
    playlist,
    stretches,
)

NOW = 1.8e9
FIRST = Segment(
    path="gate/1/day/0.mp4",
    source="gate",
    epoch=1,
    pts=0.0,
    pts_end=4.0,
    shift_s=0.0,
    captured=NOW,
    captured_end=NOW + 4.0,
    nbytes=1000,
    head=10,
    init="a",
    is_key=True,
    sound=False,
)


def after(
    before: Segment,
    *,
    pause_s: float = 0.0,
    init: str | None = None,
    sound: bool = False,
    is_key: bool = True,
) -> Segment:
    """A segment of four seconds that begins `pause_s` after the end of another one."""
    return msgspec.structs.replace(
        before,
        path=before.path.replace(".mp4", "+.mp4"),
        pts=before.pts_end + pause_s,
        pts_end=before.pts_end + pause_s + 4.0,
        captured=before.captured_end + pause_s,
        captured_end=before.captured_end + pause_s + 4.0,
        init=init or before.init,
        sound=sound,
        is_key=is_key,
    )


def listed(*segments: Segment, number: int | None = None) -> list[str]:
    text = playlist(
        segments,
        lambda segment: f"init/{segment.init}",
        lambda segment: segment.path,
        number=number,
    )
    assert text.endswith("\n")
    return text.splitlines()


def test_a_part_ends_where_the_init_part_changes() -> None:
    second = after(FIRST)
    other = after(second, init="b")
    third = after(other, init="a")
    assert parts([FIRST, second, other, third]) == [[FIRST, second], [other], [third]]
    assert parts([]) == []


def test_a_short_pause_is_no_gap_and_a_long_one_is() -> None:
    second = after(FIRST, pause_s=0.4, sound=True)
    third = after(second, pause_s=0.6)
    assert stretches([FIRST, second, third]) == [
        RecordedStretch(NOW, second.captured_end, sound=True),
        RecordedStretch(third.captured, third.captured_end, sound=False),
    ]


def test_a_stretch_ends_with_its_last_picture() -> None:
    """A corrected clock of the camera can give a segment that ends before the one before it."""
    short = msgspec.structs.replace(after(FIRST), captured_end=NOW + 3.9)
    assert stretches([FIRST, short]) == [RecordedStretch(NOW, NOW + 4.0, sound=False)]


def test_a_playlist_continues_over_segments_that_follow_each_other() -> None:
    second = after(FIRST)
    assert listed(FIRST, second) == [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-TARGETDURATION:4",
        "#EXT-X-PLAYLIST-TYPE:VOD",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        '#EXT-X-MAP:URI="init/a"',
        f"#EXT-X-PROGRAM-DATE-TIME:{iso_time(NOW)}",
        "#EXTINF:4.000000,",
        FIRST.path,
        "#EXTINF:4.000000,",
        second.path,
        "#EXT-X-ENDLIST",
    ]


@pytest.mark.parametrize(
    ("second", "marks"),
    [
        (after(FIRST, pause_s=2.0), ["#EXT-X-DISCONTINUITY", "#EXT-X-PROGRAM-DATE-TIME"]),
        (
            after(FIRST, init="b"),
            ["#EXT-X-DISCONTINUITY", "#EXT-X-MAP", "#EXT-X-PROGRAM-DATE-TIME"],
        ),
        (
            msgspec.structs.replace(after(FIRST), epoch=2),
            ["#EXT-X-DISCONTINUITY", "#EXT-X-PROGRAM-DATE-TIME"],
        ),
        (
            msgspec.structs.replace(after(FIRST), shift_s=1.0),
            ["#EXT-X-DISCONTINUITY", "#EXT-X-PROGRAM-DATE-TIME"],
        ),
    ],
    ids=["a gap", "another init part", "another epoch", "another clock"],
)
def test_a_player_starts_again_where_a_segment_does_not_follow(
    second: Segment, marks: list[str]
) -> None:
    lines = listed(FIRST, second)
    between = lines[lines.index(FIRST.path) + 1 : lines.index(second.path) - 1]
    assert [line.split(":")[0] for line in between] == marks


def test_a_growing_playlist_has_no_end_and_one_without_key_frames_no_promise() -> None:
    lines = listed(FIRST, after(FIRST, is_key=False), number=7)
    assert "#EXT-X-MEDIA-SEQUENCE:7" in lines
    assert not [line for line in lines if "PLAYLIST-TYPE" in line]
    assert "#EXT-X-ENDLIST" not in lines
    assert "#EXT-X-INDEPENDENT-SEGMENTS" not in lines


def test_an_empty_playlist_is_valid() -> None:
    assert "#EXT-X-TARGETDURATION:1" in listed()


def test_a_time_has_milliseconds_in_utc() -> None:
    assert iso_time(1.5) == "1970-01-01T00:00:01.500Z"
