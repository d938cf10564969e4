"""TLS of the HTTP port: its certificate, read again when its files change.

Programs of this host may connect without TLS: `framegate snapshot`, sinks and health checks of
orchestrators use the loopback, where no other host can listen. Their first byte shows it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path
from typing import Final

from framegate.pipeline.contracts.errors import ConfigFaults

log = logging.getLogger(__name__)

_HELLO: Final = 0x16  # first byte of a TLS connection: a record of the handshake


class PortCertificate:
    """The certificate of the port. Use it in one event loop.

    is_faulty  whether the last read failed, so that the certificate is the one of before
    """

    def __init__(self, certificate: str, key: str | None = None) -> None:
        """Read the files. ConfigFaults if they cannot be read, or do not belong together.

        certificate  file with the certificate and its chain, PEM
        key          file with its key, PEM; None: it is in the same file
        """
        self._files = (certificate, key)
        self._state = self._files_now()
        self._context = _context(certificate, key)
        self.is_faulty = False

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection, with the files as they are now.

        If they cannot be read any more, it is the one of before, and a warning is logged.
        """
        state = self._files_now()
        if state != self._state:
            self._state = state
            try:
                self._context = _context(*self._files)
                self.is_faulty = False
                log.info("http: the changed certificate is used")
            except ConfigFaults as faults:
                self.is_faulty = True
                log.warning("http: the certificate stays as it was: %s", "; ".join(faults.faults))
        return self._context

    def _files_now(self) -> tuple[object, ...]:
        """Return values that differ after a change of a file."""
        values: list[object] = []
        for file in self._files:
            if file is not None:
                try:
                    found = Path(file).stat()
                    values.append((found.st_mtime_ns, found.st_size, found.st_ino))
                except OSError as error:
                    values.append(error.errno)
        return tuple(values)


def _context(certificate: str, key: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for option, file in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            Path(file or certificate).open("rb").close()
        except OSError as error:
            raise ConfigFaults([f"http.{option} = {file!r}: {error.strerror}"]) from None
    try:
        # An encrypted key would ask at the terminal; a wrong password refuses it instead.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        where = f"http.tls_certificate = {certificate!r}"
        if key is not None:
            where += f", tls_key = {key!r}"
        raise ConfigFaults([f"{where}: {_reason(error)}"]) from None
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    return f"needed: certificate and key, PEM, without a passphrase; {error}"


async def wants_tls(caller: socket.socket) -> bool:
    """Return whether a connection is to be encrypted; of another host, it always is.

    Waits for the first byte of a program of this host, which stays in the socket.
    """
    peer, own = caller.getpeername()[0], caller.getsockname()[0]
    if peer != own:
        return True
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(caller.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(caller.fileno())
    return caller.recv(1, socket.MSG_PEEK)[:1] == bytes([_HELLO])
