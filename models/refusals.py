"""Why a model is not taken or not found, one class a fault, each carrying the facts."""

from collections.abc import Sequence
from pathlib import Path

from framegate.models.errors import ModelError


class ManifestRefused(ModelError, ValueError):
    """A manifest says what no model can have."""

    def __init__(self, key: str, found: str, allowed: str) -> None:
        super().__init__(f"manifest: {key} = {found}: allowed is {allowed}")
        self.key, self.found, self.allowed = key, found, allowed


class ModelRefused(ModelError):
    """A model file that is not taken; the message says what, where and what is allowed."""

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(f"{file}: refused: {reason}")
        self.file, self.reason = str(file), reason


class Undecided(ModelError):
    """A question about a model that its file does not answer; the message names the flags."""

    def __init__(self, question: str, answers: Sequence[str], flag: str) -> None:
        choices = "".join(f"\n  {answer}" for answer in answers)
        super().__init__(f"{question}; say which with {flag}{choices}")
        self.question, self.answers, self.flag = question, tuple(answers), flag


class UnknownModel(ModelError, LookupError):
    """A reference that no model of the registry answers to."""

    def __init__(self, ref: str, known: Sequence[str]) -> None:
        there = ", ".join(known) if known else "no model"
        super().__init__(f"model {ref!r}: not in the registry, which has {there}")
        self.ref, self.known = ref, tuple(known)


class AmbiguousModel(ModelError, LookupError):
    """A reference that several models answer to."""

    def __init__(self, ref: str, meant: Sequence[str]) -> None:
        super().__init__(f"model {ref!r}: may be any of {', '.join(meant)}; say which")
        self.ref, self.meant = ref, tuple(meant)
