"""Open a source before a run, for `framegate check` and `init`; describe it and its doubts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import structs

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.sources import SourceConfig
from framegate.pipeline.contracts.source import Request
from framegate.pipeline.run.source_forms import run_source, source_spec
from framegate.pipeline.system.loading import load, options_of

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


def advice_on(probe: Any) -> str | None:
    """Return advice about a large picture, which the detector only reads scaled down; else None."""
    if not probe.live or probe.width * probe.height <= LARGE_PIXELS:
        return None
    return (
        f"advice: {probe.width}x{probe.height} costs much to decode; if the camera has a smaller "
        "stream, look at that one and record this one: look_at"
    )


def silence_of(config: Config, name: str, probe: Any) -> str | None:
    """Return why a source that `[sound]` names will not be heard; None if it will."""
    named = not isinstance(config.sound.sources, bool) and name in config.sound.sources
    if not named or sounds(probe):
        return None
    return "sound.sources names it, but it has no sound track that can be decoded"


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
