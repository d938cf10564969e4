"""A worker's connections to the store: one for all sources, on a cluster one for each source."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from framegate.pipeline.contracts.errors import StoreBusy, StoreLost
from framegate.pipeline.store.connection import Command, Link
from framegate.pipeline.store.hop import (
    CommitReply,
    SourceHop,
    hop_command,
    read_replies,
    replicas_command,
    too_few_replicas,
)

SLOTS = 16384


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


# By a cluster's URL: the URLs of its servers when this process last asked. If the server of the URL
# is down, the others can still be reached.
_known_servers: dict[str, list[str]] = {}


@dataclass
class LinkBatch:
    """The commands of one write to one link: a hop of several sources, then trims."""

    link: Link
    hops: list[SourceHop] = field(default_factory=list)
    trims: list[Command] = field(default_factory=list)

    def commands(self) -> list[Command]:
        """Return the commands of the batch."""
        if not self.hops:
            return self.trims
        return [hop_command(self.hops), *self.trims]

    def receive(self) -> list[tuple[str, CommitReply]]:
        """Wait for all replies; return those of the hop, each with its source."""
        replies: list[CommitReply] = []
        if self.hops:
            replies = read_replies(self.link.receive())
        for _ in self.trims:
            self.link.receive()
        return [(hop.source, reply) for hop, reply in zip(self.hops, replies, strict=True)]


class Links:
    """All connections of a worker. One thread.

    When one of them breaks, the owner makes a new Links, which asks the cluster for slots again.
    """

    def __init__(self, url: str) -> None:
        """Connect. Raise StoreLost if the store is away, StoreRefused if it refuses."""
        self._url = url
        self._nodes: Nodes | None = None  # None: no cluster
        self._by_source: dict[str, Link] = {}  # on a cluster
        self._first = self._first_link()
        self._spares: dict[Link, Link] = {}

    def _first_link(self) -> Link:
        """Return a link to the server, or to the first server of the cluster that answers."""
        lost = None
        for url in dict.fromkeys([self._url, *_known_servers.get(self._url, ())]):
            try:
                link = Link(url)
            except StoreLost as error:
                lost = lost or error
                continue
            if not url.startswith("unix://") and _is_cluster(link):
                self._nodes = Nodes(url, link.call("CLUSTER", "SLOTS"))
                _known_servers[self._url] = self._nodes.urls()
            return link
        assert lost is not None
        raise lost

    def of(self, source: str) -> Link:
        """Return the connection for all commands about a source."""
        if self._nodes is None:
            return self._first
        link = self._by_source.get(source)
        if link is None:
            link = self._by_source[source] = self.open(source)
        return link

    def open(self, source: str) -> Link:
        """Return another connection to the server that has a source; the caller closes it."""
        return Link(self.server_of(source))

    def server_of(self, source: str) -> str:
        """Return the URL of the server that has a source; sources of a server have equal URLs.

        Raises StoreBusy if no server has it now.
        """
        if self._nodes is None:
            return self._url
        url = self._nodes.url_of(source)
        if url is None:
            raise StoreBusy(f"no server of the cluster has the slot of source {source} now")
        return url

    def spare(self, link: Link) -> Link:
        """Return a second connection to the server of `link`, whose next reply may be late."""
        if link not in self._spares:
            self._spares[link] = link.again()
        return self._spares[link]

    def await_replicas(self, sources: Iterable[str], replicas: int) -> None:
        """Wait until `replicas` replicas have all writes for these sources.

        Raises StoreBusy if they do not have them within 2 s.
        """
        if not replicas:
            return
        for link in dict.fromkeys(map(self.of, sources)):
            reached = link.call(*replicas_command(replicas))
            if reached < replicas:
                raise StoreBusy(too_few_replicas(reached, replicas))

    def parts(
        self, hops: Mapping[str, SourceHop], trims: Sequence[tuple[str, Command]]
    ) -> dict[Link, LinkBatch]:
        """Return the batch of each link for these hops and trims."""
        batches: dict[Link, LinkBatch] = {}
        for source, hop in hops.items():
            link = self.of(source)
            batches.setdefault(link, LinkBatch(link)).hops.append(hop)
        for source, trim in trims:
            link = self.of(source)
            batches.setdefault(link, LinkBatch(link)).trims.append(trim)
        return batches

    def drop(self, sources: Iterable[str]) -> None:
        """Close the connections that only these sources use."""
        for source in sources:
            link = self._by_source.pop(source, None)
            if link is None:
                continue
            spare = self._spares.pop(link, None)
            if spare is not None:
                spare.close()
            link.close()

    def close(self) -> None:
        """Close all connections."""
        self.drop(list(self._by_source))
        for link in (*self._spares.values(), self._first):
            link.close()


def _is_cluster(link: Link) -> bool:
    return b"cluster_enabled:1" in link.call("INFO", "cluster")
