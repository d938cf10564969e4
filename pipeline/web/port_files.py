"""The files of the HTTP port: its certificate and its accounts, checked before it opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from framegate.pipeline.config.config import Config, HttpConfig
from framegate.pipeline.contracts.errors import did_you_mean
from framegate.pipeline.web.accounts.accounts import Account, read_accounts
from framegate.pipeline.web.accounts.sessions import check_packages
from framegate.pipeline.web.tls import PortCertificate


def check_port_files(http: HttpConfig) -> dict[str, Account]:
    """Return the accounts by name; none without a file. ConfigFaults, also of the certificate."""
    if http.tls_certificate is not None:
        PortCertificate(http.tls_certificate, http.tls_key)
    if http.accounts_file is None:
        return {}
    accounts = read_accounts(Path(http.accounts_file))
    if any(account.password for account in accounts.values()):
        check_packages()
    return accounts


def report_port_files(
    config: Config, say: Callable[[str, str], None], warn: Callable[[str, str], None]
) -> None:
    """Report the files, and accounts whose sources are not configured. ConfigFaults."""
    http = config.http
    accounts = check_port_files(http)
    if http.tls_certificate is not None:
        say("http", f"{http.tls_certificate}: a certificate, with its key")
    if http.accounts_file is not None:
        say("http", f"{http.accounts_file}: accounts {', '.join(accounts)}")
    for name, account in accounts.items():
        for source in account.sources or ():
            if source not in config.sources:
                advice = did_you_mean(source, config.sources)
                warn("http", f"account {name}: there is no source {source}{advice}")
