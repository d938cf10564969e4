"""`[escalate]` of pipeline.toml: whom to ask in doubt, how often, and how long to wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from framegate.pipeline.store.client import url_fault

PlaceName = Literal["off", "local", "workers", "kserve"]


@dataclass(frozen=True)
class EscalateOptions:
    """The table `[escalate]`.

    place       off: nobody. local: the heavy pass, in the worker that hosts this stage. workers:
                `framegate worker --heavy`, on any host. kserve: a server that speaks KServe v2
    url         of the Redis that these workers read (without it: this run's store), or of that
                server
    url_env     name of an environment variable that holds this URL instead
    doubt       how probable it must be that the heavy pass says something else
    per_s       questions of each source for a second of media time
    burst       questions of a source at once, after a rest
    all_per_s   questions a second of all live sources of a worker together
    deadline_s  seconds after a live frame came, when an answer is too late for it
    patience_s  seconds for which a file waits for a place that is away
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
