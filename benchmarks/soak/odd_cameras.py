"""RTSP cameras whose clock is wrong, and one whose pictures come in bursts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from tests.support.cameras.rtp import (
    HZ,
    PlayedCamera,
    description,
    encoded,
    interleaved,
    payloads,
    report,
    rtp,
)

FPS: Final = 5
BURST: Final = 8
_PICTURES: Final = 60
_REPORT_EVERY: Final = 10
_NTP_EPOCH_S: Final = 2_208_988_800  # from 1900, where NTP counts from, to 1970
_NTP_WRAP_S: Final = 1 << 32
_TEN_YEARS_S: Final = 10 * 365.25 * 86_400
_HOUR_S: Final = 3_600.0
_STEP_EVERY_S: Final = 60.0

CameraClock = Callable[[float, float], float]
"""(UNIX seconds of the first picture, UNIX seconds now) -> seconds of the camera's NTP clock."""


def _since_boot(began: float, now: float) -> float:
    """Count from 1970, as a camera without a battery does after a power cut."""
    return _NTP_EPOCH_S + 100 + now - began


def _none(_began: float, _now: float) -> float:
    """Send NTP 0, which means that the camera has no clock (RFC 3550, section 6.4.1)."""
    return 0.0


def _ahead(_began: float, now: float) -> float:
    """Run ten years ahead, beyond the overflow of NTP's 32-bit seconds in 2036."""
    return _NTP_EPOCH_S + now + _TEN_YEARS_S


def _steps_back(began: float, now: float) -> float:
    """Step back by an hour every minute."""
    return _NTP_EPOCH_S + now - _HOUR_S * ((now - began) // _STEP_EVERY_S)


def _right(_began: float, now: float) -> float:
    return _NTP_EPOCH_S + now


BAD_CLOCKS: Final[dict[str, CameraClock]] = {
    "clock_1970": _since_boot,
    "clock_none": _none,
    "clock_ahead": _ahead,
    "clock_back": _steps_back,
}


@contextmanager
def odd_cameras() -> Iterator[dict[str, str]]:
    """Serve them on loopback. Gives their URLs by name: a camera for each bad clock, `burst`, which
    sends BURST pictures at once, and `steady`, which sends the same pictures one by one.
    """
    units = encoded("h264", _PICTURES)
    cameras = {name: (clock, 1) for name, clock in BAD_CLOCKS.items()}
    cameras |= {"burst": (_right, BURST), "steady": (_right, 1)}
    with ExitStack() as stack:
        urls = {}
        for name, (clock, at_once) in cameras.items():
            played = PlayedCamera(description("h264", units[0]), _player(units, clock, at_once))
            urls[name] = stack.enter_context(played).url
        yield urls


def _player(
    units: list[list[bytes]], clock: CameraClock, at_once: int
) -> Callable[[], Iterator[bytes]]:
    """Make what a camera sends to each client: pictures at FPS, `at_once` of them together."""

    def play() -> Iterator[bytes]:
        began = time.time()
        sequence = itertools.count()
        for number in itertools.count():
            if number % at_once == 0:
                is_due = began + (number + at_once - 1) / FPS
                time.sleep(max(0.0, is_due - time.time()))
            stamp = number * HZ // FPS
            if number % _REPORT_EVERY == 0:
                yield interleaved(1, _report(clock, began, began + number / FPS, stamp))
            packets = payloads("h264", units[number % _PICTURES])
            for place, payload in enumerate(packets, 1):
                is_last = place == len(packets)
                yield interleaved(0, rtp(next(sequence), stamp, is_last, payload))

    return play


def _report(clock: CameraClock, began: float, taken: float, stamp: int) -> bytes:
    """Make the sender report of a picture that was taken at `taken`, UNIX seconds."""
    return report(clock(began, taken) % _NTP_WRAP_S, stamp)
