"""`[escalate]` of pipeline.toml: whom to ask in doubt, how often, and how long to wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from framegate.pipeline.store.client import url_fault

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
        """What is wrong with place and URL together; no part of the URL is shown."""
        if self.place == "kserve" and self.url is None:
            return ["place = 'kserve': it needs url or url_env"]
        fault = None if self.url is None or self.place != "workers" else url_fault(self.url)
        key = "url" if self.url_env is None else f"url_env = {self.url_env!r}"
        return [] if fault is None else [f"{key}: {fault}"]
