"""A student's architecture, searched for on a camera's pictures with times measured on this CPU.

Needs torch (the `train` extra). From a shared network (`shared_network`) on:

1. it learns as a whole: each step the largest architecture from the teacher, and the smallest and
   some by chance from what the largest says (sandwich rule and in-place distillation: Yu and Huang,
   ICCV 2019);
2. gates, the chance of each candidate of each decision, learn by gradient to draw what says what
   the largest says in the time that is allowed: the loss by the chances of what was drawn
   (REINFORCE: Williams, 1992), the time as a sum of products of gates with measured times (FBNet:
   Wu et al., CVPR 2019);
3. each decision in turn falls for the candidate whose loss hurts most, not for the highest gate
   (perturbation: Wang et al., ICLR 2021);
4. what is still too slow is made smaller where that costs least, and where time is left, it goes
   where it brings most.

Everything follows from the seed, but for the measured times.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from framegate.models.formats.nanodet import BINS
from framegate.models.training.detection_loss import lost
from framegate.models.training.lessons import Lesson, Seen, batch
from framegate.models.training.part_times import PartTimes, parts
from framegate.models.training.shared_network import Choices, Shared, Space
from framegate.models.training.student import Architecture, as_input

# -- Learning as a whole.


@dataclass(frozen=True, slots=True)
class SearchSchedule:
    """How long a search learns.

    shared_steps  of the shared network
    gate_steps    of the gates
    between       of the gates that are left, after each decision
    pictures      of a step
    by_chance     architectures of a shared step, beside the largest and the smallest
    drawn         architectures of a gate step, and for each decision
    share         of the time of the largest that may be taken
    """

    seed: int = 0
    shared_steps: int = 300
    gate_steps: int = 60
    between: int = 3
    pictures: int = 8
    by_chance: int = 2
    drawn: int = 6
    rate: float = 4e-4
    share: float = 0.58


class Search:
    """A search on its way: `learn_shared`, then `choose`. One thread at a time.

    lessons  of earlier footage
    size     (width, height) of the input
    tell     takes a line for whoever waits
    """

    def __init__(
        self,
        shared: Shared,
        lessons: Sequence[Lesson],
        size: tuple[int, int],
        times: PartTimes,
        schedule: SearchSchedule,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.shared, self.space, self.net = shared, shared.space, shared.net
        self.lessons, self.size, self.times, self.schedule = lessons, size, times, schedule
        self.tell = tell
        self.allowed_ms = schedule.share * times.of(self.space.largest)
        self._draw = random.Random(schedule.seed)

    # Shared weights.

    def learn_shared(self) -> None:
        """All steps of the sandwich."""
        learned = [weight for weight in self.net.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(
            learned, lr=self.schedule.rate, betas=(0.9, 0.99), weight_decay=0.02
        )
        n = self.schedule.shared_steps
        largest, smallest = self.space.end(0), self.space.end(-1)
        mean = 0.0
        for step in range(n):
            for group in optimiser.param_groups:
                cosine = 0.51 + 0.49 * float(np.cos(np.pi * step / n))
                group["lr"] = self.schedule.rate * min(1.0, (step + 1) / 30) * cosine
            x, seen = self._pictures(step)
            optimiser.zero_grad()
            heads = self.shared.heads(largest, x)
            of_teacher = lost(heads, [one.objects for one in seen], self.size)
            loss = of_teacher.total / of_teacher.targets.clamp(min=1.0)
            torch.autograd.backward(loss)
            wanted = [head.detach() for head in heads]
            by_chance = (self.space.drawn(self._draw) for _ in range(self.schedule.by_chance))
            for one in (smallest, *map(self.space.architecture, by_chance)):
                torch.autograd.backward(apart(self.shared.heads(one, x), wanted))
            nn.utils.clip_grad_norm_(learned, 10.0)
            optimiser.step()
            mean += (float(loss.detach()) - mean) / min(step + 1, 20)
            if step % 50 == 49:
                self.tell(f"shared network: step {step + 1} of {n}, loss {mean:.3f}")

    def _pictures(self, step: int) -> tuple[Tensor, list[Seen]]:
        n = self.schedule.pictures
        seen = batch(self.lessons, self.size, self.schedule.seed, step, range(n), n)
        return as_input(np.stack([one.bgr for one in seen])), seen

    # Gates.

    def choose(self) -> Architecture:
        """The architecture; the shared weights stay as they are."""
        gates = Gates(self.space, self.times)
        optimiser = torch.optim.Adam(gates.numbers.values(), lr=0.1)
        for step in range(self.schedule.gate_steps):
            self._learn_gates(gates, optimiser, step)
        told = float(gates.ms(gates.shares()).detach())
        self.tell(f"gates: {told:.2f} ms in the mean, allowed are {self.allowed_ms:.2f}")
        order = list(gates.numbers)
        self._draw.shuffle(order)
        for name in order:
            hurt = self._hurt(gates, name)
            gates.settle(name, int(np.argmax(hurt)))
            self.tell(f"{name}: {gates.settled[name]}")
            for step in range(self.schedule.between if len(gates.settled) < len(order) else 0):
                self._learn_gates(gates, optimiser, step)
        return self._within(gates.settled)

    def _learn_gates(self, gates: Gates, optimiser: torch.optim.Optimizer, step: int) -> None:
        """By the gradient of the mean loss over what the gates draw."""
        x, wanted = self._largest_says(self.schedule.shared_steps + step)
        drawn = [gates.drawn(self._draw) for _ in range(self.schedule.drawn)]
        losses = torch.tensor([self._loss(one, x, wanted) for one in drawn])
        chances = torch.stack([gates.log_chance(one) for one in drawn])
        objective = ((losses - losses.mean()) * chances).mean() + self._late(gates.shares(), gates)
        optimiser.zero_grad()
        torch.autograd.backward(objective)
        optimiser.step()

    def _hurt(self, gates: Gates, name: str) -> list[float]:
        """By candidate of a decision: what is expected without it, the others drawn alike."""
        x, wanted = self._largest_says(0)
        candidates, shares = self.space.decisions[name], gates.shares()
        told = torch.zeros(len(candidates))
        for _ in range(self.schedule.drawn):
            others = gates.drawn(self._draw)
            told += torch.tensor([self._loss(others | {name: c}, x, wanted) for c in candidates])
        found = []
        for i in range(len(candidates)):
            without = shares[name].detach().clone()
            without[i] = 0.0
            without = without / without.sum()
            late = self._late(shares | {name: without}, gates)
            found.append(float((without @ told / self.schedule.drawn + late).detach()))
        return found

    def _largest_says(self, step: int) -> tuple[Tensor, list[Tensor]]:
        x, _ = self._pictures(step)
        with torch.no_grad():
            return x, self.shared.heads(self.space.end(0), x)

    def _loss(self, choice: Choices, x: Tensor, wanted: Sequence[Tensor]) -> float:
        """Logarithm of how far one is from the largest: twice as far counts alike everywhere."""
        with torch.no_grad():
            heads = self.shared.heads(self.space.architecture(choice), x)
            return float(apart(heads, wanted).log())

    def _late(self, shares: Mapping[str, Tensor], gates: Gates) -> Tensor:
        return LATE * functional.relu(gates.ms(shares) / self.allowed_ms - 1)

    def _within(self, choice: Choices) -> Architecture:
        """With one decision after the other changed until it takes the time that is allowed."""
        x, wanted = self._largest_says(0)
        loss, ms = self._loss(choice, x, wanted), self._ms(choice)
        while ms > self.allowed_ms:  # where the least is lost for the time saved
            others = [
                one for one in self._beside(choice) if self._ms(one) < (1 - _LEAST_SAVED) * ms
            ]
            if not others:
                break
            losses = [self._loss(one, x, wanted) for one in others]
            worth = [
                (new - loss) / (ms - self._ms(one)) for one, new in zip(others, losses, strict=True)
            ]
            best = int(np.argmin(worth))
            choice, loss, ms = others[best], losses[best], self._ms(others[best])
        while True:  # where the most is won
            others = [one for one in self._beside(choice) if self._ms(one) <= self.allowed_ms]
            losses = [self._loss(one, x, wanted) for one in others]
            if not others or min(losses) >= loss:
                return self.space.architecture(choice)
            best = int(np.argmin(losses))
            choice, loss = others[best], losses[best]

    def _beside(self, choice: Choices) -> Iterator[Choices]:
        """All that differ in one decision."""
        for name, candidates in self.space.decisions.items():
            yield from (choice | {name: one} for one in candidates if one != choice[name])

    def _ms(self, choice: Choices) -> float:
        return self.times.of(self.space.architecture(choice))


LATE: Final = 10.0  # what twice the allowed time costs, in a loss that tells twice as far by .7
_LEAST_SAVED: Final = 0.005  # of the time: less is no saving


def apart(said: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """How far heads are from others' of the same pictures: class scores, and sides where it sees.

    Scores as in the loss against a teacher, with the other's score as target; sides by the
    Kullback-Leibler divergence of their bins, weighted by the other's highest score.
    """
    ours, theirs = (torch.cat([h.float().flatten(2) for h in one], dim=2) for one in (said, wanted))
    logits, target = ours[:, : -4 * BINS], theirs[:, : -4 * BINS].sigmoid()
    sees = target.amax(1)
    missed = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    scores = (missed * (logits.sigmoid() - target) ** 2).sum() / sees[sees > 0.2].sum().clamp(min=1)
    n, _, cells = ours.shape
    own = ours[:, -4 * BINS :].reshape(n, 4, BINS, cells).log_softmax(2)
    other = theirs[:, -4 * BINS :].reshape(n, 4, BINS, cells).log_softmax(2)
    sides = functional.kl_div(own, other, reduction="none", log_target=True).sum(2).mean(1)
    weight = sees * (sees > 0.15)
    return scores + 0.5 * (sides * weight).sum() / weight.sum().clamp(min=1e-6)


class Gates:
    """A number for each candidate of each decision that is open."""

    def __init__(self, space: Space, times: PartTimes) -> None:
        self.decisions = space.decisions
        self.numbers = {
            name: torch.zeros(len(of), requires_grad=True) for name, of in self.decisions.items()
        }
        self.settled: Choices = {}
        self._fixed: dict[str, Tensor] = {}
        self._times = _Expected(space, times)

    def shares(self) -> dict[str, Tensor]:
        """By decision: the chance of each candidate, together 1."""
        return {n: self._fixed.get(n, one.softmax(0)) for n, one in self.numbers.items()}

    def drawn(self, draw: random.Random) -> Choices:
        """A candidate for every decision, each with its share for its chance."""
        shares = self.shares()
        return {
            name: draw.choices(of, shares[name].tolist())[0] for name, of in self.decisions.items()
        }

    def log_chance(self, choice: Choices) -> Tensor:
        """Logarithm of the chance that `drawn` gives this."""
        shares = self.shares()
        picked = [shares[n][of.index(choice[n])] for n, of in self.decisions.items()]
        return torch.stack(picked).log().sum()

    def settle(self, name: str, which: int) -> None:
        """Decides for one candidate."""
        self.settled[name] = self.decisions[name][which]
        self._fixed[name] = functional.one_hot(
            torch.tensor(which), len(self.decisions[name])
        ).float()

    def ms(self, shares: Mapping[str, Tensor]) -> Tensor:
        """Milliseconds in the mean over all that can be drawn with these shares."""
        return self._times.of(shares)


class _Expected:
    """Times of parts as tables over the one or two decisions that each hangs on."""

    def __init__(self, space: Space, times: PartTimes) -> None:
        self._fixed, self._scale = times.fixed, times.scale
        self._tables: list[tuple[tuple[str, ...], Tensor]] = []
        decisions = space.decisions
        base = {name: options[0] for name, options in decisions.items()}

        def ms(path: str, names: Sequence[str], values: Sequence[Any]) -> float:
            choice = base | dict(zip(names, values, strict=True))
            found = parts(space.architecture(choice), times.size)
            own = [part for part in found if _place_of(part.path) == path]
            return sum(times.ms[part.key] for part in own)

        for path, names in _hangs_on(space).items():
            options = [decisions[name] for name in names]
            values = [ms(path, names, one) for one in itertools.product(*options)]
            table = torch.tensor(values).view([len(one) for one in options])
            self._tables.append((names, table))

    def of(self, shares: Mapping[str, Tensor]) -> Tensor:
        """Milliseconds."""
        whole = torch.zeros(())
        for names, table in self._tables:
            for name in names:
                table = (
                    shares[name] @ table
                    if table.dim() == 1
                    else (torch.tensordot(shares[name], table, dims=1))
                )
            whole = whole + table
        return self._fixed + self._scale * whole


def _place_of(path: str) -> str:
    """A part's path without the kind of what stands there."""
    words = path.split(".")
    if words[0] == "stems":
        return "stem"
    if "blocks" in words:
        last = words[-1].split("_")[0] if words[0] == "stages" else "block"
        return ".".join((*words[:-1], last))
    return path


def _hangs_on(space: Space) -> dict[str, tuple[str, ...]]:
    """By place: the decisions that its time hangs on."""
    found: dict[str, tuple[str, ...]] = {"": ("stem", "pyramid"), "stem": ("stem", "width 0")}
    for i, stage in enumerate(space.largest.stages):
        found[f"stages.{i}.entry"] = (f"width {i - 1}", f"width {i}") if i else ("width 0",)
        found[f"stages.{i}"] = (f"width {i}",)
        for j in range(len(stage.blocks)):
            found[f"stages.{i}.blocks.{j}"] = (f"place {i}.{j}", f"width {i}")
        if i:
            found[f"laterals.{i - 1}"] = (f"width {i}", "pyramid")
            found[f"heads.{i - 1}.blocks.block"] = ("head", "pyramid")
            found[f"heads.{i - 1}"] = ("pyramid",)
    return found
