"""Segments in playing order: parts with one init part, recorded times, and HLS playlists."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from framegate.pipeline.recording.index import SAME_S, Segment


class RecordedStretch(msgspec.Struct, frozen=True):
    """A time that was recorded without a gap, UNIX seconds. sound: at least a part has sound."""

    since: float
    until: float
    sound: bool


def parts(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Split segments where the init part changes: each part can become one file."""
    result: list[list[Segment]] = []
    for segment in segments:
        if result and result[-1][-1].init == segment.init:
            result[-1].append(segment)
        else:
            result.append([segment])
    return result


def stretches(segments: Sequence[Segment]) -> list[RecordedStretch]:
    """Join segments, in order, to the times that they cover without a gap."""
    result: list[RecordedStretch] = []
    for segment in segments:
        last = result[-1] if result else None
        if last is not None and abs(segment.captured - last.until) < SAME_S:
            end = max(last.until, segment.captured_end)
            result[-1] = RecordedStretch(last.since, end, last.sound or segment.sound)
        else:
            result.append(RecordedStretch(segment.captured, segment.captured_end, segment.sound))
    return result


def playlist(
    segments: Sequence[Segment],
    init_url: Callable[[Segment], str],
    segment_url: Callable[[Segment], str],
    number: int | None = None,
) -> str:
    """Return an HLS playlist (RFC 8216) of segments in order.

    number  of the first segment, from `Index.number`, if segments will be added at the end and
            removed from the front; None: the playlist stays as it is
    """
    longest = math.ceil(max((segment.seconds for segment in segments), default=1.0))
    kind = "#EXT-X-PLAYLIST-TYPE:VOD"
    if number is not None:
        kind = f"#EXT-X-MEDIA-SEQUENCE:{number}"
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-TARGETDURATION:{max(1, longest)}",
        kind,
    ]
    if all(segment.is_key for segment in segments):
        lines.append("#EXT-X-INDEPENDENT-SEGMENTS")
    before: Segment | None = None
    for segment in segments:
        follows = before is not None and segment.follows(before)
        if before is not None and not follows:
            lines.append("#EXT-X-DISCONTINUITY")
        if before is None or segment.init != before.init:
            lines.append(f'#EXT-X-MAP:URI="{init_url(segment)}"')
        if not follows:
            lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{iso_time(segment.captured)}")
        lines += [f"#EXTINF:{segment.seconds:.6f},", segment_url(segment)]
        before = segment
    if number is None:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def iso_time(captured: float) -> str:
    """Return UNIX seconds as ISO 8601 with milliseconds."""
    date = datetime.fromtimestamp(captured, UTC)
    return f"{date:%Y-%m-%dT%H:%M:%S}.{date.microsecond // 1000:03}Z"
