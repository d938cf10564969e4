"""Detectors from model folders, and the light detector as a model folder."""

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
from framegate.models.detector.device_names import CPU
from framegate.models.detector.devices import onnx_devices, precisions_on, to_try
from framegate.models.detector.member import DetectorMember, Kind, Runtime
from framegate.models.detector.network import (
    Network,
    NetworkFile,
    Precision,
    read,
    shipped,
    supported,
)
from framegate.models.detector.policy import Policy
from framegate.models.detector.precision_trial import Tried
from framegate.models.detector.shipped_networks import NETWORKS
from framegate.models.errors import ModelUnreadable, UnknownClass
from framegate.models.formats.shared_decoding import Size
from framegate.models.formats.table import FORMATS
from framegate.models.picture import NetworkInput, Picture, stretched, to_bgr
from framegate.models.registry.manifest import NETWORK, NETWORK_INT8, InputSpec, Manifest
from framegate.models.registry.model_folder import ModelFolder, sha256_of
from framegate.models.registry.onnx_network import OnnxNetwork, can_run

# -- A whole picture as the input of a network of one size.


def fit(picture: Picture, spec: InputSpec) -> NetworkInput:
    """Return `picture` in the size of `spec`, order B, G, R, with grey around it where needed.

    `picture.to_source` converts boxes in pixels of this input into pixels of the source.
    """
    width, height = spec.width, spec.height
    source = picture.width, picture.height
    inner = _inner_size(source, spec)
    if inner == (width, height):
        return stretched(picture, inner)
    left, top = 0, 0
    if spec.fit == "letterbox":
        left = (width - inner[0]) // 2
        top = (height - inner[1]) // 2
    bgr = np.full((height, width, 3), spec.fill, np.uint8)
    bgr[top : top + inner[1], left : left + inner[0]] = to_bgr(picture, inner)
    return NetworkInput(bgr, inner, source, (-left, -top))


def _inner_size(source: Size, spec: InputSpec) -> Size:
    if spec.fit == "stretch":
        return spec.width, spec.height
    scale = min(spec.width / source[0], spec.height / source[1])
    width = max(1, round(source[0] * scale))
    height = max(1, round(source[1] * scale))
    return min(width, spec.width), min(height, spec.height)


BF16_AGREEMENT = "bf16_agreement"  # F1 of boxes in bf16 against f32, in a manifest's metrics
MIN_AGREEMENT: Final = 0.98


def tried_of(folder: ModelFolder, device: str = CPU) -> Tried:
    """Return the precisions and devices from which a model can choose on this machine.

    bf16 is among them only if its boxes agreed with those in f32. Raises DeviceMissing.
    """
    manifest = folder.manifest
    is_int8 = manifest.precision == "int8"
    has_both = NETWORK_INT8 in manifest.files
    agreement = manifest.metrics.get(BF16_AGREEMENT)  # of any type in a model that was added
    may_use_bf16 = isinstance(agreement, int | float) and agreement >= MIN_AGREEMENT
    precisions: list[Precision] = []
    for precision in supported():
        has_weights = has_both or precision.startswith("int8") is is_int8
        is_allowed = may_use_bf16 or not precision.endswith("bf16")
        if has_weights and is_allowed:
            precisions.append(precision)
    by_onnx: tuple[Precision, ...] = ()
    if can_run(folder):
        by_onnx = ("f32+onnx",)
        if is_int8:
            by_onnx = ("int8+onnx",)
    by_device: dict[str, tuple[Precision, ...]] = {}
    for candidate in to_try(device, bool(by_onnx)):
        by_device[candidate] = by_onnx
        if candidate not in onnx_devices():
            by_device[candidate] = precisions_on(candidate)
    return Tried(
        (*precisions, *by_onnx),
        partial(open_network, folder),
        (manifest.input.width, manifest.input.height),
        manifest.sha256[:16],
        device,
        lambda precision, candidate: open_network(folder, precision, 1, device=candidate),
        by_device,
    )


def open_network(
    folder: ModelFolder,
    precision: Precision,
    threads: int,
    cache_dir: Path | None = None,
    device: str = CPU,
) -> Runtime:
    """Compile the model's network in the runtime of the precision.

    Raises ModelUnreadable, PrecisionUnsupported, DeviceRefused.
    """
    if folder.manifest.format not in FORMATS:
        formats = ", ".join(FORMATS)
        actual = f"{folder.manifest.format}, of another version: make or add the model again"
        raise ModelUnreadable(folder.path, f"an output format ({formats})", actual)
    if precision.endswith("+onnx"):
        return OnnxNetwork(folder, precision, threads, device=device)
    network = folder.verified()
    if precision.startswith("int8") and NETWORK_INT8 in folder.manifest.files:
        network = network.with_name(NETWORK_INT8)
    file = NetworkFile(network, folder.manifest.sha256)
    outputs = folder.manifest.outputs
    return Network(file, outputs, precision, threads, cache_dir, device=device)


def labels_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the labels by the class ids in results: COCO's if they include all of the model's."""
    if set(manifest.classes) <= set(coco.LABELS):
        return coco.LABELS
    return manifest.classes


def policy_of(manifest: Manifest) -> Policy:
    """Return the thresholds and limits of the model's manifest."""
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
    """Compile a model folder as a detector. Call `warm_up` before it serves.

    classes, min_score   as for `detector.load`; classes are labels of the model
    cache_dir            folder for OpenVINO's compiled models; None: no cache

    A network with an open input size takes pictures in their proportions, and parts of pictures,
    like the shipped detectors. Raises ModelUnreadable, UnknownClass, PrecisionUnsupported,
    DeviceRefused.
    """
    manifest = folder.manifest
    network = open_network(folder, precision, threads, cache_dir, device)
    choices = policy_of(manifest).with_min_score(min_score)
    wanted = class_ids(manifest, classes)
    fit_input = None
    if network.size is not None:
        fit_input = partial(fit, spec=manifest.input)
    member = DetectorMember(
        kind_of(manifest),
        int(choices.parts[0][1]),
        network,
        choices,
        choices.min_score,
        wanted,
        fixes=network.size is None,
        fit=fit_input,
    )
    labels = labels_of(manifest)
    return Detector(choices, [member], wanted, precision, threads, labels, device)


def kind_of(manifest: Manifest) -> Kind:
    """Return the decoder of the model's outputs, with its published classes."""
    form = FORMATS[manifest.format]
    n_classes = len(manifest.classes)
    options = manifest.options

    def decode(
        outputs: Sequence[FloatArray],
        size: Size,
        min_score: float,
        max_boxes: int,  # noqa: ARG001
    ) -> Boxes:
        return form.decode(outputs, size, n_classes, min_score, options)

    labels = labels_of(manifest)
    published = tuple(labels.index(manifest.merged.get(label, label)) for label in manifest.classes)
    n = len(manifest.outputs)
    return Kind(manifest.name, decode, n, published, manifest.sha256)


def class_ids(manifest: Manifest, classes: Sequence[str] | None) -> tuple[int, ...]:
    """Return the published ids of `classes` in ascending order; None: of the default classes.

    Raises UnknownClass with every name that is not a published class of the model.
    """
    unknown = tuple(name for name in classes or () if name not in manifest.published)
    if unknown:
        raise UnknownClass(unknown, manifest.name, manifest.published)
    labels = labels_of(manifest)
    return tuple(sorted(labels.index(name) for name in set(classes or manifest.default_classes)))


# F1 of the light detector's boxes in bf16 against f32, on the 128 photographs of coco128.
_BF16: Final = 0.996


def general_folder(path: Path, name: str, version: str, long_side: int = 416) -> ModelFolder:
    """Copy the light detector into the empty folder `path`; do not write the manifest.

    long_side  of the input in pixels, a multiple of 32

    The copy has the weights in float and in 8 bits, the thresholds, and the open input size of the
    shipped detector. Raises ModelUnreadable, ManifestRefused, OSError.
    """
    copies: tuple[tuple[str, Precision], ...] = ((NETWORK, "f32"), (NETWORK_INT8, "int8"))
    choices = policy.light_at(long_side)
    network_name, _ = choices.parts[0]
    for copied, precision in copies:
        network = shipped(network_name, precision).path
        for kind in (".xml", ".bin"):
            shutil.copyfile(network.with_suffix(kind), (path / copied).with_suffix(kind))
    origin = read()[f"{network_name}.bin"]
    short_side = -(-long_side * 9 // (16 * 32)) * 32  # of 16:9 video, up to a multiple of 32
    manifest = Manifest(
        name=name,
        version=version,
        task="detect",
        classes=coco.LABELS,
        input=InputSpec(long_side, short_side, "corner", 0, "bgr"),
        precision="f32",
        format="nanodet_joined",
        options={"scores": "logits"},
        outputs=NETWORKS[network_name].outputs,
        min_score=choices.min_score,
        nms_iou=choices.nms_iou,
        max_boxes=choices.max_boxes,
        files={file.name: sha256_of(file) for file in sorted(path.iterdir())},
        metrics={BF16_AGREEMENT: _BF16},
        licence=origin.licence,
        provenance=f"{network_name}, {origin.origin}",
    )
    return ModelFolder(path, manifest)
