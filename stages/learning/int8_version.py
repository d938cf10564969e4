"""An INT8 version of a float model, calibrated and judged on footage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino as ov

from framegate.models.boxes import Boxes, FloatArray, suppress
from framegate.models.detector.network import core, cpu_model
from framegate.models.errors import ModelRefused, TooFewFrames
from framegate.models.picture import ByteArray, Picture
from framegate.models.quantisation.int8 import (
    Chosen,
    QuantisedNetwork,
    ReadOutputs,
    choose,
    halve_exact_constants,
    installed_nncf,
    times,
    weight_bytes,
)
from framegate.models.registry.manifest import NETWORK, Manifest
from framegate.models.registry.model_folder import ModelFolder, sha256_of
from framegate.models.registry.open import BF16_AGREEMENT, fit, kind_of
from framegate.models.registry.registry import Registry
from framegate.pipeline.contracts.progress import OnProgress, no_report
from framegate.stages.decode.file import FileSource
from framegate.stages.model_adapters import model_faults, picture_of


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A candidate.

    layers_float      number of layers that stay float; None: the float model itself
    f1, low, high     agreement with the float model and its 95 % interval
    ms                median of an inference with one thread
    """

    layers_float: int | None
    f1: float
    low: float
    high: float
    ms: float
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class NoisyLayer:
    """A layer and its signal-to-noise ratios, decibels: of its own, and with all before it."""

    name: str
    kind: str
    own_db: float
    total_db: float


@dataclass(frozen=True, slots=True)
class Quantised:
    """All candidates, the float model first, and the model that was written.

    layers   the noisiest first
    added    NAME@VERSION and digest of the new model; None: no candidate was good enough
    """

    rows: tuple[ModelRow, ...]
    layers: tuple[NoisyLayer, ...]
    calibrated: int
    judged: int
    least: float
    added: str | None


# -- Frames drawn at random from footage, as pictures of their own.


@dataclass(frozen=True, slots=True)
class Draw:
    """Numbers of drawn frames of a file, in its earlier and in its later part."""

    path: str
    earlier: tuple[int, ...]
    later: tuple[int, ...]


def draws(
    files: Mapping[str, str], most: int, seed: int = 0, meter: OnProgress = no_report
) -> list[Draw]:
    """Draw `most` frames, each with the same chance; all if the footage has fewer.

    files   path by source. The drawn frames of each file are split in the middle, so no moment is
            on both sides

    Decodes every file once, to count. Raises SourceFault.
    """
    counts = []
    for number, path in enumerate(files.values()):
        meter("reading files", number, len(files), more=Path(path).name)
        counts.append(_count(path))
    total = sum(counts)
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(most, total), replace=False))
    found, start = [], 0
    for path, count in zip(files.values(), counts, strict=True):
        inside = drawn[(drawn >= start) & (drawn < start + count)] - start
        half = len(inside) // 2
        found.append(Draw(path, tuple(inside[:half].tolist()), tuple(inside[half:].tolist())))
        start += count
    return found


def frames_at(path: str, numbers: Collection[int]) -> Iterator[Picture]:
    """Yield these frames of a file, counted from 0, in order. Raises SourceFault."""
    wanted, last = set(numbers), max(numbers, default=-1)
    with closing(FileSource(path)) as source:
        for number, frame in enumerate(source.frames()):
            if number > last:
                return
            if number in wanted:
                yield picture_of(frame)


def _count(path: str) -> int:
    with closing(FileSource(path)) as source:
        return sum(1 for _ in source.frames())


FEWEST = 10  # frames on either side: with fewer, an interval has no meaning


def quantise(
    ref: str,
    files: Mapping[str, str],
    tell: Callable[[str], None] = lambda _: None,
    meter: OnProgress = no_report,
    frames: int = 300,
    least: float = 0.9,
    seed: int = 0,
    registry: Path | None = None,
) -> Quantised:
    """Make an INT8 version of a float model, and add it to the registry if the two agree enough.

    ref     the float model: NAME, NAME@VERSION or NAME@SHA8
    files   path by source; frames  drawn from all of them; seed  of that draw
    least   required agreement with the float model, 0..1: F1 of boxes at IoU .5
    tell    receives a line for each file and each candidate
    meter   receives the progress

    Raises SourceFault, and ConfigFaults for faults of model or footage.
    """
    store = Registry(registry)
    with model_faults():
        folder = store.find(ref)
        if folder.manifest.precision == "int8":
            raise ModelRefused(folder.manifest.ref, "it is an INT8 model; allowed is a float one")
        installed_nncf()  # before any footage is read
        model = _network(folder)
        calibrating, judging = _inputs(
            folder.manifest, draws(files, frames, seed, meter), tell, meter
        )
        read = reader(folder.manifest)
        chosen = choose(
            model, calibrating, judging, read, least, on_candidate=_telling(tell), begin=meter
        )
        meter("measuring how fast they are")
        rows = _rows(model, chosen, judging[0])
        sides = len(calibrating), len(judging)
        layers = tuple(NoisyLayer(e.name, e.kind, e.own_db, e.total_db) for e in chosen.errors)
        added = None
        if chosen.accepted is not None:
            row = rows[1 + chosen.candidates.index(chosen.accepted)]
            made = _put(store, folder.manifest, chosen.accepted, (rows[0], row), sides)
            added = f"{made.ref} ({made.result_name})"
        return Quantised(rows, layers, *sides, least, added)


def _network(folder: ModelFolder) -> ov.Model:
    """Return the network with the outputs that its format reads, in that order."""
    model = core().read_model(folder.verified())
    outputs = [model.output(name) for name in folder.manifest.outputs]
    return ov.Model(outputs, model.get_parameters(), folder.manifest.name)


def _inputs(
    manifest: Manifest, drawn: Sequence[Draw], tell: Callable[[str], None], meter: OnProgress
) -> tuple[list[ByteArray], list[ByteArray]]:
    """Return the inputs to calibrate on and those to judge on. Raises TooFewFrames."""
    calibrating: list[ByteArray] = []
    judging: list[ByteArray] = []
    for draw in drawn:
        meter("taking frames", more=Path(draw.path).name)
        for numbers, side in ((draw.earlier, calibrating), (draw.later, judging)):
            found = frames_at(draw.path, numbers)
            side += [fit(picture, manifest.input).bgr[None] for picture in found]
        tell(f"{draw.path}: {len(draw.earlier)} frames calibrate, {len(draw.later)} judge")
    if min(len(calibrating), len(judging)) < FEWEST:
        raise TooFewFrames(len(calibrating) + len(judging), 2 * FEWEST)
    return calibrating, judging


def reader(manifest: Manifest) -> ReadOutputs:
    """Return a function from outputs to the boxes that a user would see, in pixels of the input."""
    kind, size = kind_of(manifest), (manifest.input.width, manifest.input.height)

    def read(outputs: Sequence[FloatArray]) -> Boxes:
        boxes = kind.decode(outputs, size, manifest.min_score, manifest.max_boxes)
        keep = suppress(boxes.xyxy, boxes.scores, manifest.nms_iou)
        return boxes.take(keep[: manifest.max_boxes])

    return read


def _telling(tell: Callable[[str], None]) -> Callable[[QuantisedNetwork], None]:
    def say(one: QuantisedNetwork) -> None:
        f1 = one.agreement
        interval = f"{f1.middle:.3f}, 95 % {f1.low:.3f} to {f1.high:.3f}"
        tell(f"{len(one.float_layers)} layers float: F1 with the float model {interval}")

    return say


def _rows(model: ov.Model, chosen: Chosen, one: ByteArray) -> tuple[ModelRow, ...]:
    ms = times([model, *(candidate.model for candidate in chosen.candidates)], one)
    rows = [ModelRow(None, 1.0, 1.0, 1.0, ms[0], weight_bytes(model))]
    for candidate, taken in zip(chosen.candidates, ms[1:], strict=True):
        n_float, f1 = len(candidate.float_layers), candidate.agreement
        n_bytes = weight_bytes(candidate.model)
        rows.append(ModelRow(n_float, f1.middle, f1.low, f1.high, taken, n_bytes))
    return tuple(rows)


def _put(
    store: Registry,
    manifest: Manifest,
    accepted: QuantisedNetwork,
    rows: tuple[ModelRow, ModelRow],
    sides: tuple[int, int],
) -> Manifest:
    """Write the new model, and return its manifest. rows: of the float model and of this one."""
    exact, row = rows
    metrics = {
        "int8_agreement": round(row.f1, 4),
        "int8_agreement_low": round(row.low, 4),
        "int8_agreement_high": round(row.high, 4),
        "layers_float": len(accepted.float_layers),
        "frames_calibrated": sides[0],
        "frames_judged": sides[1],
        "ms_1t": round(row.ms, 3),
        "float_ms_1t": round(exact.ms, 3),
        "cpu": cpu_model(),
        # The float layers keep the agreement that was measured on the float model.
        **{key: manifest.metrics[key] for key in (BF16_AGREEMENT,) if key in manifest.metrics},
    }
    by = f"INT8 by NNCF {version('nncf')} from {manifest.result_name} ({manifest.ref})"
    with tempfile.TemporaryDirectory(prefix="framegate-quantise-") as name:
        network = Path(name) / NETWORK
        ov.save_model(halve_exact_constants(accepted.model), network, compress_to_fp16=False)
        files = {path.name: sha256_of(path) for path in (network, network.with_suffix(".bin"))}
        new = replace(
            manifest,
            version=f"{manifest.version}-int8",
            precision="int8",
            files=files,
            metrics=metrics,
            provenance=f"{by}; {manifest.provenance}",
        )
        return store.put(ModelFolder(Path(name), new)).manifest
