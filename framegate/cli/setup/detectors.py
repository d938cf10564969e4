"""Measure detectors on this machine, choose one for each source, and state what would find more."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

from framegate.cli.setup.capacity import SPARE, MadeFrame, open_measuring
from framegate.pipeline.config.config import DEFAULTS, Config, read_config
from framegate.pipeline.config.graph import in_shards, place, stage_specs
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.system.machine import cores
from framegate.pipeline.telemetry import detector_choice
from framegate.pipeline.telemetry.detector_choice import (
    COSTS,
    DEFAULT,
    LOOKED,
    SURVEILLANCE,
    Demand,
    DetectorChoice,
    best_of,
    better_than,
    gains_of,
    groups_of,
    labelled_runs,
    larger_inputs,
    setting,
)

if TYPE_CHECKING:
    from framegate.stages.detect.options import ModelUse

_SURVEYED: Final = frozenset({"person", "car", "bicycle"})  # labels of the surveillance networks
_NOT_DECODING: Final = 0.75  # share of the CPU time for looks; decoding is not measured


def frame_ms(form: Form, detectors: Sequence[str], seconds: float) -> dict[str, float]:
    """Return the CPU milliseconds of a frame with a look, for each shipped detector.

    seconds  duration of each measurement
    """
    measured = {}
    for detector in detectors:
        config = read_config(DEFAULTS, "", detection={"detector": detector})
        with (
            tempfile.TemporaryDirectory(prefix="framegate-detector-") as folder,
            closing(open_measuring(config, Path(folder))) as measuring,
        ):
            # Two pictures in turn: each frame is new everywhere, so the network sees all of it.
            pictures = cycle((MadeFrame(form), MadeFrame(form)))
            capacity = measuring.measure("made", pictures, seconds)
            measured[detector] = 1e3 * capacity.cpu_s / capacity.frames
    return measured


def choose(
    config: Config,
    sources: Mapping[str, tuple[Form, float]],
    usual_ms: Mapping[Form, float],
    seconds: float,
) -> dict[str, tuple[DetectorChoice, Demand]]:
    """Measure the candidates that find more, and return the choice for each source.

    sources   source -> form of its picture, and frames per second
    usual_ms  CPU milliseconds of a frame with a look of the default detector, by form
    seconds   duration of each measurement
    """
    groups = groups_of(None)
    measured: dict[Form, dict[str, float]] = {}
    for form, usual in usual_ms.items():
        side = max(form.width, form.height)
        candidates = [
            name
            for name in larger_inputs(side)
            if gains_of(name, DEFAULT, side, groups, labelled_runs())
        ]
        measured[form] = {DEFAULT: usual, **frame_ms(form, candidates, seconds)}
    demands = [
        Demand(name, form.width, form.height, LOOKED * fps, measured[form])
        for name, (form, fps) in sources.items()
    ]
    room = room_ms(config, len(demands), cores())
    choices = detector_choice.choose(demands, groups, room, labelled_runs())
    return {demand.source: (choices[demand.source], demand) for demand in demands}


def room_ms(config: Config, n_sources: int, cores: int) -> float:
    """Return the CPU milliseconds per second that looks may take on a machine with `cores` cores.

    A worker makes one look after the other, so a run with one worker uses one core for looks.
    """
    workers = in_shards(place(stage_specs(config.stages), config.placement), config.workers.shards)
    filled = math.ceil(n_sources / config.workers.fill)
    return 1e3 * SPARE * min(filled, len(workers), _NOT_DECODING * cores)


def chosen_lines(choice: DetectorChoice, demand: Demand) -> list[str]:
    """Return what was chosen for a source, why, and what would find more."""
    size = f"{demand.width}x{demand.height}"
    lines = [f"{size}: {choice.detector}, the default"]
    if choice.reason is not None:
        more_ms = demand.more_ms(choice.detector)
        lines = [f"{size}: {choice.reason} as {DEFAULT}, costs {more_ms:.0f} ms more a look"]
    if choice.next is not None:
        more_ms = demand.more_ms(choice.next.detector, choice.detector)
        lines.append(
            f"{choice.next}, but costs {more_ms:.0f} ms more a look: too much for this machine "
            "while everything moves"
        )
    return lines


def detector_lines(use: ModelUse, form: Form, seconds: float) -> list[str]:
    """Return the detector in use for pictures of this form, and what would find more at what cost.

    seconds  duration of each measurement
    """
    lines = [f"{use.model} in use"]
    if use.model not in COSTS:
        return lines
    size = f"{form.width}x{form.height}"
    side = max(form.width, form.height)
    groups = groups_of(use.labels)
    larger = larger_inputs(side, use.model)
    better = better_than(use.model, larger, side, groups, labelled_runs())
    if better is not None:
        measured = frame_ms(form, (use.model, better.detector), seconds)
        more_ms = measured[better.detector] - measured[use.model]
        cost = f"costs {more_ms:.0f} ms more a look"
        lines.append(f"at {size}, {better}, {cost}; {setting(better.detector)}")
    is_for_surveillance = use.classes is not None and set(use.labels or ()) <= _SURVEYED
    if is_for_surveillance and use.model not in SURVEILLANCE:
        better = best_of(use.model, SURVEILLANCE, side, groups, labelled_runs())
        if better is not None:
            lines.append(
                f"at {size}, {better}, but is weak on close-up pictures; compare on your own "
                f"footage: framegate run FILE --detector {better.detector} --save videos"
            )
    return lines
