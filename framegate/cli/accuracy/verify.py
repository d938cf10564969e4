"""`framegate verify`: check certificates of the promise."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from framegate.cli.console.terminal import Meter, say
from framegate.cli.help import ending
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, RecordTooNew
from framegate.pipeline.contracts.results import DECLARED
from framegate.pipeline.store.retention import dropped_of

if TYPE_CHECKING:
    from framegate.pipeline.promise.certificate import Certificate, Declaration

_BETTER: Final = (
    "Have the heavy pass asked more often: framegate calibrate, with footage of this source, finds "
    "the [escalate] doubt and the budget that it needs. Or look for fewer classes (classes), each "
    "of which can differ. Or promise less: a larger [promise] alpha"
)
# Advice after a period that certifies nothing, by its verdict.
_NEXT: Final[Mapping[str, str]] = {
    "alarm": "since then the run asks about every frame, and goes back to less by itself once "
    f"audits show that it may; so that it does not happen again: {_BETTER[0].lower()}{_BETTER[1:]}",
    "not_shown": _BETTER,
    "unfinished": "continue the run (framegate run --resume -d DATA) until the period is full, or "
    "make periods shorter: [promise] frames",
    "coverage": "too many frames were dropped: framegate check shows how many sources this machine "
    "holds. Fewer sources, or fewer frames of each (frames = { max_fps = 5 }), leave room",
    "failed": "frames failed; the run's log and framegate watch show why",
}
_LARGEST = 1 << 20  # bytes; a certificate has some 1000
_INPUT = "-"
_ALONE = "  without a declaration beside it, only its consistency is proved"
_AS_DECLARED = "  terms and commitment are those of the declaration beside it"
T = TypeVar("T")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "verify",
        description="Recompute a certificate: the commitment, the drawn frames, how many may "
        "be wrong, the bound, the verdict and its reason. Print the heavy model that it is about, "
        "and the accuracy of that model by labels. Compare X.json with the "
        "declaration X.declared.json beside it, if there is one. Exit code 1 if a "
        "certificate is wrong, certifies nothing or cannot be checked.",
        epilog=ending("framegate verify data/certificates/*.json", page="promise"),
    )
    command.set_defaults(command=_verify)
    command.add_argument(
        "certificates", nargs="+", metavar="CERT", help="certificate file; -: standard input"
    )


def _verify(parsed: argparse.Namespace) -> Exit:
    # It loads numpy and scipy, for which no other command should wait.
    from framegate.pipeline.promise.certificate import read_certificate

    # A glob also matches declarations; they are read with their certificates.
    names = [name for name in parsed.certificates if not name.endswith(DECLARED)]
    read = [(name, _read(name, read_certificate), _declared_beside(name)) for name in names]
    with Meter() as tell:
        verdicts = []
        for number, certificate in enumerate(read):
            tell("certificates", number, len(read))
            verdicts.append(_print(*certificate))
    for name in sorted({*parsed.certificates} - {*names}):
        if not Path(name.removesuffix(DECLARED) + ".json").exists():
            print(f"{name}: declared; the certificate is not written yet")
    if not verdicts or not all(verdicts):
        return Exit.SOURCE_FAILED
    return Exit.DONE


def _declared_beside(name: str) -> Declaration | None:
    """Return the declaration beside a certificate, None if there is none. ConfigFaults."""
    from framegate.pipeline.promise.certificate import read_declaration

    beside = name.removesuffix(".json") + DECLARED
    if name == _INPUT or not Path(beside).exists():
        return None
    return _read(beside, read_declaration)


def _read(name: str, reader: Callable[[bytes], T]) -> T:
    """Return the content of a file. ConfigFaults if the reader cannot read it."""
    try:
        with sys.stdin.buffer if name == _INPUT else Path(name).open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        fault = f"{name}: {error.strerror}"
        if isinstance(error, FileNotFoundError):
            fault += _removed_by_age(name)
        raise ConfigFaults([fault]) from error
    if len(data) > _LARGEST:
        raise ConfigFaults([f"{name}: a certificate is smaller than {_LARGEST} bytes"])
    try:
        return reader(data)
    except (RecordTooNew, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{name} is not a certificate: {error}"]) from error


def _removed_by_age(name: str) -> str:
    dropped = dropped_of(Path(name).parent)
    if not dropped.certificates:
        return ""
    last = datetime.fromtimestamp(dropped.last, UTC).isoformat(timespec="seconds")
    return (
        f"; {dropped.certificates} certificates were removed by age there ([store] "
        f"certificates_age_s), the last of these written at {last}"
    )


def _print(name: str, certificate: Certificate, declared: Declaration | None) -> bool:
    """Print the outcome for a certificate; return True if it is valid and certifies something."""
    from framegate.pipeline.promise.certificate import undeclared, verify

    period = f"{name}: period {certificate.period} of {certificate.source}"
    faults = verify(certificate)
    if declared:
        faults += undeclared(certificate, declared)
    if faults:
        print(f"{period}: WRONG")
        print(*(f"  {fault}" for fault in faults), sep="\n")
    elif certificate.verdict == "certified":
        say(f"{period}: valid: {_promised(certificate)} ({certificate.reason})")
    else:
        say(f"{period}: certifies nothing ({certificate.verdict}): {certificate.reason}")
        say(f"what to do: {_NEXT[certificate.verdict]}", "  ")
    if not faults:
        print(_ALONE if declared is None else _AS_DECLARED)
        if certificate.reference is not None:
            say(str(certificate.reference), "  ")
    return not faults and certificate.verdict == "certified"


def _promised(certificate: Certificate) -> str:
    return (
        f"of {certificate.served} frames, {certificate.first} to {certificate.last}, at most "
        f"{certificate.alpha:.4g} of the frames differ from the heavy model's, with confidence "
        f"{1 - certificate.delta:.6g}"
    )
