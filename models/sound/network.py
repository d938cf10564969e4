"""YAMNet: which of 521 sounds are in a window, each with a score of its own."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from framegate.models.boxes import FloatArray, read_only
from framegate.models.detector import network
from framegate.models.sound.log_mel import BANDS, FRAMES
from framegate.models.weights import FOLDER

_FILE: Final = "yamnet"


@cache
def labels() -> tuple[str, ...]:
    """Names of the 521 sounds of AudioSet that the network knows, in the order of its scores."""
    return tuple((FOLDER / f"{_FILE}-labels.txt").read_text().splitlines())


class SoundNetwork:
    """The network, compiled; `name` is what outputs carry.

    It computes in float32 and on one thread: in bf16, which OpenVINO would take where a CPU has it,
    scores are off by up to .59, and a second thread costs more than it helps.

    Same input, same bits. Thread rule: one thread at a time. Raises ModelUnreadable.
    """

    def __init__(self) -> None:
        path, sha256 = network.verified(_FILE)
        compiled = network.core().compile_model(path, "CPU", network.config("f32", 1))
        self._request = compiled.create_infer_request()
        self.name = f"{_FILE}-f32@{sha256[:8]}"

    def scores(self, log_mel: FloatArray) -> FloatArray:
        """Return float32 (521,), 0 to 1, for a window's float32 (96, 64) of `log_mel`.

        They do not exclude each other: a dog is an animal, too. ArrayMismatch.
        """
        patch = read_only("log_mel", log_mel, np.float32, (FRAMES, BANDS))
        found = self._request.infer({"log_mel": patch[None]}, share_inputs=True)
        return read_only("scores", found[0][0].copy(), np.float32, (len(labels()),))
