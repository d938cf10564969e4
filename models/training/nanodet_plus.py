"""NanoDet-Plus as a torch module: the general detector, and every camera's own with other widths.

Needs torch (the `train` extra). Written from the structure of NanoDet-Plus-m-1.5x (upstream:
RangiLyu/nanodet, Apache-2.0; 2.44 M weights): ShuffleNetV2, Ghost-PAN, four heads without shared
weights. Batch norms are part of the convolutions, as in the shipped network.

No layer looks at the whole picture: a part of a picture gives the same numbers away from its
border. The gate's crops rely on this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import numpy as np
import openvino as ov
import torch
from torch import Tensor, nn
from torch.nn import functional

from framegate.models.coco import N_CLASSES
from framegate.models.detector.network import core
from framegate.models.errors import ModelUnreadable
from framegate.models.formats.nanodet import BINS
from framegate.models.picture import ByteArray
from framegate.models.weights import FOLDER

MEAN_BGR: Final = (103.53, 116.28, 123.675)
STD_BGR: Final = (57.375, 57.12, 58.395)
SLOPE: Final = 0.1  # of the only activation, a leaky ReLU, below 0
STEP: Final = 8  # widths are multiples of it, the size of a vector unit
SIDES: Final = 4 * BINS  # outputs of a cell for the sides of its box
_UNITS: Final = (4, 8, 4)  # of each stage, the first halves the size
_LEVELS: Final = 4


@dataclass(frozen=True, slots=True)
class Architecture:
    """The widths of a network; the default is the general detector.

    stem       channels of stride 2 and 4
    stages     channels of each of the two halves of the stages of strides 8, 16 and 32
    units      inner channels of each unit, stage by stage
    pyramid    channels of each map of the pyramid, a multiple of 16
    ghosts     inner channels of the pyramid's four blocks, multiples of 16, in the order in which
               they are computed: strides 16 and 8 on the way down, 16 and 32 on the way up
    heads      channels of the two layers of each head, finest head first
    n_classes  at least one

    Raises ValueError, also for another width that is no multiple of 8.
    """

    stem: int = 24
    stages: tuple[int, int, int] = (88, 176, 352)
    units: tuple[tuple[int, ...], ...] = ((88,) * 4, (176,) * 8, (352,) * 4)
    pyramid: int = 128
    ghosts: tuple[int, ...] = (128,) * _LEVELS
    heads: tuple[tuple[int, int], ...] = ((128, 128),) * _LEVELS
    n_classes: int = N_CLASSES

    def __post_init__(self) -> None:
        if tuple(map(len, self.units)) != _UNITS:
            raise ValueError(f"units: {self.units}, not {_UNITS} widths")
        if len(self.ghosts) != _LEVELS or len(self.heads) != _LEVELS:
            raise ValueError(f"ghosts, heads: {self.ghosts}, {self.heads}, not {_LEVELS} of each")
        for width in (self.stem, *self.stages, *sum(self.units, ()), *sum(self.heads, ())):
            if width < STEP or width % STEP:
                raise ValueError(f"width: {width}, not a multiple of {STEP}")
        for width in (self.pyramid, *self.ghosts):
            if width < 2 * STEP or width % (2 * STEP):
                raise ValueError(f"width: {width}, not a multiple of {2 * STEP}")
        if self.n_classes < 1:
            raise ValueError(f"n_classes: {self.n_classes}, not 1 or more")

    def times(self, share: float, n_classes: int | None = None) -> Architecture:
        """Return the same plan with a share of each width, above 0 to 1. Raises ValueError."""
        if not 0 < share <= 1:
            raise ValueError(f"share: {share}, not above 0 to 1")

        def part(width: int, step: int = STEP) -> int:
            return max(step, step * round(width * share / step))

        first, second, third = self.stages
        units = []
        for widths in self.units:
            units.append(tuple(part(width) for width in widths))
        return replace(
            self,
            stem=part(self.stem),
            stages=(part(first), part(second), part(third)),
            units=tuple(units),
            pyramid=part(self.pyramid, 2 * STEP),
            ghosts=tuple(part(width, 2 * STEP) for width in self.ghosts),
            heads=tuple((part(width), part(last)) for width, last in self.heads),
            n_classes=n_classes or self.n_classes,
        )


class Conv(nn.Conv2d):
    """A convolution with a bias; its map keeps its size but for the stride.

    is_active     the leaky ReLU follows
    is_depthwise  each channel has a kernel of its own
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        side: int = 1,
        stride: int = 1,
        *,
        is_active: bool = True,
        is_depthwise: bool = False,
    ) -> None:
        groups = 1
        if is_depthwise:
            groups = n_in
        super().__init__(n_in, n_out, side, stride, side // 2, groups=groups)
        self.is_active = is_active
        self.is_depthwise = is_depthwise

    def forward(self, x: Tensor) -> Tensor:
        return self.activated(self.linear(x))

    def linear(self, x: Tensor) -> Tensor:
        """Return the map before the activation."""
        return super().forward(x)

    def activated(self, x: Tensor) -> Tensor:
        """Return the map after the activation, if this layer has it."""
        if not self.is_active:
            return x
        return functional.leaky_relu(x, SLOPE)


def shuffled(kept: Tensor, new: Tensor) -> Tensor:
    """Return the channels of two maps (B, n, h, w) in turn, so that each half has some of both."""
    return torch.stack((kept, new), dim=2).flatten(1, 2)


class Separable(nn.Module):
    """A depthwise convolution, then 1x1: (B, n_in, h, w) -> (B, n_out, h/stride, w/stride)."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        side: int,
        stride: int = 1,
        *,
        is_active: bool = True,
        is_active_inside: bool = False,
    ) -> None:
        super().__init__()
        self.depth = Conv(n_in, n_in, side, stride, is_active=is_active_inside, is_depthwise=True)
        self.point = Conv(n_in, n_out, is_active=is_active)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.point(self.depth(x))
        return out


class Branch(nn.Module):
    """1x1, depthwise 3x3, 1x1: (B, n_in, h, w) -> (B, n_out, h/stride, w/stride)."""

    def __init__(self, n_in: int, inner: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.entry = Conv(n_in, inner)
        self.end = Separable(inner, n_out, 3, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.entry(x))
        return out


class FirstUnit(nn.Module):
    """The first unit of a stage: (B, n_in, h, w) -> (B, 2 * width, h/2, w/2)."""

    def __init__(self, n_in: int, inner: int, width: int) -> None:
        super().__init__()
        # The order of the layers is that of the shipped file, here and below.
        self.short = Separable(n_in, width, 3, 2)
        self.long = Branch(n_in, inner, width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return shuffled(self.short(x), self.long(x))


class Unit(nn.Module):
    """A unit that keeps half of its channels, and computes the others: (B, 2 * width, h, w)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.branch = Branch(width, inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        return shuffled(kept, self.branch(changed))


class UnitStage(nn.Module):
    """Units: (B, n_in, h, w) -> (B, 2 * width, h/2, w/2)."""

    def __init__(self, n_in: int, width: int, inner: tuple[int, ...]) -> None:
        super().__init__()
        self.width = width
        self.first = FirstUnit(n_in, inner[0], width)
        self.later = nn.ModuleList(Unit(width, channels) for channels in inner[1:])

    @property
    def units(self) -> list[Unit]:
        """The units after the first."""
        return [unit for unit in self.later if isinstance(unit, Unit)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for unit in self.later:
            x = unit(x)
        return x


class Ghost(nn.Module):
    """Half of the channels from a 1x1 convolution, the others from a depthwise one on these."""

    def __init__(self, n_in: int, n_out: int, is_active: bool) -> None:
        super().__init__()
        half = n_out // 2
        self.primary = Conv(n_in, half, is_active=is_active)
        self.cheap = Conv(half, half, 3, is_active=is_active, is_depthwise=True)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat((primary, self.cheap(primary)), dim=1)


class GhostBlock(nn.Module):
    """A block of the pyramid: two maps (B, width, h, w) -> a map of the same shape."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = Ghost(2 * width, inner, is_active=True)
        self.second = Ghost(inner, width, is_active=False)
        self.shortcut = Separable(2 * width, width, 5, is_active=False)

    def forward(self, above: Tensor, own: Tensor) -> Tensor:
        x = torch.cat((above, own), dim=1)
        out: Tensor = self.second(self.first(x)) + self.shortcut(x)
        return out


class LevelHead(nn.Module):
    """Scores and sides of a level: (B, pyramid, h, w) -> (B, classes + 32, h, w) logits."""

    def __init__(self, pyramid: int, widths: tuple[int, int], n_classes: int) -> None:
        super().__init__()
        first, last = widths
        self.first = Separable(pyramid, first, 5, is_active_inside=True)
        self.last = Separable(first, last, 5, is_active_inside=True)
        self.out = Conv(last, n_classes + SIDES, is_active=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.last(self.first(x)))
        return out


class NanoDetPlus(nn.Module):
    """The network of an architecture.

    In: float (B, 3, H, W), order B, G, R, 0..255, H and W multiples of 32. Out: cells (B, N,
    n_classes + 32), one row for each cell, finest of the strides 8, 16, 32 and 64 first: class
    logits, then 4 sides (left, top, right, bottom) x 8 logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD_BGR).view(1, 3, 1, 1), persistent=False)
        self.stem = Conv(3, architecture.stem, 3, 2)
        fine, middle, coarse = architecture.stages
        units, ghosts = architecture.units, architecture.ghosts
        self.stage8 = UnitStage(architecture.stem, fine, units[0])
        self.stage16 = UnitStage(2 * fine, middle, units[1])
        self.stage32 = UnitStage(2 * middle, coarse, units[2])
        width = architecture.pyramid
        heads = [LevelHead(width, widths, architecture.n_classes) for widths in architecture.heads]
        self.reduce32 = Conv(2 * coarse, width)
        self.reduce16, self.down16 = Conv(2 * middle, width), GhostBlock(width, ghosts[0])
        self.reduce8, self.down8 = Conv(2 * fine, width), GhostBlock(width, ghosts[1])
        self.head8 = heads[0]
        self.halve8, self.up16 = _halving(width), GhostBlock(width, ghosts[2])
        self.head16 = heads[1]
        self.halve16, self.up32 = _halving(width), GhostBlock(width, ghosts[3])
        self.head32 = heads[2]
        self.extra_in, self.extra_out = _halving(width), _halving(width)
        self.head64 = heads[3]

    @property
    def stages(self) -> tuple[UnitStage, UnitStage, UnitStage]:
        """The stages of strides 8, 16 and 32."""
        return self.stage8, self.stage16, self.stage32

    @property
    def heads(self) -> tuple[LevelHead, LevelHead, LevelHead, LevelHead]:
        """The heads of strides 8, 16, 32 and 64."""
        return self.head8, self.head16, self.head32, self.head64

    def forward(self, x: Tensor) -> Tensor:
        x = pooled(self.stem((x - self.mean) / self.std))
        in8 = self.stage8(x)
        in16 = self.stage16(in8)
        in32 = self.stage32(in16)
        top32 = self.reduce32(in32)
        top16 = self.down16(doubled(top32), self.reduce16(in16))
        out8 = self.down8(doubled(top16), self.reduce8(in8))
        out16 = self.up16(self.halve8(out8), top16)
        out32 = self.up32(self.halve16(out16), top32)
        out64 = self.extra_in(top32) + self.extra_out(out32)
        outs = out8, out16, out32, out64
        levels = [head(out) for head, out in zip(self.heads, outs, strict=True)]
        return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)


def _halving(width: int) -> Separable:
    return Separable(width, width, 5, 2, is_active_inside=True)


def pooled(x: Tensor) -> Tensor:
    """Return the largest of each 3x3 cells, at half the size."""
    return functional.max_pool2d(x, 3, 2, padding=1)


def doubled(x: Tensor) -> Tensor:
    """Return a map of twice the height and width, interpolated."""
    return functional.interpolate(
        x, scale_factor=2.0, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )


# -- The general detector's weights, and operations on any network.


def general(file: Path = FOLDER / "nanodet-plus.xml") -> NanoDetPlus:
    """Return the shipped network in evaluation mode: students come from it.

    Raises ModelUnreadable if the file has other layers.
    """
    net = NanoDetPlus(Architecture())
    layers = [layer for layer in net.modules() if isinstance(layer, Conv)]
    listed = [
        layer.attrib["name"]
        for layer in ElementTree.parse(file).iter("layer")
        if layer.attrib["type"].endswith("Convolution")
    ]
    if len(listed) != len(layers):
        raise ModelUnreadable(file, f"{len(layers)} convolutions", f"{len(listed)}")
    read = {op.get_friendly_name(): op for op in core().read_model(file).get_ops()}
    with torch.no_grad():
        for layer, name in zip(layers, listed, strict=True):
            (add,) = read[name].output(0).get_target_inputs()
            kernel, bias = _constant(read[name]), _constant(add.get_node())
            if kernel.size != layer.weight.numel() or bias.size != layer.out_channels:
                raise ModelUnreadable(file, f"{name}: {layer}", f"weights {kernel.shape}")
            layer.weight.copy_(torch.from_numpy(kernel.reshape(layer.weight.shape)))
            bias_of(layer).copy_(torch.from_numpy(bias.reshape(-1)))
    net.eval()
    return net


def _constant(op: ov.Node) -> np.ndarray:
    """Return the second input of a layer, which the file may have in float16."""
    source = op.input_value(1).get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    return np.asarray(source.get_data(), np.float32)


def bias_of(layer: nn.Conv2d) -> Tensor:
    """Return the biases (outputs,) of a layer, which all layers here have."""
    assert layer.bias is not None
    return layer.bias


def multiplications(net: nn.Module, size: tuple[int, int]) -> int:
    """Count those of its convolutions for one picture of (width, height)."""
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
    """Convert pictures uint8 (B, H, W, 3) to the network's input: float (B, 3, H, W)."""
    return torch.from_numpy(bgr).float().permute(0, 3, 1, 2)  # in memory channels stay last
