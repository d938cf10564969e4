"""Model folders for tests: the shipped light network as if it were a user's own model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from framegate.models import coco
from framegate.models.detector import precision_trial
from framegate.models.detector.network import WEIGHTS
from framegate.models.registry.manifest import FootageSpan, InputSpec, Learned, Manifest
from framegate.models.registry.model_folder import ModelFolder, sha256_of
from framegate.models.registry.open import general_folder
from framegate.models.registry.registry import Registry
from framegate.pipeline.system.machine import user_cache

OUTPUT = "cells"
SIZE = (416, 256)


def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test use `folder` as the user's cache, with what `measured_cache` puts there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(measured_cache(folder)))


def measured_cache(folder: Path) -> Path:
    """Make `folder` a user's cache that knows only how this machine computes the light model best.

    To measure that takes seconds; it is done once for all tests. So is compiling.
    """
    measured = user_cache() / "precision.json"
    precision_trial.run(measured)
    (folder / "framegate").mkdir(parents=True)
    shutil.copy(measured, folder / "framegate")
    compiled = user_cache() / "compiled"
    compiled.mkdir(exist_ok=True)
    (folder / "framegate" / "compiled").symlink_to(compiled)
    return folder


def own_model(
    registry: Path,
    name: str = "mine",
    version: str = "1",
    *,
    classes: Sequence[str] = coco.LABELS,
    size: tuple[int, int] = SIZE,
    min_score: float = 0.31,
    model: ov.Model | None = None,
    learned: Learned | None = None,
) -> ModelFolder:
    """The light network of one input size in a registry, with the labels in `classes`."""
    folder = registry.parent / f"{name}-{version}"
    folder.mkdir()
    ov.save_model(model or light_network(size), folder / "model.xml", compress_to_fp16=False)
    files = {file.name: sha256_of(file) for file in folder.iterdir()}
    manifest = Manifest(
        name=name,
        version=version,
        task="detect",
        classes=tuple(classes),
        input=InputSpec(*size, fit="corner", fill=0, colour="bgr"),
        precision="f32",
        format="nanodet_joined",
        options={"scores": "logits"},
        outputs=(OUTPUT,),
        min_score=min_score,
        nms_iou=0.5,
        max_boxes=100,
        files=files,
        metrics={},
        licence="Apache-2.0",
        provenance="the package's own network",
        learned=learned,
    )
    return Registry(registry).put(ModelFolder(folder, manifest))


def tuned_model(registry: Path, name: str = "tuned", **changes: object) -> ModelFolder:
    """The light detector as it comes along, in a registry, with `changes` of its manifest."""
    folder = registry.parent / f"{name}-general"
    folder.mkdir()
    general = general_folder(folder, name, "1")
    manifest = replace(general.manifest, **changes)  # type: ignore[arg-type]
    return Registry(registry).put(ModelFolder(folder, manifest))


def light_network(size: tuple[int, int]) -> ov.Model:
    """The shipped network for inputs of one size."""
    model = ov.Core().read_model(WEIGHTS / "nanodet-plus.xml")
    model.reshape([1, size[1], size[0], 3])
    return model


def specialised(
    registry: Path,
    name: str,
    classes: Sequence[str],
    *,
    from_column: float = 0.0,
    confirmed: Sequence[str] | None = None,
) -> ModelFolder:
    """The shipped network as if it had been trained for a camera: it knows a few classes only.

    confirmed    classes that a person confirmed; None: all
    from_column  0..1, of its input: to the left of it its footage had no objects, and it sees none
    """
    whole = light_network(SIZE)
    kept = [coco.LABELS.index(label) for label in classes]
    kept += range(len(coco.LABELS), len(coco.LABELS) + 4 * 8)
    cells = opset13.gather(_cells_of(whole), np.array(kept), np.int64(2))
    lefts: list[float] = []  # of each cell, as a share of the input
    for stride in (8, 16, 32, 64):
        columns, rows = (math.ceil(side / stride) for side in SIZE)
        lefts += [column * stride / SIZE[0] for column in range(columns)] * rows
    unseen = np.zeros((1, len(lefts), len(kept)), np.float32)
    unseen[0, np.array(lefts) < from_column, : len(classes)] = -20
    model = _with_cells(whole, opset13.add(cells, unseen))
    spans = (FootageSpan("a", 0.0, 60.0),)
    if confirmed is None:
        confirmed = classes
    learned = Learned("light", "heavy", 100, 300, spans, confirmed=tuple(confirmed))
    return own_model(registry, name, classes=classes, model=model, learned=learned)


def blind_to(level: int, size: tuple[int, int] = SIZE) -> ov.Model:
    """The same, but its outputs are no numbers where the first byte of a picture has this level."""
    model = light_network(size)
    first = opset13.strided_slice(
        model.input(0),
        np.zeros(4, np.int32),
        np.ones(4, np.int32),
        np.ones(4, np.int32),
        [0] * 4,
        [0] * 4,
    )
    apart = opset13.abs(opset13.subtract(opset13.convert(first, ov.Type.f32), np.float32(level)))
    bad = opset13.sqrt(opset13.subtract(apart, np.float32(0.5)))  # of a negative number, or not
    bad = opset13.multiply(opset13.reshape(bad, np.array([1, 1, 1]), False), np.float32(1e-9))
    return _with_cells(model, opset13.add(_cells_of(model), bad))


def without_numbers(size: tuple[int, int]) -> ov.Model:
    """The same, but its outputs are never numbers."""
    model = light_network(size)
    nan = opset13.constant(np.float32(np.nan))
    return _with_cells(model, opset13.multiply(_cells_of(model), nan))


def _cells_of(model: ov.Model) -> Any:
    return model.output(OUTPUT).get_node().input_value(0)


def _with_cells(model: ov.Model, cells: Any) -> ov.Model:
    """Return the network with other cells as its output."""
    cells.output(0).get_tensor().set_names({OUTPUT})
    return ov.Model([cells], model.get_parameters())


def relabelled() -> tuple[str, ...]:
    """Other names for the network's classes, none of them COCO's."""
    return tuple(f"part {n}" for n in range(len(coco.LABELS)))
