"""Open a source before a run, for `framegate check` and `init`; describe it and its doubts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from msgspec import structs

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.sources import SourceConfig
from framegate.pipeline.contracts.source import Request
from framegate.pipeline.run.source_forms import run_source, source_spec
from framegate.pipeline.system.loading import load, options_of
from framegate.stages.decode.camera_events import EventsUnavailable, login_of, topics_of

LARGE_PIXELS: Final = 1280 * 720  # a picture above this costs much to decode
SAME_SHAPE: Final = 0.03  # part by which the aspect ratios of a camera's streams may differ


def decoder_of(config: Config) -> Any:
    """Return the decoder of a configuration; it opens and probes sources."""
    entry = next(stage for stage in config.stages if stage.input is None)
    kind = load(entry.use)
    return kind(options_of(kind, entry.options))


def request_of(config: Config, name: str, source: SourceConfig) -> Request:
    """Return the request to a source's decoder. ConfigFaults as `from_environment`."""
    return source_spec(config, None, run_source(name, source, "config"))


def small_request(request: Request) -> Request:
    """Return the request for the stream that the network looks at, of a camera with two."""
    return structs.replace(request, url=request.look_at, look_at="")


class Remark(NamedTuple):
    """A line about a source. is_doubt: it may be a mistake"""

    text: str
    is_doubt: bool = False


def remarks_on(config: Config, name: str, request: Request, probe: Any) -> Iterator[Remark]:
    """Yield remarks on a source that was opened: its picture, its sound, the camera's events."""
    if probe.live and probe.width * probe.height > LARGE_PIXELS:
        # The detector only reads the picture scaled down.
        yield Remark(
            f"advice: {probe.width}x{probe.height} costs much to decode; if the camera has a "
            "smaller stream, look at that one and record this one: look_at"
        )
    is_named = not isinstance(config.sound.sources, bool) and name in config.sound.sources
    if is_named and not sounds(probe):
        yield Remark("sound.sources names it, but it has no sound track that can be decoded", True)
    if request.events:
        yield from event_remarks(config, name, request)


def event_remarks(config: Config, name: str, request: Request) -> Iterator[Remark]:
    """Ask a camera for the events that it offers; yield them, or the reason for none."""
    try:
        topics = topics_of(login_of(request.events, request.url))
    except EventsUnavailable as error:
        yield Remark(f"events: {error}", True)
        return
    kinds: dict[str, list[str]] = {}
    for topic, kind in topics.items():
        if kind is not None:
            kinds.setdefault(kind, []).append(topic)
    ignored = sum(kind is None for kind in topics.values())
    if not kinds:
        yield Remark(
            f"events: the camera offers none (of {ignored} topics, none counts); enable motion "
            "detection or its rules in the camera",
            True,
        )
        return
    offered = ", ".join(f"{kind} ({', '.join(kinds[kind])})" for kind in kinds)
    yield Remark(f"events of the camera: {offered}; topics that do not count: {ignored}")
    for rule_name, rule in config.events.of_source(name).items():
        missing = [label for label in rule.labels if label not in kinds]
        # A topic of another name may report any kind, in the names of its data.
        if rule.state == "reported" and missing and "other" not in kinds:
            yield Remark(
                f"events.rules.{rule_name}: the camera offers no topic for {', '.join(missing)}",
                True,
            )


def described(probe: Any) -> str:
    """Describe a source in words."""
    parts = [f"{probe.codec} {probe.width}x{probe.height}"]
    if probe.fps:
        parts.append(f"{probe.fps:.3g} frames/s")
    if probe.frames:
        parts.append(f"{probe.frames} frames")
    if probe.duration_s:
        parts.append(f"{probe.duration_s:.1f} s")
    if probe.rotation:
        parts.append(f"turned by {probe.rotation} degrees")
    if sound := getattr(probe, "sound", None):  # not every decoder reports it
        codec, hertz, channels = sound
        kinds = {1: "mono", 2: "stereo"}
        kind = kinds.get(channels, f"{channels} channels")
        parts.append(f"sound {codec} {hertz} Hz {kind}")
    return ", ".join(parts)


def sounds(probe: Any) -> bool:
    """Return whether a probe reports sound; not every decoder does."""
    return getattr(probe, "sound", None) is not None


def pair_doubts(config: Config, name: str, large: Any, small: Any) -> Iterator[str]:
    """Yield what may be wrong with a camera's two streams."""
    if small.width * small.height > large.width * large.height:
        yield "look_at is the larger stream; exchange url and look_at"
    shapes = [probe.width / probe.height for probe in (large, small)]
    if abs(shapes[0] / shapes[1] - 1) > SAME_SHAPE:
        yield (
            f"the streams have different aspect ratios, {large.width}x{large.height} and "
            f"{small.width}x{small.height}; boxes fit the large picture only if the small one "
            "shows all of it, squeezed; compare the two, or set the same ratio in the camera"
        )
    if config.record.of(name, live=True) is None or config.privacy.masks.get(name):
        yield (
            "the stream of url is read for nothing, because this source is not recorded; record it "
            "([record] sources), or use the URL of look_at as url"
        )
    if config.sound.block_of(name) and sounds(large) and not sounds(small):
        yield "only the stream of url has sound, and rules hear that of look_at; enable it there"
