"""What goes over the wire between who asks and a heavy worker, by way of a Redis.

`fg:heavy:asks` is a stream that all workers read as one consumer group; an entry has one field `d`,
an AskedFar. Replies are pushed to `fg:heavy:reply:<asker>:<call>`, a list that expires. A worker
that is there keeps `fg:heavy:alive` from expiring.
"""

from __future__ import annotations

import msgspec

from framegate.pipeline.heavy.questions import Rect, Seen
from framegate.pipeline.records import DegradedReason
from framegate.pipeline.source import Form

GROUP = "workers"
FIELD = "d"
MOST_ASKED = 512  # entries of the stream: more, and the oldest is gone
ALIVE_S = 10  # since its last word, and a worker is taken for gone
REPLY_KEPT_S = 30


class AskedFar(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question on its way.

    asker, call, number  whose it is: which question of which call
    form                 of the source's frame
    picture              JPEG of planes of the form's matrix and range, of any size; or, where it is
                         exact, a frame of FFV1
    part                 what it shows, in source pixels; None: the whole frame
    due_ms               milliseconds after its entry was made when an answer is of no use any more
    """

    v: int
    asker: str
    call: int
    number: int
    source: str
    form: Form
    picture: bytes
    part: Rect | None = None
    due_ms: int | None = None
    urgent: bool = True
    exact: bool = False


class Replied(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says to one question.

    policy     hash of what decides its answers
    seen       None: there is no answer, for this reason
    took_s     from when the worker had the question to its answer
    precision  with which it looks, a part of its policy; empty: it does not tell
    """

    v: int
    number: int
    policy: str
    seen: Seen | None = None
    reason: DegradedReason = "unanswered"
    took_s: float = 0.0
    precision: str = ""
