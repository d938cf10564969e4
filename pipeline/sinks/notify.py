"""Notify people of episodes through Apprise.

Each episode that starts is one message, with a picture of the camera if there is one. Messages are
muted during quiet hours and during the cool-down of their rule.
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
from framegate.pipeline.sinks.delivery import (
    CameraPictures,
    Message,
    MessageOutcome,
    ReceiverUnavailable,
)
from framegate.pipeline.sinks.position import Undelivered

log = logging.getLogger(__name__)

WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class LastSent(msgspec.Struct, frozen=True):
    """The start of the last episode that was sent, UNIX seconds, by rule."""

    rules: dict[str, float] = {}


def services_of(urls: str, key: str) -> list[Any]:
    """Return Apprise's service for each URL.

    urls  separated by spaces
    key   configuration key, for the message
    Raises ConfigFaults, without any part of the URL, if Apprise does not know a URL.
    """
    import apprise  # of the extra `notify`

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its log lines contain URLs
    services = []
    for number, url in enumerate(urls.split(), 1):
        service = apprise.Apprise()
        if not service.add(url):
            raise ConfigFaults(
                [f"{key}: Apprise does not know URL {number}; its services are listed at "
                 "https://appriseit.com/services/"]
            )  # fmt: skip
        services.append(service)
    return services


class Notify:
    """A receiver that sends one message for each episode that starts.

    A message about an episode is delivered once every service accepted it, one about lost entries
    once a service did: otherwise a service that is gone for ever would silence the others.
    """

    initial_state = LastSent()
    steps: Collection[Step] = frozenset[Step](("start",))

    def __init__(
        self,
        name: str,
        config: SinkConfig,
        pictures: CameraPictures,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """now: returns local time, for quiet hours. Raises ConfigFaults."""
        self._sink = name
        self._services = services_of(config.place(name), f"sinks.{name}.url")
        self._config = config
        self._now = now
        self._pictures = CameraPictures()
        if config.picture:
            self._pictures = pictures
        self._message_id = ""
        self._accepted: set[int] = set()  # services that have the message with that id

    def begin(self, states: Mapping[str, LastSent]) -> None:
        """Do nothing."""

    def deliver(self, message: Message, state: LastSent) -> tuple[MessageOutcome, LastSent]:
        """Send a message, except in quiet hours and during the cool-down of its rule.

        Raises ReceiverUnavailable.
        """
        content = message.content
        if is_quiet(self._config.quiet, self._now()):
            return "muted", state
        if isinstance(content, Undelivered):
            failed = self._send(message.id, *loss_text(message.source, content), None)
            if failed and not self._accepted:
                raise ReceiverUnavailable(failed)
            if failed:
                log.warning("sink %s: %s; it is left out", self._sink, failed)
            return "delivered", state
        captured = content.began.captured
        last = state.rules.get(content.rule)
        # An episode that began before the last one, by a clock that was set back, is not muted.
        if last is not None and 0 <= captured - last < self._config.cooldown_s:
            return "muted", state
        picture = None
        if message.is_fresh:
            picture = self._pictures.newest(message.source)
        failed = self._send(message.id, *start_text(content), picture)
        if failed:
            raise ReceiverUnavailable(failed)
        return "delivered", LastSent({**state.rules, content.rule: captured})

    def _send(self, id_: str, title: str, body: str, picture: bytes | None) -> str:
        """Send a message to each service; return which did not accept it, empty if all did."""
        # A repeated message goes only to services that did not accept it before.
        if id_ != self._message_id:
            self._message_id = id_
            self._accepted = set()
        failed = []
        for number, service in enumerate(self._services):
            if number in self._accepted:
                continue
            if service.notify(body=body, title=title, attach=_attachment(picture)):
                self._accepted.add(number)
            else:
                failed.append(str(service[0].service_name or "a service"))
        if not failed:
            return ""
        return f"{', '.join(failed)} did not accept the message"

    def close(self) -> None:
        """Do nothing: no connection is open."""


def _attachment(picture: bytes | None) -> Any:
    if picture is None:
        return None
    from apprise import AppriseAttachment
    from apprise.attachment.memory import AttachMemory

    attachments = AppriseAttachment()
    untyped: Any = AttachMemory
    attachments.add(untyped(content=picture, name="picture.jpg", mimetype="image/jpeg"))
    return attachments


def is_quiet(hours: Sequence[str], now: datetime) -> bool:
    """Return whether a time of day is in quiet hours.

    hours  each HH:MM-HH:MM; may include midnight
    """
    at = f"{now:%H:%M}"
    for span in hours:
        first, _, last = span.partition("-")
        if first <= at < last or (first >= last and (at >= first or at < last)):
            return True
    return False


def start_text(change: Change) -> tuple[str, str]:
    """Return the title and the text of a message about an episode that starts."""
    began = datetime.fromtimestamp(change.began.captured)
    text = change.label or change.rule
    if change.direction is not None:
        text += f" {change.direction}"
    if change.value is not None:
        text += f", {change.value:g}"
    text += f", {WEEKDAYS[began.weekday()]} {began:%H:%M:%S}"
    return f"{change.rule} at {change.source}", text


def loss_text(source: str, lost: Undelivered) -> tuple[str, str]:
    """Return the title and the text of a message about entries that were lost."""
    entries = f"{lost.entries} entries"
    if lost.entries == 1:
        entries = "1 entry"
    reason = lost.why.replace("_", " ")
    text = f"{entries} of {source} could not be sent ({reason})"
    return f"Messages of {source} are missing", text
