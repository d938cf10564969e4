"""The models of a run, as its supervisor knows them: by name and digest.

Only the packages `models` and `stages` know more. `stages` implements RunModels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from framegate.pipeline.config.graph import StageEntry


class RunModels(ABC):
    """The models of a run.

    settled  NAME@DIGEST by source, of the registry models in the configuration; "" is the key of
             all other sources. Empty before `settle`
    """

    settled: Mapping[str, str]

    @abstractmethod
    def __init__(self, stages: Sequence[StageEntry], folder: Path) -> None:
        """Prepare the models that the options of `stages` name, for the run in `folder`."""

    @abstractmethod
    def settle(self) -> None:
        """Check these models and their devices, and copy them into the folder. ConfigFaults."""

    @abstractmethod
    def labels(self) -> frozenset[str] | None:
        """Return all labels that results can have; None if the user's own stage detects."""

    @abstractmethod
    def sound_labels(self) -> Sequence[str]:
        """Return all labels of sounds."""

    @abstractmethod
    def has(self, model: str) -> bool:
        """Return whether the run or this user has a model, given as NAME@DIGEST."""

    @abstractmethod
    def forget_unused(self, chosen: Collection[str | None]) -> None:
        """Remove old copies of models that are neither in `chosen` nor in the configuration."""
