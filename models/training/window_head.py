"""The window head as a torch module: what the last frames say about each box of the newest one.

Needs torch (the `train` extra). Attention over the boxes of a window with the relations between
boxes as biases, after the idea of aggregating features over frames by likeness (Shi et al., "YOLOV:
Making Still Image Object Detectors Great at Video Object Detection", AAAI 2023), reduced to what a
CPU does beside a small detector: 4 heads of 16 numbers, and no classes of its own. It never learns
what a class looks like; it learns which of the detector's boxes to believe, so it holds for all.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

LENGTH = 256  # of a region's features
WIDTH = 64
HEADS = 4
LOOK = 16
STATISTICS = 22
ATTENDED = WIDTH + 4 * HEADS
MOST_LOOKS = 31  # past rows of a window
FADE = 3.0  # rows after which what was seen weighs a third in the recent means
REACH = 2.0  # how far, in logits, a score may be moved
FAR = 4.0  # deviations beyond which a statistic is only far


class BoxRows(NamedTuple):
    """Boxes as the detector gave them, one row a box.

    boxes      float (N, 4)  corners, in units of the picture's longer side
    scores     float (N,)    0..1; 0 marks a row that is only there to fill up
    class_ids  int32 (N,)    -1 where it fills up
    ids        int32 (N,)    tracks; 0: none; -1 where it fills up
    """

    boxes: Tensor
    scores: Tensor
    class_ids: Tensor
    ids: Tensor


class WindowHeadModule(nn.Module):
    """How far to believe each of the newest boxes; 64 k weights."""

    mean: Tensor
    deviation: Tensor
    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(LENGTH, 3 * WIDTH)
        self.look = nn.Linear(LENGTH, LOOK)
        self.relation = nn.Linear(3, HEADS)
        self.memory = nn.Linear(2, HEADS)
        self.nothing = nn.Parameter(torch.zeros(HEADS))
        self.register_buffer("mean", torch.zeros(STATISTICS))
        self.register_buffer("deviation", torch.ones(STATISTICS))
        self.register_buffer("level", torch.zeros(()))
        self.drop = nn.Dropout(0.1)
        n_in = STATISTICS + LOOK + ATTENDED
        self.judge: Any = nn.Sequential(
            nn.Linear(n_in, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2)
        )

    def forward(
        self,
        features: Tensor,
        newest: BoxRows,
        keys: Tensor,
        values: Tensor,
        past: BoxRows,
        ages: Tensor,
        looks: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One window.

        features      float (N, 256)  of the newest boxes
        keys, values  float (M, 64)   of the past boxes, as they were given out for them
        ages          float (M,)      rows back, 1..31
        looks         float (1,)      past rows in the window, 0..31

        Gives keys and values (N, 64) of the newest boxes, to be kept for later windows, and for
        each the logit that there is an object at all, and that of the box with its class.
        """
        query, new_keys, new_values = self.encode(features)
        relations = relations_of(newest, past)
        attended = self.attend(query, keys, values, past, ages, relations)
        stats = statistics_of(newest, past, ages, looks, relations)
        thing, score = self.decide(features, newest, attended, stats)
        return new_keys, new_values, thing, score

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (N, 64) of boxes by their features (N, 256)."""
        query, keys, values = self.project(features * 16).split(WIDTH, dim=-1)
        return query, keys, values

    def decide(
        self, features: Tensor, newest: BoxRows, attended: Tensor, stats: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (N,): that there is an object, and that it is one of the box's class."""
        usual = ((stats - self.mean) / self.deviation).clamp(-FAR, FAR)
        told = self.drop(torch.cat((usual, self.look(features * 16), attended), dim=1))
        thing, moved = self.judge(told).unbind(dim=1)
        own = logit(newest.scores)
        return own + 3 * torch.tanh(thing), own + REACH * torch.tanh(moved) + self.level

    def attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        past: BoxRows,
        ages: Tensor,
        relations: "Relations",
        missing: float = 0.0,
    ) -> Tensor:
        """What each head gathers of the past (N, 80): values, and how much speaks for the class.

        missing: logarithm of how many times more past rows there are than are given: training
        takes a sample of them.
        """
        n, m, each = query.shape[0], keys.shape[0], WIDTH // HEADS
        queries = query.view(n, HEADS, each).transpose(0, 1) / math.sqrt(each)
        likeness = queries @ keys.view(m, HEADS, each).permute(1, 2, 0)
        pairs = torch.stack((relations.same_track, relations.same_class, relations.overlap))
        bias = (self.relation.weight @ pairs.view(3, n * m)).view(HEADS, n, m)
        alone = self.memory(torch.stack((torch.log1p(ages) / 3.5, past.scores), dim=1))
        alone = alone + self.relation.bias + missing - 30 * (past.scores == 0).float()[:, None]
        logits = likeness + bias + alone.t()[:, None]
        nothing = self.nothing[:, None, None].expand(-1, n, 1)
        weights = functional.softmax(torch.cat((logits, nothing), dim=-1), dim=-1)[..., :m]
        evidence = torch.stack((torch.ones_like(past.scores), past.scores), dim=1)
        gathered = weights @ values.view(m, HEADS, each).transpose(0, 1)
        spoken = torch.cat((weights, weights * relations.same_class), dim=1) @ evidence
        spoken = spoken.view(HEADS, 2, n, 2).permute(2, 0, 1, 3).flatten(1)
        return torch.cat((gathered.transpose(0, 1).flatten(1), spoken), dim=1)


class Relations(NamedTuple):
    """Of boxes (N) to past boxes (M), each float (N, M)."""

    overlap: Tensor
    same_class: Tensor
    same_track: Tensor


def relations_of(newest: BoxRows, past: BoxRows) -> Relations:
    """How boxes stand to past boxes."""
    same_class = (newest.class_ids[:, None] == past.class_ids[None]).float()
    tracked = torch.where(newest.ids > 0, newest.ids, torch.full_like(newest.ids, -2))
    same_track = (tracked[:, None] == past.ids[None]).float()
    return Relations(_overlap(newest.boxes, past.boxes)[0], same_class, same_track)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection of boxes (N, 4) and (M, 4) over union, and over the first: both (N, M)."""
    left, top, right, bottom = a[:, None].unbind(2)
    other_left, other_top, other_right, other_bottom = b[None].unbind(2)
    wide = torch.minimum(right, other_right) - torch.maximum(left, other_left)
    high = torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)
    both = torch.relu(wide) * torch.relu(high)
    area = (right - left) * (bottom - top)
    other = (other_right - other_left) * (other_bottom - other_top)
    return both / (area + other - both + 1e-9), both / (area + 1e-9)


def statistics_of(
    newest: BoxRows, past: BoxRows, ages: Tensor, looks: Tensor, relations: Relations
) -> Tensor:
    """What needs no learning (N, 22): a box's history, and its company in its own frame."""
    return torch.cat((_history(newest, past, ages, looks, relations), _company(newest)), dim=1)


def _history(
    newest: BoxRows, past: BoxRows, ages: Tensor, looks: Tensor, relations: Relations
) -> Tensor:
    """How often and how surely a box was seen before (N, 13): along its track, and in its place."""
    rows = looks.clamp(min=1)
    keep = math.exp(-1 / FADE)
    recent = keep * (1 - torch.exp(-rows / FADE)) / (1 - keep)
    there = (past.scores > 0).float()
    columns = torch.stack(
        (there / rows, past.scores / rows, past.scores * torch.exp(-ages / FADE) / recent), dim=1
    )
    near = (relations.overlap > 0.5).float()
    same_track, same_class = relations.same_track, relations.same_class
    kinds = torch.stack((same_track, same_track * same_class, near * same_class, near))
    sums = kinds @ columns
    seen = sums[1, :, 0] * rows
    mean = (newest.scores + sums[1, :, 1] * rows) / (1 + seen)
    return torch.cat((sums.permute(1, 0, 2).flatten(1), mean[:, None]), dim=1)


def _company(newest: BoxRows) -> Tensor:
    """A box in its own frame (N, 9): its score, and what overlaps it there.

    Neither size nor place: three scenes taught where their own objects are.
    """
    own, box = newest.scores, newest.boxes
    overlap, inside = _overlap(box, box)
    same = (newest.class_ids[:, None] == newest.class_ids[None]).float()
    stronger = (own[None] > own[:, None]).float()
    twins, rivals = stronger * same, stronger * (1 - same)
    columns = (
        own,
        logit(own) / 4,
        (twins * overlap).amax(1),
        (twins * inside).amax(1),
        (rivals * overlap).amax(1),
        (rivals * overlap * own[None]).amax(1),
        (overlap * (1 - same) * own[None]).sum(1),
        (overlap * same).sum(1),
        (newest.ids > 0).float(),
    )
    return torch.stack(columns, dim=1)


def logit(scores: Tensor) -> Tensor:
    """The number whose sigmoid is the score; scores of 0 and 1 count as almost that."""
    scores = scores.clamp(1e-3, 1 - 1e-3)
    return torch.log(scores) - torch.log(1 - scores)
