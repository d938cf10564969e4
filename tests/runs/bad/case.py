"""What a case of bad input is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import Ended

GOOD_FRAMES = 40
DONE, SOURCE_FAILED, USAGE, STORE, TAKEN_OVER, STOPPED_TWICE = 0, 1, 2, 3, 75, 130

Play = Callable[[Path], Ended]


@dataclass(frozen=True)
class Case:
    """One bad thing.

    play  does it in the user's folder, where good.mp4 and a pipeline.toml are, and gives how the
          command ended
    code  exit code
    says  parts of what the user sees
    long  whether it says at length what others say
    """

    name: str
    play: Play
    code: int
    says: tuple[str, ...]
    long: bool = False
