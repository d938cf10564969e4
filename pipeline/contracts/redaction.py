"""Remove secrets from text and URLs before they are logged, stored or shown.

From everything that looks like a URL we remove the user, the password and the query, and the path
from the first part that names a secret (`/user=admin&password=...`, `/token/...`) or looks random,
as tokens do. A camera's URL loses its whole path, because any part of it may be a password, as in
`/live/admin/PASSWORD/1`.

`redacted` is for text, `shown` for a single URL. A process remembers the secrets of its URLs
(`remember_url`, `remember_camera`), so that they are also hidden in the messages of libraries.
"""

from __future__ import annotations

import re
import threading
from base64 import b64encode
from collections.abc import Collection
from typing import Final
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN: Final = "***"
LEAST: Final = 4  # a shorter secret is a part of ordinary words, so it is hidden in URLs only

_TOKEN: Final = re.compile(r"://(\S+)")
_CAMERAS: Final = re.compile(r"(?<![A-Za-z])(?:rtsps?|rtmps?|rtp|udp|srt|mms)\Z", re.IGNORECASE)
_MAX_SCHEME: Final = 8
_WITH_LOGIN: Final = re.compile(r"([^:/]*://)([^/?#]*)@(.*)", re.DOTALL)  # scheme, login, rest
_CLOSING: Final = re.compile(r"['\")\]}>,.;:!]*$")
# A colon without a port after it begins a password, which ends at the @ and may contain spaces.
_USER: Final = r"[^\s/?#@\[\]]*:(?!\d*(?:[/?#'\")\]}>,.;:!\s]|$))"
_SPACED: Final = re.compile(rf"://{_USER}[^\n@]{{0,4096}}@")
_PORTLESS: Final = re.compile(_USER)
_NAMES: Final = (
    r"(?:pas|pwd|psw|token|secret|key(?!frame)|auth|sig(?!nal)|code(?!c)|cred|session|ticket|hmac"
    r"|jwt|(?<![^\W_])(?:pw|pin|sid|p)(?=[=:]))"
)
# name=value, up to a separator. Some recorders use _ as separator: user=a_password=b_
_PAIR: Final = re.compile(
    rf"{_NAMES}[\w.-]*?[=:](?P<value>.*?)(?=[&;,/?#]|_[a-z][a-z0-9]*[=:]|$)",
    re.IGNORECASE | re.DOTALL,
)
_ALONE: Final = re.compile(
    r"(?:(?:api|access|stream)[_-]?)?(?:key|token)|secret|pass|passwd|password|pwd|auth|sig|jwt",
    re.IGNORECASE,
)
_RANDOM: Final = re.compile(
    r"(?<![A-Za-z\d])(?=[A-Z\d]*[a-z])(?=[a-z\d]*[A-Z])(?=[A-Za-z]*\d)[A-Za-z\d]{16,}"
)
_ENCODED: Final = 3  # levels of percent-encoding that are decoded

_MIN_PATH: Final = 8  # a shorter path of a camera is a part of ordinary words

_changing: Final = threading.Lock()  # of the two sets
_known: frozenset[str] = frozenset()
_places: frozenset[tuple[re.Pattern[str], str]] = frozenset()  # URLs of cameras, and replacements


def redacted(text: str) -> str:
    """Return the text without the secrets of URLs and without remembered secrets."""
    for place, display in _places:
        text = place.sub(display, text)
    return without(text, _known)


def without(text: str, secrets: Collection[str]) -> str:
    """Return the text without these secrets and without the secrets of URLs."""
    # The longest first: a secret may contain another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _TOKEN.sub(_url_in_text, _SPACED.sub("://", text))


def shown(place: str, camera: bool = False) -> str:
    """Return a path unchanged, and a URL without login, query, fragment and secret parts.

    camera  whether it is a camera's URL, whose path is hidden. Schemes that only cameras use imply
            it
    """
    scheme, separator, rest = place.partition("://")
    if not separator:
        return place
    hides_path = camera or _is_camera(scheme)
    return f"{scheme}://{_place(rest, hides_path)}"


def _is_camera(scheme: str) -> bool:
    return _CAMERAS.search(scheme) is not None


def split_login(url: str) -> tuple[str | None, str]:
    """Return the login of a URL (USER:PASSWORD, as written; None without one), and the URL without
    it. A login may have [ ], with which `urlsplit` refuses the URL.
    """
    match = _WITH_LOGIN.fullmatch(url)
    if match is None:
        return None, url
    return match[2], match[1] + match[3]


def host_and_path(url: str) -> str:
    """Return a URL's host and the public part of its path, to name a source after it."""
    return _place(url.partition("://")[2])


def _url_in_text(match: re.Match[str]) -> str:
    """Return the public part of a URL that ends at a space, with a closing quote or full stop."""
    rest = match[1]
    start = match.start()
    scheme = match.string[max(0, start - _MAX_SCHEME) : start]
    place = _place(rest, _is_camera(scheme))
    closing = _CLOSING.search(rest)
    if closing is not None and not place.endswith(closing[0]):
        place += closing[0]
    return f"://{place}"


def _place(rest: str, hides_path: bool = False) -> str:
    """Return the host and the public path of a URL without its scheme.

    The result is HIDDEN if it is unclear where a login ends.
    """
    userinfo, at, place = rest.rpartition("@")
    if at and (re.search(r"[?#]", userinfo) or ("/" in userinfo and _has_secret(userinfo))):
        return HIDDEN
    if not at and _PORTLESS.match(rest):
        return HIDDEN
    host, slash, path = re.split(r"[?#]", place, maxsplit=1)[0].partition("/")
    if hides_path and _CLOSING.sub("", path):
        return f"{host}/{HIDDEN}"
    public, secret = _split_path(path)
    if secret:
        public += HIDDEN
    return f"{host}{slash}{public}"


def _split_path(path: str) -> tuple[str, str]:
    """Return the public start of a path without query, and the rest from the first secret part."""
    parts = path.split("/")
    for number, part in enumerate(parts):
        is_name = _ALONE.fullmatch(_decoded(part)) and any(parts[number + 1 :])
        if part != HIDDEN and (is_name or _has_secret(part)):
            public = "".join(f"{each}/" for each in parts[:number])
            return public, "/".join(parts[number:])
    return path, ""


def _has_secret(text: str) -> bool:
    plain = _decoded(text)
    return _PAIR.search(plain) is not None or _RANDOM.search(plain) is not None


def _decoded(text: str) -> str:
    for _ in range(_ENCODED):
        text = unquote(text)
    return text


def remember(secret: str) -> None:
    """Make `redacted` hide a secret in all its encodings. Any thread."""
    global _known
    forms: set[str] = set()
    for text in (secret, unquote(secret), unquote_plus(secret)):
        forms |= {text, _quoted(text), _quoted(text, ""), quote_plus(text, errors="replace")}
    forms |= {repr(form)[1:-1] for form in forms}
    with _changing:
        _known |= {form for form in forms if len(form) >= LEAST}


def _quoted(text: str, safe: str = "/") -> str:
    return quote(text, safe, errors="replace")


def remember_url(url: str) -> None:
    """Make `redacted` hide the password and the secret parameters of a URL. Any thread."""
    for secret in secrets_of(url):
        remember(secret)


def remember_camera(url: str) -> None:
    """Make `redacted` hide the secrets of a camera's URL, and its whole path. Any thread."""
    global _places
    remember_url(url)
    _, _, rest = url.partition("://")
    authority, _, path = re.split(r"[?#]", rest, maxsplit=1)[0].rpartition("@")[2].partition("/")
    if not path:
        return
    folder = path.rpartition("/")[0]
    if folder:  # the files that a playlist names are in the same folder
        inside = rf"{re.escape(f'{authority}/{folder}/')}[^\s'\")\]}}>,;:]*"
    else:
        inside = rf"{re.escape(f'{authority}/{path}')}(?!\w)"
    with _changing:
        _places |= {(re.compile(inside), f"{authority}/{HIDDEN}")}
    if folder and len(path) >= _MIN_PATH:
        remember(path)


def secrets_of(url: str) -> set[str]:
    """Return all secrets of a URL.

    They are the password (the user if there is none), the secrets in parameters and path, and the
    login in base64, as HTTP sends it.
    """
    _, separator, rest = url.partition("://")
    if not separator:
        return set()
    userinfo, _, place = rest.rpartition("@")
    if "/" in userinfo and _has_secret(userinfo):  # the @ belongs to the path
        userinfo = ""
        place = rest
    path, _, query = place.partition("?")
    _, secret_path = _split_path(path.partition("#")[0].partition("/")[2])
    secrets = set(_RANDOM.findall(_decoded(secret_path)))
    name, _, value = secret_path.partition("/")
    if _ALONE.fullmatch(_decoded(name)):
        secrets.add(value.partition("/")[0])
    for text in (secret_path, query, _decoded(secret_path), _decoded(query)):
        secrets |= {pair["value"] for pair in _PAIR.finditer(text)}
    password = userinfo.partition(":")[2]
    login = unquote(userinfo).encode(errors="replace")
    secrets |= {password or userinfo, b64encode(login).decode()}
    return secrets - {"", HIDDEN}
