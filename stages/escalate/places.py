"""Where escalate asks, as `[escalate]` says."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Protocol

from framegate.models.detector import policy
from framegate.models.detector.network import nearest
from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.heavy.kserve import KServe
from framegate.pipeline.heavy.questions import Place
from framegate.pipeline.heavy.queue import HeavyQueue
from framegate.pipeline.redaction import remember_url
from framegate.pipeline.store.client import url_fault
from framegate.stages.escalate.escalate_options import EscalateOptions
from framegate.stages.escalate.heavy_far import FarHeavy
from framegate.stages.escalate.heavy_local import LocalHeavy


class HeavyPlace(Place, Protocol):
    """A place with the heavy pass.

    policy_id  hash of what it counts as truth
    is_exact   whether every answer is about the frame's own pixels
    """

    policy_id: str
    is_exact: bool


def open_place(
    options: EscalateOptions, classes: Sequence[str] | None, store: str
) -> HeavyPlace | None:
    """The place; None if there is none. ConfigFaults.

    store  URL of the run's store, where workers are looked for unless the table names another
    """
    match options.place:
        case "off":
            return None
        case "local":
            return LocalHeavy(classes)
        case "workers":
            url = _url(options)
            if url is not None and (fault := url_fault(url)) is not None:
                raise ConfigFaults([f"{_key(options)}: {fault}"])
            precision = nearest(policy.load("heavy").precision)
            at = functools.partial(HeavyQueue, url or store, is_own=url is None)
            return FarHeavy(functools.partial(at, precision=precision), classes)
        case "kserve":
            url = _url(options)
            if url is None:
                raise ConfigFaults(["escalate.place = 'kserve': it needs escalate.url or url_env"])
            return FarHeavy(functools.partial(KServe, url), classes)


def _url(options: EscalateOptions) -> str | None:
    url = options.url if options.url_env is None else os.environ.get(options.url_env)
    if options.url_env is not None and not url:
        raise ConfigFaults([f"{_key(options)}: the environment has no such variable"])
    if url is not None:
        remember_url(url)
    return url


def _key(options: EscalateOptions) -> str:
    """What says the URL, without any part of it."""
    return "escalate.url" if options.url_env is None else f"escalate.url_env = {options.url_env!r}"
