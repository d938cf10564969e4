"""A source with L2, whole looks only: how often it serves, how often it is wrong, what it costs."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.cache_checks import Dictionary
from benchmarks.cache_cost import Noise
from benchmarks.cache_loop import frames
from models import crops
from models.cells import cells_of, grid_of
from models.detector import Detector
from models.near import Near, NearCounts, NearSettings, agree
from stages.belief import BeliefSettings


def one_source(clip: Path, n_frames: int, given: BeliefSettings, using: Detector) -> dict[str, Any]:
    """A clip with noise of 1 level on Y, over and over; each frame is computed as well."""
    attention = given.attention
    settings = NearSettings(attention.long_side, attention.shown, 0.01)
    facts = b"".join(member.facts for member in using.members)
    near = Near(Dictionary(), facts, settings, attention.gate)
    noise = Noise(1)
    spent: list[float] = []
    cpu_ms: list[float] = []
    taught: list[float] = []
    served = wrong = 0
    pictures = [picture for picture, _, _ in frames(clip)]
    using.warm_up(pictures[0].width, pictures[0].height)
    for n in range(n_frames):
        picture = noise.on(pictures[n % len(pictures)])
        look = crops.whole(picture.width, picture.height, attention.long_side)
        began, cpu = time.perf_counter(), time.thread_time()
        cells = cells_of(picture, grid_of(picture.width, picture.height))
        sight = near.see(cells, [look], n / 25)
        spent.append(1e3 * (time.perf_counter() - began))
        cpu_ms.append(1e3 * (time.thread_time() - cpu))
        found = using.detect([picture])
        if sight is not None and sight.serves:
            served += 1
            wrong += not agree(sight.boxes[0], found[0], attention.shown)
        elif sight is not None:
            began = time.perf_counter()
            near.learn(sight, found)
            taught.append(1e3 * (time.perf_counter() - began))
    told = {"clip": clip.name, "frames": n_frames, "served": served, "served_wrong": wrong}
    times = {"look_up_ms": spent, "look_up_cpu_ms": cpu_ms, "learn_ms": taught}
    medians = {name: round(statistics.median(each), 3) for name, each in times.items()}
    return {**told, **_counted(near.counts), **medians}


def _counted(counts: NearCounts) -> dict[str, int]:
    return {
        "checked": counts.checked,
        "checked_wrong": counts.wrong,
        "misses": counts.misses,
        "skipped": counts.skipped,
    }
