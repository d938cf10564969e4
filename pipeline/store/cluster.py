"""Redis and Valkey Cluster: which server holds a source. All keys of a source share a slot."""

from __future__ import annotations

import binascii
from typing import Any
from urllib.parse import urlsplit

SLOTS = 16384


def slot_of(source: str) -> int:
    """The slot of all keys of a source: that of its name, their hash tag."""
    return binascii.crc_hqx(source.encode(), 0) % SLOTS


def _tag_of(key: str) -> str:
    """What of a key decides on its slot."""
    tag = key.partition("{")[2].partition("}")
    return tag[0] if tag[0] and tag[1] else key


class Nodes:
    """Who holds which slots, by the answer to CLUSTER SLOTS. Frozen once made."""

    def __init__(self, url: str, answer: list[Any]) -> None:
        """url: that of the server that answered; its login and query hold for all."""
        self._url = url
        own_host = urlsplit(url).hostname or "localhost"
        self._ranges = [
            (first, last, (primary[0] or b"").decode() or own_host, primary[1])
            for first, last, primary, *_ in answer
        ]

    def url_of(self, source: str) -> str | None:
        """URL of the server that holds a source; None while no server holds it."""
        slot = slot_of(source)
        for first, last, host, port in self._ranges:
            if first <= slot <= last:
                return at_address(self._url, host, port)
        return None

    def url_of_key(self, key: str) -> str | None:
        """The same for any key."""
        return self.url_of(_tag_of(key))

    def urls(self) -> list[str]:
        """URLs of all servers that hold slots."""
        places = dict.fromkeys((host, port) for _, _, host, port in self._ranges)
        return [at_address(self._url, host, port) for host, port in places]


def at_address(url: str, host: str, port: int) -> str:
    """The URL with another host and port."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return parts._replace(netloc=f"{login}{at}{place}").geturl()
