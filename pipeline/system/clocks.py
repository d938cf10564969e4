"""Rules about clocks and ages: of cameras, of this host, and of a stream's entries.

All functions are pure, except `read_host_clock`.

A camera's clock may show any time. It dates a frame only while it agrees with this host to a day.
The wall clock of this host may step as well, for a dead battery, a wrong time server or a person.
Therefore nothing that removes data compares wall-clock times. Each store counts *kept time*
instead, which grows only by time that has passed.
"""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from framegate.pipeline.contracts.records import START, Position

MOST_OFF_S: Final = 86_400.0  # a camera's clock that differs by more is not used
MOST_DOWN_S: Final = 4 * 86_400.0  # a long weekend

_NTP_ERA_S: Final = 2.0**32
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


# -- A camera's clock.


def camera_ahead_s(camera_s: float, host_s: float) -> float:
    """Return how many seconds a camera's clock is ahead of this host's; negative: behind.

    camera_s, host_s  UNIX seconds of the same moment. NTP counts seconds in 32 bits, which
    overflow in 2036 (RFC 5905, 6): so `camera_s` is taken to be in the era that is nearest.
    """
    ahead_s = camera_s - host_s
    return ahead_s - round(ahead_s / _NTP_ERA_S) * _NTP_ERA_S


def camera_time(camera_s: float | None, host_s: float) -> float | None:
    """Return the UNIX seconds that a camera's clock shows, or None if they are not to be used.

    camera_s, host_s  as of `camera_ahead_s`; None: the camera sends no time
    """
    if camera_s is None:
        return None
    ahead_s = camera_ahead_s(camera_s, host_s)
    if abs(ahead_s) > MOST_OFF_S:
        return None
    eras = round((camera_s - host_s) / _NTP_ERA_S)
    return camera_s - eras * _NTP_ERA_S


def clock_in_words(ahead_s: float, host_s: float) -> str:
    """Return a sentence about a camera's clock that is not used.

    ahead_s  as `camera_ahead_s` returned it, at `host_s`
    """
    shown = datetime.fromtimestamp(host_s + ahead_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    side = "behind"
    if ahead_s > 0:
        side = "ahead of"
    return (
        f"its clock shows {shown}, {abs(ahead_s) / 86_400:,.0f} days {side} this host's: "
        "its frames get their time of arrival. Set the clock of the camera by NTP, or that of "
        "this host if it is the wrong one"
    )


def span(seconds: float) -> str:
    """Return a duration with a unit."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 597:
        return f"{seconds / 60:.1f} min"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


# -- This host's clock.


class HostClock(NamedTuple):
    """A reading of this host's clocks.

    wall_s  UNIX seconds; it may step
    up_s    seconds since the host booted, asleep or not; it never steps
    boot    names the boot that `up_s` counts from
    """

    wall_s: float
    up_s: float
    boot: str


def read_host_clock() -> HostClock:
    """Return what the clocks of this host show now."""
    return HostClock(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), _boot())


@functools.cache
def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="utf-8").strip()
    except OSError:  # hidden by a sandbox: each reading is then compared by the wall clock
        return ""


class KeptTime(NamedTuple):
    """The time of a store, which dates its rows: the clocks of this host when it was last read, and
    the kept time then.

    kept_s  seconds; UNIX seconds as long as the wall clock does not step
    """

    host: HostClock
    kept_s: float


def first_kept_time(now: HostClock) -> KeptTime:
    """Return the kept time of a store that is new."""
    return KeptTime(now, now.wall_s)


def kept_time(before: KeptTime, now: HostClock) -> KeptTime:
    """Return the kept time after the time that has passed since `before`.

    Within one boot of the host the time that has passed is known. Over a boot only the wall clock
    shows it, which is believed up to MOST_DOWN_S. If it went back, or further ahead, no time is
    counted: data then stay longer than they should, which is the lesser harm.
    """
    host = before.host
    if now.boot and now.boot == host.boot and now.up_s >= host.up_s:
        passed_s = now.up_s - host.up_s
    else:
        passed_s = now.wall_s - host.wall_s
        if not 0.0 <= passed_s <= MOST_DOWN_S:
            passed_s = 0.0
    return KeptTime(now, before.kept_s + passed_s)


# -- The age of a stream's entries.
#
# An entry's id does not show when it was stored, and the times in it come from other clocks. A
# process that removes entries by age therefore notes the newest entry from time to time, with the
# kept time. An entry is at least as old as the first note that is not before it.

NOTES: Final = 100  # of one age: an entry is taken to be younger than it is by a hundredth of that


class FirstSeen(msgspec.Struct, frozen=True):
    """The notes of one process about a stream, which it stores.

    time   when it looked last
    notes  the newest entry at some moments, and the kept time then; both grow
    """

    time: KeptTime
    notes: tuple[tuple[Position, float], ...] = ()


def look(before: FirstSeen | None, newest: Position, now: HostClock, age_s: float) -> FirstSeen:
    """Return the notes after one more look, as far as ages up to `age_s` need them.

    newest  the newest entry of the stream; START: there is none
    """
    if before is None:
        before = FirstSeen(first_kept_time(now))
    time = kept_time(before.time, now)
    old = _old(before.notes, time.kept_s - age_s)
    notes = before.notes[max(0, old - 1) :]  # the last of the old notes implies the others
    last = START
    last_s = -age_s
    if notes:
        last, last_s = notes[-1]
    if newest > last and time.kept_s - last_s >= age_s / NOTES:
        notes = (*notes, (newest, time.kept_s))
    return FirstSeen(time, notes)


def old_until(seen: FirstSeen | None, now: HostClock, age_s: float) -> Position:
    """Return the last entry that is known to have been there for `age_s`; START: none is."""
    if seen is None:
        return START
    since = kept_time(seen.time, now).kept_s - age_s
    old = _old(seen.notes, since)
    if old == 0:
        return START
    position, _ = seen.notes[old - 1]
    return position


def _old(notes: tuple[tuple[Position, float], ...], since: float) -> int:
    """Return how many notes were made at `since` or before."""
    return sum(noted_s <= since for _, noted_s in notes)
