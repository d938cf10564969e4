"""Redis Cluster: detect it, and find the server that has a source.

`redis_client` connects to a cluster, `worker_connections` to each of its servers.
"""

from __future__ import annotations

import binascii
from typing import Any
from urllib.parse import urlsplit

SLOTS = 16384

_clusters: dict[str, bool] = {}  # by URL: whether its server is part of a cluster


def is_cluster(url: str, client: Any) -> bool:
    """Return whether the server of a URL is part of a cluster. Raises redis-py's errors.

    client  redis-py's client of that server, which is asked once for each URL
    """
    if url.startswith("unix://"):
        return False
    if url not in _clusters:
        _clusters[url] = bool(client.info("cluster").get("cluster_enabled"))
    return _clusters[url]


def slot_of(source: str) -> int:
    """Return the cluster slot of all keys of a source. Its name is their hash tag."""
    return binascii.crc_hqx(source.encode(), 0) % SLOTS


def _tag_of(key: str) -> str:
    """Return the part of a key that decides its slot: the text in braces, if there is any."""
    tag, closing, _ = key.partition("{")[2].partition("}")
    if tag and closing:
        return tag
    return key


class Nodes:
    """The servers of a cluster with their ranges of slots. Immutable."""

    def __init__(self, url: str, reply: list[Any]) -> None:
        """Read a reply to CLUSTER SLOTS.

        url  that of the server that replied; its login and query apply to all servers
        """
        self._url = url
        own_host = urlsplit(url).hostname or "localhost"
        self._ranges: list[tuple[int, int, str, int]] = []
        for first, last, primary, *_ in reply:
            host = (primary[0] or b"").decode() or own_host
            self._ranges.append((first, last, host, primary[1]))

    def url_of(self, source: str) -> str | None:
        """Return the URL of the server that has a source; None while no server has it."""
        slot = slot_of(source)
        for first, last, host, port in self._ranges:
            if first <= slot <= last:
                return at_address(self._url, host, port)
        return None

    def url_of_key(self, key: str) -> str | None:
        """Return the URL of the server that has a key; None while no server has it."""
        return self.url_of(_tag_of(key))

    def urls(self) -> list[str]:
        """Return the URLs of all servers with slots."""
        places = dict.fromkeys((host, port) for _, _, host, port in self._ranges)
        return [at_address(self._url, host, port) for host, port in places]


def at_address(url: str, host: str, port: int) -> str:
    """Return the URL with another host and port."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    if ":" in host:
        host = f"[{host}]"
    return parts._replace(netloc=f"{login}{at}{host}:{port}").geturl()
