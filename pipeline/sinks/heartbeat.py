"""Request a URL periodically while the run is healthy, so that a dead host is noticed elsewhere.

The receiver is a service that raises an alarm when requests stay away. So this sink never reports a
fault: it leaves the request out.
"""

from __future__ import annotations

import base64
import http.client
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.redaction import redacted
from framegate.pipeline.engine.control_line import ControlLine
from framegate.pipeline.engine.control_messages import GetStatus
from framegate.pipeline.sinks.webhook import TimedResponse
from framegate.pipeline.system.retry import Backoff
from framegate.pipeline.telemetry.run_status import RunStatus
from framegate.pipeline.telemetry.source_view import Viewer, view

log = logging.getLogger(__name__)

STATUS_S: Final = 5.0  # for which the supervisor may take to report the state of the run
LOOK_AGAIN_S: Final = 5.0  # until a run that is not healthy is looked at again
STILL_S: Final = 120.0  # a camera without a new result for this long is not alive
RETRY: Final = Backoff(first_s=1.0, most_s=30.0)


class RunHealth:
    """The health of the run, from its supervisor and its store. One thread; `close` at its end."""

    def __init__(
        self,
        line: ControlLine,
        store: str,
        alive: Collection[str],
        now_mono: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep the parts.

        store  URL of the store
        alive  states of a source that count as alive
        """
        self._line = line
        self._url = store
        self._alive = alive
        self._now_mono = now_mono
        self._viewer: Viewer | None = None
        self._progress: dict[str, tuple[int, float]] = {}  # published frames, and since when

    def faults(self, sources: Collection[str]) -> list[str]:
        """Return why the run is not healthy; none: it is. NoReply, StoreLost, StoreBusy.

        sources  names of those that must be alive
        """
        status = self._line.ask(GetStatus(), RunStatus, STATUS_S)
        cameras = {source.name for source in status.sources if source.live}
        if self._viewer is None:
            self._viewer = Viewer(self._url)
        faults = list(status.unready)
        for name in sources:
            seen = view(name, None, self._viewer.sample(name))
            if seen.state not in self._alive:
                faults.append(f"source {name} is {seen.state}")
            elif (
                name in cameras and seen.state == "running" and self._is_still(name, seen.published)
            ):
                faults.append(f"source {name} has had no result for {STILL_S:.0f} s")
        return faults

    def _is_still(self, name: str, published: int) -> bool:
        """Return whether a camera published nothing for STILL_S, as far as this object has seen."""
        now = self._now_mono()
        before, since = self._progress.get(name, (-1, now))
        if published != before:
            self._progress[name] = (published, now)
            return False
        return now - since > STILL_S

    def close(self) -> None:
        """Close the connection to the store."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None


class Heartbeat(threading.Thread):
    """The thread of a heartbeat sink. At most one request is in progress, and none waits.

    `take_sources` and `finish` are for any thread; all other state belongs to this one.
    """

    def __init__(self, name: str, config: SinkConfig, health: RunHealth) -> None:
        """Raise ConfigFaults if the URL cannot be used."""
        super().__init__(name=f"sink-{name}", daemon=True)
        self._sink = name
        self._config = config
        self._health = health
        self._url = urlsplit(config.place(name))
        self._sources: tuple[str, ...] = ()
        self._must_end = threading.Event()
        self._failures = 0
        self._reason = ""  # why the last request was left out or failed; empty: it was accepted

    def take_sources(self, past: Mapping[str, int]) -> None:
        """Require these sources to be alive from now on."""
        wanted = self._config.sources
        self._sources = tuple(name for name in past if not wanted or name in wanted)

    def finish(self) -> None:
        """End after the request in progress."""
        self._must_end.set()

    def run(self) -> None:
        """Send requests until `finish`."""
        wait_s = 0.0
        while not self._must_end.wait(wait_s):
            wait_s = self.beat()
        self._health.close()

    def beat(self) -> float:
        """Send the request if the run is healthy. Return the seconds until the next one."""
        try:
            faults = self._health.faults(self._sources)
        except FramegateError as error:
            faults = [str(error)]
        if faults:
            self._note(f"no heartbeat, because the run is not healthy: {'; '.join(faults[:3])}")
            return min(LOOK_AGAIN_S, self._config.every_s)
        try:
            status = requested(self._url, self._config.timeout_s)
        except (OSError, http.client.HTTPException) as error:
            reason = f"the receiver cannot be reached: {error or type(error).__name__}"
        else:
            reason = ""
            if not 200 <= status < 300:
                reason = f"the receiver answers {status}"
        self._note(reason)
        if not reason:
            self._failures = 0
            return self._config.every_s
        self._failures += 1
        return min(self._config.every_s, RETRY.delay_s(self._failures, random.random()))

    def _note(self, reason: str) -> None:
        """Log a change: a fault, another fault, or that heartbeats are accepted again."""
        if reason and reason != self._reason:
            log.warning("sink %s: %s", self._sink, redacted(reason))
        elif self._reason and not reason:
            log.warning("sink %s: heartbeats are accepted again", self._sink)
        self._reason = reason


def requested(url: SplitResult, timeout_s: float) -> int:
    """Request a URL with GET, and return the status of the response. Redirects are not followed.

    timeout_s  limit for connecting, and for the whole response
    OSError, http.client.HTTPException.
    """
    headers = {"User-Agent": "Framegate"}
    if url.username is not None:
        login = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    target = url.path or "/"
    if url.query:
        target += f"?{url.query}"
    host = url.hostname or ""
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, url.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, url.port, timeout=timeout_s)
    due_mono = time.monotonic() + timeout_s
    connection.response_class = partial(TimedResponse, due_mono)  # type: ignore[assignment]  # it is called only
    try:
        connection.request("GET", target, headers=headers)
        with connection.getresponse() as response:
            response.read(1 << 16)
            return response.status
    finally:
        connection.close()
