"""What a period of the promise came to: a record that anyone can recompute once it is over.

Before the period its Declaration says what is promised and commits to the coin. Afterwards the
Certificate says what was found and opens it. Only `certified` promises anything.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.contracts.records import Position, Versioned
from framegate.pipeline.contracts.results import Verdict
from framegate.pipeline.promise import promise as coin
from framegate.pipeline.promise.period import Period
from framegate.pipeline.promise.promise import LONGEST, Promise
from framegate.pipeline.promise.statistics import allowed, k_max, most_wrong

VERSION: Final = 1

Count = Annotated[int, Meta(ge=0)]
FrameCount = Annotated[int, Meta(ge=0, le=LONGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Chance = Annotated[float, Meta(gt=0, lt=1)]
Key = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised of a period of `frames` served frames, said before it begins.

    measure  counts: a frame is wrong that has another number of objects of some class
    alpha  of its frames may be wrong, held against the heavy model's, with confidence 1 - delta
    share  of frames audited; commitment  to the coin that chooses them (coin.commitment)
    """

    v: int
    source: str
    period: Count
    measure: Literal["counts"]
    alpha: Chance
    delta: Chance
    frames: Annotated[int, Meta(ge=1, le=LONGEST)]
    share: Annotated[float, Meta(gt=0, le=1)]
    min_coverage: Share
    commitment: Key


class Certificate(Declaration, frozen=True, kw_only=True):
    """What became of it. `--json` and the file in the data folder hold exactly this.

    served, decoded  frames: fewer are served than decoded where frames were dropped
    drawn    served frames that the coin chose (n); settled  those whose audit is over
    caught   settled ones that were wrong (k), `lost` audits and chosen failed frames with them
    failed   frames that were served as failed, chosen or not
    k_max    the most that may be caught, -1: no number certifies
    bound    of the served frames at most this share is wrong (exact_binomial.most_wrong says when
             that holds); None: nothing is known, as of an unfinished period: who may end it when
             it looks good would be told too little
    policy   hash of what the heavy model counts as truth
    models   that made what was served in this period (period.MOST_MODELS at most, then "others")
    opening  the coin's key
    """

    served: FrameCount
    decoded: Count
    drawn: Count
    settled: Count
    caught: Count
    lost: Count
    failed: Count
    alarmed: bool
    k_max: int
    bound: float | None
    verdict: Verdict
    reason: str
    policy: str
    models: tuple[str, ...]
    opening: Key
    first: Position
    last: Position
    first_pts: float | None
    last_pts: float | None


def declare(period: Period, promise: Promise, key: bytes, source: str) -> Declaration:
    """What is to be told before the period's first frame is served. Not for a promise `off`."""
    return Declaration(**_declared(period, promise, key, source))


def close(period: Period, promise: Promise, key: bytes, source: str, policy: str) -> Certificate:
    """What the period came to, now that no frame and no audit is waited for any more.

    An audit that is still open leaves it unfinished: settle it as lost first.
    """
    draft = Certificate(
        **_declared(period, promise, key, source),
        served=period.served,
        decoded=period.served + period.missed,
        drawn=period.drawn,
        settled=period.settled,
        caught=period.caught,
        lost=period.lost,
        failed=period.failed,
        alarmed=period.alarmed,
        k_max=-1,
        bound=None,
        verdict="unfinished",
        reason="",
        policy=policy,
        models=period.models,
        opening=key.hex(),
        first=period.first.position,
        last=period.last.position,
        first_pts=period.first.pts,
        last_pts=period.last.pts,
    )
    return replace(draft, **conclude(draft)._asdict())


def _declared(period: Period, promise: Promise, key: bytes, source: str) -> dict[str, Any]:
    return {
        "v": VERSION,
        "source": source,
        "period": period.number,
        "measure": promise.measure,
        "alpha": promise.alpha,
        "delta": promise.delta,
        "frames": promise.frames,
        "share": promise.share,
        "min_coverage": promise.min_coverage,
        "commitment": coin.commitment(key),
    }


T = TypeVar("T", bound=Declaration)


class Conclusion(NamedTuple):
    """What follows from a certificate's other fields."""

    k_max: int
    bound: float | None
    verdict: Verdict
    reason: str


def conclude(found: Certificate) -> Conclusion:
    """What follows from what was found: the same for who makes a certificate and who checks it."""
    most = k_max(found.frames, found.alpha, found.share, found.delta)
    verdict, reason = _hindrance(found) or _shown(found, most)
    return Conclusion(most, _bound(found), verdict, reason)


def _hindrance(found: Certificate) -> tuple[Verdict, str] | None:
    """Why nothing is certified whatever audits found."""
    if found.alarmed:
        return "alarm", "audits warned that results had become worse than promised"
    if found.served < found.frames:
        return "unfinished", f"{found.served} of {found.frames} frames were served"
    if found.settled < found.drawn:
        return "unfinished", f"{found.drawn - found.settled} audits were still open"
    if found.served < found.min_coverage * found.decoded:
        return "coverage", (
            f"{found.served} of {found.decoded} decoded frames were served, "
            f"less than {found.min_coverage:.1%}"
        )
    may_fail = allowed(found.frames, found.alpha)
    if found.failed > may_fail:
        return "failed", f"{found.failed} frames failed; {may_fail} may be wrong"
    return None


def _shown(found: Certificate, most: int) -> tuple[Verdict, str]:
    """Whether audits show that the promise was kept."""
    if most < 0:
        return "not_shown", (
            f"with {found.share:.2%} of {found.frames} frames audited, not even audits without an "
            f"error show {found.alpha:g}: audit more, or make the period longer"
        )
    said = f"{found.caught} of {found.drawn} audits found an error; {most} may"
    return "certified" if found.caught <= most else "not_shown", said


def _bound(found: Certificate) -> float | None:
    is_over = found.served >= found.frames and found.settled == found.drawn
    if not found.served or not is_over:
        return None
    caught = found.caught + found.drawn - found.settled
    return most_wrong(found.served, caught, found.share, found.delta) / found.served


def verify(certificate: Certificate) -> list[str]:
    """What is wrong with a certificate, nothing where it says what follows from what it found.

    It recomputes the commitment, which frames were chosen, and all that follows. That as many of
    them were wrong as it says, only the audits themselves can show.
    """
    faults = _miscounted(certificate)
    key = bytes.fromhex(certificate.opening)
    if coin.commitment(key) != certificate.commitment:
        faults.append("opening: it is not the key that was committed to")
    drawn = coin.count_drawn(key, certificate.served, certificate.share)
    if drawn != certificate.drawn:
        faults.append(f"drawn = {certificate.drawn}: the coin chose {drawn} of the served frames")
    if faults:
        return faults
    due = conclude(certificate)
    for name in Conclusion._fields:
        said, follows = getattr(certificate, name), getattr(due, name)
        if said != follows:
            faults.append(f"{name} = {said}: from the rest follows {follows}")
    return faults


def undeclared(certificate: Certificate, declared: Declaration) -> list[str]:
    """Where a certificate differs from what was declared of its period, the commitment included;
    the version of the Framegate that wrote each is nothing that was promised.

    That it was declared before the period began, only who saw it then can tell.
    """
    return [
        f"{name} = {getattr(certificate, name)}: declared was {getattr(declared, name)}"
        for name in Declaration.__struct_fields__
        if name != "v" and getattr(certificate, name) != getattr(declared, name)
    ]


def read_certificate(data: bytes) -> Certificate:
    """Read a certificate's JSON.

    RecordTooNew if a later Framegate wrote it; msgspec.DecodeError (or UnicodeDecodeError) if it
    is something else.
    """
    return _read(data, Certificate)


def read_declaration(data: bytes) -> Declaration:
    """Read a declaration's JSON; errors as read_certificate's."""
    return _read(data, Declaration)


def _read(data: bytes, kind: type[T]) -> T:
    try:
        version = msgspec.json.decode(data, type=Versioned).v
        if version <= VERSION:
            return msgspec.json.decode(data, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError(f"{len(data)} bytes that are nested too deeply") from error
    raise RecordTooNew(
        f"certificate of version {version}; this Framegate reads up to version {VERSION}"
    )


def _miscounted(found: Certificate) -> list[str]:
    """Counts that cannot be."""
    parts = (
        ("served", "frames"),
        ("served", "decoded"),
        ("drawn", "served"),
        ("settled", "drawn"),
        ("caught", "settled"),
        ("lost", "caught"),
        ("failed", "served"),
    )
    return [
        f"{part} = {getattr(found, part)}: more than {whole} = {getattr(found, whole)}"
        for part, whole in parts
        if getattr(found, part) > getattr(found, whole)
    ]
