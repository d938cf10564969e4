"""A decoder whose cameras kill their process over the fourth packet of each connection."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from framegate.pipeline.contracts.source import (
    CameraEvent,
    DecoderGuard,
    Form,
    Request,
    SoundBlock,
    UndecodedFrame,
)
from framegate.stages.decode import Decode

DEADLY = 3
FPS = 20.0
FORM = Form(16, 16)


@dataclass(frozen=True)
class Gray:
    """A gray picture that came just now."""

    pts: float
    arrived_mono: float | None = None
    captured: float | None = None
    key_frame: bool = False
    sound: tuple[SoundBlock, ...] = ()
    undecoded: tuple[UndecodedFrame, ...] = ()
    camera_events: tuple[CameraEvent, ...] | None = None
    form: Form = FORM

    @property
    def nbytes(self) -> int:
        return self.form.nbytes

    def write(self, slot: memoryview) -> None:
        slot[: self.nbytes] = bytes([128]) * self.nbytes


class Deadly:
    """One connection."""

    counts: Mapping[str, int] = {}

    def __init__(self, guard: DecoderGuard) -> None:
        self._guard = guard

    def __iter__(self) -> Iterator[Gray]:
        for number in range(DEADLY + 1):
            with self._guard():
                if number == DEADLY:
                    os.kill(os.getpid(), signal.SIGKILL)
            yield Gray(number / FPS)
            time.sleep(1 / FPS)

    def close(self) -> None:
        """Nothing is open."""


class DeadlyDecode(Decode):
    """Files are decoded as usual."""

    def open(self, request: Request, guard: DecoderGuard = nullcontext) -> Any:
        return Deadly(guard) if request.live else super().open(request, guard)
