"""`framegate verify`: whether certificates say what follows from what was found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from framegate.pipeline.errors import ConfigFaults, Exit, RecordTooNew
from framegate.pipeline.records import DECLARED
from framegate.pipeline.store.retention import dropped_of

if TYPE_CHECKING:
    from framegate.pipeline.promise.certificate import Certificate, Declaration

_LARGEST = 1 << 20  # bytes; a certificate has some 1000
_INPUT = "-"
_ALONE = "  no declaration beside it: only that it is consistent is shown"
_AS_DECLARED = "  terms and commitment are those of the declaration beside it"
T = TypeVar("T")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "verify",
        help="check certificates of the promise",
        description="Computes a certificate anew: the commitment from its opening, which frames "
        "the coin chose, how many may be wrong, the bound, the verdict and its reason. "
        "Compares it with what was declared before the period, where X.declared.json lies beside "
        "X.json. Exit code 1 if one is wrong, certifies nothing or cannot be checked.",
    )
    command.set_defaults(command=_verify)
    command.add_argument(
        "certificates", nargs="+", metavar="CERT", help="file of one certificate; -: standard input"
    )


def _verify(parsed: argparse.Namespace) -> Exit:
    # Here, because it brings numpy and scipy, and no other command is to wait for these.
    from framegate.pipeline.promise.certificate import read_certificate

    # A pattern names declarations, too: they are read with their certificates.
    names = [name for name in parsed.certificates if not name.endswith(DECLARED)]
    read = [(name, _read(name, read_certificate), _declared_beside(name)) for name in names]
    held = [_tell(*one) for one in read]
    for name in sorted({*parsed.certificates} - {*names}):
        if not Path(name.removesuffix(DECLARED) + ".json").exists():
            print(f"{name}: declared; there is no certificate beside it yet")
    return Exit.DONE if held and all(held) else Exit.SOURCE_FAILED


def _declared_beside(name: str) -> Declaration | None:
    """What was declared of a certificate's period, where that lies beside it. ConfigFaults."""
    from framegate.pipeline.promise.certificate import read_declaration

    beside = name.removesuffix(".json") + DECLARED
    if name == _INPUT or not Path(beside).exists():
        return None
    return _read(beside, read_declaration)


def _read(name: str, reader: Callable[[bytes], T]) -> T:
    """What is in a file. ConfigFaults if there is nothing that the reader can read."""
    try:
        with sys.stdin.buffer if name == _INPUT else Path(name).open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        gone = _gone_by_age(name) if isinstance(error, FileNotFoundError) else ""
        raise ConfigFaults([f"{name}: {error.strerror}{gone}"]) from error
    if len(data) > _LARGEST:
        raise ConfigFaults([f"{name}: a certificate has less than {_LARGEST} bytes"])
    try:
        return reader(data)
    except (RecordTooNew, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{name}: no certificate: {error}"]) from error


def _gone_by_age(name: str) -> str:
    dropped = dropped_of(Path(name).parent)
    if not dropped.certificates:
        return ""
    last = datetime.fromtimestamp(dropped.last, UTC).isoformat(timespec="seconds")
    return (
        f"; {dropped.certificates} certificates were removed by age there ([store] "
        f"certificates_age_s), the last of these written at {last}"
    )


def _tell(name: str, certificate: Certificate, declared: Declaration | None) -> bool:
    """Print whether it holds and promises something."""
    from framegate.pipeline.promise.certificate import undeclared, verify

    of = f"{name}: period {certificate.period} of {certificate.source}"
    faults = verify(certificate)
    if certificate.measure == "boxes":
        print(f"{of}: not checked: {faults[0]}")
        return False
    faults += undeclared(certificate, declared) if declared else []
    if faults:
        print(f"{of}: WRONG")
        print(*(f"  {fault}" for fault in faults), sep="\n")
    elif certificate.verdict == "certified":
        print(f"{of}: holds: {_promised(certificate)} ({certificate.reason})")
    else:
        print(f"{of}: certifies nothing ({certificate.verdict}): {certificate.reason}")
    if not faults:
        print(_ALONE if declared is None else _AS_DECLARED)
    return not faults and certificate.verdict == "certified"


def _promised(certificate: Certificate) -> str:
    return (
        f"of {certificate.served} frames, {certificate.first} to {certificate.last}, at most "
        f"{certificate.alpha:.4g} of the frames differ from the heavy model's, with confidence "
        f"{1 - certificate.delta:.6g}"
    )
