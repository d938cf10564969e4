"""One network that holds the weights of all architectures of a space.

Needs torch (the `train` extra). A narrower architecture has the first channels of a wider one,
which are those that tell most, and each place holds a block of every kind. All begin as the
narrowed general net: blocks of other kinds first learn, each by itself, to say what the pair in
their place says (blockwise distillation: Li et al., CVPR 2020).
"""

from __future__ import annotations

import copy
import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from framegate.models.training.blocks import PAIR, PLAIN, POOLED, Block, Conv
from framegate.models.training.part_times import PartTimes, parts
from framegate.models.training.student import (
    Architecture,
    Candidates,
    StagePlan,
    Student,
)

_DRAWS: Final = 20_000

Decision = str
Choices = dict[Decision, Any]  # decision -> one of its candidates


@dataclass(frozen=True, slots=True)
class Space:
    """The architectures that are searched: every decision with its candidates, the largest first.

    largest  the student that is there without a search: its widths and places are the most
    blocks   for each place; None: nothing there, so that depth is one of these decisions
    shares   of the largest's widths: of each stage and of the pyramid
    """

    largest: Architecture
    stems: tuple[Block, ...] = (POOLED, Block("patch", 8))
    blocks: tuple[Block | None, ...] = (PAIR, Block("large", 7), None)
    heads: tuple[Block, ...] = (PLAIN, Block("large", 7))
    shares: tuple[float, ...] = (1.0, 0.75, 0.5)

    @property
    def decisions(self) -> dict[Decision, tuple[Any, ...]]:
        """By name: stem, head, pyramid, and for each stage `width i` and `place i.j`."""
        found: dict[Decision, tuple[Any, ...]] = {"stem": self.stems, "head": self.heads}
        found["pyramid"] = self._widths(self.largest.pyramid)
        for i, stage in enumerate(self.largest.stages):
            found[f"width {i}"] = self._widths(stage.width)
            for j in range(len(stage.blocks)):
                found[f"place {i}.{j}"] = self.blocks
        return found

    def _widths(self, most: int) -> tuple[int, ...]:
        widths = {max(8, 8 * round(most * share / 8)) for share in self.shares}
        return tuple(sorted(widths, reverse=True))

    def architecture(self, choice: Choices) -> Architecture:
        """The one that a choice for every decision names."""
        stages = tuple(
            StagePlan(
                choice[f"width {i}"],
                tuple(choice[f"place {i}.{j}"] for j in range(len(stage.blocks))),
            )
            for i, stage in enumerate(self.largest.stages)
        )
        return replace(
            self.largest,
            stem=choice["stem"],
            stages=stages,
            pyramid=choice["pyramid"],
            head=choice["head"],
        )

    def drawn(self, draw: random.Random) -> Choices:
        """Every decision by chance."""
        return {name: draw.choice(options) for name, options in self.decisions.items()}

    @property
    def candidates(self) -> Candidates:
        """What the shared network holds."""
        real = tuple(one for one in self.blocks if one is not None)
        places = tuple((real,) * len(stage.blocks) for stage in self.largest.stages)
        return Candidates(self.stems, places, self.heads)

    def end(self, which: int) -> Architecture:
        """The largest (0), or the smallest (-1)."""
        return self.architecture({name: of[which] for name, of in self.decisions.items()})

    def drawn_within(
        self, draw: random.Random, times: PartTimes, ms: float, least: float = 0.94
    ) -> Architecture:
        """One by chance that takes so many milliseconds, or up to 6 % less."""
        for _ in range(_DRAWS):
            one = self.architecture(self.drawn(draw))
            if least * ms <= times.of(one) <= ms:
                return one
        raise ValueError(f"no architecture of the space takes {least * ms:.2f} to {ms:.2f} ms")

    def covering(self, size: tuple[int, int], seed: int = 0, times: int = 2) -> list[Architecture]:
        """Architectures that have between them every part of the space, each so often or more."""
        draw = random.Random(seed)
        missing = dict.fromkeys(self.keys(size), times)
        found = []
        while any(missing.values()):
            tried = [self.architecture(self.drawn(draw)) for _ in range(50)]
            own = [{part.key for part in parts(one, size)} for one in tried]
            best = max(range(50), key=lambda i: sum(missing[key] > 0 for key in own[i]))
            for key in own[best]:
                missing[key] = max(0, missing[key] - 1)
            found.append(tried[best])
        return found

    def keys(self, size: tuple[int, int]) -> set[str]:
        """Of all parts that its architectures can have: a part hangs on two decisions at most."""
        base = {name: options[0] for name, options in self.decisions.items()}
        found: set[str] = set()
        for one, other in itertools.combinations(self.decisions, 2):
            for a, b in itertools.product(self.decisions[one], self.decisions[other]):
                choice = base | {one: a, other: b}
                found |= {part.key for part in parts(self.architecture(choice), size)}
        return found


# -- The shared network.


class Shared:
    """Weights of every architecture of a space. One thread at a time.

    net  holds them; it is not called itself
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.net = Student(space.largest, space.candidates)

    def weights(self, architecture: Architecture) -> dict[str, Tensor]:
        """Those of one architecture by their names in its Student; gradients reach the shared."""
        cut = _hollow(architecture)
        found: dict[str, Tensor] = {}
        for path, small in cut.named_modules():
            if isinstance(small, Conv):
                large = self.net.get_submodule(path)
                assert isinstance(large, Conv)
                rows = kept(large.conv.out_channels, small.conv.out_channels, large.parts[1])
                columns = None
                if large.conv.groups == 1:
                    columns = kept(large.conv.in_channels, small.conv.in_channels, large.parts[0])
                for name, tensor in (*large.named_parameters(), *large.named_buffers()):
                    if tensor.dim():
                        tensor = tensor if rows is None else tensor[rows]
                    if tensor.dim() == 4 and columns is not None:
                        tensor = tensor[:, columns]
                    found[f"{path}.{name}"] = tensor
        return found

    def heads(self, architecture: Architecture, x: Tensor) -> list[Tensor]:
        """head8, head16, head32 of one architecture, as it learns."""
        own = {"mean": self.net.mean, "std": self.net.std}
        return list(functional_call(_hollow(architecture), self.weights(architecture) | own, x))[:3]

    def network(self, architecture: Architecture, pictures: Tensor) -> Student:
        """One architecture by itself, in evaluation mode; its norms' means are of `pictures`."""
        net = Student(architecture)
        weights = {name: tensor.detach() for name, tensor in self.weights(architecture).items()}
        net.load_state_dict(weights)
        return settled(net, pictures)


@functools.lru_cache(64)
def _hollow(architecture: Architecture) -> Student:
    """Its network without numbers, to be called with those of another."""
    with torch.device("meta"):
        return Student(architecture)


def settled(net: Student, pictures: Tensor) -> Student:
    """The same in evaluation mode, with means and deviations of its norms as of `pictures`."""
    norms = [one for one in net.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        with torch.no_grad():
            for eight in torch.split(pictures, 8):
                net.train()(eight)
    for norm in norms:
        norm.momentum = 0.1
    net.eval()
    return net


def kept(most: int, n: int, parts_of: int) -> Tensor | None:
    """The first channels of each part; None: all."""
    if most == n:
        return None
    part = torch.arange(most).view(parts_of, most // parts_of)
    return part[:, : n // parts_of].flatten()


# -- First weights.


def shared_from(
    space: Space, narrow: Student, pictures: Tensor, steps: int = 40, seed: int = 0
) -> Shared:
    """The shared network from the student that there is without a search.

    narrow    the space's largest, as `narrowed` makes it: channels that tell most come first
    pictures  float (B, 3, H, W), 0..255, of the camera; 16 to 64 do
    steps     in which each block of another kind learns
    """
    torch.manual_seed(seed)
    shared = Shared(space)
    _, unknown = shared.net.load_state_dict(narrow.state_dict(), strict=False)
    if unknown:
        raise ValueError(f"weights that the shared network has no place for: {unknown}")
    _teach_blocks(shared.net, narrow, pictures, steps)
    return shared


def _teach_blocks(shared: Student, narrow: Student, pictures: Tensor, steps: int) -> None:
    """Every block says what the block that the narrowed net has in its place says there."""
    watched = copy.deepcopy(narrow)  # it keeps the hooks
    for path, held in watched.named_modules():
        if isinstance(held, nn.ModuleDict):
            for name, one in held.items():
                others = [
                    block
                    for other, block in shared.get_submodule(path).named_children()
                    if other != name and _place(other) == _place(name)
                ]
                one.register_forward_hook(partial(_teach, others, steps))
    with torch.no_grad():
        watched(pictures)


def _place(name: str) -> str:
    """Of a block, in a stage; elsewhere there is one place."""
    return name.rpartition("_")[0]


def _teach(
    blocks: Sequence[nn.Module], steps: int, _: nn.Module, given: tuple[Tensor], wanted: Tensor
) -> None:
    """A forward hook: teaches blocks to say what the one that was called says."""
    [x] = given
    for block in blocks:
        learned = [weight for weight in block.parameters() if weight.requires_grad]
        optimiser = torch.optim.Adam(learned, lr=3e-3)
        for step in range(steps):
            some = torch.arange(4 * step, 4 * step + 4) % len(x)
            with torch.enable_grad():
                gap = functional.mse_loss(block(x[some]), wanted[some]) / wanted.var()
            optimiser.zero_grad()
            torch.autograd.backward(gap)
            optimiser.step()
