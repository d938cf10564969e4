"""Open a model folder as a detector; write the light detector as a model folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from framegate.models import coco
from framegate.models.boxes import Boxes, FloatArray
from framegate.models.detector import policy
from framegate.models.detector.detector import Detector
from framegate.models.detector.devices import onnx_devices, precisions_on, to_try
from framegate.models.detector.member import DetectorMember, Kind, Runtime
from framegate.models.detector.network import (
    CPU,
    Network,
    NetworkFile,
    Precision,
    read,
    shipped,
    supported,
)
from framegate.models.detector.policy import Policy
from framegate.models.detector.precision_trial import Tried
from framegate.models.errors import UnknownClass
from framegate.models.formats.nanodet import HEADS
from framegate.models.formats.table import FORMATS
from framegate.models.picture import Picture
from framegate.models.preprocess import NetworkInput, to_bgr
from framegate.models.registry.model_folder import (
    NETWORK,
    NETWORK_INT8,
    InputSpec,
    Manifest,
    ModelFolder,
    sha256_of,
)
from framegate.models.registry.onnx_network import OnnxNetwork, is_there

# -- A whole picture as the input of a network of one size.


def fit(picture: Picture, spec: InputSpec) -> NetworkInput:
    """`picture` at the size that `spec` asks for, in the order B, G, R, grey where it is not.

    Boxes in pixels of the answer come back to the source by `preprocess.to_source`.
    """
    width, height = spec.width, spec.height
    inner = _inner(picture.width, picture.height, spec)
    source = picture.width, picture.height
    if inner == (width, height):
        return NetworkInput(to_bgr(picture, inner), inner, source)
    is_centred = spec.fit == "letterbox"
    left, top = ((width - inner[0]) // 2, (height - inner[1]) // 2) if is_centred else (0, 0)
    bgr = np.full((height, width, 3), spec.fill, np.uint8)
    bgr[top : top + inner[1], left : left + inner[0]] = to_bgr(picture, inner)
    return NetworkInput(bgr, inner, source, (-left, -top))


def _inner(width: int, height: int, spec: InputSpec) -> tuple[int, int]:
    """Size of the picture inside the input."""
    if spec.fit == "stretch":
        return spec.width, spec.height
    scale = min(spec.width / width, spec.height / height)
    sides = round(width * scale), round(height * scale)
    return min(max(1, sides[0]), spec.width), min(max(1, sides[1]), spec.height)


BF16_AGREEMENT = "bf16_agreement"  # of boxes with those in f32, 0..1, in a manifest's metrics
LEAST_AGREEMENT = 0.98


def tried_of(folder: ModelFolder, device: str = CPU) -> Tried:
    """What there is to choose from on this machine: bf16 only where it was seen to agree.

    device  that is asked for. Raises DeviceMissing.
    """
    manifest = folder.manifest
    with_ints = manifest.precision == "int8"
    bears_bf16 = manifest.metrics.get(BF16_AGREEMENT, 0.0) >= LEAST_AGREEMENT
    both = NETWORK_INT8 in manifest.files
    precisions = [
        precision
        for precision in supported()
        if (both or precision.startswith("int8") is with_ints)
        and (bears_bf16 or not precision.endswith("bf16"))
    ]
    by_onnx: tuple[Precision, ...] = ()
    if is_there(folder):
        by_onnx = ("int8+onnx" if with_ints else "f32+onnx",)
    return Tried(
        (*precisions, *by_onnx),
        partial(open_network, folder),
        (manifest.input.width, manifest.input.height),
        manifest.sha256[:16],
        device,
        lambda precision, on: open_network(folder, precision, 1, device=on),
        {
            on: by_onnx if on in onnx_devices() else precisions_on(on)
            for on in to_try(device, bool(by_onnx))
        },
    )


def open_network(
    folder: ModelFolder,
    precision: Precision,
    threads: int,
    cache_dir: Path | None = None,
    device: str = CPU,
    joins: bool = False,
) -> Runtime:
    """The model's network, compiled by the runtime that the precision asks for.

    joins  it may give its outputs as one, where the model's format takes that

    Raises ModelUnreadable, PrecisionUnsupported, DeviceRefused.
    """
    if precision.endswith("+onnx"):
        return OnnxNetwork(folder, precision, threads, device=device)
    network = folder.verified()
    if precision.startswith("int8") and NETWORK_INT8 in folder.manifest.files:
        network = network.with_name(NETWORK_INT8)
    file = NetworkFile(network, folder.manifest.sha256)
    outputs = folder.manifest.outputs
    joined = len(outputs) if joins and FORMATS[folder.manifest.format].joins else 0
    return Network(file, outputs, precision, threads, cache_dir, device=device, joined=joined)


def labels_of(manifest: Manifest) -> tuple[str, ...]:
    """Labels by class id, as results have them: COCO's where all of the model's are among these."""
    return coco.LABELS if set(manifest.classes) <= set(coco.LABELS) else manifest.classes


def policy_of(manifest: Manifest) -> Policy:
    """The model's own choices."""
    long_side = max(manifest.input.width, manifest.input.height)
    return Policy(
        name=manifest.name,
        members=(f"{manifest.name}-{long_side}",),
        precision=manifest.precision,
        min_score=manifest.min_score,
        member_min_score=manifest.min_score,
        nms_iou=manifest.nms_iou,
        fusion_iou=manifest.nms_iou,
        max_boxes=manifest.max_boxes,
    )


def open_model(
    folder: ModelFolder,
    precision: Precision,
    threads: int,
    *,
    classes: Sequence[str] | None = None,
    min_score: float | None = None,
    cache_dir: Path | None = None,
    device: str = CPU,
) -> Detector:
    """The detector that a model folder holds, compiled; call `warm_up` before serving.

    classes, min_score   as for `detector.load`, classes among the model's own
    cache_dir            folder for OpenVINO's compiled models; None: compile anew

    A network that takes any size has pictures in their own proportions, and parts of them, as those
    that come along. Raises ModelUnreadable, UnknownClass, PrecisionUnsupported, DeviceRefused.
    """
    manifest = folder.manifest
    network = open_network(folder, precision, threads, cache_dir, device, joins=True)
    choices = policy_of(manifest).with_min_score(min_score)
    wanted = class_ids(manifest, classes)
    member = DetectorMember(
        kind_of(manifest),
        int(choices.parts[0][1]),
        network,
        choices,
        choices.min_score,
        wanted,
        fixes=network.size is None,
        fit=None if network.size is None else partial(fit, spec=manifest.input),
    )
    labels = labels_of(manifest)
    return Detector(choices, [member], wanted, precision, threads, labels, device)


def kind_of(manifest: Manifest) -> Kind:
    """How its outputs are read."""
    form = FORMATS[manifest.format]
    n_classes, options = len(manifest.classes), manifest.options

    def decode(
        outputs: Sequence[FloatArray],
        size: tuple[int, int],
        min_score: float,
        max_boxes: int,  # noqa: ARG001
    ) -> Boxes:
        return form.decode(outputs, size, n_classes, min_score, options)

    labels = labels_of(manifest)
    published = tuple(labels.index(manifest.merged.get(label, label)) for label in manifest.classes)
    n = len(manifest.outputs)
    return Kind(manifest.name, decode, n, published, manifest.sha256)


def class_ids(manifest: Manifest, classes: Sequence[str] | None) -> tuple[int, ...]:
    """Published ids, ascending, of the classes that are wanted; for None of those that are on.

    Raises UnknownClass with every name that the model does not answer with.
    """
    unknown = tuple(name for name in classes or () if name not in manifest.published)
    if unknown:
        raise UnknownClass(unknown, manifest.name, manifest.published)
    labels = labels_of(manifest)
    return tuple(sorted(labels.index(name) for name in set(classes or manifest.default_classes)))


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
