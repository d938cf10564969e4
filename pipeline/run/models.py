"""The models of a run.

Only the packages `models` and `stages` know models; the command line passes their functions here.
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
    """The functions of `models` and `stages` that a run calls.

    settle        (stages, folder) copies registry models into the run's folder; returns NAME@DIGEST
                  by source, and under "" that of all other sources. ConfigFaults
    labels_known  (stages, folder) returns all labels that results can have; None if the user's own
                  stage detects
    sound_labels  returns all labels of sounds
    has_model     (NAME@DIGEST, folder) returns whether the run or this user has that model
    forget_models (folder, NAME@DIGEST in use) removes copies that are not in use
    """

    settle: Callable[[Sequence[StageUse], Path], dict[str, str]]
    labels_known: Callable[[Sequence[StageUse], Path], frozenset[str] | None]
    sound_labels: Callable[[], Sequence[str]]
    has_model: Callable[[str, Path], bool]
    forget_models: Callable[[Path, Collection[str | None]], None]


class KnownModels:
    """The models of a run.

    settled  NAME@DIGEST by source, of the models in the configuration
    where    HOST:FOLDER of the run's copies
    """

    def __init__(
        self, functions: ModelFunctions, stages: Sequence[StageEntry], folder: Path
    ) -> None:
        """Copy the models that the options of stages name into the run's folder. ConfigFaults."""
        self.settled = functions.settle([(s.name, s.use, s.options) for s in stages], folder)
        self.where = f"{socket.gethostname()}:{folder / 'models'}"
        self._folder = folder
        self._functions = functions

    def forget_unused(self, named: Collection[str | None]) -> None:
        """Remove old copies of models that are neither in `named` nor in the configuration."""
        self._functions.forget_models(self._folder, {*named, *self.settled.values()})

    def taken_over(self, source: str, model: str, where: str) -> str:
        """Return the model that a source of another run keeps; "" for the configured model.

        model  NAME@DIGEST that the other run announced
        where  HOST:FOLDER that it announced
        ModelNotTaken if this host lacks the model.
        """
        if not model or source in self.settled:
            return ""
        if not self._functions.has_model(model, self._folder):
            raise ModelNotTaken(
                f"source {source}: its model {model} is not on this host; copy it with\n"
                f"  rsync -a {where}/ model/ && framegate models add model\n"
                f"or configure another one in [models.sources.{source}]"
            )
        return model
