"""Events that a camera detects itself, by ONVIF pull-point; a lazily decoded source wakes on them.

The camera is asked in a thread of its own, with long polls. If it does not answer, the source wakes
on everything else as before.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from framegate.pipeline.contracts.redaction import redacted, shown
from framegate.pipeline.system.retry import Backoff

if TYPE_CHECKING:
    from onveef import OnvifClient

log = logging.getLogger(__name__)

ACTIVE_S: Final = 300.0  # after its last message, a state that never ended counts as ended
_MOST_ACTIVE: Final = 64
_POLL: Final = "PT5S"  # the thread ends at most so long after `stop`
_ANSWER_S: Final = 10.0  # more than a poll
# Topics (ONVIF Analytics and Imaging) without their namespaces. Others report, for example, that a
# disk is full.
_TOPICS: Final = ("RuleEngine/", "VideoAnalytics/", "VideoSource/MotionAlarm")
_STATES: Final = {"true": True, "1": True, "false": False, "0": False}

ActiveUntil = Mapping[tuple[str, ...], float]
"""Monotonic seconds until which each state of a camera counts, by its topic and source."""


def states_after(
    active: ActiveUntil, messages: Iterable[Mapping[str, Any]], now: float
) -> tuple[ActiveUntil, bool]:
    """Return the active states after messages of a camera, and whether one reports an event.

    A state such as IsMotion lasts until the message that ends it. A message without a state, such
    as a crossed line, is an event of its moment; repeated at the begin of a subscription, it is
    none.
    """
    states = {key: until for key, until in active.items() if until > now}
    is_event = False
    for message in messages:
        topic = _topic(str(message.get("topic", "")))
        if not topic.startswith(_TOPICS):
            continue
        source = message.get("source", {})
        key = (topic, *(f"{name}={value}" for name, value in sorted(source.items())))
        operation = message.get("property_operation")
        state = _state(message.get("data", {}))
        if operation == "Deleted" or state is False:
            states.pop(key, None)
        elif state is True:
            is_event = True
            if len(states) < _MOST_ACTIVE:
                states[key] = now + ACTIVE_S
        elif operation != "Initialized":
            is_event = True
    return states, is_event


def _topic(text: str) -> str:
    return "/".join(step.rpartition(":")[2] for step in text.split("/"))


def _state(data: Mapping[str, str]) -> bool | None:
    """Return whether any state of a message is on; None if it has none."""
    values = [
        _STATES.get(value.strip().lower())
        for name, value in data.items()
        if name == "State" or name.startswith("Is")
    ]
    known = [value for value in values if value is not None]
    if not known:
        return None
    return any(known)


class CameraEvents(threading.Thread):
    """Listens to the events of a camera until `stop`; it tries again forever, with backoff."""

    def __init__(self, service: str, stream: str) -> None:
        """Prepare the thread.

        service  URL of the camera's ONVIF device service
        stream   URL of a stream of the camera, whose login is used. It is sent as a digest
        """
        super().__init__(name="camera-events", daemon=True)
        self._service = service
        self._stream = stream
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._active: ActiveUntil = {}
        self._fault = ""
        self._backoff = Backoff(first_s=1.0, most_s=60.0)

    def take(self) -> bool:
        """Return whether there is an event now, or was since the last call. One other thread."""
        if self._news.is_set():
            self._news.clear()
            return True
        now = time.monotonic()
        return any(until > now for until in self._active.values())

    def stop(self) -> None:
        """Let the thread end after its poll, without waiting for it. Any thread."""
        self._stopping.set()

    def run(self) -> None:
        """Listen, and log a failure once until it differs."""
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except Exception as error:  # onveef's and its HTTP client's own
                self._note(error)
            self._active = {}
            failures += 1
            if time.monotonic() - began > self._backoff.most_s:
                failures = 1
            self._stopping.wait(self._backoff.delay_s(failures, random.random()))

    def _listen(self) -> None:
        login = urlsplit(self._stream)
        user, password = unquote(login.username or ""), unquote(login.password or "")
        with (
            _client(self._service, user, password) as client,
            client.pull_point(timeout=_POLL) as subscription,
        ):
            while not self._stopping.is_set():
                self._see(subscription.pull())

    def _see(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self._fault = ""
        self._active, is_event = states_after(self._active, messages, time.monotonic())
        if is_event:
            self._news.set()

    def _note(self, error: Exception) -> None:
        fault = redacted(f"{type(error).__name__}: {error}")
        if fault != self._fault:
            self._fault = fault
            log.warning("%s: no events by ONVIF: %s", shown(self._service, True), fault)


def _client(service: str, user: str, password: str) -> OnvifClient:
    """Return a client that is not connected yet."""
    # Only a source with events needs the package and its HTTP client.
    from onveef import OnvifClient

    class PullClient(OnvifClient):
        """A client whose polls have the time-out of all its requests.

        onveef 0.6.0 gives each poll one of its own, by a call that httpx refuses: AssertionError.
        """

        def _raw_post(self, *, read_timeout_s: float | None, **request: Any) -> Any:  # noqa: ARG002
            return super()._raw_post(read_timeout_s=None, **request)

    # By default onveef answers a request for a Basic login, which is the password in the clear.
    return PullClient(
        service,
        username=user,
        password=password,
        timeout_s=_ANSWER_S,
        verify_tls=False,
        http_auth="digest",
    )
