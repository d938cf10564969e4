"""Narrowing: fewer channels by least squares on a camera's pictures, without training.

Needs torch (the `train` extra). In each layer, the channels of the wide network with the most
different activations over the pictures are kept. The weights of the narrow layer are a ridge
regression from its inputs in the narrow network to the wide layer's pre-activations of the kept
channels, towards the wide layer's weights. So the kept channels take over from the dropped ones as
far as the pictures allow. This is close to the channel pruning of He, Zhang and Sun (ICCV 2017),
with each layer fitted to the inputs in the narrow network. It takes seconds on a core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from framegate.models.training.nanodet_plus import (
    SIDES,
    Branch,
    Conv,
    Ghost,
    GhostBlock,
    LevelHead,
    NanoDetPlus,
    Separable,
    UnitStage,
    bias_of,
    doubled,
    pooled,
    shuffled,
)

RIDGE: Final = 1e-3  # of the mean of the inputs' squares
_NEW_CLASS: Final = -4.6  # logit of a score of 0.01, for a class that the wide network lacks
_CELLS_A_WEIGHT: Final = 4  # cells per input of a layer's sums, if the pictures have enough
_LEAST_CELLS: Final = 6000
_LEAST_DEPTHWISE: Final = 2000  # its sums have few inputs, but there is one for each channel


@dataclass(frozen=True, slots=True, eq=False)
class _Flow:
    """The same place in both networks: activations (B, channels, h, w).

    kept  (channels of narrow,) the channel of wide that each channel of narrow repeats
    """

    narrow: Tensor
    wide: Tensor
    kept: Tensor

    def changed(self, change: Callable[[Tensor], Tensor]) -> _Flow:
        """Return the place after a function that treats all channels alike."""
        return _Flow(change(self.narrow), change(self.wide), self.kept)

    def halves(self) -> tuple[_Flow, _Flow]:
        """Split the channels as a unit does; each half of narrow repeats the same half of wide."""
        narrow, wide, kept = (part.chunk(2, dim) for part, dim in self._parts())
        n_half = self.wide.shape[1] // 2
        return _Flow(narrow[0], wide[0], kept[0]), _Flow(narrow[1], wide[1], kept[1] - n_half)

    def _parts(self) -> tuple[tuple[Tensor, int], ...]:
        return (self.narrow, 1), (self.wide, 1), (self.kept, 0)


def narrowed(
    wide: NanoDetPlus,
    narrow: NanoDetPlus,
    pictures: Tensor,
    classes: Sequence[int | None],
    ridge: float = RIDGE,
    seed: int = 0,
) -> NanoDetPlus:
    """Set the weights of `narrow` so that it repeats `wide` on `pictures`, and return it.

    pictures  float (B, 3, H, W), 0..255, the input of the networks; 16 to 64 are enough
    classes   for each class of narrow, the class id of wide; None: a new class, its score is 0.01

    With equal widths and classes the outputs equal those of `wide`, up to rounding. The same
    arguments give the same weights. Peak memory: activations of the pyramid of both networks for
    all pictures.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _Narrowing(ridge, draw).run(wide, narrow, pictures, classes)
    return narrow


@dataclass(frozen=True, slots=True)
class _Narrowing:
    """The fitting of a narrow network along both networks, layer by layer, as they compute."""

    ridge: float
    draw: torch.Generator

    def run(
        self,
        wide: NanoDetPlus,
        narrow: NanoDetPlus,
        pictures: Tensor,
        classes: Sequence[int | None],
    ) -> None:
        normal = (pictures - wide.mean) / wide.std
        here = _Flow(normal, normal, torch.arange(3))
        here = self.layer(narrow.stem, wide.stem, here).changed(pooled)
        maps = []
        for ours, theirs in zip(narrow.stages, wide.stages, strict=True):
            here = self.stage(ours, theirs, here)
            maps.append(here)
        in8, in16, in32 = maps
        top32 = self.layer(narrow.reduce32, wide.reduce32, in32)
        own16 = self.layer(narrow.reduce16, wide.reduce16, in16)
        top16 = self.block(narrow.down16, wide.down16, top32.changed(doubled), own16)
        own8 = self.layer(narrow.reduce8, wide.reduce8, in8)
        out8 = self.block(narrow.down8, wide.down8, top16.changed(doubled), own8)
        below = self.separable(narrow.halve8, wide.halve8, out8)
        out16 = self.block(narrow.up16, wide.up16, below, top16)
        below = self.separable(narrow.halve16, wide.halve16, out16)
        out32 = self.block(narrow.up32, wide.up32, below, top32)
        out64 = self.extra(narrow, wide, top32, out32)
        outs = out8, out16, out32, out64
        for own, general, at in zip(narrow.heads, wide.heads, outs, strict=True):
            self.head(own, general, at, classes)

    def layer(self, narrow: Conv, wide: Conv, at: _Flow, kept: Tensor | None = None) -> _Flow:
        """Fit a layer to its channels `kept`; None: those with the most different activations."""
        before = wide.linear(at.wide)
        if wide.is_depthwise:
            kept = at.kept
        elif kept is None:
            kept = _greatest(_spread(wide.activated(before)), narrow.out_channels)
        self.fit(narrow, wide, at, before[:, kept], kept)
        return _Flow(narrow(at.narrow), wide.activated(before), kept)

    def stage(self, narrow: UnitStage, wide: UnitStage, at: _Flow) -> _Flow:
        """Fit a stage; the shuffles of its units move the kept channels as in the wide network."""
        ahead = len(wide.units)
        old = self.layer(narrow.first.short.depth, wide.first.short.depth, at)
        spread = _spread(wide.first.short.point(old.wide))
        kept = kept_in_shuffles(spread, narrow.width, ahead, 0)
        old = self.layer(narrow.first.short.point, wide.first.short.point, old, kept)
        at = _in_turn(old, self.branch(narrow.first.long, wide.first.long, at, ahead))
        for ours, theirs in zip(narrow.units, wide.units, strict=True):
            ahead -= 1
            old, changed = at.halves()
            at = _in_turn(old, self.branch(ours.branch, theirs.branch, changed, ahead))
        return at

    def branch(self, narrow: Branch, wide: Branch, at: _Flow, ahead: int) -> _Flow:
        """Fit a branch of a unit that `ahead` units follow."""
        inside = wide.end.depth(wide.entry(at.wide))
        # What an inner channel adds to the output: its spread, times the weights that read it.
        adds = _spread(inside) * wide.end.point.weight.flatten(1).norm(dim=0)
        here = self.layer(narrow.entry, wide.entry, at, _greatest(adds, narrow.entry.out_channels))
        here = self.layer(narrow.end.depth, wide.end.depth, here)
        spread = _spread(wide.end.point(inside))
        kept = kept_in_shuffles(spread, narrow.end.point.out_channels, ahead, 1)
        return self.layer(narrow.end.point, wide.end.point, here, kept)

    def separable(
        self, narrow: Separable, wide: Separable, at: _Flow, kept: Tensor | None = None
    ) -> _Flow:
        return self.layer(narrow.point, wide.point, self.layer(narrow.depth, wide.depth, at), kept)

    def ghost(self, narrow: Ghost, wide: Ghost, at: _Flow) -> _Flow:
        primary = self.layer(narrow.primary, wide.primary, at)
        return _joined(primary, self.layer(narrow.cheap, wide.cheap, primary))

    def block(self, narrow: GhostBlock, wide: GhostBlock, above: _Flow, own: _Flow) -> _Flow:
        """Fit a block of the pyramid; its shortcut takes over what its ghosts do not repeat."""
        at = _joined(above, own)
        out = self.ghost(narrow.second, wide.second, self.ghost(narrow.first, wide.first, at))
        deep = self.layer(narrow.shortcut.depth, wide.shortcut.depth, at)
        ours, theirs = narrow.shortcut.point, wide.shortcut.point
        total = out.wide + theirs(deep.wide)
        self.fit(ours, theirs, deep, total[:, out.kept] - out.narrow, out.kept)
        return _Flow(out.narrow + ours(deep.narrow), total, out.kept)

    def extra(self, narrow: NanoDetPlus, wide: NanoDetPlus, top: _Flow, out: _Flow) -> _Flow:
        """Fit the map of stride 64: two maps are added, so both keep the same channels."""
        total = wide.extra_in(top.wide) + wide.extra_out(out.wide)
        kept = _greatest(_spread(total), narrow.architecture.pyramid)
        sum_ = torch.zeros(())
        pairs = (
            (narrow.extra_in, wide.extra_in, top),
            (narrow.extra_out, wide.extra_out, out),
        )
        for ours, theirs, at in pairs:
            sum_ = sum_ + self.separable(ours, theirs, at, kept).narrow
        return _Flow(sum_, total, kept)

    def head(
        self, narrow: LevelHead, wide: LevelHead, at: _Flow, classes: Sequence[int | None]
    ) -> None:
        """Fit the rows of the known classes and of the sides; set those of new classes."""
        at = self.separable(narrow.first, wide.first, at)
        at = self.separable(narrow.last, wide.last, at)
        n_wide = wide.out.out_channels - SIDES
        known = [place for place, class_id in enumerate(classes) if class_id is not None]
        rows = [class_id for class_id in classes if class_id is not None]
        kept = torch.tensor([*rows, *range(n_wide, n_wide + SIDES)])
        fitted = Conv(narrow.out.in_channels, len(kept), is_active=False)
        self.layer(fitted, wide.out, at, kept)
        narrow.out.weight.zero_()
        bias_of(narrow.out).fill_(_NEW_CLASS)
        to = torch.tensor([*known, *range(len(classes), len(classes) + SIDES)])
        narrow.out.weight[to] = fitted.weight
        bias_of(narrow.out)[to] = bias_of(fitted)

    def fit(self, narrow: Conv, wide: Conv, at: _Flow, wanted: Tensor, kept: Tensor) -> None:
        """Set the weights with which the output on `at.narrow` is closest to `wanted`.

        Minimises |inputs @ w - wanted|^2 + ridge * n * mean square of an input * |w - w0|^2 over a
        sample of n cells, w0 the wide layer's own weights for the channels `kept`; the bias is an
        input of 1.
        """
        inputs, targets = self.cells(narrow, at.narrow, wanted)
        weight = wide.weight[kept]
        if not wide.is_depthwise:
            weight = weight[:, at.kept]
        own = torch.cat([weight.flatten(1), bias_of(wide)[kept][:, None]], dim=1).double()
        if wide.is_depthwise:  # a small regression for each channel
            own, targets = own[:, :, None], targets.T[:, :, None]
        else:
            own = own.T
        across = inputs.transpose(-1, -2)
        squares = across @ inputs
        diagonal = squares.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(self.ridge * diagonal.mean(-1, keepdim=True))
        weights = own + torch.linalg.solve(squares, across @ (targets - inputs @ own))
        if wide.is_depthwise:
            weights = weights[..., 0].T
        weights = weights.T.float()
        narrow.weight.copy_(weights[:, :-1].reshape(narrow.weight.shape))
        bias_of(narrow).copy_(weights[:, -1])

    def cells(self, layer: Conv, at: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of a sample of output cells, with a 1 for the bias, and their targets.

        double (n, inputs + 1), for a depthwise layer (channels, n, inputs + 1); (n, outputs).
        """
        side = layer.kernel_size[0]  # of a square, padded by half of it
        n_inputs = layer.weight[0].numel()
        n, _, height, width = wanted.shape
        least = _LEAST_CELLS
        if layer.is_depthwise:
            least = _LEAST_DEPTHWISE
        share = max(least, _CELLS_A_WEIGHT * n_inputs) / (n * height * width)
        inputs, targets = [], []
        for picture, target in zip(at, wanted, strict=True):
            patches = functional.unfold(
                picture[None], side, padding=side // 2, stride=layer.stride
            )[0].T
            chosen = torch.rand(len(patches), generator=self.draw) < share
            inputs.append(patches[chosen].double())
            targets.append(target.flatten(1).T[chosen].double())
        found = torch.cat(inputs)
        if layer.is_depthwise:
            found = found.reshape(len(found), -1, n_inputs).transpose(0, 1)
        ones = found.new_ones(*found.shape[:-1], 1)
        return torch.cat([found, ones], dim=-1), torch.cat(targets)


def _spread(map_: Tensor) -> Tensor:
    """Return the standard deviation (channels,) of each channel."""
    return map_.std((0, 2, 3))


def _greatest(values: Tensor, n: int) -> Tensor:
    """Return the places of the n greatest values, in ascending order."""
    return values.topk(n).indices.sort().values


def kept_in_shuffles(values: Tensor, n: int, ahead: int, place: int) -> Tensor:
    """Return n channels to keep of a map that a unit shuffles, in an order that fits its shuffles.

    values  (channels,), greater ones are kept first
    ahead   number of the units that follow in the stage
    place   0 for the first map of the shuffle, 1 for the second

    Each unit shuffles its two maps, and the next one splits the result in the middle. A channel
    of the narrow network must reach the same side of each middle as the channel that it repeats.
    So channels are exchanged only between places that later splits treat alike.
    """
    of_wide = _splits_passed(len(values), ahead, place)
    of_narrow = _splits_passed(n, ahead, place)
    kept = torch.zeros(n, dtype=torch.long)
    for passed in set(of_narrow.tolist()):
        places = (of_narrow == passed).nonzero()[:, 0]
        candidates = (of_wide == passed).nonzero()[:, 0]
        if len(candidates) < len(places):  # for a few widths only: a channel is kept twice
            candidates = candidates.repeat(2)
        kept[places] = candidates[_greatest(values[candidates], len(places))]
    return kept


def _splits_passed(n: int, ahead: int, place: int) -> Tensor:
    """Return for each of n channels the number of splits in whose first half it lies, in turn."""
    at = 2 * torch.arange(n) + place
    passed = torch.zeros(n, dtype=torch.long)
    is_first = torch.ones(n, dtype=torch.bool)
    for _ in range(ahead):
        is_first &= at < n
        passed += is_first
        at = 2 * at
    return passed


def _in_turn(old: _Flow, new: _Flow) -> _Flow:
    """Shuffle the channels of two maps, as a unit does."""
    return _Flow(
        shuffled(old.narrow, new.narrow),
        shuffled(old.wide, new.wide),
        torch.stack((2 * old.kept, 2 * new.kept + 1), dim=1).flatten(),
    )


def _joined(first: _Flow, second: _Flow) -> _Flow:
    """Concatenate channels: those of `second` follow all of the first."""
    return _Flow(
        torch.cat([first.narrow, second.narrow], dim=1),
        torch.cat([first.wide, second.wide], dim=1),
        torch.cat([first.kept, first.wide.shape[1] + second.kept]),
    )
