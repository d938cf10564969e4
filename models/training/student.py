"""A camera's own network: NanoDet with fewer channels and classes, at one size of input.

Needs torch (the `train` extra). What is built here answers as NanoDet does, so that one decoder,
one loss and one way into OpenVINO hold for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import openvino as ov
import torch
from torch import Tensor, nn

from framegate.models.errors import ArrayMismatch
from framegate.models.picture import ByteArray
from framegate.models.preprocess import STEP
from framegate.models.training.export_ir import OUTPUTS, ir_of, torch_model
from framegate.models.training.nanodet import NanoDet, Widths

HEADS = OUTPUTS["nanodet"][:3]


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """What decides a student's layers and their sizes.

    labels  of its classes, in the order of its class ids; at least one
    size    (width, height) of its input, multiples of 32
    share   of NanoDet's channels, above 0 to 1

    Raises ArrayMismatch.
    """

    labels: tuple[str, ...]
    size: tuple[int, int]
    share: float = 0.5

    def __post_init__(self) -> None:
        if not self.labels:
            raise ArrayMismatch("labels", "at least one", "none")
        if any(side < STEP or side % STEP for side in self.size):
            raise ArrayMismatch("size", f"multiples of {STEP}", f"{self.size}")
        if not 0 < self.share <= 1:
            raise ArrayMismatch("share", "above 0 to 1", f"{self.share}")

    @property
    def widths(self) -> Widths:
        """Channels of its layers."""
        return Widths().times(self.share)


def build(spec: StudentSpec) -> NanoDet:
    """The student's network with weights as torch draws them. In, out: see NanoDet."""
    return NanoDet(spec.widths, len(spec.labels))


def general() -> NanoDet:
    """The network that students come from: NanoDet with its committed weights, 80 classes."""
    net = torch_model("nanodet")
    assert isinstance(net, NanoDet)
    return net


def export(net: nn.Module, spec: StudentSpec | None = None) -> ov.Model:
    """OpenVINO's form of it: uint8 (1, H, W, 3) in the order B, G, R, to head8, head16, head32.

    Each is float32 (1, classes + 44, H/stride, W/stride): registry format `nanodet`.

    spec  of which it takes the size alone; None: any multiples of 32, hence parts of pictures too

    `net` is left in evaluation mode.
    """
    model = ir_of(_Heads(net).eval(), HEADS)
    if spec is not None:
        model.reshape([1, spec.size[1], spec.size[0], 3])
    return model


def multiplications(net: nn.Module, size: tuple[int, int]) -> int:
    """Of its convolutions for one picture of (width, height)."""
    counted = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d)
        counted += out[0].numel() * layer.weight[0].numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, size[1], size[0]))
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def as_input(bgr: ByteArray) -> Tensor:
    """Pictures uint8 (B, H, W, 3) as the network takes them: float (B, 3, H, W)."""
    return torch.from_numpy(bgr).float().permute(0, 3, 1, 2)  # in memory channels stay last


class _Heads(nn.Module):
    """Only what boxes are read from."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        head8, head16, head32, *_ = self.net(x)
        return head8, head16, head32
