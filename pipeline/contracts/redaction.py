"""Secrets go no further: what a URL says of a login, wherever in it, and secrets that are known.

Of whatever looks like a URL go user, password and query, and the path from the first part on that
names a secret (`/user=admin&password=...`, `/token/...`) or looks drawn by chance, as a token is.
A camera's whole path goes: any part of it may be a password, as in `/live/admin/PASSWORD/1`.

`redacted` is for text that somebody may see, `shown` for one URL. A process remembers the secrets
of the URLs that it is given (`remember_url`, `remember_camera`), so that what a library says of
them is hidden, too.
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
_CAMERAS: Final = re.compile(r"(?<![A-Za-z])(?:rtsps?|rtmps?|rtp|udp|srt|mms)\Z", re.IGNORECASE)
_SCHEME_MOST: Final = 8
_CLOSING: Final = re.compile(r"['\")\]}>,.;:!]*$")
# A colon without a port behind it: what follows, spaces included, is a password up to its @.
_USER: Final = r"[^\s/?#@\[\]]*:(?!\d*(?:[/?#'\")\]}>,.;:!\s]|$))"
_SPACED: Final = re.compile(rf"://{_USER}[^\n@]{{0,4096}}@")
_PORTLESS: Final = re.compile(_USER)
_NAMES: Final = (
    r"(?:pas|pwd|psw|token|secret|key(?!frame)|auth|sig(?!nal)|code(?!c)|cred|session|ticket|hmac"
    r"|jwt|(?<![^\W_])(?:pw|pin|sid|p)(?=[=:]))"
)
# name=value, up to what parts it from the next; a recorder may take _ for that: user=a_password=b_
_PAIR: Final = re.compile(
    rf"{_NAMES}[\w.-]*?[=:](?P<value>.*?)(?=[&;,/?#]|_[a-z][a-z0-9]*[=:]|$)",
    re.IGNORECASE | re.DOTALL,
)
_ALONE: Final = re.compile(
    r"(?:(?:api|access|stream)[_-]?)?(?:key|token)|secret|pass|passwd|password|pwd|auth|sig|jwt",
    re.IGNORECASE,
)
_BY_CHANCE: Final = re.compile(
    r"(?<![A-Za-z\d])(?=[A-Z\d]*[a-z])(?=[a-z\d]*[A-Z])(?=[A-Za-z]*\d)[A-Za-z\d]{16,}"
)
_ENCODED: Final = 3  # so often may a part be percent-encoded

_PATH_LEAST: Final = 8  # a shorter path of a camera, alone, is a part of ordinary words

_known: frozenset[str] = frozenset()
_places: frozenset[tuple[re.Pattern[str], str]] = frozenset()  # of cameras, and what is shown


def redacted(text: str) -> str:
    """The text without its secrets; one without a URL and a known secret stays as it is."""
    for place, display in _places:
        text = place.sub(display, text)
    return without(text, _known)


def without(text: str, secrets: Collection[str]) -> str:
    """The pure part of `redacted`: the secrets are given."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _TOKEN.sub(_url_in_text, _SPACED.sub("://", text))


def shown(place: str, camera: bool = False) -> str:
    """Return a path as it is, and a URL without login, query, fragment and what in its path is
    secret.

    camera  whether it is a camera's: of its path nothing is shown. A URL whose scheme only cameras
            have needs no such hint
    """
    scheme, found, rest = place.partition("://")
    if not found:
        return place
    return f"{scheme}://{_place(rest, camera or _is_camera(scheme))}"


def _is_camera(scheme: str) -> bool:
    return _CAMERAS.search(scheme) is not None


def host_and_path(url: str) -> str:
    """Return a URL's host, and its path up to what names a secret or looks like one: the name of a
    source is made of that.
    """
    return _place(url.partition("://")[2])


def _url_in_text(found: re.Match[str]) -> str:
    """Return what may be shown of a URL, which ends at a space; a quote or full stop that closes
    it stays.
    """
    rest, start = found[1], found.start()
    scheme = found.string[max(0, start - _SCHEME_MOST) : start]
    place, closing = _place(rest, _is_camera(scheme)), _CLOSING.search(rest)
    if closing is not None and not place.endswith(closing[0]):
        place += closing[0]
    return f"://{place}"


def _place(rest: str, hides_path: bool = False) -> str:
    """Host and path of what stands behind ://. Where an @ leaves that open, nothing."""
    userinfo, at, place = rest.rpartition("@")
    if at and (re.search(r"[?#]", userinfo) or ("/" in userinfo and _tells(userinfo))):
        return HIDDEN
    if not at and _PORTLESS.match(rest):
        return HIDDEN
    host, slash, path = re.split(r"[?#]", place, maxsplit=1)[0].partition("/")
    if hides_path and _CLOSING.sub("", path):
        return f"{host}/{HIDDEN}"
    open_part, secret_part = _parted(path)
    return f"{host}{slash}{open_part}{HIDDEN if secret_part else ''}"


def _parted(path: str) -> tuple[str, str]:
    """A path without query, in what may be shown and what begins with a part that may not."""
    parts = path.split("/")
    for number, part in enumerate(parts):
        named = _ALONE.fullmatch(_decoded(part)) and any(parts[number + 1 :])
        if part != HIDDEN and (named or _tells(part)):
            return "".join(f"{each}/" for each in parts[:number]), "/".join(parts[number:])
    return path, ""


def _tells(text: str) -> bool:
    """Whether a secret stands in it, by its name or its looks."""
    plain = _decoded(text)
    return _PAIR.search(plain) is not None or _BY_CHANCE.search(plain) is not None


def _decoded(text: str) -> str:
    for _ in range(_ENCODED):
        text = unquote(text)
    return text


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


def remember_camera(url: str) -> None:
    """Let `redacted` know the secrets of a camera's URL, and its path, as a whole. Any thread."""
    global _places
    remember_url(url)
    _, _, rest = url.partition("://")
    authority, _, path = re.split(r"[?#]", rest, maxsplit=1)[0].rpartition("@")[2].partition("/")
    if not path:
        return
    folder = path.rpartition("/")[0]
    if folder:  # what a playlist names lies beside it
        inside = rf"{re.escape(f'{authority}/{folder}/')}[^\s'\")\]}}>,;:]*"
    else:
        inside = rf"{re.escape(f'{authority}/{path}')}(?!\w)"
    _places |= {(re.compile(inside), f"{authority}/{HIDDEN}")}
    if folder and len(path) >= _PATH_LEAST:
        remember(path)


def secrets_of(url: str) -> set[str]:
    """Password (or user, if it has none), what parameters and path tell, and what HTTP makes of a
    login.
    """
    _, found, rest = url.partition("://")
    if not found:
        return set()
    userinfo, _, place = rest.rpartition("@")
    if "/" in userinfo and _tells(userinfo):  # the @ is one of the path
        userinfo, place = "", rest
    login = unquote(userinfo).encode(errors="replace")
    path, _, query = place.partition("?")
    _, told = _parted(path.partition("#")[0].partition("/")[2])
    first, _, behind = told.partition("/")
    secrets = set(_BY_CHANCE.findall(_decoded(told)))
    secrets |= {behind.partition("/")[0]} if _ALONE.fullmatch(_decoded(first)) else set()
    for text in (told, query, _decoded(told), _decoded(query)):
        secrets |= {pair["value"] for pair in _PAIR.finditer(text)}
    secrets |= {userinfo.partition(":")[2] or userinfo, b64encode(login).decode()}
    return secrets - {"", HIDDEN}
