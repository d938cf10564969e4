"""Models that a run knows: those of its configuration, and whether others are on this host."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from framegate.pipeline.config.graph import StageEntry
from framegate.pipeline.errors import ModelNotTaken
from framegate.pipeline.loading import load

SETTLE = "framegate.stages.commands.settling:settle"
HAS = "framegate.stages.detect.pinned:has_model"
FORGET = "framegate.stages.detect.pinned:forget_models"


class KnownModels:
    """Of one run.

    settled  NAME@DIGEST by source, where the configuration names one for it
    where    HOST:FOLDER of the run's copies
    """

    def __init__(self, stages: Sequence[StageEntry], folder: Path) -> None:
        """ConfigFaults with all that is wrong with what the stages' options name."""
        self.settled: Mapping[str, str] = load(SETTLE)([(s.use, s.options) for s in stages], folder)
        self.where = f"{socket.gethostname()}:{folder / 'models'}"
        self._folder = folder
        self._forget: Callable[[Path, Collection[str | None]], None] = load(FORGET)
        self._has: Callable[[str, Path], bool] = load(HAS)

    def forget_unused(self, named: Collection[str | None]) -> None:
        """Remove copies that neither these name (NAME@DIGEST) nor the configuration ever did, but
        for the last ones.
        """
        self._forget(self._folder, {*named, *self.settled.values()})

    def taken_over(self, source: str, model: str, where: str) -> str:
        """The model with which a source goes on that another run has had; empty: as configured.

        model, where  as that run announced. ModelNotTaken if this host lacks it.
        """
        if not model or source in self.settled:
            return ""
        if not self._has(model, self._folder):
            raise ModelNotTaken(
                f"source {source}: {model} looks at it, which is not on this host; copy it with\n"
                f"  rsync -a {where}/ model/ && framegate models add model\n"
                f"or say another one in [models.sources.{source}]"
            )
        return model
