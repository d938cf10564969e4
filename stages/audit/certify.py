"""The stage certify: publish news of the promise, and keep its certificates as files."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.records import End
from framegate.pipeline.contracts.results import DECLARED, PromiseNews
from framegate.pipeline.contracts.stage import Context, Item, NoOptions, NoState, Stage
from framegate.pipeline.promise.certificate import Certificate, Declaration
from framegate.pipeline.store.retention import CERTIFICATES

log = logging.getLogger(__name__)


class _WithPromise(msgspec.Struct):
    """The only field of Detections that this stage reads."""

    promise: PromiseNews | None = None


class Certify(Stage[NoState]):
    """The stage beside the main path that publishes the PromiseNews of escalate.

    It writes two files to the folder `certificates` of the data folder: the declaration of a
    period at its first frame, SOURCE-PERIOD.declared.json, and the certificate after its end,
    SOURCE-PERIOD.json. Both are in the store before, and a second write is identical. A copy of the
    declaration from before the period proves to others that nothing was chosen afterwards.
    """

    def __init__(self, options: NoOptions, context: Context) -> None:
        super().__init__(options, context)
        self._folder = context.folder / CERTIFICATES

    def process(
        self, batch: Sequence[Item], states: Mapping[str, NoState]
    ) -> tuple[list[PromiseNews | None], Mapping[str, NoState]]:
        """Return the PromiseNews of each frame, and write the files."""
        outputs = [item.output_of(self.context.before, _WithPromise).promise for item in batch]
        for item, news in zip(batch, outputs, strict=True):
            self._keep(item.source, news)
        return outputs, states

    def end(self, source: str, end: End, state: NoState) -> tuple[PromiseNews | None, NoState]:
        """Return the last PromiseNews of a source, which close its last period."""
        output = end.said.get(self.context.before)
        news: PromiseNews | None = None
        if output is not None:
            news = records.decode(output, PromiseNews)
        self._keep(source, news)
        return news, state

    def _keep(self, source: str, news: PromiseNews | None) -> None:
        if news is None:
            return
        for data in news.declared:
            declared = records.decode(data, Declaration)
            self._write(source, f"{source}-{declared.period}{DECLARED}", data)
        for data in news.closed:
            certificate = records.decode(data, Certificate)
            log.info("source %s, period %d: %s", source, certificate.period, summary(certificate))
            self._write(source, f"{source}-{certificate.period}.json", data)

    def _write(self, source: str, name: str, data: msgspec.Raw) -> None:
        """Write a record as JSON with all its fields, even those unknown to this version."""
        path = self._folder / name
        new = path.with_suffix(f".{os.getpid()}")
        try:
            fields = records.decode(data, dict[str, Any])
            path.parent.mkdir(exist_ok=True)
            new.write_bytes(msgspec.json.format(msgspec.json.encode(fields)) + b"\n")
            new.replace(path)
        except OSError as error:
            log.error("source %s: %s; %s is in the store only", source, error, name)
            with suppress(OSError):
                new.unlink()


def summary(certificate: Certificate) -> str:
    """Return a certificate in one line."""
    bound = ""
    if certificate.bound is not None:
        bound = f", at most {certificate.bound:.2%} differ"
    return f"{certificate.verdict}, {certificate.served} frames{bound} ({certificate.reason})"
