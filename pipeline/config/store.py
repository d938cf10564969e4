"""`[store]`: place of the store, its connection, and other readers."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from framegate.pipeline.config.read_options import unreadable, unset_variable
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.store.redis_client import SCHEMES, url_fault, with_tls
from framegate.pipeline.system.ports import store_fault

log = logging.getLogger(__name__)

EMBEDDED = "embedded"
BY_NAME = "env:"


@dataclass(frozen=True)
class StoreConfig:
    """`[store]`: the place of records and results, and how long they are kept.

    url                   embedded: a private Valkey in the data folder. Otherwise the URL
                          (redis://, rediss:// or unix://) of a Redis 7.2 or later, of a Valkey, or
                          of one server of a cluster. It must not evict keys
    url_env               name of an environment variable that contains the URL. Use it for a URL
                          with a password
    tls_ca                file with the CA that signed the store's certificate. Default: the CAs of
                          this system
    tls_cert              file with the certificate that Framegate shows to the store
    tls_key               file with the key of that certificate
    tls_check_hostname    check that the store's certificate is for its host name
    listen                HOST:PORT on which the embedded store also listens. There the user
                          `viewer` can read results and the output of stages, and can write nothing
    listen_password_file  file with the password of the user `viewer`. Default: the password in
                          FRAMEGATE_LISTEN_PASSWORD; otherwise Framegate asks for it at the start
    fsync                 how the embedded store writes to disk. everysec: a power cut can lose
                          about one second. always: a power cut loses nothing, but each commit waits
                          for the disk
    replicas              number of replicas of the store that must have a new owner or epoch before
                          a frame is served. Use as many as can be promoted. A store that has
                          replicas is refused if this is 0, because a failover could then assign an
                          epoch twice
    results_keep          results that are kept for each source at least. A result takes about 200
                          bytes
    results_age_s         seconds after which results are removed; 0: never. Framegate checks once a
                          minute. Entries that a stage has not read, and the newest entry of each
                          source, stay
    results_bytes         bytes of store memory for the results of one source; the oldest results
                          are removed first. 0: no limit
    certificates_age_s    seconds after which certificates and their declarations are removed; 0:
                          never
    episodes_keep         episodes and visits of tracks that events.db keeps, the newest first. 0:
                          no limit. An episode takes about 1 KB, a visit at most 1 KB
    episodes_age_s        seconds after which episodes and visits are removed; 0: never. Framegate
                          checks once a minute
    sources_keep          sources without a run whose data are kept, the most recently released
                          first. The data of other sources are removed at once if the source was
                          removed, and a week after the end of its run otherwise
    """

    url: str = EMBEDDED
    url_env: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_check_hostname: bool = True
    listen: str | None = None
    listen_password_file: str | None = None
    fsync: Literal["everysec", "always"] = "everysec"
    replicas: int = field(default=0, metadata={"least": 0})
    results_keep: int = field(default=100_000, metadata={"least": 1000})
    results_age_s: float = field(default=0.0, metadata={"least": 0.0})
    results_bytes: int = field(default=0, metadata={"least": 0})
    certificates_age_s: float = field(default=34_560_000.0, metadata={"least": 0.0})
    episodes_keep: int = field(default=1_000_000, metadata={"least": 0})
    episodes_age_s: float = field(default=34_560_000.0, metadata={"least": 0.0})
    sources_keep: int = field(default=64, metadata={"least": 0})

    def place(self) -> str | None:
        """Return the complete URL with secrets and TLS files; None for the embedded store."""
        url = self.base_url()
        if url == EMBEDDED:
            return None
        return with_tls(url, self.tls_ca, self.tls_cert, self.tls_key, self.tls_check_hostname)

    def faults(self) -> list[str]:
        """Return all faults, without values of environment variables."""
        unset = unset_variable(self.url_env, "url_env")
        if unset:
            return unset
        faults = _tls_faults(self)
        if self.url_env is None and self.url != EMBEDDED and not self.url.startswith(SCHEMES):
            return [f'url: must be "{EMBEDDED}", or a URL with {", ".join(SCHEMES)}', *faults]
        place = None
        if not faults:
            place = self.place()
        fault = None
        if place is not None:
            fault = url_fault(place)
        if fault is not None:
            key = "url"
            if self.url_env is not None:
                key = f"url_env = {self.url_env!r}"
            faults.append(f"{key}: {fault}")
        if self.replicas and place is None and not faults:
            faults.append(
                f"replicas = {self.replicas}: the embedded store has no replicas; set 0, or use a "
                "store of your own"
            )
        return faults + _listen_faults(self)

    def base_url(self) -> str:
        """Return the URL, without TLS files; EMBEDDED for the embedded store."""
        if self.url_env is None:
            return self.url
        return os.environ[self.url_env]


def store_said(url: str | None, listen: str | None, password_file: str | None) -> dict[str, Any]:
    """Return the store options of the command line as keys of `[store]`; env:NAME is a variable."""
    if url is not None:
        _warn_of_password(url, "--store")
    keys: dict[str, Any] = {}
    if listen is not None:
        keys["listen"] = listen
    if password_file is not None:
        keys["listen_password_file"] = password_file
    if url is not None and url.startswith(BY_NAME):
        keys["url_env"] = url.removeprefix(BY_NAME)
    elif url is not None:
        keys["url"] = url
        keys["url_env"] = None
    return keys


def url_said(url: str | None, option: str = "--store") -> str | None:
    """Return the URL for a command without a configuration, with env:NAME resolved."""
    if url is None or not url.startswith(BY_NAME):
        _warn_of_password(url or "", option)
        return url
    name = url.removeprefix(BY_NAME)
    if not os.environ.get(name):
        raise ConfigFaults([f"{option} {url}: this environment variable is not set"])
    return os.environ[name]


def _warn_of_password(url: str, option: str) -> None:
    if re.match(r"\w+://[^/@]*:[^/@]+@", url):
        log.warning(
            "%s: other users of this host can see a password on the command line; put the URL "
            "into an environment variable and use %s env:NAME",
            option,
            option,
        )


def _tls_faults(store: StoreConfig) -> list[str]:
    files = {key: getattr(store, key) for key in ("tls_ca", "tls_cert", "tls_key")}
    given = {key: file for key, file in files.items() if file is not None}
    faults = [
        f"{key} = {file!r}: {reason}" for key, file in given.items() if (reason := unreadable(file))
    ]
    if store.tls_key is not None and store.tls_cert is None:
        faults.append("tls_key: needs store.tls_cert, the certificate of that key")
    if (given or not store.tls_check_hostname) and not store.base_url().startswith("rediss://"):
        faults.append("tls_*: only for a store whose URL starts with rediss://")
    return faults


def _listen_faults(store: StoreConfig) -> list[str]:
    faults = []
    if store.listen is None:
        if store.listen_password_file is not None:
            faults.append("listen_password_file: needs store.listen")
        return faults
    if store.url_env is not None or store.url != EMBEDDED:
        faults.append(
            f"listen = {store.listen!r}: only for the embedded store; in your own Redis, create "
            "a user that can only read (docs/deployment.md)"
        )
    fault = store_fault(store.listen)
    if fault is not None:
        faults.append(f"listen = {store.listen!r}: {fault}")
    file = store.listen_password_file
    if file is not None and (reason := unreadable(file)):
        faults.append(f"listen_password_file = {file!r}: {reason}")
    return faults
