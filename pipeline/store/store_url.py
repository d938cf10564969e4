"""The store's URL: what may stand in it, what of it is shown, and the clients that it opens."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qs, urlencode

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from framegate.pipeline.errors import StoreRefused
from framegate.pipeline.redaction import remember_url, shown
from framegate.pipeline.store.listener import OWNER
from framegate.pipeline.store.store_faults import store_errors

SCHEMES = ("redis://", "rediss://", "unix://")
CONNECT_S = 5.0
ANSWER_S = 10.0

_FILES = {"ssl_ca_certs": "tls_ca", "ssl_certfile": "tls_cert", "ssl_keyfile": "tls_key"}


def with_tls(
    url: str, ca: str | None, cert: str | None, key: str | None, check_hostname: bool
) -> str:
    """The URL with these files in its query, as redis-py reads them; what it says itself stays."""
    files = zip(_FILES, (ca, cert, key), strict=True)
    said = {name: os.path.abspath(file) for name, file in files if file is not None}
    if not check_hostname:
        said["ssl_check_hostname"] = "false"
    missing = {name: value for name, value in said.items() if name not in _query(url)}
    if not missing:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(missing)}"


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(url.partition("?")[2]).items()}


def url_fault(url: str) -> str | None:
    """Why this cannot be the URL of a store, without any part of it; None if it can."""
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
    """A client of the store, be it a server or a cluster; does not wait for ever.

    A cluster is recognised by asking, once for each URL. StoreLost or StoreRefused then, or if the
    URL cannot be that of a store.
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
    """A client of the one server at this URL; opens nothing yet."""
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
    """Log in, and ask a store that others read not to drop this connection for what they hold."""
    connection.on_connect()
    connection.send_command("CLIENT", "NO-EVICT", "on")
    connection.read_response()
