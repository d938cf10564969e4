"""A stage with state: report each object that has been in view for longer than a limit, once.

PYTHONPATH=examples framegate run -c examples/longest_stay.toml entrance=rtsp://camera.example/stream
"""

from dataclasses import dataclass

import msgspec

from framegate import Item, Result, Stage


class Stay(msgspec.Struct, array_like=True):
    """Times of one track, in seconds of the video."""

    first: float
    last: float
    is_reported: bool = False


class Stays(msgspec.Struct):
    """The tracks in view. Framegate stores this with each output, so a kill loses nothing."""

    by_track: dict[int, Stay] = {}


@dataclass(frozen=True)
class Options:
    """Keys of [stages.longest_stay] in the configuration."""

    limit_s: float = 60.0
    forget_s: float = 5.0  # without being seen


class LongestStay(Stage[Stays]):
    """Report {"track", "label", "seconds"} of objects that stay longer than `limit_s`."""

    State = Stays
    Options = Options

    def each(self, item: Item, state: Stays) -> tuple[list[dict[str, object]] | None, Stays]:
        result = item.output_of(self.context.before, Result)
        now = result.captured if result.pts is None else result.pts
        stays = dict(state.by_track)
        reports: list[dict[str, object]] = []
        for box in result.objects:
            if box.track is None:
                continue
            stay = stays.get(box.track, Stay(now, now))
            seconds = now - stay.first
            is_due = seconds > self.options.limit_s and not stay.is_reported
            if is_due:
                reports.append({"track": box.track, "label": box.label, "seconds": seconds})
            stays[box.track] = Stay(stay.first, now, stay.is_reported or is_due)
        kept = {n: stay for n, stay in stays.items() if now - stay.last < self.options.forget_s}
        return reports or None, Stays(kept)
