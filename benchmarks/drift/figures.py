"""Compute the figures of a promise after a lasting change of the scene. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from framegate.pipeline.contracts.results import PromiseNews
from framegate.pipeline.promise import audit_coin
from framegate.pipeline.promise.certificate import Certificate, verify

Flags = npt.NDArray[np.bool_]
News = Sequence[tuple[int, PromiseNews]]


@dataclass(frozen=True, slots=True)
class Alarm:
    """One state of alarm, by numbers of frames; None: not before the source ended.

    at         the frame at which audits warned
    fallback   the first from which on the heavy pass was asked about every one
    recovered  the first that is asked about only where in doubt
    """

    at: int
    fallback: int | None
    recovered: int | None


def alarms(news: News, escalated: Flags) -> list[Alarm]:
    """All states of alarm, from what was told of them and which frames were asked about."""
    changes = [(0, False), *((frame, told.alarmed) for frame, told in news)]
    edges = [frame for (_, was), (frame, now) in pairwise(changes) if was != now]
    found = []
    for at, recovered in zip(edges[::2], [*edges[1::2], None], strict=False):
        end = len(escalated) if recovered is None else recovered
        unasked = np.flatnonzero(~escalated[at:end])
        fallback = at + int(unasked[-1]) + 1 if len(unasked) else at
        found.append(Alarm(at, fallback if fallback < end else None, recovered))
    return found


def audits(certificates: Sequence[Certificate], begin: int, end: int) -> int:
    """How many of the frames from `begin` to before `end` were drawn, by the opened coins."""
    drawn = 0
    for one in certificates:
        first = one.first.seq
        key = bytes.fromhex(one.opening)
        for frame in range(max(first, begin), min(one.last.seq + 1, end)):
            drawn += audit_coin.drawn(key, frame - first, one.share)
    return drawn


def figures(
    drift: str,
    switch: int,
    wrong: Flags,
    escalated: Flags,
    news: News,
    certificates: Sequence[Certificate],
) -> dict[str, Any]:
    """A row of the result.

    switch            number of the first frame that is different; without a drift all are before it
    wrong, escalated  bool (F,), of each frame
    """
    frames = len(wrong)
    rung = alarms(news, escalated)
    heard = next((one for one in rung if one.at >= switch), None)
    fallback = heard.fallback if heard and heard.fallback is not None else frames
    recovered = heard.recovered if heard and heard.recovered is not None else frames
    spans = (0, switch), (switch, fallback), (recovered, frames)
    return {
        "drift": drift,
        "frames": frames,
        **_until(heard, switch, certificates),
        **_certified(certificates, switch, fallback),
        **_shares("error", wrong, spans),
        "false_alarms": sum(one.at < switch for one in rung),
        "alarms": len(rung),
        **_shares("asked", escalated, spans),
        "thresholds": _thresholds(news),
        "alarm_frames": [[one.at, one.fallback, one.recovered] for one in rung],
        "periods": [_told(one, wrong) for one in certificates],
    }


def _until(
    heard: Alarm | None, switch: int, certificates: Sequence[Certificate]
) -> dict[str, int | None]:
    """Audits and frames from the drift to alarm, fallback and recovery; None: it did not come."""
    ends = {
        "alarm": heard.at if heard else None,
        "fallback": heard.fallback if heard else None,
        "recovery": heard.recovered if heard else None,
    }
    told: dict[str, int | None] = {}
    for name, end in ends.items():
        told[f"audits_to_{name}"] = None if end is None else audits(certificates, switch, end)
    for name, end in ends.items():
        told[f"frames_to_{name}"] = None if end is None else end - switch
    return told


def _certified(certificates: Sequence[Certificate], switch: int, fallback: int) -> dict[str, int]:
    """Certified periods before the drift, with a frame of it, and after the fallback."""
    counts = [0, 0, 0]
    for one in certificates:
        when = (one.last.seq >= switch) + (one.first.seq >= fallback)
        counts[when] += one.verdict == "certified"
    return dict(
        zip(("certified_before", "certified_drifted", "certified_after"), counts, strict=True)
    )


def _shares(name: str, flags: Flags, spans: Sequence[tuple[int, int]]) -> dict[str, float | None]:
    """Share of the frames of each span; None where it has none."""
    return {
        f"{name}_{when}": round(float(flags[begin:end].mean()), 4) if begin < end else None
        for when, (begin, end) in zip(("before", "drifted", "after"), spans, strict=True)
    }


def _thresholds(news: News) -> list[list[float]]:
    """(frame, threshold of doubt in use from there on) at each change."""
    steps: list[list[float]] = []
    for frame, told in news:
        if not steps or steps[-1][1] != told.doubt:
            steps.append([frame, told.doubt])
    return steps


def _told(one: Certificate, wrong: Flags) -> dict[str, Any]:
    """A period: what was said of it, and how many of its frames were really wrong."""
    first, last = one.first.seq, one.last.seq
    return {
        "first": first,
        "last": last,
        "drawn": one.drawn,
        "caught": one.caught,
        "k_max": one.k_max,
        "verdict": one.verdict,
        "error": round(float(wrong[first : last + 1].mean()), 4),
        "holds": not verify(one),
    }
