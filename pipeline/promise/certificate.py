"""Records of a period of the promise, which anyone can check after its end.

The Declaration, before the period, has the terms and a commitment to the coin. The Certificate,
after it, has the counts and the coin's key. Only the verdict `certified` promises anything.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from framegate.pipeline.contracts.errors import RecordTooNew
from framegate.pipeline.contracts.records import Position, Versioned
from framegate.pipeline.contracts.results import Verdict
from framegate.pipeline.promise import audit_coin as coin
from framegate.pipeline.promise.period import LONGEST, Period, Promise
from framegate.pipeline.promise.reference import Reference
from framegate.pipeline.promise.statistics import allowed, k_max, most_wrong

VERSION: Final = 1

Count = Annotated[int, Meta(ge=0)]
FrameCount = Annotated[int, Meta(ge=0, le=LONGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Chance = Annotated[float, Meta(gt=0, lt=1)]
Key = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """The promise for a period of `frames` served frames, published before it begins.

    measure       counts: a frame is wrong if its number of objects of some class differs from the
                  heavy model's
    alpha, delta  at most this share of the frames is wrong, with confidence 1 - delta
    share         share of the frames that are audited
    commitment    commitment to the coin that selects them (coin.commitment)
    reference     the heavy model, and its accuracy by labels; None in records of older
                  versions
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
    reference: Reference | None = None


class Certificate(Declaration, frozen=True, kw_only=True):
    """The outcome of a period. `--json` and the file in the data folder have exactly this record.

    served   served frames; fewer than `decoded` if frames were dropped
    drawn    served frames that the coin selected (n)
    settled  selected frames whose audit is over
    caught   settled frames that were wrong (k), with `lost` audits and selected failed frames
    failed   frames that were served as failed
    k_max    maximum of `caught` for a certificate; -1: no number certifies
    bound    upper bound of the share of wrong frames (statistics.most_wrong has the condition);
             None for an unfinished period: a bound would be too low if a period could be ended
             when it looks good
    policy   hash of the definition of the heavy model's truth
    models   models of the served results, at most period.MOST_MODELS, then "others"
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


def declare(
    period: Period, promise: Promise, key: bytes, source: str, reference: Reference | None = None
) -> Declaration:
    """Return the declaration to publish before the first frame of a period is served.

    The promise must not be `off`.
    """
    return Declaration(**_declared(period, promise, key, source, reference))


def close(
    period: Period,
    promise: Promise,
    key: bytes,
    source: str,
    policy: str,
    reference: Reference | None = None,
) -> Certificate:
    """Return the certificate of a period that has ended.

    policy     hash of the definition of the heavy model's truth
    reference  the heavy model

    An open audit leaves the period unfinished: settle it as lost first.
    """
    draft = Certificate(
        **_declared(period, promise, key, source, reference),
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


def _declared(
    period: Period, promise: Promise, key: bytes, source: str, reference: Reference | None
) -> dict[str, Any]:
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
        "reference": reference,
    }


T = TypeVar("T", bound=Declaration)


class Conclusion(NamedTuple):
    """The fields of a certificate that follow from the others."""

    k_max: int
    bound: float | None
    verdict: Verdict
    reason: str


def conclude(certificate: Certificate) -> Conclusion:
    """Compute the conclusion from the counts, to make a certificate and to check it."""
    max_caught = k_max(certificate.frames, certificate.alpha, certificate.share, certificate.delta)
    verdict, reason = _hindrance(certificate) or _shown(certificate, max_caught)
    return Conclusion(max_caught, _bound(certificate), verdict, reason)


def _hindrance(certificate: Certificate) -> tuple[Verdict, str] | None:
    """Return why the period is not certified, independently of the audits' outcomes."""
    if certificate.alarmed:
        return "alarm", "audits warned that results had become worse than promised"
    if certificate.served < certificate.frames:
        return "unfinished", f"{certificate.served} of {certificate.frames} frames were served"
    if certificate.settled < certificate.drawn:
        return "unfinished", f"{certificate.drawn - certificate.settled} audits were still open"
    if certificate.served < certificate.min_coverage * certificate.decoded:
        return "coverage", (
            f"{certificate.served} of {certificate.decoded} decoded frames were served, "
            f"less than {certificate.min_coverage:.1%}"
        )
    may_fail = allowed(certificate.frames, certificate.alpha)
    if certificate.failed > may_fail:
        return "failed", f"{certificate.failed} frames failed; {may_fail} may be wrong"
    return None


def _shown(certificate: Certificate, max_caught: int) -> tuple[Verdict, str]:
    """Return whether the audits show that the promise was kept."""
    if max_caught < 0:
        return "not_shown", (
            f"with {certificate.share:.2%} of {certificate.frames} frames audited, not even audits "
            f"without an error show {certificate.alpha:g}: audit more, or make the period longer"
        )
    reason = f"{certificate.caught} of {certificate.drawn} audits found an error; {max_caught} may"
    if certificate.caught > max_caught:
        return "not_shown", reason
    return "certified", reason


def _bound(certificate: Certificate) -> float | None:
    is_over = certificate.served >= certificate.frames and certificate.settled == certificate.drawn
    if not certificate.served or not is_over:
        return None
    caught = certificate.caught + certificate.drawn - certificate.settled
    return (
        most_wrong(certificate.served, caught, certificate.share, certificate.delta)
        / certificate.served
    )


def verify(certificate: Certificate) -> list[str]:
    """Return the faults of a certificate; none if its conclusion follows from its counts.

    This recomputes the commitment, the number of selected frames and the conclusion. Only the
    audits themselves can show that the number of wrong frames is right.
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
        stated = getattr(certificate, name)
        follows = getattr(due, name)
        if stated != follows:
            faults.append(f"{name} = {stated}: from the rest follows {follows}")
    return faults


def undeclared(certificate: Certificate, declared: Declaration) -> list[str]:
    """Return the fields in which a certificate differs from its period's declaration.

    The version of the record and the measured accuracy of the heavy model do not count: a newer
    Framegate may have continued the period. Only a reader who saw the declaration before the
    period began knows that it was published in time.
    """
    faults = [
        f"{name} = {getattr(certificate, name)}: declared was {getattr(declared, name)}"
        for name in Declaration.__struct_fields__
        if name not in ("v", "reference") and getattr(certificate, name) != getattr(declared, name)
    ]
    ours, theirs = certificate.reference, declared.reference
    if theirs is not None and (ours is None or ours.networks != theirs.networks):
        faults.append(f"reference = {ours}: declared was {theirs}")
    return faults


def read_certificate(data: bytes) -> Certificate:
    """Read a certificate's JSON.

    Raises RecordTooNew if a later version wrote it, msgspec.DecodeError (or UnicodeDecodeError) if
    it is not a certificate.
    """
    return _read(data, Certificate)


def read_declaration(data: bytes) -> Declaration:
    """Read a declaration's JSON; see read_certificate for errors."""
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


def _miscounted(certificate: Certificate) -> list[str]:
    """Return the faults of counts that are larger than a count that includes them."""
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
        f"{part} = {getattr(certificate, part)}: more than {whole} = {getattr(certificate, whole)}"
        for part, whole in parts
        if getattr(certificate, part) > getattr(certificate, whole)
    ]
