"""What `models` refuses, as errors of the engine: neither package knows the other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from framegate.models import coco
from framegate.models.errors import ModelError, UnknownClass, UnknownModel
from framegate.pipeline.contracts.errors import ConfigFaults, FramegateError, did_you_mean


def _config_fault(message: str) -> FramegateError:
    return ConfigFaults([message])


@contextmanager
def model_faults(
    error_of: Callable[[str], FramegateError] = _config_fault,
    refusals: tuple[type[Exception], ...] = (ModelError,),
) -> Iterator[None]:
    """Raise what a model is refused for, inside the block, as an error that a user is shown.

    error_of  makes it of the message; ConfigFaults, unless a caller says otherwise
    refusals  what else means one there, such as OpenVINO's RuntimeError
    """
    try:
        yield
    except refusals as error:
        raise error_of(f"{error}{_meant(error)}") from error


def _meant(error: Exception) -> str:
    """Return which name was meant, where one was said that is not there."""
    if isinstance(error, UnknownModel):
        return did_you_mean(error.ref, [*{ref.partition("@")[0] for ref in error.known}])
    if isinstance(error, UnknownClass):
        return did_you_mean(error.names[0], error.labels or coco.LABELS)
    return ""
