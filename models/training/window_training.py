"""Teaching the window head: what it learns from, what is lost, two rounds of training.

Needs torch. How sure the light detector must be before the heavy pass agrees is not the same in
every scene, and a few scenes do not tell what it will be in the next. So each lesson has a scale
and an offset of its own for what the head says of it: the head learns which boxes of a scene are
better than others, and leaves alone how high they are all together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from framegate.models.detector import policy
from framegate.models.tracking import thresholds
from framegate.models.training.window_head import (
    ATTENDED,
    MOST_LOOKS,
    STATISTICS,
    BoxRows,
    WindowHeadModule,
    logit,
    relations_of,
    statistics_of,
)
from framegate.models.training.window_lessons import ClipLesson

FEATURE_NOISE = 0.7 / 16  # a number of a feature is about 1/16
STAY = 0.02  # what it costs to move a score, by the square of the move
OBJECT_SHARE = 0.3  # of the loss, beside the box with its class
REAL_SHARE = 0.15  # of the training, the rest is composed footage
SAMPLE = 8  # past rows that a training window has, of up to 31
STEADY = 1.0  # what it costs when a track's score changes from one frame to the next, by its square
LEAST = policy.load("light").min_score  # the detector's own threshold
SHOWN = thresholds.mean_for(LEAST)  # the calm rule's, which the head's scores are held to


@dataclass(frozen=True, slots=True)
class Rounds:
    """Sizes of the two rounds: boxes by themselves, then with attention."""

    steps_alone: int = 1500
    boxes: int = 2048
    steps_attending: int = 1000
    runs: int = 4
    frames: int = 4


class Taught:
    """A lesson as tensors; all of its boxes with their statistics."""

    def __init__(self, lesson: ClipLesson) -> None:
        self.is_real = not lesson.name.startswith("composed")
        self.start = lesson.start
        self.frames = lesson.frames
        self.seen = BoxRows(
            torch.from_numpy(lesson.boxes),
            torch.from_numpy(lesson.scores),
            torch.from_numpy(lesson.class_ids),
            torch.from_numpy(lesson.ids),
        )
        self.features = torch.from_numpy(lesson.features.astype(np.float32))
        self.targets = torch.from_numpy(np.stack([lesson.is_object, lesson.is_right], axis=1))
        weights = [lesson.object_weight * OBJECT_SHARE, lesson.right_weight]
        self.weights = torch.from_numpy(np.stack(weights, axis=1).astype(np.float32))
        self.frame = torch.from_numpy(np.repeat(np.arange(self.frames), np.diff(lesson.start)))
        self.stats = torch.cat([self._statistics(i) for i in range(self.frames)])

    def rows(self, which: slice | Tensor) -> BoxRows:
        """Some of its boxes."""
        return BoxRows(*(column[which] for column in self.seen))

    def span(self, first: int, end: int) -> slice:
        """Where the boxes of frames `first` to `end` stand."""
        return slice(int(self.start[first]), int(self.start[end]))

    def _statistics(self, frame: int) -> Tensor:
        first = max(0, frame - MOST_LOOKS)
        before, now = self.span(first, frame), self.span(frame, frame + 1)
        newest, past = self.rows(now), self.rows(before)
        if now.start == now.stop:
            return torch.zeros(0, STATISTICS)
        looks = torch.tensor([float(frame - first)])
        ages = (frame - self.frame[before]).float()
        return statistics_of(newest, past, ages, looks, relations_of(newest, past))


class HeadTraining:
    """Lessons, the head that is taught, and each lesson's own scale and offset."""

    def __init__(
        self, real: Sequence[ClipLesson], composed: Sequence[ClipLesson], seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        with torch.no_grad():
            self.lessons = [Taught(lesson) for lesson in (*real, *composed)]
        n, m = len(real), len(composed)
        self.share = np.array([REAL_SHARE / n] * n + [(1 - REAL_SHARE) / m] * m)
        self.share /= self.share.sum()
        self.head = WindowHeadModule()
        first, last = self.head.judge[0], self.head.judge[-1]
        for zero in (first.weight.data[:, -ATTENDED:], last.weight.data, last.bias.data):
            nn.init.zeros_(zero)
        stats = torch.cat([one.stats for one in self.lessons])
        self.head.mean.copy_(stats.mean(0))
        self.head.deviation.copy_(stats.std(0) + 1e-2)
        self.scale = nn.Parameter(torch.full((n + m,), 1.5))
        self.offset = nn.Parameter(torch.zeros(n + m))

    def teach(self, rounds: Rounds) -> WindowHeadModule:
        """Both rounds; the head, in evaluation mode."""
        self._alone(rounds)
        self._attending(rounds)
        self.head.eval()
        self.set_level()
        return self.head

    def _alone(self, rounds: Rounds) -> None:
        """Boxes without what attention gathers: fast, and most of what there is to learn."""
        every = [torch.cat(part) for part in zip(*map(_columns, self.lessons), strict=True)]
        features, scores, stats, targets, weights = every
        owner = torch.cat([torch.full((len(one.stats),), i) for i, one in enumerate(self.lessons)])
        counts = [self.share[i] / one.frames for i, one in enumerate(self.lessons)]
        worth = torch.tensor(counts, dtype=torch.float32)[owner]
        worth = worth / worth.mean()
        optimiser, schedule = self._optimiser(rounds.steps_alone, 3e-3)
        for step in range(rounds.steps_alone):
            rows = torch.randint(len(owner), (rounds.boxes,))
            newest = BoxRows(*[scores[rows]] * 4)
            nothing = torch.zeros(rounds.boxes, ATTENDED)
            said = self.head.decide(_noisy(features[rows]), newest, nothing, stats[rows])
            lost = self._lost(said, scores[rows], targets[rows], weights[rows], owner[rows])
            self._learn(optimiser, (lost * worth[rows]).mean())
            schedule.step()
            if step % 500 == 499:
                print(f"alone {step + 1}", flush=True)

    def _attending(self, rounds: Rounds) -> None:
        """Runs of frames, each with a sample of the rows before it."""
        optimiser, schedule = self._optimiser(rounds.steps_attending, 1e-3)
        mean = 0.0
        for step in range(rounds.steps_attending):
            lost = torch.zeros(())
            for which in self.rng.choice(len(self.lessons), rounds.runs, p=self.share):
                first = int(self.rng.integers(self.lessons[which].frames - rounds.frames + 1))
                lost = lost + self._run(int(which), first, rounds.frames) / rounds.runs
            self._learn(optimiser, lost)
            schedule.step()
            mean += (float(lost.detach()) - mean) / min(step + 1, 100)
            if step % 100 == 99:
                print(f"attending {step + 1}: loss {mean:.4f}", flush=True)

    def _run(self, which: int, first: int, frames: int) -> Tensor:
        """Mean loss of a box over some frames in a row."""
        lesson = self.lessons[which]
        begin = max(0, first - MOST_LOOKS)
        here = lesson.span(begin, first + frames)
        features = _noisy(lesson.features[here])
        query, keys, values = self.head.encode(features)
        rows = np.arange(begin, first + frames)
        sample = self.rng.choice(rows, min(SAMPLE + frames, len(rows)), replace=False)
        total, n = torch.zeros(()), 0
        last: tuple[BoxRows, Tensor] | None = None
        for frame in range(first, first + frames):
            now = lesson.span(frame, frame + 1)
            if now.start == now.stop:
                continue
            past = [row for row in sample if frame - MOST_LOOKS <= row < frame]
            at = torch.cat([torch.zeros(0, dtype=torch.long), *(_of(lesson, r) for r in past)])
            newest, before = lesson.rows(now), lesson.rows(at)
            local = slice(now.start - here.start, now.stop - here.start)
            all_rows = min(frame, MOST_LOOKS)
            attended = self.head.attend(
                query[local],
                keys[at - here.start],
                values[at - here.start],
                before,
                (frame - lesson.frame[at]).float(),
                relations_of(newest, before),
                math.log(all_rows / len(past)) if past else 0.0,
            )
            said = self.head.decide(features[local], newest, attended, lesson.stats[now])
            owner = torch.full((now.stop - now.start,), which)
            targets, weights = lesson.targets[now], lesson.weights[now]
            total = total + self._lost(said, newest.scores, targets, weights, owner).sum()
            if last is not None:
                total = total + STEADY * _unsteady(last[0], last[1], newest, said[1])
            last = newest, said[1]
            n += now.stop - now.start
        return total / max(1, n)

    def _lost(
        self,
        said: tuple[Tensor, Tensor],
        scores: Tensor,
        targets: Tensor,
        weights: Tensor,
        owner: Tensor,
    ) -> Tensor:
        """Loss (N,) of what the head said of boxes, by their lessons' scales and offsets."""
        both = torch.stack(said, dim=1)
        placed = self.scale[owner, None] * both + self.offset[owner, None]
        wrong = functional.binary_cross_entropy_with_logits(placed, targets, reduction="none")
        moved = (said[1] - logit(scores)) ** 2
        return (wrong * weights).sum(1) + STAY * moved

    def set_level(self) -> None:
        """Of the composed footage as many boxes are shown as the detector by itself would show.

        The head says which; how many there are is left as it was, in the mean over many scenes.
        """
        made = [one for one in self.lessons if not one.is_real]
        with torch.no_grad():
            scores = torch.cat([self._scores(one) for one in made])
            own = torch.cat([one.seen.scores for one in made])
            n_shown = int((own > LEAST).sum())
            lowest = scores.sort(descending=True).values[max(0, n_shown - 1)] - self.head.level
            self.head.level.copy_(math.log(SHOWN / (1 - SHOWN)) - lowest)

    def _scores(self, lesson: Taught) -> Tensor:
        """What the head says of all boxes of a lesson, each by its whole window: logits (R,)."""
        query, keys, values = self.head.encode(lesson.features)
        said = []
        for frame in range(lesson.frames):
            now = lesson.span(frame, frame + 1)
            before = lesson.span(max(0, frame - MOST_LOOKS), frame)
            newest, past = lesson.rows(now), lesson.rows(before)
            ages, relations = (frame - lesson.frame[before]).float(), relations_of(newest, past)
            attended = self.head.attend(
                query[now], keys[before], values[before], past, ages, relations
            )
            features, stats = lesson.features[now], lesson.stats[now]
            said.append(self.head.decide(features, newest, attended, stats)[1])
        return torch.cat(said)

    def _optimiser(
        self, steps: int, rate: float
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        own: dict[str, Any] = {"params": [self.scale, self.offset], "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters())}, own]
        optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=0.02)
        rates = [rate, 7 * rate]
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rates, total_steps=steps, pct_start=0.1
        )

    def _learn(self, optimiser: torch.optim.Optimizer, lost: Tensor) -> None:
        optimiser.zero_grad()
        torch.autograd.backward(lost)
        nn.utils.clip_grad_norm_(self.head.parameters(), 5.0)
        optimiser.step()


def _unsteady(before: BoxRows, scores: Tensor, now: BoxRows, scores_now: Tensor) -> Tensor:
    """Sum of squared changes of the scores of boxes that go on along a track, with their class."""
    same = (now.ids[:, None] == before.ids[None]) & (now.ids[:, None] > 0)
    same = same & (now.class_ids[:, None] == before.class_ids[None])
    change = torch.sigmoid(scores_now)[:, None] - torch.sigmoid(scores)[None]
    return (change**2 * same).sum()


def _columns(lesson: Taught) -> tuple[Tensor, ...]:
    return (
        lesson.features,
        lesson.seen.scores,
        lesson.stats,
        lesson.targets,
        lesson.weights,
    )


def _of(lesson: Taught, frame: int) -> Tensor:
    rows = lesson.span(int(frame), int(frame) + 1)
    return torch.arange(rows.start, rows.stop)


def _noisy(features: Tensor) -> Tensor:
    return features + FEATURE_NOISE * torch.randn_like(features)
