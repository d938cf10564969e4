"""Commands that an MQTT broker delivers: switch the profile, and rules on or off.

    TOPIC/set/profile    name of a profile, or auto: by the schedules of the profiles
    TOPIC/set/rule/RULE  ON or OFF

A retained command is ignored, because the broker repeats it with each connection.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from framegate.pipeline.config.live_changes import AskConfig, switch_profile, switch_rule
from framegate.pipeline.contracts.errors import FramegateError
from framegate.pipeline.contracts.redaction import redacted

log = logging.getLogger(__name__)

AUTO: Final = "auto"
_STATES: Final = {"ON": True, "OFF": False}
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
        self._ask = ask
        self.topics = (self._profile, f"{self._rule}+")

    def take(self, topic: str, payload: bytes, retain: bool) -> bool:
        """Carry out a message if it is a command, and return whether it is one.

        A command that cannot be carried out is logged.
        """
        if topic != self._profile and not topic.startswith(self._rule):
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
        rule = topic.removeprefix(self._rule)
        if text.upper() not in _STATES:
            log.warning("sink %s: rule %s: %r; must be ON or OFF", self._name, rule[:_MOST], text)
            return
        switch_rule(self._ask, rule, _STATES[text.upper()])
        log.info("sink %s: rule %s: %s", self._name, rule, text)


def profile_device(topic: str, device: str, profiles: tuple[str, ...]) -> dict[str, Any]:
    """Return the device for Home Assistant's discovery that selects the profile.

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
            }
        },
    }
