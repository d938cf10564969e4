"""The connections of a worker's hot path, which reads streams and commits hops.

redis-py costs 4 to 7 times as much CPU here. It only opens a connection (URL, login, TLS,
timeouts). Link then uses the socket with the packer and the reader of hiredis, and sends several
commands in one write. A worker has one Link for all sources, on a cluster one for each source; they
are its Links. `engine/store_session` makes new ones when a connection breaks.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import hiredis

from framegate.pipeline.contracts import keys
from framegate.pipeline.contracts.errors import (
    FramegateError,
    StoreBusy,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.store.cluster import Nodes, is_cluster
from framegate.pipeline.store.hop import (
    Command,
    CommitReply,
    SourceHop,
    hop_command,
    read_replies,
    replicas_command,
    too_few_replicas,
)
from framegate.pipeline.store.redis_client import reply_fault, single, store_errors

log = logging.getLogger(__name__)

DEAD_S = 30  # after which a silent host counts as lost
AGAIN_S = 1.0  # between two looks for a lost server of a cluster


class Link:
    """A connection to a server of the store. One thread sends and receives."""

    def __init__(self, url: str) -> None:
        """Connect. Raise StoreLost if the store is away, StoreRefused if it refuses."""
        self._url = url
        with store_errors(url):
            self._connection: Any = single(url).connection_pool.make_connection()
            self._connection.connect()
        sock = self._connection._sock  # redis-py has no public name for it
        if not isinstance(sock, socket.socket):
            raise StoreLost("the store's connection has no socket")
        sock.settimeout(None)
        _end_when_dead(sock)
        self._sock = sock
        self._decrypted: Callable[[], int] | None = None
        if isinstance(sock, ssl.SSLSocket):
            self._decrypted = sock.pending
        self._reader = hiredis.Reader()
        self._next: Any = False  # as hiredis: False while no complete reply has arrived

    def duplicate(self) -> Link:
        """Return another connection to the same server."""
        return Link(self._url)

    def fileno(self) -> int:
        """Return the socket's descriptor, for polling."""
        return self._sock.fileno()

    def send(self, *commands: Command) -> None:
        """Write all commands in one go. Raise StoreLost if the connection breaks."""
        try:
            self._sock.sendall(b"".join(map(_pack, commands)))
        except OSError as error:
            raise StoreLost(f"the connection to the store broke: {error}") from error

    def receive(self) -> Any:
        """Wait for the next reply and return it.

        Raises StoreLost if the connection breaks; StoreBusy or StoreRefused if the reply is an
        error.
        """
        while not self.has_reply():
            self.fill()
        reply = self._next
        self._next = False
        if isinstance(reply, hiredis.ReplyError):
            raise reply_fault(str(reply))
        return reply

    def has_reply(self) -> bool:
        """Return whether the next reply has arrived completely. Does not read the socket."""
        if self._next is False:
            self._next = self._reader.gets()
        return self._next is not False

    def fill(self) -> None:
        """Read the socket; wait if it has no bytes. Raise StoreLost if the connection breaks."""
        try:
            data = self._sock.recv(65536)
            while self._decrypted is not None and self._decrypted():
                data += self._sock.recv(65536)  # a poll does not report decrypted bytes
        except OSError as error:
            raise StoreLost(f"the connection to the store broke: {error}") from error
        if not data:
            raise StoreLost("the store closed the connection")
        self._reader.feed(data)

    def call(self, *command: str | bytes) -> Any:
        """Send one command and wait for its reply."""
        self.send(command)
        return self.receive()

    def close(self) -> None:
        """Close the socket."""
        self._connection.disconnect()


def readable(descriptors: Iterable[int], timeout_s: float | None = None) -> list[int]:
    """Return the descriptors that can be read or are closed.

    timeout_s  maximum wait in seconds; None: no limit
    """
    poll = select.poll()  # select.select ends at descriptor 1023
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    timeout = None
    if timeout_s is not None:
        timeout = math.ceil(timeout_s * 1000)
    return [descriptor for descriptor, _ in poll.poll(timeout)]


_pack: Callable[[Any], bytes] = hiredis.pack_command


def _end_when_dead(sock: socket.socket) -> None:
    """Make the kernel close the connection to a host that is silent: reads have no timeout."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_S // 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_S // 6)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000)


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

    has_changed  a server of a cluster that `has` found lost answers again, or another server has
                 its sources: the owner should make a new Links
    """

    def __init__(self, url: str, wake: int | None = None) -> None:
        """Connect. Raise StoreLost if the store is away, StoreRefused if it refuses.

        wake  an eventfd that is written when `has_changed` becomes true
        """
        self._url = url
        self._wake = wake
        self.has_changed = False
        self._closing = threading.Event()
        self._answering: dict[str, bool] = {}  # by URL of a server of a cluster
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
            with store_errors(url), single(url) as client:
                is_clustered = is_cluster(url, client)
            if is_clustered:
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

    def has(self, source: str) -> bool:
        """Return whether the server of a source answers; on a cluster, another one may be lost.

        Each server is asked once. While one is lost, a thread looks for it, see `has_changed`.
        """
        if self._nodes is None:
            return True
        server = self._nodes.url_of(source) or ""
        if server not in self._answering:
            fault = self._fault_of(source)
            self._answering[server] = fault is None
            if fault is not None:
                log.warning("source %s waits, and all others of its server: %s", source, fault)
                looking = threading.Thread(target=self._await_server, args=(source,), daemon=True)
                looking.start()
        return self._answering[server]

    def _fault_of(self, source: str) -> FramegateError | None:
        """Return why the server of a source cannot serve it; None if it can.

        A server with a full disk refuses PING, and one that has just started refuses reads.
        """
        try:
            link = self.of(source)
            link.send(("PING",), ("EXISTS", keys.own(source)))
            link.receive()
            link.receive()
        except (StoreLost, StoreBusy) as error:
            self.drop([source])
            return error
        return None

    def _await_server(self, source: str) -> None:
        """Set `has_changed` once a server answers for the source; end when the links are closed."""
        while not self._closing.wait(AGAIN_S):
            is_back = False
            # A server that starts again can refuse at first, before its users are set.
            try:
                with closing(Links(self._url)) as links:
                    is_back = links._fault_of(source) is None
            except (StoreLost, StoreBusy, StoreRefused) as error:
                log.debug("source %s still waits: %s", source, error)
            if is_back and not self._closing.is_set():
                self.has_changed = True
                if self._wake is not None:
                    os.eventfd_write(self._wake, 1)
                return

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
            self._spares[link] = link.duplicate()
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
        self._closing.set()
        self.drop(list(self._by_source))
        for link in (*self._spares.values(), self._first):
            link.close()
