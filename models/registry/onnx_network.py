"""A network that ONNX Runtime runs, from the ONNX file that a model was made from.

Needs onnxruntime (the `onnx` extra), and for a device one of its packages that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

from framegate.models.boxes import FloatArray, read_only
from framegate.models.detector.devices import described, provider
from framegate.models.detector.network import CPU, Precision, computed, cpu_model
from framegate.models.errors import (
    DeviceRefused,
    ModelUnreadable,
    TooManyInFlight,
    WarmUpFailed,
)
from framegate.models.formats.table import FORMATS
from framegate.models.picture import ByteArray
from framegate.models.registry.model_folder import InputSpec, ModelFolder

T = TypeVar("T")
ORIGINAL = "original.onnx"
_ON_CPU = "CPUExecutionProvider"


def is_there(folder: ModelFolder) -> bool:
    """Return whether this runtime is installed and the model has what it reads."""
    return ORIGINAL in folder.manifest.files and find_spec("onnxruntime") is not None


class OnnxNetwork:
    """As `detector.network.Network`, of one input size; see `detector.member.Runtime`.

    Thread rule: one thread at a time; the computation runs in threads of ONNX Runtime's.

    Raises ModelUnreadable where ONNX Runtime does not take the file, DeviceRefused where its device
    does not.
    """

    def __init__(
        self,
        folder: ModelFolder,
        precision: Precision,
        threads: int,
        max_in_flight: int = 4,
        device: str = CPU,
    ) -> None:
        folder.verified()
        manifest = folder.manifest
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Threads that spin while they wait take the cores from everything else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = [_ON_CPU] if device == CPU else [provider(device), _ON_CPU]
        path = folder.path / ORIGINAL
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as fault:  # its own classes share no root
            raise ModelUnreadable(path, "what ONNX Runtime reads", str(fault)[:200]) from fault
        if (
            self._session.get_providers()[0] != providers[0]
        ):  # it goes on with the next one, quietly
            raise DeviceRefused(device, "ONNX Runtime cannot use it; see its log on stderr")
        [taken] = self._session.get_inputs()
        if taken.type != "tensor(float)":
            raise ModelUnreadable(path, "a float32 input", taken.type)
        self.precision, self.computed = precision, computed(precision, device)
        self.sha256 = manifest.sha256
        self.size: tuple[int, int] | None = (manifest.input.width, manifest.input.height)
        self._shape = (manifest.input.height, manifest.input.width, 3)
        self.facts = (
            manifest.sha256, precision, str(threads), runtime.__version__, cpu_model(), *providers,
            *(() if device == CPU else (described(device),)),
        )  # fmt: skip
        self._input, self._is_nchw = taken.name, taken.shape[1] == 3
        self._outputs, self._ranks = manifest.outputs, FORMATS[manifest.format].ranks
        self._spec = manifest.input
        self._thread = ThreadPoolExecutor(1, "onnx")
        self._running: dict[int, Future[list[Any]]] = {}
        self._max_in_flight, self._next_token = max_in_flight, 0

    def submit(self, bgr: ByteArray, fixed: bool = False) -> int:  # noqa: ARG002
        """Starts on `bgr`, uint8 (h, w, 3); gives a token for `read`.

        Raises ArrayMismatch, TooManyInFlight.
        """
        checked = read_only("bgr", bgr, np.uint8, self._shape)
        if len(self._running) >= self._max_in_flight:
            raise TooManyInFlight(self._max_in_flight)
        token, self._next_token = self._next_token, self._next_token + 1
        self._running[token] = self._thread.submit(self._compute, checked)
        return token

    def wait(self, token: int) -> None:
        """Returns when the answer is there."""
        self._running[token].exception()

    def read(self, token: int, reader: Callable[[Sequence[FloatArray]], T]) -> T:
        """Waits, then calls `reader` with the outputs, each float32 without its batch axis."""
        found = self._running.pop(token).result()
        return reader([
            np.asarray(out if out.ndim == rank else out[0], np.float32)
            for out, rank in zip(found, self._ranks, strict=True)
        ])  # fmt: skip

    def warm_up(self, sizes: Sequence[tuple[int, int]], fixed: bool = False) -> None:  # noqa: ARG002
        """Runs once. Raises WarmUpFailed when it fails or gives numbers that are not finite."""
        for width, height in sizes:
            shape = (height, width, 3)
            try:
                token = self.submit(np.zeros(shape, np.uint8))
                finite = self.read(token, lambda out: all(np.isfinite(a).all() for a in out))
            except Exception as fault:  # whatever ONNX Runtime raises
                raise WarmUpFailed(ORIGINAL, shape, str(fault)[:200]) from fault
            if not finite:
                raise WarmUpFailed(ORIGINAL, shape, "outputs are not finite")

    def expect(self, sizes: Sequence[tuple[int, int]]) -> None:
        """It has one size only."""

    def close(self) -> None:
        """It compiles nothing ahead."""

    def _compute(self, bgr: ByteArray) -> list[Any]:
        given = as_input(bgr, self._spec)
        given = given.transpose(2, 0, 1) if self._is_nchw else given
        feed = {self._input: np.ascontiguousarray(given)[None]}
        found: list[Any] = self._session.run(list(self._outputs), feed)
        return found


def as_input(bgr: ByteArray, spec: InputSpec) -> FloatArray:
    """uint8 (h, w, 3) in the order B, G, R as the original network takes it, float32 (h, w, 3)."""
    levels = bgr[..., ::-1] if spec.colour == "rgb" else bgr
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    out: FloatArray = (levels * np.float32(spec.scale) - mean) / std
    return out
