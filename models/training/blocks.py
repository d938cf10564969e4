"""Blocks that a student can be made of; with norms and branches while it learns, plain when folded.

Needs torch (the `train` extra). Kinds of block, each `width` channels in and out, same size of map:

    pair      the general network's: two 3x3 convolutions of half the width, joined (CSPNet, 2019)
    rep       3x3, 1x1 and nothing, added; folds to one 3x3 (RepVGG, 2021)
    inverted  1x1 wider, kxk for each channel, 1x1 back, added to its input (MobileNetV3, 2019)
    large     kxk for each channel, 1x1 wider, 1x1 back, added to its input (ConvNeXt, 2022)

No squeeze-and-excitation: its mean over the picture would make a part of a picture give other
numbers than the whole does, on which the gate's crops rely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

BlockKind = Literal["pair", "plain", "rep", "inverted", "large"]
Stem = Literal["pooled", "patch"]

WIDER: Final = 2  # inside inverted and large blocks
KERNELS: Final[dict[str, tuple[int, ...]]] = {
    "pair": (3,),
    "plain": (3,),
    "rep": (3,),
    "inverted": (3, 5, 7),
    "large": (3, 5, 7),
    "pooled": (3,),
    "patch": (4, 8),
}


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """A kind of block and the side of its kernel. Raises ValueError where there is none such."""

    kind: BlockKind | Stem
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kind not in KERNELS:
            raise ValueError(f"kind: {self.kind!r}; there are {', '.join(KERNELS)}")
        if self.kernel not in KERNELS[self.kind]:
            raise ValueError(f"kernel of {self.kind}: {self.kernel}, not {KERNELS[self.kind]}")

    def __str__(self) -> str:
        return f"{self.kind}{self.kernel}"


# What the general detector is made of.
POOLED: Final = Block("pooled")
PAIR: Final = Block("pair")
PLAIN: Final = Block("plain")


class Conv(nn.Module):
    """A convolution, with a norm or with a bias; its map keeps its size but for the stride.

    parts  of how many tensors its input and its output channels are made, one after the other: in
           a narrower network each of these has fewer channels (`shared_network` cuts them by it)
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        alone: bool = False,
        norm: bool = False,
        parts: tuple[int, int] = (2, 2),
    ) -> None:
        super().__init__()
        padding = (kernel - stride) // 2 if stride == 4 else kernel // 2
        groups = n_in if alone else 1
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, groups=groups, bias=not norm)
        self.norm = nn.BatchNorm2d(n_out) if norm else None
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if self.norm is None else self.norm(y)

    def fold(self) -> None:
        """Puts the norm's running mean and deviation into the convolution."""
        if self.norm is not None:
            scale, shift = _scale_and_shift(self.norm)
            self.conv.weight = nn.Parameter(self.conv.weight * scale.view(-1, 1, 1, 1))
            self.conv.bias = nn.Parameter(shift)
            self.norm = None


def leaky(x: Tensor) -> Tensor:
    """The one activation here, the general net's: it costs nothing behind a convolution."""
    return functional.leaky_relu(x, 0.1)


class Pair(nn.Module):
    """Half the channels from a 3x3 convolution, the other half from one more on these."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Conv(width, width // 2, parts=(2, 1))
        self.second = Conv(width // 2, width // 2, parts=(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b = leaky(self.first(x))
        return torch.cat((leaky(self.second(b)), b), dim=1)


class Plain(nn.Module):
    """One 3x3 convolution: a head's, and what is left of `Rep`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return leaky(self.conv(x))


class Rep(nn.Module):
    """Three branches that are one 3x3 convolution; each has a norm of its own while it learns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = Conv(width, width, norm=True)
        self.point = Conv(width, width, 1, norm=True)
        self.same = Conv(width, width, 1, alone=True, norm=True)
        self.same.conv.weight.requires_grad_(False).fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return leaky(self.wide(x) + self.point(x) + self.same(x))

    def plain(self) -> Plain:
        """The same map as one convolution; the branches' norms are folded on the way."""
        for branch in (self.wide, self.point, self.same):
            branch.fold()
        wide, point, same = self.wide.conv, self.point.conv, self.same.conv
        weight = wide.weight.detach().clone()
        weight[:, :, 1, 1] += point.weight[:, :, 0, 0]
        weight[:, :, 1, 1] += torch.diag(same.weight[:, 0, 0, 0])
        made = Plain(weight.shape[0])
        made.conv.conv.weight = nn.Parameter(weight)
        made.conv.conv.bias = nn.Parameter(_bias(wide) + _bias(point) + _bias(same))
        return made


class Inverted(nn.Module):
    """Inverted residual."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        inner = WIDER * width
        self.widen = Conv(width, inner, 1, norm=True, parts=(2, 1))
        self.spread = Conv(inner, inner, kernel, alone=True, norm=True, parts=(1, 1))
        self.narrow = Conv(inner, width, 1, norm=True, parts=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.narrow(leaky(self.spread(leaky(self.widen(x)))))
        return y


class Large(nn.Module):
    """Large-kernel block: the norm stands behind the large kernel, where it can be folded."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        inner = WIDER * width
        self.spread = Conv(width, width, kernel, alone=True, norm=True)
        self.widen = Conv(width, inner, 1, parts=(2, 1))
        self.narrow = Conv(inner, width, 1, parts=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.narrow(leaky(self.widen(self.spread(x))))
        return y


def block(spec: Block, width: int) -> nn.Module:
    """A block of a kind, (B, width, h, w) in and out."""
    if spec.kind == "inverted":
        return Inverted(width, spec.kernel)
    if spec.kind == "large":
        return Large(width, spec.kernel)
    kinds: dict[str, type[Any]] = {"pair": Pair, "plain": Plain, "rep": Rep}
    made: nn.Module = kinds[spec.kind](width)
    return made


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach()
