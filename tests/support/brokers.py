"""Debian's mosquitto with a password, on a port of its own, and what listens to it."""

from __future__ import annotations

import json
import queue
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.own_servers import free_port
from tests.support.runs import wait_until

USER, PASSWORD = "gate", "Hunter2-broker"
SERVER, MAKER = (
    shutil.which("mosquitto", path="/usr/sbin:/usr/bin"),
    shutil.which("mosquitto_passwd"),
)
ABSENT = SERVER is None or MAKER is None


class Broker:
    """Keeps subscriptions, and what is retained and waits for them, while it is down or killed: it
    writes them down a second after they changed.
    """

    def __init__(self, folder: Path) -> None:
        assert SERVER is not None
        assert MAKER is not None
        folder.mkdir()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        words = folder / "words"
        subprocess.run([MAKER, "-b", "-c", words, USER, PASSWORD], check=True, capture_output=True)
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nuser root\nallow_anonymous false\n"
            f"password_file {words}\npersistence true\npersistence_location {folder}/\n"
            "autosave_interval 1\nautosave_on_changes true\nmax_queued_messages 0\n",
            encoding="utf-8",
        )

    @property
    def url(self) -> str:
        return f"mqtt://{USER}:{PASSWORD}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it listens."""
        assert SERVER is not None
        self._process = subprocess.Popen(
            [SERVER, "-c", self._config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until("the broker listens", self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End it; what it must keep is on disk."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def reader(self, *topics: str, id: str = "reader") -> Iterator[BrokerReader]:
        """Whoever reads these topics, from now on, across the broker's own restarts."""
        made = BrokerReader(self.port, topics, id)
        try:
            yield made
        finally:
            made.close()


class BrokerReader:
    """A subscriber whose subscription the broker keeps; it comes back by itself.

    retained  the last word of each topic that came
    """

    def __init__(self, port: int, topics: tuple[str, ...], id: str) -> None:
        self.came: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.last: dict[str, bytes] = {}
        self.subscribed = False
        self._topics = topics
        self.client = paho.Client(CallbackAPIVersion.VERSION2, id, clean_session=False)
        self.client.username_pw_set(USER, PASSWORD)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._connected
        self.client.on_subscribe = self._is_subscribed
        self.client.on_message = self._heard
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        wait_until("it is subscribed", lambda: self.subscribed)

    def _connected(self, client: Any, *_: Any) -> None:
        client.subscribe([(topic, 1) for topic in self._topics])

    def _is_subscribed(self, *_: Any) -> None:
        self.subscribed = True

    def _heard(self, client: Any, data: Any, message: Any) -> None:  # noqa: ARG002
        self.last[message.topic] = message.payload
        self.came.put((message.topic, message.payload))

    def ids(self) -> list[str]:
        """Ids of all events that came."""
        return [json.loads(payload)["id"] for _, payload in list(self.came.queue)]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class HomeAssistant(BrokerReader):
    """What Home Assistant reads of discovered devices, by its rules: a stand-in, as its package is
    too large for tests. Entities come from discovery alone, their states from their own topics.
    """

    def __init__(self, port: int, id: str = "home") -> None:
        super().__init__(port, ("homeassistant/device/+/config", "framegate/#"), id)

    def born(self) -> None:
        """Say, as Home Assistant does, that it begins."""
        self.client.publish("homeassistant/status", "online", 1).wait_for_publish(10)

    def entities(self) -> dict[str, dict[str, Any]]:
        """Return entities by unique id, with what their platforms require."""
        found: dict[str, dict[str, Any]] = {}
        for topic, payload in list(self.last.items()):
            if not re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic):
                continue
            device = json.loads(payload)
            assert device["device"]["identifiers"]
            assert device["origin"]["name"]
            for one in device["components"].values():
                if set(one) == {"platform"}:  # taken away
                    continue
                required = {"image": "image_topic"}.get(one["platform"], "state_topic")
                assert one[required]
                whole = {"availability_topic": device["availability_topic"], **one}
                assert whole["unique_id"] not in found
                found[whole["unique_id"]] = whole
        return found

    def state(self, unique_id: str) -> Any:
        """Return the state of an entity as it would be shown."""
        entity = self.entities().get(unique_id)
        if entity is None:
            return None
        if self.last.get(entity["availability_topic"]) != b"online":
            return "unavailable"
        payload = self.last.get(entity["state_topic"])
        if payload is None:
            return "unknown"
        said = json.loads(payload)
        if entity["platform"] == "event":
            assert said["event_type"] in entity["event_types"]
            return said["event_type"]
        key = re.fullmatch(r"{{ value_json(?:\.|\[')(\w+)(?:'\])? }}", entity["value_template"])
        assert key is not None
        return said[key[1]]
