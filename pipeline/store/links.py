"""A worker's connections to the store, by source: one for all of them, in a cluster one each."""

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
    """Return the cluster slot of all keys of a source: that of its name, their hash tag."""
    return binascii.crc_hqx(source.encode(), 0) % SLOTS


def _tag_of(key: str) -> str:
    """Return the part of a key that decides on its slot."""
    tag = key.partition("{")[2].partition("}")
    return tag[0] if tag[0] and tag[1] else key


class Nodes:
    """Which server of a cluster holds which slots, by the reply to CLUSTER SLOTS. Immutable."""

    def __init__(self, url: str, answer: list[Any]) -> None:
        """url: that of the server that answered; its login and query hold for all."""
        self._url = url
        own_host = urlsplit(url).hostname or "localhost"
        self._ranges = [
            (first, last, (primary[0] or b"").decode() or own_host, primary[1])
            for first, last, primary, *_ in answer
        ]

    def url_of(self, source: str) -> str | None:
        """Return the URL of the server that holds a source; None while none does."""
        slot = slot_of(source)
        for first, last, host, port in self._ranges:
            if first <= slot <= last:
                return at_address(self._url, host, port)
        return None

    def url_of_key(self, key: str) -> str | None:
        """Return the same for any key."""
        return self.url_of(_tag_of(key))

    def urls(self) -> list[str]:
        """Return the URLs of all servers that hold slots."""
        places = dict.fromkeys((host, port) for _, _, host, port in self._ranges)
        return [at_address(self._url, host, port) for host, port in places]


def at_address(url: str, host: str, port: int) -> str:
    """Return the URL with another host and port."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return parts._replace(netloc=f"{login}{at}{place}").geturl()


_seen: dict[str, list[str]] = {}  # servers of the clusters that this process knows, by their URL


@dataclass
class LinkBatch:
    """What goes over one link in one write: the hop of several sources, then trims."""

    link: Link
    hops: list[SourceHop] = field(default_factory=list)
    trims: list[Command] = field(default_factory=list)

    def commands(self) -> list[Command]:
        """Return all of it as commands."""
        return [hop_command(self.hops), *self.trims] if self.hops else self.trims

    def receive(self) -> list[tuple[str, CommitReply]]:
        """Wait for all replies; return the hop's, each with its source."""
        answers = read_replies(self.link.receive()) if self.hops else []
        for _ in self.trims:
            self.link.receive()
        return [(hop.source, answer) for hop, answer in zip(self.hops, answers, strict=True)]


class Links:
    """All connections of a worker. One thread.

    When one of them breaks, its owner makes a new Links: which server holds what is asked again.
    """

    def __init__(self, url: str) -> None:
        """Connect; StoreLost if the store is not there, StoreRefused if it says no."""
        self._url = url
        self._nodes: Nodes | None = None
        self._by_source: dict[str, Link] = {}
        self._one = self._first_link()
        self._spares: dict[Link, Link] = {}

    def _first_link(self) -> Link:
        """Return a link to the server, or to the first of the cluster's that answers."""
        lost = None
        for url in dict.fromkeys([self._url, *_seen.get(self._url, ())]):
            try:
                link = Link(url)
            except StoreLost as error:
                lost = lost or error
                continue
            if not url.startswith("unix://") and _is_cluster(link):
                self._nodes = Nodes(url, link.call("CLUSTER", "SLOTS"))
                _seen[self._url] = self._nodes.urls()
            return link
        assert lost is not None
        raise lost

    def of(self, source: str) -> Link:
        """Return the connection for all commands about a source."""
        if self._nodes is None:
            return self._one
        link = self._by_source.get(source)
        if link is None:
            link = self._by_source[source] = self.open(source)
        return link

    def open(self, source: str) -> Link:
        """Return another connection to the server that holds a source; the caller closes it."""
        return Link(self.server_of(source))

    def server_of(self, source: str) -> str:
        """Return the URL of the server that holds a source, equal for all sources of a server.

        StoreBusy if no server holds it now.
        """
        if self._nodes is None:
            return self._url
        url = self._nodes.url_of(source)
        if url is None:
            raise StoreBusy(f"no server of the cluster holds source {source} now")
        return url

    def spare(self, link: Link) -> Link:
        """Return another connection to the server of `link`, which waits for a reply."""
        if link not in self._spares:
            self._spares[link] = link.again()
        return self._spares[link]

    def await_replicas(self, sources: Iterable[str], replicas: int) -> None:
        """Wait until so many replicas have what these sources' links wrote. StoreBusy after 2 s."""
        if not replicas:
            return
        for link in dict.fromkeys(map(self.of, sources)):
            found = link.call(*replicas_command(replicas))
            if found < replicas:
                raise StoreBusy(too_few_replicas(found, replicas))

    def parts(
        self, hops: Mapping[str, SourceHop], trims: Sequence[tuple[str, Command]]
    ) -> dict[Link, LinkBatch]:
        """Return what goes over which link."""
        found: dict[Link, LinkBatch] = {}
        for source, hop in hops.items():
            link = self.of(source)
            found.setdefault(link, LinkBatch(link)).hops.append(hop)
        for source, trim in trims:
            link = self.of(source)
            found.setdefault(link, LinkBatch(link)).trims.append(trim)
        return found

    def drop(self, sources: Iterable[str]) -> None:
        """Close the connections that only these sources need."""
        for source in sources:
            if link := self._by_source.pop(source, None):
                if spare := self._spares.pop(link, None):
                    spare.close()
                link.close()

    def close(self) -> None:
        """Close all connections."""
        self.drop(list(self._by_source))
        for link in (*self._spares.values(), self._one):
            link.close()


def _is_cluster(link: Link) -> bool:
    return b"cluster_enabled:1" in link.call("INFO", "cluster")
