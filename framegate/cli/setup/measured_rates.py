"""Measure how fast this machine runs the stages on the sources, and report what fits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framegate.cli.accuracy.calibrate import promise_of, shipped_reference
from framegate.cli.console.terminal import counted
from framegate.cli.setup.capacity import SPARE, Capacity, MadeFrame, open_measuring
from framegate.cli.setup.detectors import detector_lines
from framegate.cli.setup.probes import decoder_of, request_of
from framegate.cli.setup.report import Report
from framegate.cli.setup.store_size import wanted_fps
from framegate.pipeline.config.config import Config
from framegate.pipeline.config.graph import in_shards, place, stage_specs
from framegate.pipeline.config.sources import frames_of
from framegate.pipeline.contracts.progress import OnProgress
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.system.clocks import span
from framegate.pipeline.system.machine import cores

if TYPE_CHECKING:
    from framegate.pipeline.promise.period import Promise
    from framegate.stages.detect.options import ModelUse
    from framegate.stages.escalate.configured_models import ConfiguredModels

MEASURE_S = 2.0
MADE = Form(1280, 720, "bt709")
MADE_FPS = 25.0


def report_rates(
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


def report_detectors(models: ConfiguredModels, probes: Mapping[str, Any], report: Report) -> None:
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
