"""A configuration with a promise gets the stage that keeps its certificates."""

from __future__ import annotations

from dataclasses import replace

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.graph import StageEntry
from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.keys import CERTIFY

_USE = "framegate.stages.audit.certify:Certify"


def with_certificates(config: Config) -> Config:
    """The configuration with that stage, beside the one that promises; as it is without a promise.

    ConfigFaults where what is promised is not what is served.
    """
    promising = [stage for stage in config.stages if promises(stage)]
    if not promising:
        return config
    stage, publisher = promising[0], next(s for s in config.stages if s.publishes)
    if stage.name != publisher.input:
        raise ConfigFaults(
            [
                f"promise: stages.{publisher.name} publishes what stages.{publisher.input} says, "
                f"and stages.{stage.name} promises before it; nothing may stand between them"
            ]
        )
    certify = StageEntry(CERTIFY, _USE, stage.name, "wait", False, 0, {})
    placement = {
        worker: (*names, CERTIFY) if stage.name in names else names
        for worker, names in config.placement.items()
    }
    return replace(config, stages=(*config.stages, certify), placement=placement)


def promises(stage: StageEntry) -> bool:
    """Whether a stage was told to promise anything."""
    table = stage.options.get("promise", {"measure": "off"})
    return str(table.get("measure", "counts")) != "off"
