"""The light detector that comes along, as a model folder: what a tuned model is made of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from framegate.models import coco
from framegate.models.detector import policy
from framegate.models.detector.network import Precision, read, shipped
from framegate.models.formats.nanodet import HEADS
from framegate.models.registry.model_folder import (
    NETWORK,
    NETWORK_INT8,
    InputSpec,
    Manifest,
    ModelFolder,
    sha256_of,
)
from framegate.models.registry.open import BF16_AGREEMENT

_BF16: Final = 0.996  # of its boxes with those in f32, F1, on the 128 photographs of coco128


def general_folder(path: Path, name: str, version: str, long_side: int = 416) -> ModelFolder:
    """A copy of the light detector in the empty folder `path`, with its own thresholds.

    long_side  of the input, a multiple of 32, in pixels

    It takes pictures of any proportions, and parts of them, in float and in 8 bits, as the one that
    comes along; the manifest is not written. Raises ModelUnreadable, ManifestRefused, OSError.
    """
    copies: tuple[tuple[str, Precision], ...] = ((NETWORK, "f32"), (NETWORK_INT8, "int8"))
    for copied, precision in copies:
        network = shipped("nanodet", precision).path
        for kind in (".xml", ".bin"):
            shutil.copyfile(network.with_suffix(kind), (path / copied).with_suffix(kind))
    choices, origin = policy.load("light"), read()["nanodet.bin"]
    manifest = Manifest(
        name=name,
        version=version,
        task="detect",
        classes=coco.LABELS,
        input=InputSpec(long_side, _short_side(long_side), "corner", 0, "bgr"),
        precision="f32",
        format="nanodet",
        options={},
        outputs=HEADS,
        min_score=choices.min_score,
        nms_iou=choices.nms_iou,
        max_boxes=choices.max_boxes,
        files={file.name: sha256_of(file) for file in sorted(path.iterdir())},
        metrics={BF16_AGREEMENT: _BF16},
        licence=origin.licence,
        provenance=f"nanodet, {origin.origin}",
    )
    return ModelFolder(path, manifest)


def _short_side(long_side: int) -> int:
    """Of 16:9 video at this size, up to a multiple of 32."""
    return -(-long_side * 9 // (16 * 32)) * 32
