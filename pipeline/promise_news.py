"""What becomes known of a promise while it runs: told by a stage, shown by all who watch."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Verdict = Literal["certified", "not_shown", "alarm", "unfinished", "coverage", "failed"]

DECLARED: Final = ".declared.json"  # ends the name of a declaration's file


class PromiseNews(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became known of the promise with a frame.

    period, served, drawn, settled, caught  of the period that frames are served in
    alarmed   audits warned, and every frame is asked about
    doubt     0..1: how probable an error of the light path must be for it to be asked about
    verdict   of the last period that is over
    declared  periods that begin, each a certificate.Declaration
    closed    periods that are over, each a certificate.Certificate
    """

    period: int
    served: int
    drawn: int
    settled: int
    caught: int
    alarmed: bool
    doubt: float
    verdict: Verdict | None = None
    declared: tuple[msgspec.Raw, ...] = ()
    closed: tuple[msgspec.Raw, ...] = ()


def in_short(news: PromiseNews) -> str:
    """For a column: the last verdict, and how the audits of this period stand."""
    now = "alarm" if news.alarmed else news.verdict or "none yet"
    return f"{now.replace('_', ' ')}, {news.caught}/{news.settled} wrong"
