"""`framegate fleet apply` with the sources of a large fleet, and the moves for one lost slot."""

from __future__ import annotations

import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import redis

from framegate.pipeline.fleet.fleet_file import DEFAULT_COST
from framegate.pipeline.store.embedded import EmbeddedStore
from tests.support.runs import environment

CORES: Final = 2.0
FULL: Final = 0.75  # share of the cores that the sources need
_MOVED: Final = re.compile(r"^source \S+: moves from (\S+) to \S+", re.MULTILINE)


def applied(sources: int, rounds: int) -> tuple[float, dict[str, int]]:
    """Return the median seconds of the command on an empty store, and what one lost slot moves.

    The moves have `own`, the sources of that slot, and `others`, those of other slots.
    """
    slots = [f"slot{number}" for number in range(_slots_of(sources))]
    with tempfile.TemporaryDirectory(prefix="framegate-bench-") as made:
        folder = Path(made)
        store = EmbeddedStore(folder / "store", "everysec")
        store.start()
        client: Any = redis.Redis.from_url(store.url)
        try:
            _write(folder / "fleet.toml", slots, sources)
            seconds = []
            for _ in range(rounds):
                client.flushall()
                began = time.monotonic()
                _apply(folder, store.url)
                seconds.append(time.monotonic() - began)
            _write(folder / "fleet.toml", slots[1:], sources)
            moved = _MOVED.findall(_apply(folder, store.url))
        finally:
            client.close()
            store.stop()
    own = moved.count(slots[0])
    moves = {"sources": sources, "slots": len(slots), "own": own, "others": len(moved) - own}
    return statistics.median(seconds), moves


def _slots_of(sources: int) -> int:
    return math.ceil(sources * DEFAULT_COST / CORES / FULL)


def _write(path: Path, slots: Iterable[str], sources: int) -> None:
    lines = [f"[slots.{slot}]\ncores = {CORES}" for slot in slots]
    lines += [f'[sources.camera{number}]\nurl_env = "CAMERA_{number}"' for number in range(sources)]
    path.write_text("\n".join(lines), encoding="utf-8")


def _apply(folder: Path, url: str) -> str:
    words = ("fleet", "apply", str(folder / "fleet.toml"), "--store", url)
    done = subprocess.run(
        (sys.executable, "-m", "framegate.cli", *words),
        env=environment(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    return done.stdout
