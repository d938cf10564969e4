"""Parts that a student can be made of, and the network that an architecture names.

Needs torch (the `train` extra). A student has the general detector's plan: stem, four cross stages,
pyramid, three heads (see `nanodet`). What stands between a stage's entry and its exit, how the stem
gets to a fourth of the picture, and how wide all of it is, is a choice. Blocks with norms and with
several branches are for training; `folded` gives plain convolutions, which is what is exported.

Kinds of block, each `width` channels in and out, same size of map:

    pair      the general net's: two 3x3 convolutions of half the width, joined (CSPNet, 2019)
    rep       3x3, 1x1 and nothing, added; folds to one 3x3 (RepVGG, 2021)
    inverted  1x1 wider, kxk for each channel, 1x1 back, added to its input (MobileNetV3, 2019)
    large     kxk for each channel, 1x1 wider, 1x1 back, added to its input (ConvNeXt, 2022)

No squeeze-and-excitation: its mean over the picture would make a part of a picture give other
numbers than the whole does, on which the gate's crops rely.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from framegate.models.training.nanodet import BINS, MEAN_BGR, N_CLASSES, STD_BGR, pyramid

Kind = Literal["pair", "plain", "rep", "inverted", "large"]
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
STRIDES: Final = (1, 2, 2, 2)  # of the four stages; the stem's is 4


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """A kind of block and the side of its kernel. Raises ValueError where there is none such."""

    kind: Kind | Stem
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kind not in KERNELS:
            raise ValueError(f"kind: {self.kind!r}; there are {', '.join(KERNELS)}")
        if self.kernel not in KERNELS[self.kind]:
            raise ValueError(f"kernel of {self.kind}: {self.kernel}, not {KERNELS[self.kind]}")

    def __str__(self) -> str:
        return f"{self.kind}{self.kernel}"


PAIR: Final = Block("pair")


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A cross stage: twice `width` channels come of it; blocks by place, None: nothing there."""

    width: int
    blocks: tuple[Block | None, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """All that decides a student's structure; the default is the general detector.

    stages   of strides 4, 8, 16 and 32; the stem is as wide as the first
    pyramid  channels of the maps that the heads read
    head     between the pyramid and a head's last 1x1

    Raises ValueError for a width that is no multiple of 8 (what vector units take at once).
    """

    stem: Block = Block("pooled")
    stages: tuple[StagePlan, ...] = (
        StagePlan(32, (PAIR,)),
        StagePlan(64, (PAIR,) * 2),
        StagePlan(128, (PAIR,) * 2),
        StagePlan(256, (PAIR,) * 3),
    )
    pyramid: int = 128
    head: Block = Block("plain")
    n_classes: int = N_CLASSES

    def __post_init__(self) -> None:
        if len(self.stages) != len(STRIDES):
            raise ValueError(f"stages: {len(self.stages)}, not {len(STRIDES)}")
        if self.stem.kind not in get_args(Stem):
            raise ValueError(f"stem: {self.stem}; there are {', '.join(get_args(Stem))}")
        for width in (*(stage.width for stage in self.stages), self.pyramid):
            if width < 8 or width % 8:
                raise ValueError(f"width: {width}, not a multiple of 8")

    def times(self, share: float) -> Architecture:
        """The same with a share of each width."""

        def part(width: int) -> int:
            return max(8, 8 * round(width * share / 8))

        stages = tuple(replace(stage, width=part(stage.width)) for stage in self.stages)
        return replace(self, stages=stages, pyramid=part(self.pyramid))


class Conv(nn.Module):
    """A convolution, with a norm or with a bias; its map keeps its size but for the stride.

    parts  of how many tensors its input and its output channels are made, one after the other: in
           a narrower network each of these has fewer channels (`search` cuts them by it)
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


class StemOf(nn.Module):
    """(B, 3, H, W) -> (B, width, H/4, W/4): by stride and pooling, or at once by a patch."""

    def __init__(self, spec: Block, width: int) -> None:
        super().__init__()
        self.pooled = spec.kind == "pooled"
        self.first = Conv(3, width, spec.kernel, 2 if self.pooled else 4, parts=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = leaky(self.first(x))
        return functional.max_pool2d(y, 3, 2, padding=1) if self.pooled else y


class StageOf(nn.Module):
    """Cross stage: `a`, then blocks, and both joined: (B, 2 * width, h/stride, w/stride).

    blocks  by place, for each place one of any number of kinds, as "<place>_<block>"
    """

    def __init__(
        self, n_in: int, width: int, places: Sequence[Sequence[Block]], stride: int, parts_in: int
    ) -> None:
        super().__init__()
        self.entry = Conv(n_in, width, 3, stride, parts=(parts_in, 2))
        self.blocks = nn.ModuleDict(
            {
                f"{place}_{spec}": block(spec, width)
                for place, specs in enumerate(places)
                for spec in specs
            }
        )
        self.exit = Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        a = leaky(self.entry(x))
        body = a
        for one in self.blocks.values():
            body = one(body)
        return torch.cat((leaky(self.exit(body)), a), dim=1)


class HeadOf(nn.Module):
    """Scores and sides of a pyramid level: (B, pyramid, h, w) -> (B, classes + 44, h, w) logits."""

    def __init__(self, specs: Sequence[Block], pyramid: int, n_classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(spec): block(spec, pyramid) for spec in specs})
        self.out = Conv(pyramid, n_classes + 4 * BINS, 1, parts=(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        for one in self.blocks.values():
            x = one(x)
        y: Tensor = self.out(x)
        return y


@dataclass(frozen=True, slots=True)
class Candidates:
    """Blocks that a network holds: one of each is run; a shared network (`search`) has more.

    places  by stage, then by place between entry and exit
    """

    stems: tuple[Block, ...]
    places: tuple[tuple[tuple[Block, ...], ...], ...]
    heads: tuple[Block, ...]

    @classmethod
    def of(cls, architecture: Architecture) -> Candidates:
        """The one of each that an architecture names."""
        places = tuple(
            tuple(() if one is None else (one,) for one in stage.blocks)
            for stage in architecture.stages
        )
        return cls((architecture.stem,), places, (architecture.head,))


class Student(nn.Module):
    """The network of an architecture; its inputs and outputs are NanoDet's, with its own widths.

    candidates  more blocks than the architecture's own, for a shared network, which is not called
                itself
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture, candidates: Candidates | None = None) -> None:
        super().__init__()
        held = candidates or Candidates.of(architecture)
        self.architecture = architecture
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD_BGR).view(1, 3, 1, 1), persistent=False)
        widths = [stage.width for stage in architecture.stages]
        self.stems = nn.ModuleDict({str(spec): StemOf(spec, widths[0]) for spec in held.stems})
        inputs = [widths[0], *(2 * width for width in widths)]
        stages = zip(inputs, widths, held.places, STRIDES, (2, 4, 4, 4), strict=False)
        self.stages: Any = nn.ModuleList(StageOf(*one) for one in stages)
        width = architecture.pyramid
        self.laterals: Any = nn.ModuleList(Conv(2 * n, width, 1, parts=(4, 2)) for n in widths[1:])
        self.heads: Any = nn.ModuleList(
            HeadOf(held.heads, width, architecture.n_classes) for _ in widths[1:]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x = (x - self.mean) / self.std
        for stem in self.stems.values():
            x = stem(x)
        c2 = self.stages[0](x)
        c3 = self.stages[1](c2)
        c4 = self.stages[2](c3)
        c5 = self.stages[3](c4)
        laterals = [one(c) for one, c in zip(self.laterals, (c3, c4, c5), strict=True)]
        p3, p4, p5 = pyramid(*laterals)
        head8, head16, head32 = self.heads
        return head8(p3), head16(p4), head32(p5), c3, p4


def folded(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode, of plain convolutions: what is exported."""
    copied = copy.deepcopy(network).eval()
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Rep):
                setattr(module, name, child.plain())
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, Conv):
                module.fold()
    return copied


def of_nanodet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a NanoDet of any width by the names that they have in a Student."""

    def name(old: str) -> str:
        for pattern, new in _NAMES:
            old = re.sub(pattern, new, old)
        return old

    return {name(old): tensor for old, tensor in state.items()}


_NAMES: Final = (
    (r"^stem\.conv", f"stems.{Block('pooled')}.first.conv"),
    (r"^stage([2-5])", lambda found: f"stages.{int(found[1]) - 2}"),
    (r"pairs\.(\d)\.0\.conv", rf"blocks.\1_{PAIR}.first.conv"),
    (r"pairs\.(\d)\.1\.conv", rf"blocks.\1_{PAIR}.second.conv"),
    (r"^lateral([3-5])", lambda found: f"laterals.{int(found[1]) - 3}.conv"),
    (r"^head(8|16|32)", lambda found: f"heads.{(8, 16, 32).index(int(found[1]))}"),
    (r"^(heads\.\d)\.conv\.conv", rf"\1.blocks.{Block('plain')}.conv.conv"),
    (r"^(heads\.\d)\.out", r"\1.out.conv"),
)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach()
