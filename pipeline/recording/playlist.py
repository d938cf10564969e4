"""Segments in the order in which they are played: parts of one init part, and HLS playlists."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from framegate.pipeline.recording.index import Segment


def parts(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments in order, cut where the init part changes: each part can be one file."""
    found: list[list[Segment]] = []
    for one in segments:
        if found and found[-1][-1].init == one.init:
            found[-1].append(one)
        else:
            found.append([one])
    return found


def playlist(
    segments: Sequence[Segment],
    init_url: Callable[[Segment], str],
    segment_url: Callable[[Segment], str],
    *,
    goes_on: bool = False,
) -> str:
    """An HLS playlist (RFC 8216) of segments in order. goes_on: more of them will come."""
    longest = math.ceil(max((one.seconds for one in segments), default=1.0))
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-TARGETDURATION:{max(1, longest)}",
        f"#EXT-X-PLAYLIST-TYPE:{'EVENT' if goes_on else 'VOD'}",
        "#EXT-X-INDEPENDENT-SEGMENTS",
    ]
    if not all(one.is_key for one in segments):
        lines.pop()
    before: Segment | None = None
    for one in segments:
        goes = before is not None and one.follows(before)
        if before is not None and not goes:
            lines.append("#EXT-X-DISCONTINUITY")
        if before is None or one.init != before.init:
            lines.append(f'#EXT-X-MAP:URI="{init_url(one)}"')
        if not goes:
            lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{told_time(one.captured)}")
        lines += [f"#EXTINF:{one.seconds:.6f},", segment_url(one)]
        before = one
    if not goes_on:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def told_time(captured: float) -> str:
    """UNIX seconds as ISO 8601 with milliseconds."""
    told = datetime.fromtimestamp(captured, UTC)
    return f"{told:%Y-%m-%dT%H:%M:%S}.{told.microsecond // 1000:03}Z"
