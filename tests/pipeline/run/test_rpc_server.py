"""What a run says to a command that asks it: what it is, also when the fault is the run's own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.contracts.errors import RunRefused
from framegate.pipeline.run.rpc import Use, ask
from framegate.pipeline.run.rpc_server import answered


class Broken:
    """In a supervisor's place: fails in a way that nobody expected."""

    async def use(self, model: str, sources: list[str]) -> None:
        raise ZeroDivisionError(f"{model} {sources}")


def test_an_unexpected_error_is_told_as_what_it_is(tmp_path: Path) -> None:
    broken: Any = Broken()

    async def asked() -> None:
        async with answered(tmp_path, broken, "unix:///none"):
            await asyncio.to_thread(ask, tmp_path, Use("m", ["door"]), 120.0)

    with pytest.raises(RunRefused, match=r"continues: ZeroDivisionError: m \['door'\]"):
        asyncio.run(asked())
