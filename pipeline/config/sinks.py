"""`[sinks.NAME]`: who is told of episodes beyond this host, and how."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from framegate.pipeline.config.options import from_environment, read_options, unset_variable
from framegate.pipeline.episodes import Severity
from framegate.pipeline.errors import ConfigFaults, did_you_mean
from framegate.pipeline.keys import EVENTS, NAME_RULE, is_name
from framegate.pipeline.redaction import remember, remember_url

SinkKind = Literal["webhook"]

_SECRET: Final = "whsec_"
_LEAST_KEY, _MOST_KEY = 24, 64  # bytes, as Standard Webhooks has it
_SCHEMES: Final[Mapping[str, tuple[str, ...]]] = {
    "webhook": ("https", "http"),
}


@dataclass(frozen=True)
class SinkConfig:
    """`[sinks.NAME]`: somebody who is told of episodes, beyond this host.

    kind        webhook: signed POSTs, by Standard Webhooks with a CloudEvents body
    url         of the receiver, https:// or http://
    url_env     name of an environment variable that holds it instead: for one with a password
    rules       whose episodes are told; none: of all rules
    sources     the same of sources
    severities  the same of severities
    give_up_s   seconds after which a message that was not taken is given up, and told as lost; 0:
                never, as long as the store keeps it
    secret_env  name of an environment variable with the signing secret (whsec_...); several, with
                spaces between, sign each message: so a secret is replaced
    secret_file  a file with them instead, read again when it changes
    """

    kind: SinkKind
    url: str = ""
    url_env: str | None = None
    rules: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    severities: tuple[str, ...] = field(default=(), metadata={"allowed": get_args(Severity)})
    give_up_s: float = field(default=0.0, metadata={"least": 0.0, "most": 31_536_000.0})
    secret_env: str | None = None
    secret_file: str | None = None

    def faults(self) -> list[str]:
        """What is wrong with it."""
        faults = []
        if bool(self.url) == bool(self.url_env):
            faults.append("url: give either url or url_env")
        elif self.url:
            remember_url(self.url)
            faults += [f"url: {fault}" for fault in url_faults(self.kind, self.url)]
        if bool(self.secret_env) == bool(self.secret_file):
            faults.append("secret_env: give either secret_env or secret_file")
        if self.secret_file is not None and not os.access(self.secret_file, os.R_OK):
            faults.append(f"secret_file = {self.secret_file!r}: this file cannot be read")
        for name in (*self.rules, *self.sources):
            if not is_name(name):
                faults.append(f"rules, sources: {name!r} is no name; a name is {NAME_RULE}")
        return faults

    def place(self, name: str) -> str:
        """Its URL, with its secrets. ConfigFaults if the variable is not set, or holds no such URL.

        name: of the sink
        """
        if self.url_env is None:
            return self.url
        key = f"sinks.{name}.url_env"
        url = from_environment(self.url_env, key)
        if faults := url_faults(self.kind, url):
            raise ConfigFaults([f"{key} = {self.url_env!r}: {fault}" for fault in faults])
        return url


def signing_keys(said: str, key: str) -> list[bytes]:
    """Return the keys of signing secrets with spaces between. ConfigFaults, with the path of what
    says them and no part of any.
    """
    keys = []
    for secret in said.split():
        remember(secret)
        remember(secret.removeprefix(_SECRET))
        try:
            keys.append(base64.b64decode(secret.removeprefix(_SECRET), validate=True))
        except binascii.Error:
            keys.append(b"")
    if not keys or not all(_LEAST_KEY <= len(each) <= _MOST_KEY for each in keys):
        raise ConfigFaults(
            [
                f"{key}: allowed is {_SECRET} and {_LEAST_KEY} to {_MOST_KEY} bytes in base64, as "
                f'echo "{_SECRET}$(openssl rand -base64 32)" makes it; several with spaces between'
            ]
        )
    return keys


def url_faults(kind: SinkKind, url: str) -> list[str]:
    """What is wrong with a URL, of which no part is said: there may be a password in it."""
    scheme, found, rest = url.partition("://")
    allowed = _SCHEMES.get(kind)
    if not found or not rest:
        example = f"{allowed[0]}://HOST" if allowed else "a service as Apprise writes it"
        return [f"it is no URL; allowed is {example}"]
    if allowed and scheme not in allowed:
        return [f"{scheme}:// is not for kind {kind}; allowed is {' or '.join(allowed)}://"]
    return []


def _secret_faults(name: str, sink: SinkConfig) -> list[str]:
    """What is wrong with what variables and files hold; none of it is said."""
    faults: list[str] = []
    try:
        if sink.url_env is not None and os.environ.get(sink.url_env):
            sink.place(name)
        if sink.secret_env is not None and (secret := os.environ.get(sink.secret_env)):
            signing_keys(secret, f"sinks.{name}.secret_env = {sink.secret_env!r}")
        if sink.secret_file is not None:
            said = Path(sink.secret_file).read_text()
            signing_keys(said, f"sinks.{name}.secret_file = {sink.secret_file!r}")
    except ConfigFaults as error:
        faults += error.faults
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"sinks.{name}.secret_file = {sink.secret_file!r}: {error}")
    return faults


def read_sinks(
    table: Any, stages: Iterable[str], rules: Iterable[str], faults: list[str]
) -> dict[str, SinkConfig]:
    """The sinks; what is wrong with them is appended to `faults`.

    stages  names of all stages
    rules   names of all rules
    """
    sinks: dict[str, SinkConfig] = {}
    known = set(rules)
    for name, entry in table.items():
        path = f"sinks.{name}"
        if not is_name(name):
            faults.append(f"{path}: a sink's name is {NAME_RULE}")
        if not isinstance(entry, dict):
            faults.append(f"{path} = {entry!r}: must be a table with kind and url or url_env")
            continue
        sink = read_options(SinkConfig, entry, f"{path}.", faults)
        if sink is None:
            continue
        for key in ("url_env", "secret_env"):
            faults += unset_variable(getattr(sink, key), f"{path}.{key}")
        faults += _secret_faults(name, sink)
        faults += [
            f"{path}.rules: there is no rule {rule!r}; there are "
            f"{', '.join(sorted(known)) or 'none'}{did_you_mean(rule, known)}"
            for rule in sink.rules
            if known and rule not in known
        ]
        sinks[name] = sink
    if sinks and EVENTS not in stages:
        faults.append(
            f"sinks: no stage {EVENTS!r} is there, so that there would be nothing to tell; give "
            "rules ([events.rules.NAME])"
        )
    return sinks
