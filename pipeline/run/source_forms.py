"""The two forms of a source of a run.

declared  SourceConfig has the keys of `[sources.NAME]`, or the arguments of a command. A run
          keeps it as RunSource, which adds what `--resume` needs, such as a fingerprint. A secret
          is in it only as the name of a variable, unless the URL itself was given; `run_source`
resolved  SourceSpec is for workers, and never stored. It is a Request, with the secret in its
          URL, and has the values that the configuration decides (credit, slots); `source_spec`
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.graph import StageEntry, gate_options, is_gate_off
from framegate.pipeline.config.sources import (
    SourceConfig,
    events_service,
    frames_of,
    is_camera,
    is_remote,
    path_fault,
    place_of,
    small_place_of,
)
from framegate.pipeline.contracts.source import DecodeMode, Form
from framegate.pipeline.contracts.spec import PaceName, SourceSpec
from framegate.pipeline.run.folder import By, RunSource, fingerprint
from framegate.pipeline.shared_memory.frame_store import frame_store_bytes
from framegate.pipeline.shared_memory.packet_store import packet_store_bytes
from framegate.pipeline.system.ports import OFF


def run_source(name: str, config: SourceConfig, by: By) -> RunSource:
    """Return a configured source as a run keeps it, with an absolute path.

    by: origin of the source. ConfigFaults if the variable of its URL is not set.
    """
    url = config.url
    if config.url_env is None and not is_remote(url):
        url = str(Path(url).absolute())
    keys = {
        **vars(config),
        "url": url,
        "live": is_camera(name, config),
        "frames": msgspec.to_builtins(frames_of(config.frames)),
    }
    return RunSource(**keys, name=name, file=fingerprint(config.url), by=by)


def source_spec(config: Config, pace: PaceName | None, source: RunSource) -> SourceSpec:
    """Return a source as its workers get it. ConfigFaults if the variable of its URL is not set.

    pace: of all files; None: each has its own
    """
    credit, slots = credit_and_slots(config, source.live)
    source_pace = pace or source.pace
    if source.live:
        source_pace = "fast"
    return SourceSpec(
        url=place_of(source.name, source),
        look_at=small_place_of(source.name, source),
        live=source.live,
        transport=source.transport,
        stall_s=config.live.stall_s,
        frames=frames_of(source.frames),
        sound=config.sound.block_of(source.name),
        decode=decode_mode(config, source),
        unwatched=gate_masks(config.stages).get(source.name, ()),
        least=gate_options(config.stages).get("least"),
        most=gate_options(config.stages).get("most"),
        events=events_service(source.name, source),
        keeps_packets=any(stage.makes_promise for stage in config.stages),
        name=source.name,
        past=source.past,
        credit=credit,
        slots=slots,
        pace=source_pace,
        retry_most_s=config.live.retry_most_s,
        ending=source.ending,
        record=config.record.of(source.name, source.live),
        masks=config.privacy.of(source.name),
        continues=source.continues,
        hands_over=source.hands_over,
    )


def decode_mode(config: Config, source: RunSource) -> DecodeMode:
    """Return whether each frame of a source is decoded.

    A source of a resumed run may have been added before the gate was switched off.
    """
    if is_gate_off(config.stages):
        return "always"
    if source.decode is not None:
        return source.decode
    if source.live:
        return config.live.decode
    return "always"


def gate_masks(stages: Iterable[StageEntry]) -> dict[str, Any]:
    """Return the polygons of `[gate.masks]`, by source."""
    masks: dict[str, Any] = gate_options(stages).get("masks", {})
    return masks


def credit_and_slots(config: Config, live: bool) -> tuple[int, int]:
    """Return by how many frames a decoder may be ahead, and the frames that its store has room for.

    live: whether it is a camera
    """
    kept = sum(max(0, stage.pixels - 1) for stage in config.stages)
    if config.http.listen not in OFF:
        kept += 1  # the live page shows the last published frame
    credit = config.credit.file
    if live:
        credit = config.credit.live
    return credit, credit + kept


def shared_bytes(config: Config, sources: Iterable[tuple[bool, Form]]) -> int:
    """Return the bytes of shared memory for the frames of sources: (is live, form) of each.

    With a promise, it includes the packets of all sources that may be decoded lazily.
    """
    has_promise = any(stage.makes_promise for stage in config.stages)
    has_lazy = any(source.decode == "lazy" for source in config.sources.values())
    total = 0
    for live, form in sources:
        _, slots = credit_and_slots(config, live)
        total += frame_store_bytes(slots, form.nbytes)
        is_lazy = has_lazy or (live and config.live.decode == "lazy")
        if has_promise and is_lazy:
            total += packet_store_bytes(slots)
    return total


def file_faults(sources: Iterable[RunSource]) -> dict[str, str]:
    """Return the faults of the paths of files, by source, so that typing errors are found early.

    The content of a file is not read. ConfigFaults if the variable of a URL is not set.
    """
    faults = {}
    for source in sources:
        place = place_of(source.name, source)
        if not is_remote(place):
            fault = path_fault(place)
            if fault is not None:
                where = source.place()
                faults[source.name] = f"source {source.name}: {fault[0]}: {where}: {fault[1]}"
    return faults


def file_identity(source: RunSource, keys: Mapping[str, Any]) -> str:
    """Return the identity of a slot's file; a successor continues the file only if it has the same.

    It is a digest of the content of a file, or of a URL without its login, and of the keys: with
    other keys, a frame number may mean another frame. "" for a camera, which never continues.

    keys: of the source in the plan of the fleet. ConfigFaults as `place_of`
    """
    if source.live:
        return ""
    place = place_of(source.name, source)
    content = place
    if "://" in place:
        parts = urlsplit(place)
        content = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    file = fingerprint(place)
    if file is not None:
        content = file.text()
    written = msgspec.json.encode((content, keys), order="deterministic")
    return hashlib.sha256(written).hexdigest()
