"""The options of escalate, with the tables of pipeline.toml that it owns: escalate, promise.

A configuration is read without the stage, which loads OpenCV and NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeVar

from framegate.pipeline.contracts.stage import Stage
from framegate.pipeline.promise.period import Promise
from framegate.pipeline.store.redis_client import url_fault
from framegate.stages.detect.options import Classes

S = TypeVar("S")
NO_PROMISE = Promise("off")  # without the table [promise]
PlaceName = Literal["off", "local", "workers", "kserve"]


@dataclass(frozen=True)
class EscalateOptions:
    """`[escalate]`: a second opinion of the heavy model where detect is in doubt.

    place       off: no second opinion. local: in the worker of escalate. workers: processes
                `framegate worker --heavy` on any host, over Redis. kserve: a server with the KServe
                v2 protocol
    url         URL of the Redis that those workers read, or of the server. Default for workers: the
                store of this run
    url_env     name of an environment variable that contains the URL
    doubt       frames for which the heavy model would differ with at least this probability are
                sent
    per_s       requests per second of media time, for each source
    burst       requests of one source that can be sent at once after a pause
    all_per_s   requests per second of all live sources of a worker together. A frame in doubt
                beyond these limits is `degraded`
    deadline_s  seconds after a camera's frame arrived after which an answer is too late. The light
                answer is then published as `degraded`
    patience_s  seconds for which a file waits for a server or worker that is away
    """

    place: PlaceName = "off"
    url: str | None = field(default=None, repr=False)
    url_env: str | None = field(default=None, metadata={"holds": "url"})
    doubt: float = field(default=0.1, metadata={"least": 0.0, "most": 1.0})
    per_s: float = field(default=2.0, metadata={"least": 0.0, "most": 1000.0})
    burst: float = field(default=4.0, metadata={"least": 1.0, "most": 1000.0})
    all_per_s: float = field(default=4.0, metadata={"least": 0.0, "most": 10000.0})
    deadline_s: float = field(default=0.25, metadata={"least": 0.01, "most": 60.0})
    patience_s: float = field(default=60.0, metadata={"least": 0.1, "most": 86400.0})

    def faults(self) -> list[str]:
        """Return the faults of place and URL together, without any part of the URL."""
        if self.place == "kserve" and self.url is None:
            return ["place = 'kserve': it needs url or url_env"]
        if self.place != "workers" or self.url is None:
            return []
        fault = url_fault(self.url)
        if fault is None:
            return []
        if self.url_env is None:
            return [f"url: {fault}"]
        return [f"url_env = {self.url_env!r}: {fault}"]


@dataclass(frozen=True)
class StageOptions:
    """Options of escalate.

    classes   COCO labels that the heavy model may report, or "all". Default: those that detect
              reports
    escalate  the table [escalate]
    promise   the table [promise]
    tells     pass the heavy model's answers to the stage that keeps footage
    """

    classes: Classes = None
    escalate: EscalateOptions = field(default_factory=EscalateOptions, metadata={"table": True})
    promise: Promise = field(default_factory=lambda: NO_PROMISE, metadata={"table": True})
    tells: bool = field(default=False, metadata={"hidden": True})

    def faults(self) -> list[str]:
        """Return the faults of the two tables together."""
        if self.promise.measure == "off" or self.escalate.place != "off":
            return []
        return [
            f"promise.measure = {self.promise.measure!r}: with escalate.place = 'off' no "
            "model audits; escalate.place must be local, workers or kserve, or measure 'off'"
        ]


class DeclaredEscalate(Stage[S]):
    """The part of the stage escalate that a configuration reads."""

    Options: ClassVar[type] = StageOptions
    pixels = 1
    takes_undecoded = True
    takes_classes = True  # the heavy pass must report the same classes as detect
    promises = True
    followed = False
    options: StageOptions
