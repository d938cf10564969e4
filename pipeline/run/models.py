"""The models of a run: those of its configuration, and which of them this host has.

Only `models` and `stages` know what a model is. The command line passes their functions.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framegate.pipeline.config.graph import StageEntry
from framegate.pipeline.contracts.errors import ModelNotTaken

# Name of a stage, the class that it uses, and its options.
StageUse = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ModelFunctions:
    """What a run asks about models.

    settle        stages, folder -> NAME@DIGEST of each source whose model is of the registry, under
                  "" of all others; copies the models into the run's folder. ConfigFaults
    labels_known  stages, folder -> labels that results can have; None if a stage of the user's own
                  detects
    sound_labels  labels of sounds that can be heard
    has_model     NAME@DIGEST, folder -> whether the run or this user has that model
    forget_models folder, NAME@DIGEST in use -> removes copies that nothing names
    """

    settle: Callable[[Sequence[StageUse], Path], dict[str, str]]
    labels_known: Callable[[Sequence[StageUse], Path], frozenset[str] | None]
    sound_labels: Callable[[], Sequence[str]]
    has_model: Callable[[str, Path], bool]
    forget_models: Callable[[Path, Collection[str | None]], None]


class KnownModels:
    """The models of one run.

    settled  NAME@DIGEST by source, where the configuration names one for it
    where    HOST:FOLDER of the run's copies
    """

    def __init__(
        self, functions: ModelFunctions, stages: Sequence[StageEntry], folder: Path
    ) -> None:
        """Settle the models that the stages' options name. ConfigFaults with all that is wrong."""
        self.settled = functions.settle([(s.name, s.use, s.options) for s in stages], folder)
        self.where = f"{socket.gethostname()}:{folder / 'models'}"
        self._folder = folder
        self._functions = functions

    def forget_unused(self, named: Collection[str | None]) -> None:
        """Remove copies of models, except the newest ones, that neither `named` (NAME@DIGEST) nor
        the configuration has ever named.
        """
        self._functions.forget_models(self._folder, {*named, *self.settled.values()})

    def taken_over(self, source: str, model: str, where: str) -> str:
        """Return the model for a source that was another run's; empty: the configured one.

        model, where  as that run announced them. ModelNotTaken if this host lacks the model.
        """
        if not model or source in self.settled:
            return ""
        if not self._functions.has_model(model, self._folder):
            raise ModelNotTaken(
                f"source {source}: {model} looks at it, which is not on this host; copy it with\n"
                f"  rsync -a {where}/ model/ && framegate models add model\n"
                f"or say another one in [models.sources.{source}]"
            )
        return model
