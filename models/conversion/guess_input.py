"""How pictures become the input of a foreign network: what is usual for its family, and why."""

from dataclasses import dataclass
from typing import Any

from framegate.models.formats.candidates import Size
from framegate.models.registry.model_folder import InputSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Usual:
    """What a family of detectors takes, apart from the size; as InputSpec has it."""

    family: str
    fit: str = "letterbox"
    fill: int = 114
    colour: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


_DETR = Usual("DETR", "stretch", 0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_NANODET = Usual(
    "NanoDet", "stretch", 0, "bgr", 1.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
)
USUAL: dict[str, Usual] = {
    "yolo": Usual("YOLO v8 to v12"),
    "yolo_objectness": Usual("YOLO v5 to v7"),
    "yolo_end_to_end": Usual("YOLO"),
    "yolox": Usual("YOLOX", "corner", 114, "bgr", 1.0),
    "detr_softmax": _DETR,
    "detr_sigmoid": Usual("RT-DETR", "stretch", 0),
    "detr_joined": Usual("RT-DETR", "stretch", 0),
    "ssd_rows": Usual("Caffe's and OpenVINO's SSDs", "stretch", 0, "bgr", 1.0),
    "ssd_deltas": Usual("torchvision's SSD300", "stretch", 0, mean=(0.48235, 0.45882, 0.40784),
                        std=(1 / 255, 1 / 255, 1 / 255)),
    "centernet": Usual("our CenterNet", "corner", 0, "bgr", 1.0),
    "centernet_usual": Usual("CenterNet", "letterbox", 0, "bgr", 1 / 255,
                             (0.408, 0.447, 0.470), (0.289, 0.274, 0.278)),
    "nanodet": Usual("our NanoDet, which normalises inside", "corner", 0, "bgr", 1.0),
    "nanodet_joined": _NANODET,
    "boxes_labels": Usual("torchvision, which normalises inside and pads right and below",
                          "corner", 0),
    "boxes_scores": Usual("most exports"),
}  # fmt: skip
_SSDLITE = Usual("torchvision's SSDlite", "stretch", 0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def guess_input(format_: str, size: Size, said: dict[str, Any]) -> tuple[InputSpec, str]:
    """The input of a network of `size` (width, height), and a line that says why.

    said  what the user says of it, by the names of InputSpec; that wins

    Raises ManifestRefused for values that cannot be.
    """
    usual = _SSDLITE if format_ == "ssd_deltas" and size == (320, 320) else USUAL[format_]
    values = {
        key: said.get(key, getattr(usual, key))
        for key in ("fit", "fill", "colour", "scale", "mean", "std")
    }
    spec = InputSpec(size[0], size[1], **values)
    words = f"{describe(spec)}: usual for {usual.family}"
    if said:
        words += f"; as told: {', '.join(sorted(said))}"
    return spec, words


def describe(spec: InputSpec) -> str:
    """An InputSpec in a line."""
    parts = [f"{spec.width}x{spec.height}", f"{spec.fit} on grey {spec.fill}", spec.colour]
    if spec.fit == "stretch":
        parts[1] = "stretched"
    if spec.scale != 1:
        inverse = round(1 / spec.scale, 6)
        parts.append(f"levels / {inverse:g}" if inverse >= 1 else f"levels * {spec.scale:g}")
    if any(spec.mean):
        parts.append(f"- ({', '.join(f'{one:g}' for one in spec.mean)})")
    if any(one != 1 for one in spec.std):
        parts.append(f"/ ({', '.join(f'{one:.4g}' for one in spec.std)})")
    return ", ".join(parts)
