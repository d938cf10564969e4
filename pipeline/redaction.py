"""Secrets go no further: user, password and query of whatever looks like a URL, and known secrets.

`redacted` is for text that somebody may see, `shown` for one URL. A process remembers the secrets
of the URLs that it is given (`remember_url`), so that what a library says of them is hidden, too.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection
from typing import Final
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN: Final = "***"
LEAST: Final = 4  # a shorter secret is a part of ordinary words: only a URL's form gives it away

_TOKEN: Final = re.compile(r"://(\S+)")
_CLOSING: Final = re.compile(r"['\")\]}>,.;:!]*$")
# A colon without a port behind it: what follows, spaces included, is a password up to its @.
_USER: Final = r"[^\s/?#@\[\]]*:(?!\d*(?:[/?#'\")\]}>,.;:!\s]|$))"
_SPACED: Final = re.compile(rf"://{_USER}[^\n@]{{0,4096}}@")
_PORTLESS: Final = re.compile(_USER)
_SECRET_NAME: Final = re.compile(r"pass|pwd|token|secret|key|auth|sig|code|cred", re.IGNORECASE)

_known: frozenset[str] = frozenset()


def redacted(text: str) -> str:
    """The text without its secrets; one without a URL and a known secret stays as it is."""
    return without(text, _known)


def without(text: str, secrets: Collection[str]) -> str:
    """The pure part of `redacted`: the secrets are given."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _TOKEN.sub(lambda found: f"://{_token(found[1])}", _SPACED.sub("://", text))


def shown(place: str) -> str:
    """A path as it is; a URL without user, password, query and fragment."""
    scheme, found, rest = place.partition("://")
    return f"{scheme}://{_place(rest)}" if found else place


def _token(token: str) -> str:
    """What stands behind :// up to a space; a quote or full stop that closes it stays."""
    place, closing = _place(token), _CLOSING.search(token)
    return place if closing is None or place.endswith(closing[0]) else place + closing[0]


def _place(rest: str) -> str:
    """Host and path of what stands behind ://. Where an @ leaves that open, nothing."""
    userinfo, at, place = rest.rpartition("@")
    if (at and re.search(r"[?#]", userinfo)) or (not at and _PORTLESS.match(rest)):
        return HIDDEN
    return re.split(r"[?#]", place, maxsplit=1)[0]


def remember(secret: str) -> None:
    """Let `redacted` know a secret, in the forms in which it may be said. Any thread."""
    global _known
    plain = (secret, unquote(secret), unquote_plus(secret))
    forms = {form for text in plain for form in (text, _quoted(text), _quoted(text, ""))}
    forms |= {quote_plus(text, errors="replace") for text in plain}
    forms |= {repr(form)[1:-1] for form in forms}
    _known |= {form for form in forms if len(form) >= LEAST}


def _quoted(text: str, safe: str = "/") -> str:
    return quote(text, safe, errors="replace")


def remember_url(url: str) -> None:
    """Let `redacted` know the password and the secret parameters of a URL. Any thread."""
    for secret in secrets_of(url):
        remember(secret)


def secrets_of(url: str) -> set[str]:
    """Password (or user, if it has none), secret parameters, and what HTTP makes of a login."""
    _, found, rest = url.partition("://")
    if not found:
        return set()
    userinfo, _, place = rest.rpartition("@")
    login = unquote(userinfo).encode(errors="replace")
    query = place.partition("?")[2].partition("#")[0]
    parameters = [pair.partition("=") for pair in query.split("&")]
    secrets = {value for name, _, value in parameters if _SECRET_NAME.search(name)}
    secrets |= {userinfo.partition(":")[2] or userinfo, b64encode(login).decode()}
    return secrets - {""}
