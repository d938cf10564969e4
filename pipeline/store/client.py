"""The store by its URL: redis-py clients, and what the store's errors mean to the user."""

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
from framegate.pipeline.store.listen import OWNER
from framegate.pipeline.system.retry import OUT_OF_MEANS

SCHEMES = ("redis://", "rediss://", "unix://")
CONNECT_S = 5.0
ANSWER_S = 10.0
PROBE_S = 1.0

_FILES = {"ssl_ca_certs": "tls_ca", "ssl_certfile": "tls_cert", "ssl_keyfile": "tls_key"}

# All that Framegate's own user needs; FLUSHALL, CONFIG, KEYS and the like are not in it.
ACL_RULE = "~fg:* resetchannels +@all -@dangerous +info"

_BUSY = ("OOM", "MISCONF", "LOADING", "BUSY", "READONLY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN")
_NO_CONNECTION_LEFT = "max number of clients"
_BROKEN_OFF = ("reset by peer", "closed by server", "Broken pipe", "Error 5 ")
_WANTS_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "BAD_CERTIFICATE")
_ERRORS = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ResponseError,
    RedisClusterException,
    OSError,
)


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Raise our errors for redis-py's: what is wrong, where, and what is allowed.

    The URL is shown without user and password.
    """
    try:
        yield
    except _ERRORS as error:
        raise _fault(url, error) from error


def _fault(url: str, error: Exception) -> FramegateError:
    where = f"store {shown(url)}"
    if _is_ours(error):
        return OutOfMeans(f"{where} cannot be asked: {error}")
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
            return StoreBusy(f"{where}: the cluster changes, or lacks a server: {error}")
        case redis.ResponseError():
            text = str(error)
            if text.startswith(("MISCONF", "READONLY", "OOM")):
                return StoreBusy(f"{where} takes no writes: {text}")
            return StoreRefused(f"{where} refuses: {text}")
    fault = _tls_fault(url, str(error))
    if fault is not None:
        return StoreRefused(f"{where} {fault}")
    return StoreLost(f"{where} cannot be reached: {error}")


def _is_ours(error: BaseException | None) -> bool:
    """Return whether this process lacked something, and the store was not even asked."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in OUT_OF_MEANS:
            return True
        error = error.__cause__ or error.__context__
    return False


def needed_permission() -> str:
    """Return what to do about a missing permission."""
    return (
        f"Framegate's own user needs: ACL SETUSER framegate on >PASSWORD {ACL_RULE}; the user "
        "viewer of --listen may only read what stages give, and takes no part in groups"
    )


def reply_fault(text: str) -> FramegateError:
    """Return what an error reply on the hot path means."""
    if "Function not found" in text:
        return StoreRefused(
            f"the store was emptied or replaced during the run ({text}); nothing was "
            "restarted, start a new run"
        )
    if text.startswith(("MOVED", "ASK")):
        return StoreLost(f"the cluster gave the source to another server: {text}")
    if _NO_CONNECTION_LEFT in text:
        return StoreBusy(f"the store takes no more connections: {text}")
    if text.startswith(_BUSY):
        return StoreBusy(f"the store takes no writes now: {text}")
    if "NOPERM" in text or "ACL failure" in text:
        return StoreRefused(f"the store refuses: {text}; {needed_permission()}")
    return StoreRefused(text)


def _tls_fault(url: str, text: str) -> str | None:
    """Return what is wrong with TLS on either side; None if it is something else."""
    address = _tcp_address(url)
    if address is None:
        return None
    broken_off = any(words in text for words in _BROKEN_OFF)
    if not url.startswith("rediss://"):
        if broken_off and _word_over_tls(address) is not None:
            return "speaks TLS: allowed there is rediss://"
        return None
    if "CERTIFICATE_VERIFY_FAILED" in text and "is not valid for" in text:
        return (
            f"has a certificate for another name: {text}; use the name in the certificate, or "
            "[store] tls_check_hostname = false"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            f"has a certificate that is not trusted: {text}; give the CA that signed it as [store] "
            "tls_ca, or ?ssl_ca_certs=FILE in the URL"
        )
    if broken_off:
        text = _word_over_tls(address) or text  # it went before its reason was heard
    if any(word in text for word in _WANTS_CERTIFICATE):
        return (
            f"wants a client certificate that it trusts: {text}; give [store] tls_cert and "
            "tls_key, or ?ssl_certfile=FILE&ssl_keyfile=FILE in the URL"
        )
    if _speaks_plainly(address):
        return "speaks no TLS on this port: allowed there is redis://, or give its tls-port"
    return f"cannot be spoken to over TLS: {text}" if "SSL" in text else None


def _tcp_address(url: str) -> tuple[str, int] | None:
    """Return host and port; None for a unix socket."""
    parts = urlsplit(url)
    return None if parts.scheme == "unix" else (parts.hostname or "localhost", parts.port or 6379)


def _word_over_tls(address: tuple[str, int]) -> str | None:
    """Return why the server ends a TLS connection; empty if it does not, None if it has no TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    greeted = False
    try:
        plain = socket.create_connection(address, PROBE_S)
        with plain, context.wrap_socket(plain) as secure:
            greeted = True
            secure.recv(1)
    except ssl.SSLError as error:
        return str(error) if greeted or "ALERT" in str(error) else None
    except OSError:
        pass
    return "" if greeted else None


def _speaks_plainly(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, PROBE_S) as plain:
        plain.sendall(b"PING\r\n")
        return plain.recv(1) in (b"+", b"-")
    return False


# -- clients


def with_tls(
    url: str, ca: str | None, cert: str | None, key: str | None, check_hostname: bool
) -> str:
    """Return the URL with these files in its query, as redis-py reads them; its own ones stay."""
    files = zip(_FILES, (ca, cert, key), strict=True)
    wanted = {name: os.path.abspath(file) for name, file in files if file is not None}
    if not check_hostname:
        wanted["ssl_check_hostname"] = "false"
    missing = {name: value for name, value in wanted.items() if name not in _query(url)}
    if not missing:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(missing)}"


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(url.partition("?")[2]).items()}


def url_fault(url: str) -> str | None:
    """Return why this cannot be the URL of a store, naming no part of it; None if it can."""
    if not url.startswith(SCHEMES):
        return f"it is not the URL of a Redis: allowed is {', '.join(SCHEMES)}"
    try:
        redis.Redis.from_url(url).connection_pool.make_connection()
    except (ValueError, TypeError):  # their texts may quote a part of the password
        return "it is not the URL of a Redis: its port, database or query is not understood"
    for name, value in _query(url).items():
        if name in _FILES and not os.access(value, os.R_OK):
            return f"{name} (tls: {_FILES[name]}) = {value!r}: this file cannot be read"
    return None


def connect(url: str, answer_s: float = ANSWER_S) -> Any:
    """Return a client of the store, be it a server or a cluster. No call waits for ever.

    Asks the server whether it is of a cluster, once for each URL. StoreLost or StoreRefused then,
    or if the URL cannot be that of a store.
    """
    client = single(url, answer_s)
    if url.startswith("unix://") or not _is_cluster(url, client):
        return client
    client.close()
    with store_errors(url):
        return redis.RedisCluster.from_url(url, **_options(url, answer_s))


def _is_cluster(url: str, client: Any) -> bool:
    if url not in _clusters:
        with store_errors(url):
            _clusters[url] = bool(client.info("cluster").get("cluster_enabled"))
    return _clusters[url]


_clusters: dict[str, bool] = {}


def single(url: str, answer_s: float = ANSWER_S) -> Any:
    """Return a client of the one server at this URL; opens nothing yet. StoreRefused."""
    remember_url(url)
    with store_errors(url):  # redis-py reads its own version from a file
        fault = url_fault(url)
        if fault is not None:
            raise StoreRefused(f"store URL {shown(url)}: {fault}")
        return redis.Redis.from_url(url, **_options(url, answer_s))


def _options(url: str, answer_s: float) -> dict[str, Any]:
    listens = url.startswith(f"unix://{OWNER}:")
    return {
        **({"redis_connect_func": _connect_for_good} if listens else {}),
        "protocol": 2,
        "socket_connect_timeout": min(CONNECT_S, answer_s),
        "socket_timeout": answer_s,
        # Once more: its connection may be that to a server that has died.
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    }


def _connect_for_good(connection: Any) -> None:
    """Log in, and ask the store not to drop this connection for what its readers hold.

    A store that many read bounds what all of its connections hold, and drops some beyond that.
    """
    connection.on_connect()
    connection.send_command("CLIENT", "NO-EVICT", "on")
    connection.read_response()
