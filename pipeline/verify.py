"""`framegate verify`: whether certificates say what follows from what was found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.errors import ConfigFaults, Exit, RecordTooNew

if TYPE_CHECKING:
    from pipeline.certificate import Certificate

_LARGEST = 1 << 20  # bytes; a certificate has some 1000
_INPUT = "-"


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "verify",
        help="check certificates of the promise",
        description="Computes a certificate anew: the commitment from its opening, which frames "
        "the coin chose, how many may be wrong, the bound, the verdict. Exit code 1 if one is "
        "wrong or certifies nothing.",
    )
    command.set_defaults(command=_verify)
    command.add_argument(
        "certificates", nargs="+", metavar="CERT", help="file of one certificate; -: standard input"
    )


def _verify(parsed: argparse.Namespace) -> Exit:
    read = [(name, _read(name)) for name in parsed.certificates]
    held = [_tell(name, certificate) for name, certificate in read]
    return Exit.DONE if all(held) else Exit.SOURCE_FAILED


def _read(name: str) -> Certificate:
    """The certificate in a file. ConfigFaults if there is none that we can read."""
    try:
        with sys.stdin.buffer if name == _INPUT else Path(name).open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigFaults([f"{name}: {error.strerror}"]) from error
    if len(data) > _LARGEST:
        raise ConfigFaults([f"{name}: a certificate has less than {_LARGEST} bytes"])
    # Here, because it brings numpy and scipy, and no other command is to wait for these.
    from pipeline.certificate import read_certificate

    try:
        return read_certificate(data)
    except (RecordTooNew, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigFaults([f"{name}: no certificate: {error}"]) from error


def _tell(name: str, certificate: Certificate) -> bool:
    """Print whether it holds and promises something."""
    from pipeline.certificate import verify

    of = f"{name}: period {certificate.period} of {certificate.source}"
    faults = verify(certificate)
    if faults:
        print(f"{of}: WRONG")
        print(*(f"  {fault}" for fault in faults), sep="\n")
    elif certificate.verdict == "certified":
        print(f"{of}: holds: {_promised(certificate)} ({certificate.reason})")
    else:
        print(f"{of}: certifies nothing ({certificate.verdict}): {certificate.reason}")
    return not faults and certificate.verdict == "certified"


def _promised(certificate: Certificate) -> str:
    what = "frames" if certificate.measure == "counts" else "boxes"
    return (
        f"of {certificate.served} frames, {certificate.first} to {certificate.last}, at most "
        f"{certificate.alpha:.4g} of the {what} differ from the heavy model's, with confidence "
        f"{1 - certificate.delta:.6g}"
    )
