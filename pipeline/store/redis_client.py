"""Connect to the store with redis-py by its URL, and turn its errors into those for the user.

All commands use it, except those of a worker's hot path; see `worker_connections`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AskError, ClusterDownError, RedisClusterException, TryAgainError
from redis.retry import Retry

from framegate.pipeline.contracts.errors import (
    FramegateError,
    OutOfMeans,
    StoreBusy,
    StoreLost,
    StoreRefused,
)
from framegate.pipeline.contracts.redaction import remember_url, shown
from framegate.pipeline.store.cluster import is_cluster
from framegate.pipeline.store.listen import OWNER
from framegate.pipeline.system.retry import OUT_OF_MEANS

SCHEMES = ("redis://", "rediss://", "unix://")
CONNECT_S = 5.0
ANSWER_S = 10.0
PROBE_S = 1.0

_FILES = {"ssl_ca_certs": "tls_ca", "ssl_certfile": "tls_cert", "ssl_keyfile": "tls_key"}

# Options of redis-py that change the form of replies.
_FORMS = ("decode_responses", "encoding", "encoding_errors")

# The permissions of Framegate's own user, without FLUSHALL, CONFIG, KEYS and similar commands.
ACL_RULE = "~fg:* resetchannels +@all -@dangerous +info"

# A primary whose replicas are away answers NOREPLICAS. One that becomes a replica answers UNBLOCKED
# to commands that wait, and READONLY afterwards, until the URL leads to the new primary.
_BUSY = (
    "OOM",
    "MISCONF",
    "LOADING",
    "BUSY ",
    "READONLY",
    "NOREPLICAS",
    "UNBLOCKED",
    "MASTERDOWN",
    "TRYAGAIN",
    "CLUSTERDOWN",
)
_ONLY_ON_PRIMARY = "cannot be used with replica instances"
_IN_PIPELINE = "of pipeline caused error: "
_NO_CONNECTION_LEFT = "max number of clients"
_BROKEN_OFF = ("reset by peer", "closed by server", "Broken pipe", "Error 5 ", "EOF occurred")
_WANTS_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "BAD_CERTIFICATE")
_ERRORS = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ResponseError,
    redis.InvalidResponse,  # another service listens there
    RedisClusterException,
    OSError,
)
_RETRIED = (redis.ConnectionError, redis.ReadOnlyError)


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Turn redis-py's errors in the block into Framegate's, without the login of the URL."""
    try:
        yield
    except _ERRORS as error:
        raise _fault(url, error) from error


def _fault(url: str, error: Exception) -> FramegateError:
    where = f"store {shown(url)}"
    if _is_ours(error):
        return OutOfMeans(f"{where}: this process cannot open a connection: {error}")
    if _NO_CONNECTION_LEFT in str(error):
        return StoreBusy(f"{where} takes no more connections: {error}")
    match error:
        case redis.AuthenticationError():
            return StoreRefused(
                f"{where} refuses the login: {error} (allowed: its URL with USER:PASSWORD@ before "
                "the host, in the variable that store.url_env names)"
            )
        case redis.BusyLoadingError():
            return StoreBusy(f"{where} is loading its data: {error}")
        case redis.OutOfMemoryError():
            return StoreBusy(f"{where} is full: {error}; raise its maxmemory")
        case redis.exceptions.NoPermissionError():
            return StoreRefused(f"{where} refuses: {error}; {needed_permission()}")
        case ClusterDownError() | AskError() | TryAgainError():
            return StoreBusy(f"{where}: the cluster is changing, or a server is missing: {error}")
        case redis.ResponseError():
            text = str(error)
            reply = text.rpartition(_IN_PIPELINE)[2]
            if isinstance(error, redis.ReadOnlyError) or _is_busy(reply):
                return StoreBusy(f"{where} takes no writes: {text}")
            return StoreRefused(f"{where} refuses: {text}")
    fault = _tls_fault(url, str(error))
    if fault is not None:
        return StoreRefused(f"{where} {fault}")
    return StoreLost(f"{where} cannot be reached: {error}")


def _is_busy(reply: str) -> bool:
    """Return whether this error reply does not last."""
    return reply.startswith(_BUSY) or _ONLY_ON_PRIMARY in reply


def _is_ours(error: BaseException | None) -> bool:
    """Return whether this process lacked a resource, so that the store never got the command."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in OUT_OF_MEANS:
            return True
        error = error.__cause__ or error.__context__
    return False


def needed_permission() -> str:
    """Return the remedy for a missing permission."""
    return (
        f"Framegate's own user needs: ACL SETUSER framegate on >PASSWORD {ACL_RULE}; the user "
        "viewer of --listen may only read results and stage outputs, and cannot use groups"
    )


def reply_fault(text: str) -> FramegateError:
    """Return the error for an error reply on the hot path."""
    if "Function not found" in text:
        return StoreRefused(
            f"the store was emptied or replaced during the run ({text}); nothing was "
            "restarted, start a new run"
        )
    if text.startswith(("MOVED", "ASK")):
        return StoreLost(f"the cluster gave the source to another server: {text}")
    if _NO_CONNECTION_LEFT in text:
        return StoreBusy(f"the store takes no more connections: {text}")
    if _is_busy(text):
        return StoreBusy(f"the store takes no writes now: {text}")
    if "NOPERM" in text or "ACL failure" in text:
        return StoreRefused(f"the store refuses: {text}; {needed_permission()}")
    return StoreRefused(text)


def _tls_fault(url: str, text: str) -> str | None:
    """Return the fault of either side's TLS that lasts; None if the cause is another.

    A connection that breaks in the handshake is no such fault by itself: a proxy in front of the
    store breaks it while the store restarts.
    """
    address = _tcp_address(url)
    if address is None:
        return None
    broken_off = any(words in text for words in _BROKEN_OFF)
    if not url.startswith("rediss://"):
        if broken_off and _tls_refusal(url, address) is not None:
            return "speaks TLS: use rediss:// in the URL"
        return None
    if "CERTIFICATE_VERIFY_FAILED" in text and "is not valid for" in text:
        return (
            f"has a certificate for another name: {text}; use the name in the certificate, or "
            "[store] tls_check_hostname = false"
        )
    if "certificate has expired" in text:  # the store may get a valid one during the run
        return None
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            f"has a certificate that is not trusted: {text}; give the CA that signed it as [store] "
            "tls_ca, or ?ssl_ca_certs=FILE in the URL"
        )
    if broken_off:
        text = _tls_refusal(url, address) or text  # the connection broke before the alert was read
    if any(word in text for word in _WANTS_CERTIFICATE):
        return (
            f"wants a client certificate that it trusts: {text}; give [store] tls_cert and "
            "tls_key, or ?ssl_certfile=FILE&ssl_keyfile=FILE in the URL"
        )
    if _speaks_plainly(address):
        return "speaks no TLS on this port: use redis:// in the URL, or the server's tls-port"
    if "SSL" not in text or any(words in text for words in _BROKEN_OFF):
        return None
    return f"cannot be reached over TLS: {text}"


def _tcp_address(url: str) -> tuple[str, int] | None:
    """Return host and port; None for a unix socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return None
    return parts.hostname or "localhost", parts.port or 6379


def _tls_refusal(url: str, address: tuple[str, int]) -> str | None:
    """Return why the server ends a TLS connection with the client certificate of the URL, if any;
    empty if it does not, None if it has no TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    query = _query(url)
    reason = None
    try:
        if "ssl_certfile" in query:
            password = query.get("ssl_password", "")  # without any, OpenSSL asks the terminal
            context.load_cert_chain(query["ssl_certfile"], query.get("ssl_keyfile"), password)
        plain = socket.create_connection(address, PROBE_S)
        with plain, context.wrap_socket(plain) as secure:
            reason = ""
            secure.recv(1)
    except ssl.SSLError as error:
        has_tls = reason is not None or "ALERT" in str(error)
        if has_tls:
            reason = str(error)
    except OSError:
        pass
    return reason


def _speaks_plainly(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, PROBE_S) as plain:
        plain.sendall(b"PING\r\n")
        return plain.recv(1) in (b"+", b"-")
    return False


# -- clients


def with_tls(
    url: str, ca: str | None, cert: str | None, key: str | None, check_hostname: bool
) -> str:
    """Return the URL with these TLS settings in its query. Settings that the URL has stay."""
    files = zip(_FILES, (ca, cert, key), strict=True)
    wanted = {name: os.path.abspath(file) for name, file in files if file is not None}
    if not check_hostname:
        wanted["ssl_check_hostname"] = "false"
    missing = {name: value for name, value in wanted.items() if name not in _query(url)}
    if not missing:
        return url
    separator = "?"
    if "?" in url:
        separator = "&"
    return f"{url}{separator}{urlencode(missing)}"


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(url.partition("?")[2]).items()}


def url_fault(url: str) -> str | None:
    """Return why this cannot be the URL of a store, without quoting it; None if it can."""
    if not url.startswith(SCHEMES):
        return f"it is not the URL of a Redis server; it must begin with {', '.join(SCHEMES)}"
    try:
        redis.Redis.from_url(url).connection_pool.make_connection()
    except (ValueError, TypeError):  # their texts may quote a part of the password
        return "it is not the URL of a Redis server: its port, database or query is malformed"
    for name, value in _query(url).items():
        if name in _FILES and not os.access(value, os.R_OK):
            return f"{name} (tls: {_FILES[name]}) = {value!r}: this file cannot be read"
        if name in _FORMS:
            return f"its query has {name}, which changes the store's replies; remove it"
        if name == "protocol" and value != "2":
            return "its query has a protocol other than 2, which changes the store's replies"
    return None


def connect(url: str, answer_s: float = ANSWER_S) -> Any:
    """Return a client of the store, which may be a server or a cluster.

    Asks the server once for each URL whether it is a part of a cluster. Every call of the client
    fails after `answer_s` seconds without a reply. Raises StoreLost if the store is away, and
    StoreRefused if it refuses or the URL is malformed.
    """
    client = single(url, answer_s)
    with store_errors(url):
        if not is_cluster(url, client):
            return client
        client.close()
        return redis.RedisCluster.from_url(url, **_options(url, answer_s))


def single(url: str, answer_s: float = ANSWER_S) -> Any:
    """Return a client of a server, not connected. Raise StoreRefused for a malformed URL."""
    remember_url(url)
    with store_errors(url):  # redis-py reads its own version from a file
        fault = url_fault(url)
        if fault is not None:
            raise StoreRefused(f"store URL {shown(url)}: {fault}")
        return redis.Redis.from_url(url, **_options(url, answer_s))


def _options(url: str, answer_s: float) -> dict[str, Any]:
    options = {
        "protocol": 2,
        "socket_connect_timeout": min(CONNECT_S, answer_s),
        "socket_timeout": answer_s,
        # One retry, on a new connection: the pooled one may be to a server that has died and is up
        # again, or to a former primary while the URL leads to another one.
        "retry": Retry(NoBackoff(), 1, supported_errors=_RETRIED),
    }
    if url.startswith(f"unix://{OWNER}:"):
        options["redis_connect_func"] = _connect_without_eviction
    return options


def _connect_without_eviction(connection: Any) -> None:
    """Log in, and exempt the connection from the limit on the memory of all connections.

    A store that listens has this limit and closes connections beyond it.
    """
    connection.on_connect()
    connection.send_command("CLIENT", "NO-EVICT", "on")
    connection.read_response()
