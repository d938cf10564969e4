"""A narrow network that says what a wide one says of a camera's pictures: by least squares alone.

Needs torch (the `train` extra). Layer after layer, of the wide network's channels those stay whose
activations differ most over the pictures. The narrow layer's weights are then what brings its
inputs, as the narrow layers before it give them, nearest to the wide layer's pre-activations of
these channels: ridge regression towards the wide layer's own weights. What a dropped channel told
is so carried by those that stay, as far as the camera's pictures let it. Close to the channel
pruning of He, Zhang and Sun (ICCV 2017), with each layer fitted to the narrow network's own inputs.

No step of training comes into it, some seconds of one core do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from framegate.models.formats.nanodet import BINS
from framegate.models.training.student import Conv, CrossStage, Student, leaky, pooled, pyramid

RIDGE: Final = 1e-3  # of the mean of the inputs' squares
_NEW_CLASS: Final = -4.6  # logit of a score of .01: what a class that the wide one lacks begins at
_CELLS_A_WEIGHT: Final = 4  # cells looked at for each input of a layer's sums, if there are so many
_LEAST_CELLS: Final = 6000


@dataclass(frozen=True, slots=True, eq=False)
class _Flow:
    """The same place in both networks: activations (B, channels, h, w).

    kept  (narrow's channels,) which of wide's each of narrow's stands for
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
    """`narrow` with weights that repeat `wide` on `pictures`; it is changed in place.

    pictures  float (B, 3, H, W), 0..255, as the networks take them; 16 to 64 do
    classes   of narrow's head: which of wide's each is; None: none of them, it begins at .01

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
    """Walks both networks side by side."""

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
        """Walk both as CrossStage.forward does."""
        entry = self.layer(narrow.entry, wide.entry, at)
        body = entry
        for ours, theirs in zip(narrow.pairs, wide.pairs, strict=True):
            first = self.layer(ours[0], theirs[0], body)
            second = self.layer(ours[1], theirs[1], first)
            body = _joined(second, first)
        return _joined(self.layer(narrow.exit, wide.exit, body), entry)

    def layer(self, narrow: Conv, wide: Conv, at: _Flow) -> _Flow:
        """The channels that tell most, and what comes after the activation."""
        before = wide.conv(at.wide)
        told = leaky(before).std((0, 2, 3))
        kept = told.topk(narrow.conv.out_channels).indices
        self.fit(narrow.conv, wide.conv, at, before, kept)
        return _both(_Flow(narrow.conv(at.narrow), before, kept), leaky)

    def laterals(self, narrow: Student, wide: Student, levels: Sequence[_Flow]) -> list[_Flow]:
        """Pyramid maps. Levels are added to each other, so all three keep the same channels."""
        before = [one(at.wide) for one, at in zip(wide.laterals, levels, strict=True)]
        whole = pyramid(*before)
        told = torch.zeros(whole[0].shape[1])
        for head, map_ in zip(wide.heads, whole, strict=True):
            reads = head.conv.conv.weight
            told += map_.std((0, 2, 3)) * reads.square().sum((0, 2, 3)).sqrt()
        kept = told.topk(narrow.lateral3.out_channels).indices
        ours = []
        layers = zip(narrow.laterals, wide.laterals, levels, before, strict=True)
        for one, other, at, wanted in layers:
            self.fit(one, other, at, wanted, kept)
            ours.append(one(at.narrow))
        maps = zip(pyramid(*ours), whole, strict=True)
        return [_Flow(one, other, kept) for one, other in maps]

    def last(
        self, narrow: nn.Conv2d, wide: nn.Conv2d, at: _Flow, classes: Sequence[int | None]
    ) -> None:
        """Rows of the seen classes, and of the sides."""
        n_wide = wide.out_channels - 4 * BINS
        known = [i for i, one in enumerate(classes) if one is not None]
        sides = range(n_wide, n_wide + 4 * BINS)
        rows = [*(one for one in classes if one is not None), *sides]
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
        """Sets the weights that bring `at.narrow` nearest to `wanted[:, kept]`.

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
        found = (own + gap).float()
        narrow.weight.copy_(found[:, :-1].reshape(narrow.weight.shape))
        _bias(narrow).copy_(found[:, -1])

    def cells(self, layer: nn.Conv2d, at: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Of a sample of the layer's outputs: what goes into each, and a 1; what is to come out.

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
    """Concatenated: the wide channels of `before` come after all of the newest."""
    return _Flow(
        torch.cat([newest.narrow, before.narrow], dim=1),
        torch.cat([newest.wide, before.wide], dim=1),
        torch.cat([newest.kept, newest.wide.shape[1] + before.kept]),
    )
