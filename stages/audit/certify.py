"""Certify: tells what becomes known of the promise, and keeps what binds it in files."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
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
    """What is read of Detections: the rest is not of interest here."""

    promise: PromiseNews | None = None


class Certify(Stage[NoState]):
    """Beside the main path: PromiseNews of the promise where a frame brings any; reads escalate.

    What is declared of a period, when its first frame comes, and its certificate, when it is over,
    are files of the data folder: certificates/SOURCE-PERIOD.declared.json and SOURCE-PERIOD.json.
    Both are in the store before, and say the same if they are written again. A declaration shows
    to others that nothing was chosen afterwards if they have a copy that is older than the period.
    """

    def __init__(self, options: NoOptions, context: Context) -> None:
        super().__init__(options, context)
        self._folder = context.folder / CERTIFICATES

    def process(
        self, batch: Sequence[Item], states: Mapping[str, NoState]
    ) -> tuple[list[PromiseNews | None], Mapping[str, NoState]]:
        """PromiseNews are handed on, certificates kept."""
        told = [item.output_of(self.context.before, _WithPromise).promise for item in batch]
        for item, news in zip(batch, told, strict=True):
            self._keep(item.source, news)
        return told, states

    def end(self, source: str, end: End, state: NoState) -> tuple[PromiseNews | None, NoState]:
        """The last period ends with its source."""
        said = end.said.get(self.context.before)
        news = None if said is None else records.decode(said, PromiseNews)
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
            log.info("source %s, period %d: %s", source, certificate.period, told(certificate))
            self._write(source, f"{source}-{certificate.period}.json", data)

    def _write(self, source: str, name: str, said: msgspec.Raw) -> None:
        # As it stands in the store, without a field that this reader may not know.
        path = self._folder / name
        try:
            told = records.decode(said, dict[str, Any])
            path.parent.mkdir(exist_ok=True)
            written = path.with_suffix(f".{os.getpid()}")
            written.write_bytes(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
            written.replace(path)
        except OSError as error:
            log.error("source %s: %s; %s is in the store only", source, error, name)


def told(certificate: Certificate) -> str:
    """A certificate in one line."""
    bound = "" if certificate.bound is None else f", at most {certificate.bound:.2%} differ"
    return f"{certificate.verdict}, {certificate.served} frames{bound} ({certificate.reason})"
