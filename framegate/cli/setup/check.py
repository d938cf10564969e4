"""`framegate check`: check everything that a run needs, before one is started."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from framegate.cli.console.arguments import add_config, add_source_keys, add_sources, configuration
from framegate.cli.console.terminal import Meter
from framegate.cli.help import ending
from framegate.cli.setup.measured_rates import MADE_FPS, report_detectors, report_rates
from framegate.cli.setup.probes import (
    decoder_of,
    described,
    pair_doubts,
    remarks_on,
    request_of,
    small_request,
    sounds,
)
from framegate.cli.setup.report import Report
from framegate.cli.setup.store_size import load_of, needs_in_words, size_doubts, size_of, wanted_fps
from framegate.pipeline.config.config import Config
from framegate.pipeline.config.graph import StageEntry, drawn, place, stage_specs
from framegate.pipeline.config.sources import frames_of, place_of
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    Exit,
    FrameStoreFull,
    SourceOwned,
    StoreRefused,
)
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Form, Request
from framegate.pipeline.run.plan import check_filters, doubts, with_events, with_sound, with_visits
from framegate.pipeline.run.source_forms import gate_masks, shared_bytes
from framegate.pipeline.shared_memory.frame_store import sound_store_bytes, usual_barrier
from framegate.pipeline.shared_memory.mapping import FOLDER, free_bytes
from framegate.pipeline.sinks.delivery import ReceiverUnavailable
from framegate.pipeline.sinks.process import check_receiver
from framegate.pipeline.store.admin import server_fault
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.listen import check_free
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.machine import files_needed, take_open_files
from framegate.pipeline.system.outputs import add_overwrite, save_faults, saved_video
from framegate.pipeline.web.port_files import report_port_files


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "check",
        description="Check the whole configuration, open each source, the model, the store "
        "and shared memory, print the graph, and measure how many sources this "
        "machine can process.",
        epilog=ending(
            "framegate check",
            "framegate check clip.mp4 rtsp://camera.example/stream",
            "framegate check clip.mp4 --promise",
            page="running",
        ),
    )
    command.set_defaults(command=_check)
    add_sources(command)
    command.add_argument(
        "--save", type=Path, metavar="DIR", help="check that videos can be written into this folder"
    )
    add_source_keys(command)
    add_overwrite(command)
    command.add_argument(
        "--promise", action="store_true", help="predict the cost of audits: docs/promise.md"
    )
    add_config(command)


def _check(parsed: argparse.Namespace) -> Exit:
    config = configuration(parsed)[1]
    if parsed.promise:
        config = replace(config, stages=tuple(map(_promising, config.stages)))
    with Meter() as tell:
        return check(config, parsed.save, parsed.overwrite, tell)


def _promising(stage: StageEntry) -> StageEntry:
    """Return a stage with its promise on, and with a place for the heavy model."""
    if not stage.promises:
        return stage
    asks = stage.options.get("escalate", {})
    promise = stage.options.get("promise", {})
    if asks.get("place", "off") == "off":
        asks = {**asks, "place": "local"}
    options = {"escalate": asks, "promise": {**promise, "measure": "counts"}}
    return replace(stage, options={**stage.options, **options})


def check(
    config: Config,
    saves: Path | None = None,
    overwrite: bool = False,
    tell: OnProgress | None = None,
) -> Exit:
    """Check everything, print the findings, and return whether a run could start."""
    from framegate.stages.escalate.configured_models import ConfiguredModels

    report, tell = Report(), tell or Meter()
    report.say("configuration", f"{config.origin}: valid")
    with tempfile.TemporaryDirectory(prefix="framegate-check-") as folder:
        models = ConfiguredModels(config.stages, Path(folder))
        with report.watching("sound"):
            config = with_sound(config, models)
        with report.watching("events"):
            config = with_events(config, models)
            config = with_visits(config)
            check_filters(config, models)
        specs = stage_specs(config.stages)
        report.say("graph", drawn(specs, place(specs, config.placement)))
        probes, recorded = _check_sources(config, report, tell)
        known = {name: name not in probes or probes[name].live for name in config.sources}
        if known:
            for doubt in doubts(config, known):
                report.warn("names", doubt)
        _report_masks(config, probes | recorded, report)
        if saves is not None:
            with report.watching("--save"):
                report.say("--save", _saving(config, saves, overwrite))
        with report.watching("store"):
            report.say("store", _store(config, Path(folder)))
            _report_store_size(config, probes, report)
        if config.store.listen is not None:
            with report.watching("listen"):
                check_free(config.store.listen)
                report.say("listen", f"{config.store.listen} is free")
        for name, sink in config.sinks.items():
            with report.watching("sinks", f"{name}: "):
                try:
                    report.say("sinks", f"{name}: {check_receiver(name, sink)}")
                except ReceiverUnavailable as error:
                    report.warn("sinks", f"{name}: {error}; a run would try again")
        with report.watching("http"):
            report_port_files(config, report.say, report.warn)
        with report.watching("open files"):
            allowed = take_open_files(len(config.sources))
            needed = files_needed(len(config.sources))
            report.say("open files", f"{allowed} allowed, about {needed} needed")
        with report.watching("shared memory"):
            report.say("shared memory", _shared_memory(config, probes))
        with report.watching("stages"):
            report_rates(config, Path(folder), probes, report, tell)
        with report.watching("detector"):
            report_detectors(models, probes, report)
    report.say("result", report.verdict())
    return report.exit


def _check_sources(
    config: Config, report: Report, tell: OnProgress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Open each source, and return the probes of those that opened, by name: of the streams that
    are decoded, and of those that are only recorded.
    """
    if not config.sources:
        report.say("sources", "none given")
    decoder = decoder_of(config)
    decoded, recorded = {}, {}
    for number, (name, source) in enumerate(config.sources.items()):
        tell("opening sources", number, len(config.sources), more=name)
        with report.watching("sources", f"{name}: "):
            request = request_of(config, name, source)
            large, label = None, name
            if request.look_at:
                url_only = structs.replace(request, look_at="")
                large = _probed(decoder, url_only, f"{name}: url", report)
                request, label = small_request(request), f"{name}: look_at"
            probe = _probed(decoder, request, label, report)
            if probe is None:
                continue
            decoded[name] = probe
            if large is not None:
                recorded[name] = large
                for doubt in pair_doubts(config, name, large, probe):
                    report.warn("sources", f"{name}: {doubt}")
            for remark in remarks_on(config, name, request, probe):
                write = report.say
                if remark.is_doubt:
                    write = report.warn
                write("sources", f"{name}: {remark.text}")
    return decoded, recorded


def _probed(decoder: Any, request: Request, name: str, report: Report) -> Any:
    """Open a stream and report it; return its probe, None if it cannot be opened."""
    with report.watching("sources", f"{name}: "):
        probe = decoder.probe(request)
        report.say("sources", f"{name}: {described(probe)}")
        return probe
    return None


def _report_masks(config: Config, probes: dict[str, Any], report: Report) -> None:
    """Report the parts of each picture that are blackened, or where changes do not count."""
    gates = gate_masks(config.stages)
    for name, probe in probes.items():
        if black := config.privacy.masks.get(name):
            report.say(
                "masks", f"{name}: {_areas(black)} blackened before any stage reads the picture"
            )
        if not (quiet := gates.get(name)):
            continue
        report.say("masks", f"{name}: {_areas(quiet)} ignored: changes there are no reason to look")
        for polygon in quiet:
            across, down = zip(*polygon, strict=True)
            is_outside = min(across) >= probe.width or min(down) >= probe.height
            is_in_shares = max(*across, *down) <= 1  # of the picture's sides, instead of pixels
            if is_outside or is_in_shares:
                report.warn(
                    "masks",
                    f"{name}: the mask of [gate.masks] that begins with {polygon[0]} covers "
                    f"nothing; give points in pixels of the picture, "
                    f"{probe.width}x{probe.height}",
                )


def _areas(polygons: Sequence[Any]) -> str:
    if len(polygons) == 1:
        return "1 area is"
    return f"{len(polygons)} areas are"


def _saving(config: Config, folder: Path, overwrite: bool) -> str:
    places = {name: place_of(name, source) for name, source in config.sources.items()}
    if faults := save_faults(folder, places, overwrite):
        raise ConfigFaults(faults)
    return ", ".join(str(saved_video(folder, name)) for name in places) or f"{folder} takes videos"


def _store(config: Config, folder: Path) -> str:
    """Start and stop an embedded store in `folder`, or ask the configured one, and describe it."""
    url = config.store.place()
    if url is None:
        embedded = EmbeddedStore(folder / "store", config.store.fsync)
        embedded.start()
        try:
            return f"embedded: {_server(embedded.url, [], 0)} starts and answers"
        finally:
            embedded.stop()
    return f"{shown(url)}: {_server(url, list(config.sources), config.store.replicas)} answers"


def _report_store_size(config: Config, probes: Mapping[str, Any], report: Report) -> None:
    """Report the connections, hops and primaries that the sources, or those of a fleet, need."""
    url = config.store.place()
    if url is None:
        return
    rates = [
        wanted_fps(probe.fps or MADE_FPS, frames_of(config.sources[name].frames))
        for name, probe in probes.items()
    ]
    load, size = load_of(config, url, rates), size_of(url)
    if load.sources:
        report.say("store", needs_in_words(load, size))
    for doubt in size_doubts(load, size):
        report.warn("store", doubt)


def _server(url: str, sources: list[str], replicas: int) -> str:
    with store_errors(url), closing(connect(url)) as client:
        info = client.info()
        fault = server_fault(info, replicas)
        if fault:
            raise StoreRefused(f"store {shown(url)}: {fault}")
        owned = [name for name in sources if client.hget(keys.own(name), "run")]
        if owned:
            owner = client.hget(keys.SOURCES, owned[0]) or b"?"
            raise SourceOwned(f"source {owned[0]} is owned by run {owner.decode()}")
    name = info.get("server_name", "redis").capitalize()
    server = f"{name} {info.get('valkey_version') or info.get('redis_version')}"
    if not info.get("aof_enabled"):
        server += ", which keeps nothing on disk (appendonly no),"
    return server


def _shared_memory(config: Config, probes: dict[str, Any]) -> str:
    usual_barrier()
    sources = [(probe.live, Form(probe.width, probe.height)) for probe in probes.values()]
    needed = shared_bytes(config, sources)
    blocks = [config.sound.block_of(name) for name, probe in probes.items() if sounds(probe)]
    needed += sum(sound_store_bytes(block) for block in blocks if block)
    free = free_bytes()
    text = f"{free / 2**20:.0f} MiB free in {FOLDER}, {needed / 2**20:.1f} MiB needed"
    if needed > free:
        raise FrameStoreFull(
            f"{text}: enlarge it (a container's shm size), lower [credit] file, or run fewer "
            "sources at once"
        )
    return text
