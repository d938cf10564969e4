"""`framegate check`: check everything that a run needs, before one is started."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from framegate.cli.calibrate import promise_of, shipped_reference
from framegate.cli.console.arguments import (
    add_config,
    add_source_keys,
    add_sources,
    configuration,
)
from framegate.cli.console.terminal import Meter, counted, say
from framegate.cli.help import ending
from framegate.cli.setup.capacity import (
    SPARE,
    Capacity,
    MadeFrame,
    open_measuring,
)
from framegate.cli.setup.detectors import detector_lines
from framegate.cli.setup.probes import (
    decoder_of,
    described,
    pair_doubts,
    remarks_on,
    request_of,
    small_request,
    sounds,
)
from framegate.cli.setup.store_size import (
    load_of,
    needs_in_words,
    size_doubts,
    size_of,
    wanted_fps,
)
from framegate.pipeline.config.config import Config
from framegate.pipeline.config.graph import StageEntry, drawn, in_shards, place, stage_specs
from framegate.pipeline.config.sources import frames_of, place_of
from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    Exit,
    FramegateError,
    FrameStoreFull,
    SourceOwned,
    StoreRefused,
)
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.contracts.redaction import redacted, shown
from framegate.pipeline.contracts.source import Form, Request
from framegate.pipeline.run.plan import (
    check_filters,
    doubts,
    with_events,
    with_sound,
    with_visits,
)
from framegate.pipeline.run.source_forms import gate_masks, shared_bytes
from framegate.pipeline.shared_memory.frame_store import sound_store_bytes, usual_barrier
from framegate.pipeline.shared_memory.mapping import FOLDER, free_bytes
from framegate.pipeline.sinks.delivery import ReceiverUnavailable
from framegate.pipeline.sinks.process import check_receiver
from framegate.pipeline.store.admin import server_fault
from framegate.pipeline.store.embedded import EmbeddedStore
from framegate.pipeline.store.listen import check_free
from framegate.pipeline.store.redis_client import connect, store_errors
from framegate.pipeline.system.clocks import span
from framegate.pipeline.system.machine import cores, files_needed, take_open_files
from framegate.pipeline.system.outputs import (
    add_overwrite,
    is_stdout_closed,
    save_faults,
    saved_video,
)
from framegate.pipeline.web.port_files import report_port_files

if TYPE_CHECKING:
    from framegate.pipeline.promise.period import Promise
    from framegate.stages.detect.options import ModelUse
    from framegate.stages.escalate.configured_models import ConfiguredModels

MEASURE_S = 2.0
MADE = Form(1280, 720, "bt709")
MADE_FPS = 25.0


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
            _measure(config, Path(folder), probes, report, tell)
        with report.watching("detector"):
            _report_detectors(models, probes, report)
    report.say("result", report.verdict())
    return report.exit


class Report:
    """Lines on stdout under headings, and the worst exit code of the faults."""

    def __init__(self) -> None:
        self.exit = Exit.DONE
        self.faults = 0
        self.warnings = 0
        self._heading = ""

    def say(self, heading: str, text: str) -> None:
        """Print a text of one or more lines; a heading is printed once."""
        for line in text.splitlines():
            is_new = heading != self._heading
            self._heading = heading
            say(line, f"{heading * is_new:<18} ")

    @contextmanager
    def watching(self, heading: str, about: str = "") -> Iterator[None]:
        """Report an exception of the block as a fault, or as several."""
        try:
            yield
        except Exception as error:
            if isinstance(error, BrokenPipeError) and is_stdout_closed():
                raise
            if isinstance(error, ConfigFaults):
                faults = error.faults
            elif isinstance(error, FramegateError):
                faults = [str(error)]
            else:
                faults = [f"{type(error).__name__}: {error}"]
            code = error.exit if isinstance(error, FramegateError) else Exit.USAGE
            self.exit = max(self.exit, code)
            self.faults += len(faults)
            for fault in faults:
                self.say(heading, redacted(f"FAULT: {about}{fault}"))

    def warn(self, heading: str, text: str) -> None:
        """Report a doubt: a run can begin with it, but may do something else than was meant."""
        self.warnings += 1
        self.say(heading, redacted(f"WARNING: {text}"))

    def verdict(self) -> str:
        """Return the last line: how many faults and warnings there are."""
        kinds = {"fault": self.faults, "warning": self.warnings}
        counts = [counted(n, word) for word, n in kinds.items() if n]
        words = [word.upper() for word, n in kinds.items() if n]
        if not counts:
            return "all is well"
        return f"{', '.join(counts)}: see {' and '.join(words)} above"


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


def _measure(
    config: Config, folder: Path, probes: dict[str, Any], report: Report, tell: OnProgress
) -> None:
    """Process frames of each source that opened, and report rates and how many sources fit."""
    placed = place(stage_specs(config.stages), config.placement)
    workers = in_shards(placed, config.workers.shards)
    busy = os.getloadavg()[0]
    promise = None
    if any(stage.makes_promise for stage in config.stages):
        promise = promise_of(config)
    costs: list[str] = []
    advices: list[str] = []
    tell("opening the models")
    with closing(open_measuring(config, folder)) as measuring:
        for stage, why in measuring.absent().items():
            report.warn("stages", f"{stage}: nothing answers its questions: {why}")
        lines = []
        load_of_all = 0.0
        for number, (name, probe) in enumerate(probes.items()):
            tell("measuring", number, len(probes), more=name)
            with report.watching("stages", f"{name}: "):
                if probe.live:  # a camera sets the pace, so its decoding rate cannot be measured
                    made = MadeFrame(Form(probe.width, probe.height))
                    capacity = measuring.measure(name, repeat(made), MEASURE_S)
                    decoded = "without decoding, if all of each frame is new: "
                else:
                    source = decoder_of(config).open(request_of(config, name, config.sources[name]))
                    with closing(source):
                        taken = (frame for frame in source if frame is not None)
                        capacity = measuring.measure(name, taken, MEASURE_S)
                    if measuring.advice is not None:
                        advices.append(f"{name}: {measuring.advice}")
                    decoded = f"decode {capacity.rate('decode'):.0f} frames/s, "
                fps = wanted_fps(probe.fps or MADE_FPS, frames_of(config.sources[name].frames))
                load_of_all += 1 / capacity.live_sources(fps, workers, cores())
                lines.append(f"{name}: {decoded}{_speed(capacity, fps, workers)}")
                if promise is not None:
                    costs += promise_costs(name, promise, capacity, fps, workers, cores())
        if not probes:
            capacity = measuring.measure("made", repeat(MadeFrame(MADE)), MEASURE_S)
            size = f"a generated picture of {MADE.width}x{MADE.height}"
            lines.append(f"{size}: {_speed(capacity, MADE_FPS, workers)}")
        if len(lines) > 1:
            lines.append(f"all of these sources at their own rates need {load_of_all:.0%} of that")
        report.say("stages", f"open; models: {', '.join(measuring.models) or 'none'}")
        forms = dict.fromkeys(Form(probe.width, probe.height) for probe in probes.values())
        for form in forms or [MADE]:
            for stage_text in measuring.leaves_out(form):
                report.say("smallest change", f"{form.width}x{form.height}: {stage_text}")
        if busy > cores() / 2:
            lines.append(f"busy now (load {busy:.1f}): an idle machine can process more than this")
        head = f"{cores()} cores, of which {SPARE:.0%} may be used"
        report.say("this machine", "\n".join([head, *lines]))
        for line in costs:
            report.say("promise", line)
        if promise is not None:
            report.say("promise", f"it states agreement; {shipped_reference()}")
        for line in advices:
            report.say("detector", line)


def _report_detectors(models: ConfiguredModels, probes: Mapping[str, Any], report: Report) -> None:
    """Report the detector of each source, and one that would find more, once for equal pictures."""
    names: dict[tuple[ModelUse, Form], list[str]] = {}
    for name, probe in probes.items():
        use = models.use_of(name)
        if use is not None:
            names.setdefault((use, Form(probe.width, probe.height)), []).append(name)
    for (use, form), sources in names.items():
        for line in detector_lines(use, form, MEASURE_S):
            report.say("detector", f"{', '.join(sources)}: {line}")


def _speed(capacity: Capacity, fps: float, workers: Mapping[str, Sequence[str]]) -> str:
    stages = {name: s for name, s in capacity.stage_s.items() if name != "decode"}
    slowest = max(stages, key=stages.__getitem__)
    fit = capacity.live_sources(fps, workers, cores())
    speed = f"{slowest} {capacity.rate(slowest):.0f} frames/s{capacity.heavy.in_words()}"
    if fit < 1:
        return f"{speed}; this is too slow for {fps:.3g} frames/s; {fit * fps:.1f} frames/s fit"
    return f"{speed}; {counted(int(fit), 'such source')} at {fps:.3g} frames/s fit"


def promise_costs(
    name: str,
    promise: Promise,
    capacity: Capacity,
    fps: float,
    workers: Mapping[str, Sequence[str]],
    cores: int,
) -> list[str]:
    """Return lines on the cost of a promise for a source of `fps`: heavy passes of a period, CPU,
    and the rate that remains.

    Empty if the cost of a heavy pass is unknown here, because another host makes it.
    """
    heavy = capacity.heavy
    if not heavy.look_s:
        return []
    asked_per_s = min(heavy.asking.per_s, fps)
    period_s = promise.frames / fps
    cpu = heavy.cpu_s / cores
    rate = capacity.most_fps(workers, cores)
    room = SPARE * heavy.lanes / heavy.look_s - fps * promise.share
    lines = [
        f"{name}: a period is {promise.frames} frames, {span(period_s)} at {fps:.3g} frames/s; "
        f"{round(promise.frames * promise.share)} of them are audited ({promise.share:.2%}), and "
        f"the heavy model is asked about at most {round(asked_per_s * period_s)}",
        f"{name}: audits take {fps * promise.share * cpu:.1%} of this machine's CPU, and questions "
        f"up to {asked_per_s * cpu:.0%}, at {heavy.look_s:.2g} s a heavy pass; up to {rate:.3g} "
        "frames/s of one such source remain",
    ]
    if asked_per_s > room:
        remedy = "make the period longer"
        if room > 0:
            remedy = f"set [escalate] per_s to {room:.2g} or less"
        lines.append(
            f"{name}: a camera cannot wait for that many heavy passes (a file waits), and an audit "
            f"that comes too late counts as wrong: {remedy}"
        )
    return lines
