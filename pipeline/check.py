"""`framegate check`: placeholder until the engine runs."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.errors import Exit


def check(config: Config) -> Exit:
    return Exit.DONE
