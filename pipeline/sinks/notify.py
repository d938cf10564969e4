"""Episodes to people, by Apprise: one message as an episode starts, with a picture where there is
one; behind a cool-down and quiet hours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from framegate.pipeline.config.sinks import SinkConfig
from framegate.pipeline.contracts.episodes import Change, Step
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.sinks.delivery import Away, CameraPictures, Message, MessageOutcome
from framegate.pipeline.sinks.position import NotTold

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class LastSent(msgspec.Struct, frozen=True):
    """When the last message of each rule was about, UNIX seconds."""

    rules: dict[str, float] = {}


def services_of(urls: str, key: str) -> list[Any]:
    """Return Apprise's services of URLs with spaces between. ConfigFaults, without a part of them,
    if one is none.
    """
    import apprise  # of the extra `notify`

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it says which, and how
    services = []
    for number, url in enumerate(urls.split(), 1):
        service = apprise.Apprise()
        if not service.add(url):
            raise ConfigFaults(
                [f"{key}: URL {number} is none that Apprise knows; its services are listed at "
                 "https://appriseit.com/services/"]
            )  # fmt: skip
        services.append(service)
    return services


class Notify:
    """One message for each episode that starts. It was sent once each service has taken it."""

    state = LastSent()
    steps: Collection[Step] = frozenset[Step](("start",))

    def __init__(
        self,
        name: str,
        config: SinkConfig,
        pictures: CameraPictures,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """now: local time, for quiet hours. ConfigFaults"""
        self._services = services_of(config.place(name), f"sinks.{name}.url")
        self._config, self._now = config, now
        self._pictures = pictures if config.picture else CameraPictures()
        self._message, self._took = "", set[int]()

    def begin(self, states: Mapping[str, LastSent]) -> None:
        """Nothing is to be done."""

    def tell(self, message: Message, state: LastSent) -> tuple[MessageOutcome, LastSent]:
        """Send it, unless these hours are quiet or another was sent just now. Away"""
        what = message.what
        if is_quiet(self._config.quiet, self._now()):
            return "muted", state
        if isinstance(what, NotTold):
            self._send(message.id, *lost_words(message.source, what), None)
            return "delivered", state
        last = state.rules.get(what.rule)
        if last is not None and 0 <= what.began.captured - last < self._config.cooldown_s:
            return "muted", state
        picture = self._pictures.of(message.source) if message.fresh else None
        self._send(message.id, *words(what), picture)
        return "delivered", LastSent({**state.rules, what.rule: what.began.captured})

    def _send(self, id: str, title: str, body: str, picture: bytes | None) -> None:
        """Send it by each service that has not taken it yet."""
        if id != self._message:
            self._message, self._took = id, set()
        failed = []
        for number, service in enumerate(self._services):
            if number in self._took:
                continue
            if service.notify(body=body, title=title, attach=_attached(picture)):
                self._took.add(number)
            else:
                failed.append(str(service[0].service_name or "a service"))
        if failed:
            raise Away(f"{', '.join(failed)} did not take it")

    def close(self) -> None:
        """Nothing is open."""


def _attached(picture: bytes | None) -> Any:
    if picture is None:
        return None
    from apprise import AppriseAttachment
    from apprise.attachment.memory import AttachMemory

    attachments = AppriseAttachment()
    made: Any = AttachMemory
    attachments.add(made(content=picture, name="picture.jpg", mimetype="image/jpeg"))
    return attachments


def is_quiet(hours: Sequence[str], now: datetime) -> bool:
    """Return whether a time of day lies in one of these, each HH:MM-HH:MM, over midnight or not."""
    at = f"{now:%H:%M}"
    for span in hours:
        first, _, last = span.partition("-")
        if first <= at < last or (first >= last and (at >= first or at < last)):
            return True
    return False


def words(change: Change) -> tuple[str, str]:
    """Return title and text about an episode that starts."""
    began = datetime.fromtimestamp(change.began.captured)
    what = change.label or change.rule
    if change.direction is not None:
        what = f"{what} {change.direction}"
    value = "" if change.value is None else f", {change.value:g}"
    when = f"{WEEKDAYS[began.weekday()]} {began:%H:%M:%S}"
    return f"{change.rule} at {change.source}", f"{what}{value}, {when}"


def lost_words(source: str, lost: NotTold) -> tuple[str, str]:
    """Return title and text about what was not told."""
    return (
        f"Messages of {source} are missing",
        f"{lost.entries} of {source} could not be sent ({lost.why.replace('_', ' ')})",
    )
