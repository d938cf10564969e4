"""The told model in MLServer: deploy's runtime, with other answers."""

from __future__ import annotations

from heavy_runtime import HeavyRuntime

from tests.support.kserve import told_model


class ToldRuntime(HeavyRuntime):
    """No networks: loads at once."""

    async def load(self) -> bool:
        """The module is what answers."""
        self._heavy = told_model
        return True
