"""Debian's mosquitto with a password, on a port of its own, and a reader that misses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import aiomqtt

from tests.support.runs import wait_until

USER, PASSWORD = "gate", "Hunter2-broker"
SERVER, MAKER = (
    shutil.which("mosquitto", path="/usr/sbin:/usr/bin"),
    shutil.which("mosquitto_passwd"),
)
ABSENT = SERVER is None or MAKER is None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """Keeps subscriptions and what waits for them while it is down."""

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
            "max_queued_messages 0\n"
        )

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

    def subscribe(self) -> None:
        """From now on all messages are kept for `collect`."""
        asyncio.run(self._collect(0))

    def results(self, least: int) -> list[Any]:
        """What came on framegate/gate since `subscribe`, once so many different ones are there."""
        return asyncio.run(asyncio.wait_for(self._collect(least), 60))

    async def _collect(self, least: int) -> list[Any]:
        found: list[Any] = []
        async with aiomqtt.Client(
            "127.0.0.1",
            self.port,
            username=USER,
            password=PASSWORD,
            identifier="reader",
            clean_session=False,
        ) as client:
            await client.subscribe("framegate/gate", qos=1)
            messages = aiter(client.messages)
            while len({each["seq"] for each in found}) < least:
                message = await anext(messages)
                assert isinstance(message.payload, bytes)
                found.append(json.loads(message.payload))
        return found

    def online(self) -> bytes:
        """What <topic>/online says now."""

        async def look() -> bytes:
            async with aiomqtt.Client(
                "127.0.0.1", self.port, username=USER, password=PASSWORD
            ) as client:
                await client.subscribe("framegate/online", qos=1)
                message = await anext(aiter(client.messages))
                assert isinstance(message.payload, bytes)
                return message.payload

        with contextlib.suppress(aiomqtt.MqttError):
            return asyncio.run(asyncio.wait_for(look(), 30))
        return b""
