"""Events that a camera detects itself, by ONVIF pull-point.

Each frame carries the kinds of the events that arrived before it, and a lazily decoded source wakes
on them. The camera is asked in a thread of its own, with long polls. While it does not answer, its
events are unknown, and the source wakes on everything else as before.

An event belongs to the first frame that arrived after it. The time stamps of the camera are not
used, because its clock may be wrong.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args
from urllib.parse import unquote

from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.redaction import redacted, shown, split_login
from framegate.pipeline.contracts.source import CameraEvent
from framegate.pipeline.system.retry import Backoff

if TYPE_CHECKING:
    from onveef import OnvifClient, PullPointSubscription

log = logging.getLogger(__name__)

ACTIVE_S: Final = 300.0  # after its last message, a state that never ended counts as ended
_MOST_ACTIVE: Final = 64
_MOST_NEWS: Final = 256  # that no frame has carried so far; the oldest are dropped
_POLL: Final = "PT5S"  # the thread ends at most so long after `stop`
_MOST_MESSAGES: Final = 100  # in the answer of a poll
_LEAST_POLL_S: Final = 1.0  # some cameras answer at once, although they have no message
_ANSWER_S: Final = 10.0  # more than a poll
_REFUSED: Final = Backoff(first_s=3600.0, most_s=86_400.0)  # frequent attempts may lock the account
# Topics without their namespaces: ONVIF Analytics and Imaging, and the applications of Axis. Others
# report, for example, that a disk is full.
_TOPICS: Final = (
    "RuleEngine/",
    "VideoAnalytics/",
    "VideoSource/MotionAlarm",
    "VideoSource/GlobalSceneChange",
    "CameraApplicationPlatform/",
)
_REFUSED_LOGIN: Final = (
    "the camera refuses the login of the stream. Add this user to its ONVIF users"
)
_STATES: Final = {"true": True, "1": True, "false": False, "0": False}
# Words of a topic or of the names of its data, and the kind that they show. The first one decides:
# Tapo reports a person by the topic CellMotionDetector/People, Reolink by MyRuleDetector.
_WORDS: Final[tuple[tuple[str, CameraEvent], ...]] = (
    ("tamper", "tamper"),
    ("globalscenechange", "tamper"),
    ("people", "person"),
    ("person", "person"),
    ("human", "person"),
    ("vehicle", "vehicle"),
    ("dogcat", "animal"),
    ("ispet", "animal"),
    ("animal", "animal"),
    ("linedetector", "line"),
    ("linecross", "line"),
    ("fielddetector", "area"),
    ("intrusion", "area"),
    ("fenceguard", "area"),
    ("loitering", "area"),
    ("motion", "motion"),
    ("vmd", "motion"),
)
_ORDER: Final[tuple[CameraEvent, ...]] = get_args(CameraEvent)


class ActiveState(NamedTuple):
    """A state of a camera that is on.

    until  monotonic seconds until which it counts
    """

    event: CameraEvent
    until: float


ActiveStates = Mapping[tuple[str, ...], ActiveState]
"""The states of a camera that are on, by topic, source and name."""


def states_after(
    active: ActiveStates, messages: Iterable[Mapping[str, Any]], now: float
) -> tuple[ActiveStates, frozenset[CameraEvent]]:
    """Return the active states after messages of a camera, and the events that the messages report.

    A state such as IsMotion lasts until the message that ends it. A message without a state, such
    as a crossed line, is an event of its moment; repeated at the begin of a subscription, it is
    none.
    """
    states = {key: state for key, state in active.items() if state.until > now}
    reported: set[CameraEvent] = set()
    for message in messages:
        topic = _topic(str(message.get("topic", "")))
        if not topic.startswith(_TOPICS):
            continue
        data = message.get("data", {})
        operation = message.get("property_operation")
        items = list(_states_in(data))
        if not items and operation not in ("Initialized", "Deleted"):
            reported.add(kind_of(topic, data))
        source = message.get("source", {})
        place = (topic, *(f"{name}={value}" for name, value in sorted(source.items())))
        if operation == "Deleted":
            states = {key: state for key, state in states.items() if key[: len(place)] != place}
            continue
        for name, is_on in items:
            key = (*place, name)
            if not is_on:
                states.pop(key, None)
                continue
            event = kind_of(topic, data, name)
            reported.add(event)
            if len(states) < _MOST_ACTIVE:
                states[key] = ActiveState(event, now + ACTIVE_S)
    return states, frozenset(reported)


def kind_of(topic: str, data: Mapping[str, str], state: str = "") -> CameraEvent:
    """Return the kind of an event.

    topic  without namespaces
    data   by name; a value that names a class, as of Axis, decides before the topic
    state  the name of its state; "": it has none
    """
    names = f"{data.get('classTypes', '')} {state} {topic}".lower()
    for word, event in _WORDS:
        if word in names:
            return event
    return "other"


def _topic(text: str) -> str:
    return "/".join(step.rpartition(":")[2] for step in text.split("/"))


def _states_in(data: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield the name of each state in the data of a message, and whether it is on."""
    for name, value in data.items():
        is_on = _STATES.get(value.strip().lower())
        is_state = name.lower() in ("state", "active") or name.startswith("Is")
        if is_state and is_on is not None:
            yield name, is_on


class _News(NamedTuple):
    """A change of a camera's events.

    arrived   monotonic seconds
    reported  events since the news before
    lasting   events that last from then on; None: the camera does not answer any more
    """

    arrived: float
    reported: frozenset[CameraEvent]
    lasting: frozenset[CameraEvent] | None


class Login(NamedTuple):
    """A login at the ONVIF service of a camera."""

    service: str
    user: str
    password: str


class Refusals:
    """The logins that cameras refused in this process, and when each may be tried again.

    A thread that listens ends with the connection of its stream, so it cannot count them itself.
    Any thread. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._counts: dict[Login, tuple[int, float]] = {}

    def until(self, login: Login) -> float:
        """Return the time before which this login must not be tried."""
        return self._counts.get(login, (0, 0.0))[1]

    def add(self, login: Login, now: float, chance: float) -> float:
        """Count a refusal; return the seconds to wait. chance: 0 to 1"""
        count = self._counts.get(login, (0, 0.0))[0] + 1
        delay_s = _REFUSED.delay_s(count, chance)
        self._counts[login] = (count, now + delay_s)
        return delay_s

    def forget(self, login: Login) -> None:
        """Forget the refusals of a login that was accepted."""
        self._counts.pop(login, None)


refusals: Final = Refusals()


class _LoginRefused(Exception):
    """The camera refused the login before it answered a poll."""


def login_of(service: str, stream: str) -> Login:
    """Return the login at an ONVIF service, which is that of a stream. Both are URLs."""
    user, _, password = (split_login(stream)[0] or "").partition(":")
    return Login(service, unquote(user), unquote(password))


def topics_of(login: Login) -> dict[str, CameraEvent | None]:
    """Return the topics that a camera offers, with the kind of each; None: it does not count.

    EventsUnavailable: the camera does not answer, or it refuses the login.
    """
    from onveef.exceptions import OnvifAuthError

    try:
        with _client(login) as client:
            _discover(client)
            topics = client.events_get_event_properties().get("topics", [])
    except OnvifAuthError as error:
        raise EventsUnavailable(_REFUSED_LOGIN) from error
    except Exception as error:  # onveef's and its HTTP client's own
        place = shown(login.service, True)
        raise EventsUnavailable(
            f"{place} does not answer ({type(error).__name__}: {redacted(str(error))}); if the "
            "ONVIF service of the camera has another port, set events to its URL (docs/cameras.md)"
        ) from error
    kinds: dict[str, CameraEvent | None] = {}
    for topic in map(_topic, topics):
        kinds[topic] = None
        if topic.startswith(_TOPICS):
            kinds[topic] = kind_of(topic, {})
    return kinds


class EventsUnavailable(FramegateError):
    """The events of a camera cannot be followed. The message states the reason and a remedy."""


class CameraEvents(threading.Thread):
    """Listens to the events of a camera until `stop`; it tries again forever, with backoff."""

    def __init__(self, source: str, service: str, stream: str) -> None:
        """Prepare the thread.

        source   name of the source, for messages
        service  URL of the camera's ONVIF device service
        stream   URL of a stream of the camera, whose login is used. It is sent as a digest
        """
        super().__init__(name="camera-events", daemon=True)
        self._source = source
        self._login = login_of(service, stream)
        self._stopping = threading.Event()
        self._is_new = threading.Event()
        self._active: ActiveStates = {}
        self._announced: frozenset[CameraEvent] | None = None  # lasting, by the last news
        self._news: deque[_News] = deque(maxlen=_MOST_NEWS)
        self._lasting: frozenset[CameraEvent] | None = None  # of the last frame
        self._fault = ""
        self._backoff = Backoff(first_s=1.0, most_s=60.0)

    def must_wake(self) -> bool:
        """Return whether there is an event now, or was since the last call. One other thread."""
        if self._is_new.is_set():
            self._is_new.clear()
            return True
        now = time.monotonic()
        return any(state.until > now for state in self._active.values())

    def until(self, arrived: float) -> tuple[CameraEvent, ...] | None:
        """Return the events between the last call and a frame; None: the camera does not answer.

        arrived  monotonic seconds at which the frame arrived, in order. One other thread
        """
        events = self._lasting or frozenset()
        is_known = self._lasting is not None
        while self._news and self._news[0].arrived <= arrived:
            news = self._news.popleft()
            self._lasting = news.lasting
            events |= news.reported | (news.lasting or frozenset())
            is_known = news.lasting is not None
        if not events and not is_known:
            return None
        return tuple(event for event in _ORDER if event in events)

    def stop(self) -> None:
        """Let the thread end after its poll, without waiting for it. Any thread."""
        self._stopping.set()

    def run(self) -> None:
        """Listen, and log a failure once until it differs."""
        failures = 0
        self._stopping.wait(max(0.0, refusals.until(self._login) - time.monotonic()))
        while not self._stopping.is_set():
            began = time.monotonic()
            delay_s = 0.0
            try:
                self._listen()
            except _LoginRefused:
                delay_s = refusals.add(self._login, time.monotonic(), random.random())
                self._note(
                    f"{_REFUSED_LOGIN}, and start the source again; else the next attempt is in "
                    f"{delay_s / 60:.0f} min, because attempts may lock the account"
                )
            except Exception as error:  # onveef's and its HTTP client's own
                self._note(f"{type(error).__name__}: {error}")
            self._active = {}
            self._put(frozenset(), None)
            failures += 1
            if time.monotonic() - began > self._backoff.most_s:
                failures = 1
            self._stopping.wait(delay_s or self._backoff.delay_s(failures, random.random()))

    def _listen(self) -> None:
        # Only a source with events needs the package and its HTTP client.
        from onveef.exceptions import OnvifAuthError

        is_accepted = False
        try:
            with _client(self._login) as client, _subscription(client) as subscription:
                while not self._stopping.is_set():
                    began = time.monotonic()
                    messages = subscription.pull()
                    is_accepted = True
                    refusals.forget(self._login)
                    self._see(messages)
                    self._stopping.wait(max(0.0, began + _LEAST_POLL_S - time.monotonic()))
        except OnvifAuthError as error:
            if is_accepted:  # for example, the clock of the camera was set
                raise
            raise _LoginRefused from error

    def _see(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self._fault = ""
        self._active, reported = states_after(self._active, messages, time.monotonic())
        self._put(reported, frozenset(state.event for state in self._active.values()))
        if reported:
            self._is_new.set()

    def _put(
        self, reported: frozenset[CameraEvent], lasting: frozenset[CameraEvent] | None
    ) -> None:
        """Let the frames that arrive from now on carry these events."""
        if reported or lasting != self._announced:
            self._announced = lasting
            self._news.append(_News(time.monotonic(), reported, lasting))

    def _note(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            place = shown(self._login.service, True)
            fault = redacted(fault)
            log.warning("source %s: no events by ONVIF from %s: %s", self._source, place, fault)


def _subscription(client: OnvifClient) -> PullPointSubscription:
    """Subscribe to the events of a camera."""
    _discover(client)
    return client.pull_point(timeout=_POLL, message_limit=_MOST_MESSAGES)


def _discover(client: OnvifClient) -> None:
    """Ask the camera for its services.

    onveef would do so itself, and report each failure as a camera without events.
    """
    from onveef import OnvifEndpoint

    services = client.discover_services()
    client.set_endpoint(OnvifEndpoint(client.endpoint.device_xaddr, services))


def _client(login: Login) -> OnvifClient:
    """Return a client that is not connected yet."""
    from onveef import OnvifClient

    class PullClient(OnvifClient):
        """A client whose polls have the time-out of all its requests.

        onveef 0.6.0 gives each poll one of its own, by a call that httpx refuses: AssertionError.
        """

        def _raw_post(self, *, read_timeout_s: float | None, **request: Any) -> Any:  # noqa: ARG002
            return super()._raw_post(read_timeout_s=None, **request)

    # By default onveef answers a request for a Basic login, which is the password in the clear.
    return PullClient(
        login.service,
        username=login.user,
        password=login.password,
        timeout_s=_ANSWER_S,
        verify_tls=False,
        http_auth="digest",
    )
