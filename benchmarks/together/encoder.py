"""An encoder of windows, trained without labels: path, looks, sound and words attend to each other.

Tokens of a window are its steps of the path, its looks, its steps of the sound, and its words. All
tokens attend to all others, so sound and path of one step can meet: they share the embedding of
their step. It is trained in two ways at once:

masking    some tokens, or a whole part, are hidden, and the encoder predicts them; the path's
           token of a step also predicts the sound of this step, and the sound's the path
contrast   two views of a track, with different looks and different hidden tokens, are nearer to
           each other than to the other track of the same scene. Other scenes are no counterexample:
           the same place minutes later can show the same
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.together.library import LOOKS, SOUND_VALUES
from benchmarks.together.scenes import FEATURES, STEPS, WORDS, Windows, at_gate, on_road, standing

WIDTH: Final = 64
_LAYERS: Final = 2
_HEADS: Final = 4
_HIDES_PART: Final = 0.3  # share of windows from which a part is hidden
_HIDES_TOKEN: Final = 0.3
_BATCH: Final = 64  # scenes, of two tracks each
_RATE: Final = 1e-3
_TEMPERATURE: Final = 0.1
_PARTS: Final = {"path": (STEPS, 6), "looks": (LOOKS, FEATURES + 1),
                 "sound": (STEPS, SOUND_VALUES + 1), "words": (1, WORDS)}  # fmt: skip

_OTHER: Final = {"path": "sound", "sound": "path"}  # the token of the same step that predicts it

Parts = dict[str, Tensor]


class Encoder(nn.Module):
    """The network: about 0.2 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict({n: nn.Linear(w, WIDTH) for n, (_, w) in _PARTS.items()})
        self.outputs = nn.ModuleDict({n: nn.Linear(WIDTH, w) for n, (_, w) in _PARTS.items()})
        self.across = nn.ModuleDict({n: nn.Linear(WIDTH, _PARTS[n][1]) for n in _OTHER})
        self.hidden = nn.Parameter(torch.randn(len(_PARTS), WIDTH) * 0.02)
        self.part = nn.Parameter(torch.randn(len(_PARTS), WIDTH) * 0.02)
        self.step = nn.Parameter(torch.randn(STEPS, WIDTH) * 0.1)
        layer = nn.TransformerEncoderLayer(
            WIDTH, _HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.project = nn.Sequential(
            nn.Linear(2 * len(_PARTS) * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)
        )

    def forward(self, parts: Parts, hides: Parts | None = None) -> Parts:
        """Return the output of each token, (N, tokens, WIDTH) for each part.

        hides  bool (N, tokens) for each part: tokens that are hidden
        """
        tokens = []
        for number, (name, (count, _)) in enumerate(_PARTS.items()):
            token = self.inputs[name](parts[name])
            if hides is not None:
                token = torch.where(hides[name][..., None], self.hidden[number], token)
            token = token + self.part[number]
            if count == STEPS:
                token = token + self.step
            tokens.append(token)
        after = self.norm(self.layers(torch.cat(tokens, 1)))
        split = after.split([count for count, _ in _PARTS.values()], 1)
        return dict(zip(_PARTS, split, strict=True))


def pooled(outputs: Parts) -> Tensor:
    """Return the mean and the greatest output of each part, (N, 2 * 4 * WIDTH)."""
    return torch.cat([torch.cat([each.mean(1), each.amax(1)], 1) for each in outputs.values()], 1)


def parts_of(windows: Windows) -> Parts:
    """Return the inputs of windows."""
    return {
        "path": torch.from_numpy(_places(windows)),
        "looks": torch.from_numpy(windows.looks),
        "sound": torch.from_numpy(windows.sound),
        "words": torch.from_numpy(windows.words)[:, None],
    }


def _places(windows: Windows) -> npt.NDArray[np.float32]:
    """Return the feet, and whether they are at the gate, on the road, or stand, (N, STEPS, 6)."""
    path = windows.path
    is_there = path[..., 2:] > 0
    places = np.stack([at_gate(path), on_road(path), standing(path)], 2) & is_there
    return np.concatenate([path * 2 - 1, places], 2).astype(np.float32)


def _hides(count: int, random: torch.Generator) -> Parts:
    """Draw tokens to hide: single ones, and whole parts; one part at least stays."""
    names = list(_PARTS)
    whole = torch.rand(count, len(names), generator=random) < _HIDES_PART
    kept = torch.randint(len(names), (count,), generator=random)
    whole[torch.arange(count), kept] = False
    hides = {}
    for number, (name, (tokens, _)) in enumerate(_PARTS.items()):
        single = torch.rand(count, tokens, generator=random) < _HIDES_TOKEN
        hides[name] = whole[:, number, None] | single
    return hides


def fresh(seed: int) -> Encoder:
    """Return an encoder with the weights that it begins with."""
    torch.manual_seed(seed)
    return Encoder().eval()


def pretrain(windows: Windows, steps: int, seed: int) -> tuple[Encoder, float]:
    """Train an encoder without labels; return it with the CPU minutes that it took.

    windows  two of each scene, one after the other
    """
    random = torch.Generator().manual_seed(seed)
    start = time.process_time()
    encoder = fresh(seed).train()
    optimiser = torch.optim.AdamW(encoder.parameters(), _RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    parts = parts_of(windows)
    scenes = len(windows) // 2
    for _ in range(steps):
        chosen = torch.randint(scenes, (_BATCH,), generator=random)
        rows = torch.stack([2 * chosen, 2 * chosen + 1], 1).reshape(-1)
        batch = {name: part[rows] for name, part in parts.items()}
        loss, views = torch.zeros(()), []
        for view in range(2):
            hides = _hides(len(rows), random)
            hides["looks"][:, view::2] = True  # each view has looks of its own
            outputs = encoder(batch, hides)
            loss = loss + _masked_loss(encoder, batch, hides, outputs)
            views.append(functional.normalize(encoder.project(pooled(outputs)), dim=1))
        loss = loss + _contrast(views[0], views[1])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return encoder.eval(), (time.process_time() - start) / 60


def _masked_loss(encoder: Encoder, batch: Parts, hides: Parts, outputs: Parts) -> Tensor:
    loss = torch.zeros(())
    for name in _PARTS:
        scale = batch[name].var().clamp_min(1e-3)
        apart = _apart(encoder.outputs[name](outputs[name]), batch[name])
        loss = loss + (apart * hides[name]).sum() / hides[name].sum().clamp_min(1) / scale
        if name in _OTHER:
            across = encoder.across[name](outputs[_OTHER[name]])
            loss = loss + _apart(across, batch[name]).mean() / scale
    return loss


def _apart(predicted: Tensor, values: Tensor) -> Tensor:
    return functional.smooth_l1_loss(predicted, values, reduction="none").mean(2)


def _contrast(first: Tensor, second: Tensor) -> Tensor:
    """Return the loss: a track's other view against the view of the other track of its scene."""
    other = second.reshape(-1, 2, WIDTH).flip(1).reshape(-1, WIDTH)
    same = (first * second).sum(1) / _TEMPERATURE
    apart = (first * other).sum(1) / _TEMPERATURE
    return functional.softplus(apart - same).mean()


def encoded(encoder: Encoder, windows: Windows, without: str = "") -> npt.NDArray[np.float32]:
    """Return the features of windows; `without` hides a part of all of them."""
    hides = None
    if without:
        hides = {n: torch.full((len(windows), c), n == without) for n, (c, _) in _PARTS.items()}
    with torch.no_grad():
        return pooled(encoder(parts_of(windows), hides)).numpy()
