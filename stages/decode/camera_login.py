"""Log in to a camera that asks for a user name and a password, over RTSP or HTTP.

Basic is RFC 7617. Digest is RFC 7616, by MD5 or SHA-256, each with and without "-sess".
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

LOGIN_REFUSED: Final = "it refuses this user name and password, or needs one"

_HASHES: Final = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_SESSION: Final = "-SESS"
# A token and its value: in quotes, of which the last may be missing, or without.
_WORD: Final = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r'(?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)(?:"|\\?$)|([^\s,"]*)))?'
)


class Challenge(NamedTuple):
    """A method of login that a camera offers, and its parameters; all names in lower case."""

    scheme: str
    parameters: dict[str, str]

    @property
    def algorithm(self) -> str:
        """Return the algorithm of a digest, in capitals, with "-SESS" if it has that."""
        return self.parameters.get("algorithm", "").upper() or "MD5"

    @property
    def is_known(self) -> bool:
        """Return whether CameraLogin can answer it."""
        if self.scheme == "digest":
            return self.algorithm.removesuffix(_SESSION) in _HASHES
        return self.scheme == "basic"


def challenges_in(header: str) -> Iterator[Challenge]:
    """Yield the challenges of a `WWW-Authenticate` header (RFC 7235, 4.1); any text is allowed."""
    challenge: Challenge | None = None
    for word in _WORD.finditer(header):
        name, quoted, plain = word.groups()
        value = plain if quoted is None else quoted
        if value is not None:
            if challenge is not None:
                challenge.parameters[name.lower()] = value
            continue
        if challenge is not None:
            yield challenge
        challenge = Challenge(name.lower(), {})
    if challenge is not None:
        yield challenge


def unknown_login(challenges: Sequence[Challenge]) -> str:
    """Return the fault text for a camera whose login methods are all unknown."""
    names = []
    for challenge in challenges:
        name = challenge.scheme
        if name == "digest":
            name = f"digest by {challenge.algorithm}"
        names.append(name)
    offered = ", ".join(sorted(names))[:100] or "it names none"
    return (
        f"it asks for the password by an unknown method ({offered}); "
        "allowed: Basic, Digest by MD5, MD5-sess, SHA-256 or SHA-256-sess"
    )


class CameraLogin:
    """A user name and a password, and the challenge that they answer. One thread."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._challenge: Challenge | None = None
        self._salt = ""
        self._count = 0

    def choose(self, challenges: Sequence[Challenge]) -> bool:
        """Choose the challenge to answer from now on; return whether there is a known one.

        A digest is preferred to the password itself. Of several digests the first is chosen,
        because cameras list the preferred one first (RFC 7616, 3.7).
        """
        known = [challenge for challenge in challenges if challenge.is_known]
        known.sort(key=lambda challenge: challenge.scheme == "basic")
        if not known:
            return False
        self._challenge = known[0]
        self._count = 0
        self._salt = os.urandom(8).hex()
        return True

    def header(self, method: str, url: str) -> str:
        """Return the value of `Authorization` for a request; empty before `choose`."""
        challenge = self._challenge
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            login = f"{self._user}:{self._password}".encode()
            return f"Basic {base64.b64encode(login).decode()}"
        return self._digest(challenge, method, url)

    def _digest(self, challenge: Challenge, method: str, url: str) -> str:
        algorithm = challenge.algorithm
        digest = _HASHES[algorithm.removesuffix(_SESSION)]

        def hashed(*words: str) -> str:
            return digest(":".join(words).encode()).hexdigest()

        offered = challenge.parameters
        realm = offered.get("realm", "")
        nonce = offered.get("nonce", "")
        secret = hashed(self._user, realm, self._password)
        if algorithm.endswith(_SESSION):
            secret = hashed(secret, nonce, self._salt)
        request = hashed(method, url)
        answer = {"username": self._user, "realm": realm, "nonce": nonce, "uri": url}
        numbers = ""
        if "auth" in [value.strip() for value in offered.get("qop", "").split(",")]:
            self._count += 1
            count = f"{self._count:08x}"
            answer["response"] = hashed(secret, nonce, count, self._salt, "auth", request)
            answer["cnonce"] = self._salt
            numbers = f", qop=auth, nc={count}"
        else:
            answer["response"] = hashed(secret, nonce, request)
            if algorithm.endswith(_SESSION):
                answer["cnonce"] = self._salt
        for name in ("opaque", "algorithm"):
            if name in offered:
                answer[name] = offered[name]
        fields = ", ".join(f'{name}="{value}"' for name, value in answer.items())
        return f"Digest {fields}{numbers}"
