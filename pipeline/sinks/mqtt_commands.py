"""Commands that an MQTT broker delivers: switch the profile, rules on or off, and snooze.

    TOPIC/set/profile               name of a profile, or auto: by the schedules of the profiles
    TOPIC/set/rule/RULE             ON or OFF
    TOPIC/set/snooze                a duration such as 30m: no rule starts an episode; OFF: end it
    TOPIC/set/snooze/rule/RULE      the same for a rule
    TOPIC/set/snooze/source/SOURCE  the same for all rules with a source

A retained command is ignored, because the broker repeats it with each connection.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from framegate.pipeline.config.switches import (
    AskConfig,
    Snoozed,
    snooze,
    switch_profile,
    switch_rules,
    unsnooze,
)
from framegate.pipeline.contracts.duration import duration_s
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.redaction import redacted

log = logging.getLogger(__name__)

AUTO: Final = "auto"
_STATES: Final = {"ON": True, "OFF": False}
_AWAKE: Final = "OFF"  # ends a snooze
_PRESSED: Final = "30m"  # the snooze of Home Assistant's button
_MOST: Final = 100  # bytes of a command


class MqttCommands:
    """The commands below a topic. One thread.

    topics  to subscribe to
    """

    def __init__(self, name: str, topic: str, ask: AskConfig) -> None:
        """name: of the sink. ask: asks the supervisor."""
        self._name = name
        self._profile = f"{topic}/set/profile"
        self._rule = f"{topic}/set/rule/"
        self._snooze = f"{topic}/set/snooze"
        self._ask = ask
        self.topics = (self._profile, f"{self._rule}+", f"{self._snooze}/#")

    def take(self, topic: str, payload: bytes, retain: bool) -> bool:
        """Carry out a message if it is a command, and return whether it is one.

        A command that cannot be carried out is logged.
        """
        is_command = topic in (self._profile, self._snooze)
        if not is_command and not topic.startswith((self._rule, f"{self._snooze}/")):
            return False
        if retain:
            return True
        text = payload[:_MOST].decode(errors="replace").strip()
        try:
            self._carry_out(topic, text)
        except FramegateError as error:
            log.warning("sink %s: command %s: %s", self._name, topic[:_MOST], redacted(str(error)))
        return True

    def _carry_out(self, topic: str, text: str) -> None:
        if topic == self._profile:
            profile = text
            if text == AUTO:
                profile = ""
            switch_profile(self._ask, profile)
            log.info("sink %s: profile: %s", self._name, text)
            return
        if topic.startswith(self._snooze):
            self._carry_out_snooze(topic.removeprefix(self._snooze), text)
            return
        rule = topic.removeprefix(self._rule)
        if text.upper() not in _STATES:
            log.warning("sink %s: rule %s: %r; must be ON or OFF", self._name, rule[:_MOST], text)
            return
        switch_rules(self._ask, [rule], _STATES[text.upper()])
        log.info("sink %s: rule %s: %s", self._name, rule, text)

    def _carry_out_snooze(self, below: str, text: str) -> None:
        """Snooze, or end a snooze. below: the rest of the topic, "" or /rule/RULE, for example"""
        match below.split("/"):
            case [""]:
                what = Snoozed()
            case ["", "rule", rule] if rule:
                what = Snoozed(rule=rule)
            case ["", "source", source] if source:
                what = Snoozed(source=source)
            case _:
                log.warning(
                    "sink %s: no command %s%s; allowed are set/snooze, set/snooze/rule/RULE and "
                    "set/snooze/source/SOURCE",
                    *(self._name, self._snooze, below[:_MOST]),
                )
                return
        now = time.time()
        if text.upper() == _AWAKE:
            unsnooze(self._ask, what, now)
        else:
            try:
                lasts_s = duration_s(text)
            except ValueError as error:
                log.warning("sink %s: snooze of %s: %s, or OFF", self._name, what, error)
                return
            snooze(self._ask, what, now + lasts_s, now)
        log.info("sink %s: snooze of %s: %s", self._name, what, text)


def profile_device(topic: str, device: str, profiles: tuple[str, ...]) -> dict[str, Any]:
    """Return the device for Home Assistant's discovery that selects the profile and snoozes.

    device  its id
    """
    return {
        "device": {"identifiers": [device], "name": "Framegate", "manufacturer": "Framegate"},
        "origin": {"name": "Framegate"},
        "availability_topic": f"{topic}/status",
        "qos": 1,
        "components": {
            "profile": {
                "platform": "select",
                "name": "Profile",
                "state_topic": f"{topic}/profile",
                "command_topic": f"{topic}/set/profile",
                "options": [AUTO, *profiles],
                "unique_id": f"{device}-profile",
            },
            "snooze": {
                "platform": "button",
                "name": "No alerts for 30 minutes",
                "command_topic": f"{topic}/set/snooze",
                "payload_press": _PRESSED,
                "unique_id": f"{device}-snooze",
            },
            "unsnooze": {
                "platform": "button",
                "name": "Alerts again",
                "command_topic": f"{topic}/set/snooze",
                "payload_press": _AWAKE,
                "unique_id": f"{device}-unsnooze",
            },
        },
    }
