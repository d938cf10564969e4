"""Learn from verdicts which episodes of a rule at a source are false alerts.

The filter is a logistic regression of ten numbers with a Gaussian prior. Its mean is the score
itself: without verdicts, the odds that an episode is true are those of the mean score. A filter
mutes an episode that looks less true than every episode that was judged true, where each of these
is judged by a filter that was learned without it. So the statement about misses is that of a
one-sided tolerance limit (Wilks, "Determination of sample sizes for setting tolerance limits",
Annals of Mathematical Statistics 12, 1941), as far as leaving one out replaces other verdicts.

The same verdicts give the same numbers.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.object_filters import (
    AddFilter,
    FilterList,
    FilterRequest,
    GetFilters,
    NamedFilter,
    RemoveFilter,
    digest_of,
)
from framegate.pipeline.contracts.traits import WEIGHTS, Traits, log_odds
from framegate.pipeline.review.logistic import regression
from framegate.pipeline.review.search import Episode, EpisodeFilter, find

LEAST: Final = 10  # true verdicts, and false ones, from which a filter is offered
CONFIDENCE: Final = 0.95
MOST: Final = 500  # newest verdicts of each kind that are used
HISTORY: Final = 10_000  # newest episodes on which a filter is tried
EXAMPLES: Final = 12  # episodes that a trial shows of each kind
_DIGITS: Final = 6  # of a weight
_PRIOR_MEAN: Final = np.array([0.0, 1.0] + [0.0] * (WEIGHTS - 2))
# With .35, the area under the curve with 10 + 10 verdicts is that of the score alone (.69), and
# above it with 20 + 20; with 1, it is .665. On labelled visits of the clip pets2001-campus.
_PRECISION: Final = 1 / np.array([2.0] + [0.35] * (WEIGHTS - 1)) ** 2


class Verdicts(NamedTuple):
    """The traits of the episodes that were judged true, and of those judged false."""

    true: Sequence[Traits]
    false: Sequence[Traits]


class LearnedFilter(NamedTuple):
    """A filter that verdicts taught.

    weights      ten numbers; see `traits.log_odds`
    false_muted  number of episodes judged false that it mutes, each judged by a filter that was
                 learned without it; no episode judged true is muted so
    """

    weights: tuple[float, ...]
    false_muted: int


def miss_bound(n_true: int) -> float:
    """Return the greatest share of true episodes that may be muted, with a confidence of 95 %.

    n_true  number of true episodes, of which none is muted

    .05 at 59, .26 at 10, 1 at 0.
    """
    if not n_true:
        return 1.0
    bound: float = 1 - (1 - CONFIDENCE) ** (1 / n_true)
    return bound


def learn(verdicts: Verdicts) -> LearnedFilter:
    """Return the filter that these verdicts teach. ValueError if there are none of a kind."""
    if not (verdicts.true and verdicts.false):
        raise ValueError("a filter needs verdicts of both kinds")
    rows = np.array([_row(each) for each in (*verdicts.true, *verdicts.false)], np.float64)
    n_true = len(verdicts.true)
    is_true = np.arange(len(rows)) < n_true
    weights = regression(rows, is_true, _PRIOR_MEAN, _PRECISION)
    without_itself = np.empty(len(rows))
    for n in range(len(rows)):
        others = np.arange(len(rows)) != n
        fitted = regression(rows[others], is_true[others], _PRIOR_MEAN, _PRECISION, start=weights)
        without_itself[n] = rows[n] @ fitted
    # What the regression takes for true is never muted, however sure it is of the true verdicts.
    limit = min(float(without_itself[:n_true].min()), 0.0)
    limit = math.floor(limit * 1e4) / 1e4
    weights[0] -= limit
    rounded = tuple(round(float(weight), _DIGITS) for weight in weights)
    return LearnedFilter(rounded, int((without_itself[n_true:] < limit).sum()))


def _row(traits: Traits) -> list[float]:
    return [1.0, *traits.features()]


# -- The offer to a user, with the trial over the history


class FilterTrial(msgspec.Struct, frozen=True):
    """The effect that a filter would have had on the stored episodes of its rule and source.

    episodes  number of stored episodes of this version of the rule with traits, of the newest
              10,000
    muted     number of these that it would have muted
    would_mute  the newest of those that it would have muted, at most 12
    would_keep  the newest of the others, at most 12
    """

    episodes: int
    muted: int
    would_mute: list[Episode]
    would_keep: list[Episode]


class FilterOffer(msgspec.Struct, frozen=True):
    """A filter that verdicts teach, for a rule and a source. It does nothing until it is added.

    source      name of the source
    rule        name of the rule
    right       number of verdicts `true` that can teach it; those without traits cannot
    false       number of verdicts `false` that can teach it
    refused     why there is no filter; null: there is one
    counted     number of the verdicts `true` from which `miss` is computed: those about episodes
                from before a filter muted one. Later ones are about what the filter left, so they
                show nothing about true episodes that it muted
    weights     the ten numbers of the filter
    digest      eight hex digits of the digest of `weights`
    miss        share of true episodes that it may mute at most, with a confidence of 95 %, as far
                as later episodes are like the judged ones; 1 if `counted` is 0
    false_muted number of the episodes judged false that a filter learned without them mutes
    trial       what it would have done
    version     version of the rule that the filter is for: that of its newest episode there. Only
                verdicts about its episodes count. null: there is no episode
    filter      name of the filter that mutes episodes of this rule and source now; null: none does
    filter_digest  digest of its weights. If it equals `digest`, the offered filter is on already
    filter_version  version of the rule that it is for; "": every version. null: there is no filter
    """

    source: str
    rule: str
    right: int
    false: int
    refused: str | None
    counted: int = 0
    weights: tuple[float, ...] | None = None
    digest: str | None = None
    miss: float | None = None
    false_muted: int | None = None
    trial: FilterTrial | None = None
    version: str | None = None
    filter: str | None = None
    filter_digest: str | None = None
    filter_version: str | None = None


def offer(
    database: sqlite3.Connection, source: str, rule: str, added: NamedFilter | None = None
) -> FilterOffer:
    """Return the filter that the verdicts about a rule at a source teach, tried on the history.

    added  the filter that is on now
    """
    version = _newest_version(database, source, rule)
    verdicts, counted = _verdicts(database, source, rule, version)
    right, false = len(verdicts.true), len(verdicts.false)
    about = FilterOffer(source, rule, right, false, None, counted, version=version)
    if added is not None:
        about = msgspec.structs.replace(
            about,
            filter=added.name,
            filter_digest=digest_of(added.weights),
            filter_version=added.rule_version,
        )
    lacking = [f"{max(LEAST - right, 0)} more true", f"{max(LEAST - false, 0)} more false"]
    lacking = [each for each in lacking if not each.startswith("0 ")]
    if lacking:
        reason = (
            f"there are {right} true and {false} false verdicts about the rule as it was in its "
            f"newest episode; a filter needs {LEAST} of each, so judge {' and '.join(lacking)}"
        )
        return msgspec.structs.replace(about, refused=reason)
    learned = learn(verdicts)
    if not learned.false_muted:
        reason = (
            f"of {false} episodes judged false, none looks less true than all {right} judged true, "
            "so a filter would mute nothing; judge more, or look at the true ones again"
        )
        return msgspec.structs.replace(about, refused=reason)
    return msgspec.structs.replace(
        about,
        weights=learned.weights,
        digest=digest_of(learned.weights),
        miss=round(miss_bound(counted), 4),
        false_muted=learned.false_muted,
        trial=_tried(database, about, learned.weights),
    )


def _newest_version(database: sqlite3.Connection, source: str, rule: str) -> str | None:
    row = database.execute(
        "SELECT version FROM episode WHERE source = ? AND rule = ?"
        " ORDER BY began_captured DESC, id LIMIT 1",
        (source, rule),
    ).fetchone()
    if row is None:
        return None
    return str(row[0])


def _verdicts(
    database: sqlite3.Connection, source: str, rule: str, version: str | None
) -> tuple[Verdicts, int]:
    """Return the newest verdicts with traits about a version of a rule at a source.

    The number is that of the verdicts `true` about episodes from before a filter muted one.
    """
    traits: dict[str, list[Traits]] = {"true": [], "false": []}
    known = database.execute(
        "SELECT min(began_captured) FROM episode"
        " WHERE source = ? AND rule = ? AND version = ? AND muted NOTNULL",
        (source, rule, version),
    ).fetchone()
    first_muted = math.inf
    if known[0] is not None:
        first_muted = known[0]
    counted = 0
    for verdict, taught in traits.items():
        rows = database.execute(
            "SELECT traits, began_captured FROM verdict v JOIN episode ON id = v.episode"
            " WHERE source = ? AND rule = ? AND version = ? AND verdict = ? AND traits NOTNULL"
            " ORDER BY began_captured DESC, id LIMIT ?",
            (source, rule, version, verdict, MOST),
        )
        for encoded, began in rows:
            taught.append(msgspec.json.decode(encoded, type=Traits))
            if verdict == "true" and began < first_muted:
                counted += 1
    return Verdicts(traits["true"], traits["false"]), counted


def _tried(
    database: sqlite3.Connection, about: FilterOffer, weights: Sequence[float]
) -> FilterTrial:
    wanted = EpisodeFilter(sources=(about.source,), rules=(about.rule,), muted=None)
    episodes, _ = find(database, wanted, HISTORY)
    muted: list[Episode] = []
    kept: list[Episode] = []
    for episode in episodes:
        if episode.traits is None or episode.version != about.version:
            continue
        if log_odds(weights, episode.traits) < 0:
            muted.append(episode)
        else:
            kept.append(episode)
    n_tried = len(muted) + len(kept)
    return FilterTrial(n_tried, len(muted), muted[:EXAMPLES], kept[:EXAMPLES])


# -- Switched on and off in a run

AskFilters = Callable[[FilterRequest], FilterList]


def added_filter(filters: FilterList, source: str, rule: str) -> NamedFilter | None:
    """Return the filter that mutes episodes of a rule at a source; None: none does."""
    added = [each for each in filters.filters if (each.rule, each.sources) == (rule, (source,))]
    return next(iter(added), None)


def switch_on(ask: AskFilters, offered: FilterOffer) -> str:
    """Add an offered filter to a run, in place of the former one, in one step. Return its name.

    If the run refuses it, the former filter stays on.

    ask  asks the supervisor

    ConfigFaults if none is offered; RequestRefused.
    """
    if offered.weights is None:
        raise ConfigFaults([f"rule {offered.rule} at {offered.source}: {offered.refused}"])
    former = added_filter(ask(GetFilters()), offered.source, offered.rule)
    replaces = ""
    if former is not None:
        replaces = former.name
    keys: dict[str, Any] = {"sources": (offered.source,), "rule": offered.rule}
    keys["rule_version"] = offered.version or ""
    new = NamedFilter(**keys, weights=offered.weights, by="verdict")
    added = added_filter(ask(AddFilter(new, replaces)), offered.source, offered.rule)
    assert added is not None
    return added.name


def switch_off(ask: AskFilters, source: str, rule: str) -> None:
    """Remove the filter that mutes episodes of a rule at a source, if there is one.

    RequestRefused if it is in the configuration.
    """
    added = added_filter(ask(GetFilters()), source, rule)
    if added is not None:
        ask(RemoveFilter(added.name))
