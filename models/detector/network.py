"""A network that OpenVINO runs, and the committed weights that it is made of."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import numpy as np

from framegate.models.boxes import FloatArray, read_only
from framegate.models.errors import (
    ArrayMismatch,
    ModelUnreadable,
    PrecisionUnsupported,
    TooManyInFlight,
    WarmUpFailed,
)
from framegate.models.picture import ByteArray
from framegate.models.preprocess import STEP
from framegate.models.weights import FOLDER

if TYPE_CHECKING:
    import openvino as ov

# -- The committed weight files: which there are, and proof that a file is the one meant.


WEIGHTS = FOLDER


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One line of `weights/manifest.toml`."""

    file: str
    sha256: str
    bytes: int
    origin: str
    licence: str
    script: str


def read(folder: Path = WEIGHTS) -> dict[str, WeightFile]:
    """Every listed file by its name. Raises ModelUnreadable when the list cannot be read."""
    path = folder / "manifest.toml"
    try:
        rows = tomllib.loads(path.read_text())["files"]
        listed = [WeightFile(**row) for row in rows]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as fault:
        raise ModelUnreadable(path, "a list of weight files", repr(fault)) from fault
    return {entry.file: entry for entry in listed}


def verified(name: str, folder: Path = WEIGHTS) -> tuple[Path, str]:
    """Path and sha256 of the OpenVINO model `name` (both its files), after reading every byte.

    The sha256 is that of the two listed sums one after the other, so it names topology and numbers.
    Raises ModelUnreadable with the path, the sum expected and the sum found.
    """
    listed = read(folder)
    sums = [_checked(folder / f"{name}.{kind}", listed) for kind in ("xml", "bin")]
    return folder / f"{name}.xml", hashlib.sha256("".join(sums).encode()).hexdigest()


def _checked(path: Path, listed: dict[str, WeightFile]) -> str:
    if path.name not in listed:
        raise ModelUnreadable(path, "a line in manifest.toml", "none")
    expected = listed[path.name].sha256
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as fault:
        raise ModelUnreadable(path, f"sha256 {expected}", fault.strerror or repr(fault)) from fault
    if found != expected:
        raise ModelUnreadable(path, f"sha256 {expected}", found)
    return found


# +onnx: computed by ONNX Runtime, from the file that a model was made from
Precision = Literal["f32", "f16", "bf16", "int8", "int8+bf16", "f32+onnx", "int8+onnx"]
T = TypeVar("T")

# CenterNet has no INT8 file: quantised it loses a third of its accuracy and is no faster.
_SHIPPED = {
    ("nanodet", "f32"): "nanodet",
    ("nanodet", "f16"): "nanodet",
    ("nanodet", "bf16"): "nanodet",
    ("nanodet", "int8"): "nanodet-int8",
    ("nanodet", "int8+bf16"): "nanodet-int8",
    ("centernet", "f32"): "centernet",
    ("centernet", "f16"): "centernet",
    ("centernet", "bf16"): "centernet",
    ("centernet", "int8"): "centernet",
    ("centernet", "int8+bf16"): "centernet",
}


@cache
def core() -> ov.Core:
    """OpenVINO's entry point, one a process."""
    # Here, as in what follows: most who read options of a stage that detects compute nothing.
    import openvino as ov

    return ov.Core()


@cache
def supported() -> tuple[Precision, ...]:
    """The precisions that this CPU computes natively, f32 first.

    Asked for bf16 on a CPU without it, OpenVINO would silently compute in f32: so we ask first.
    """
    abilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in abilities:
        return ("f32", "bf16", "int8", "int8+bf16")
    return ("f32", "int8")


def cpu_model() -> str:
    """The CPU's name as OpenVINO reads it."""
    return str(core().get_property("CPU", "FULL_DEVICE_NAME"))


CPU: Final = "CPU"


def device_name(device: str) -> str:
    """What a device of OpenVINO's calls itself, with its driver's version; of several all."""
    parts = []
    for part in device.removeprefix("HETERO:").split(","):
        words = [part]
        for key in ("FULL_DEVICE_NAME", "GPU_DRIVER_VERSION", "NPU_DRIVER_VERSION"):
            with suppress(RuntimeError):  # a device that does not know the key
                words.append(str(core().get_property(part, key)))
        parts.append(" ".join(words))
    return " and ".join(parts)


def computed(precision: Precision, device: str) -> str:
    """What results say of a network's arithmetic: the precision, and the device if it is no CPU."""
    if device == CPU:
        return precision
    return f"{precision}+{re.sub('[:,]', '_', device.lower())}"


def nearest(precision: str) -> Precision:
    """`precision` if this CPU has it, else the same without bf16. Raises PrecisionUnsupported."""
    for candidate in (precision, precision.removesuffix("+bf16").replace("bf16", "f32")):
        for have in supported():
            if candidate == have:
                return have
    raise PrecisionUnsupported(precision, supported())


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """An OpenVINO model on disk whose bytes were checked.

    path    the .xml; its input is uint8 (1, H, W, 3) in the order B, G, R
    sha256  of both its files
    """

    path: Path
    sha256: str


def shipped(name: str, precision: Precision) -> NetworkFile:
    """The committed file of `nanodet` or `centernet` at a precision. Raises ModelUnreadable."""
    return NetworkFile(*verified(_SHIPPED[name, precision]))


class Network:
    """One compiled network: uint8 (h, w, 3) arrays in, named float32 arrays out.

    `outputs` are the outputs to compute, in the order in which `read` gives them. Batch 1 always,
    so that an answer never depends on the company. `submit` returns at once; up to `max_in_flight`
    answers may be outstanding. Same input, precision, threads and CPU: same bits; other devices
    promise that less, so nobody is told that it holds there.

    One that takes any size is compiled for each size that is asked for as `fixed`, and once for all
    others: a network that meets ever other sizes is slower at each, by a quarter for small ones.
    Which of the two looks decides on the last bits of an answer, so whoever asks says which: no
    picture's answer depends on what sizes others have. The last `most_fixed` of the fixed sizes are
    kept, some 15 MB each; one that was let go is compiled again when it comes back, in some 0.2 s.

    joined    so many of the first outputs, each (C, H, W), are given as one, (cells, C), the first
              one's cells first: so a CPU computes them, and any other order is a copy
    device    as devices.RULE has it; what a precision is there is not looked at before
    computed  precision, and device, as results name them
    facts  everything but the input that decides the bits of an answer
    size   (width, height) of the only input that it takes; None: all multiples of 32

    Thread rule: one thread at a time; the computation itself runs in OpenVINO's threads.

    Raises PrecisionUnsupported, ModelUnreadable.
    """

    def __init__(
        self,
        file: NetworkFile,
        outputs: Sequence[str],
        precision: Precision,
        threads: int,
        cache_dir: Path | None = None,
        max_in_flight: int = 4,
        most_fixed: int = 24,
        device: str = CPU,
        joined: int = 0,
    ) -> None:
        if device == CPU and precision not in supported():
            raise PrecisionUnsupported(precision, supported())
        import openvino as ov

        self.precision, self.sha256, self.name = precision, file.sha256, file.path.stem
        self.computed, self._device = computed(precision, device), device
        made_by = ov.get_version(), cpu_model(), *(() if device == CPU else (device_name(device),))
        self.facts = (self.sha256, *outputs, precision, str(threads), *made_by)
        model = core().read_model(file.path)
        asked = [model.output(port) for port in outputs]
        asked = [*_as_one(asked[:joined]), *asked[joined:]]
        model = ov.Model(asked, model.get_parameters())
        self.size = _only_size(model)
        self._model, self._config = model, config(precision, threads, cache_dir, device)
        self._fixed: OrderedDict[tuple[int, ...], Future[_Compiled]] = OrderedDict()
        self._most_fixed, self._max_in_flight = most_fixed, max_in_flight
        self._running: dict[int, tuple[_Compiled, _Inference]] = {}
        self._next_token = 0

    def submit(self, bgr: ByteArray, fixed: bool = False) -> int:
        """Starts on `bgr`, uint8 (h, w, 3), of a size that it takes; gives a token for `read`.

        fixed  by the network that is compiled for this size alone

        Raises ArrayMismatch, TooManyInFlight.
        """
        width, height = self.size or (None, None)
        checked = read_only("bgr", bgr, np.uint8, (height, width, 3))
        if checked.size == 0 or (self.size is None and any(n % STEP for n in checked.shape[:2])):
            raise ArrayMismatch("bgr", f"sides that are multiples of {STEP}", f"{checked.shape}")
        if len(self._running) >= self._max_in_flight:
            raise TooManyInFlight(self._max_in_flight)
        compiled = self._compiled(checked.shape if fixed else _ANY)
        request = compiled.request()
        request.start(checked)
        token, self._next_token = self._next_token, self._next_token + 1
        self._running[token] = compiled, request
        return token

    def wait(self, token: int) -> None:
        """Returns when the answer is there."""
        self._running[token][1].wait()

    def read(self, token: int, reader: Callable[[Sequence[FloatArray]], T]) -> T:
        """Waits, then calls `reader` with the outputs, each float32 without its batch axis.

        The arrays lie in memory that the next picture reuses: `reader` must not keep them. A token
        can be read once.
        """
        compiled, request = self._running[token]
        try:
            request.wait()
            return reader(request.outputs())
        finally:
            del self._running[token]
            compiled.idle.append(request)

    def warm_up(self, sizes: Sequence[tuple[int, int]], fixed: bool = False) -> None:
        """Runs once at each (width, height): the first sight of a size costs some four times more.

        Raises WarmUpFailed when the network fails or gives numbers that are not finite.
        """
        for width, height in sizes:
            shape = (height, width, 3)
            try:
                token = self.submit(np.zeros(shape, np.uint8), fixed)
                finite = self.read(token, lambda out: all(np.isfinite(a).all() for a in out))
            except (RuntimeError, ArrayMismatch) as fault:
                raise WarmUpFailed(self.name, shape, str(fault)) from fault
            if not finite:
                raise WarmUpFailed(self.name, shape, "outputs are not finite")

    def expect(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Begins, on a thread, to compile for each (width, height) that will be asked for as fixed.

        Whoever asks meanwhile waits for none but its own. Nothing is begun while something is under
        way: a camera whose pictures change their size all the time would keep a core busy.
        """
        if self.size is not None or any(not each.done() for each in self._fixed.values()):
            return
        missing = [(h, w, 3) for w, h in sizes if (h, w, 3) not in self._fixed]
        for shape in missing[: self._most_fixed]:
            self._keep(shape, _ahead.submit(self._compile, shape))

    def close(self) -> None:
        """Compile no more for sizes that are expected: a process that ends would wait for it."""
        for shape, compiled in list(self._fixed.items()):
            if compiled.cancel():
                del self._fixed[shape]

    def _compiled(self, shape: tuple[int, ...]) -> _Compiled:
        found = self._fixed.get(shape)
        failed = found is not None and found.done() and found.exception() is not None
        if found is None or failed or found.cancel():  # not begun yet: sooner here than in turn
            found = Future()
            self._keep(shape, found)
            try:
                found.set_result(self._compile(shape))
            except BaseException:
                del self._fixed[shape]
                raise
        self._fixed.move_to_end(shape)
        return found.result()

    def _keep(self, shape: tuple[int, ...], compiled: Future[_Compiled]) -> None:
        self._fixed[shape] = compiled
        while len(self._fixed) > self._most_fixed:
            self._fixed.popitem(last=False)[1].cancel()

    def _compile(self, shape: tuple[int, ...]) -> _Compiled:
        model = self._model
        if shape != _ANY:
            model = model.clone()
            model.reshape([1, *shape])
        return _Compiled(core().compile_model(model, self._device, self._config))


_ANY: Final = ()  # in place of the size of one that takes all
_ahead: Final = ThreadPoolExecutor(1, "compile")


@dataclass(slots=True)
class _Compiled:
    """A compiled network, and its requests that wait to be used again."""

    compiled: Any
    idle: list[_Inference] = field(default_factory=list)

    def request(self) -> _Inference:
        return self.idle.pop() if self.idle else _Inference(self.compiled.create_infer_request())


class _Inference:
    """One inference at a time, and its tensors, asked for once: at each look that costs .2 ms of
    5.7, as the network leaves every cache cold.
    """

    def __init__(self, request: Any) -> None:
        self._request, self._given = request, request.input_tensors[0]
        # On the CPU they follow the sizes that come; of other devices nobody says so.
        devices = request.get_compiled_model().get_property("EXECUTION_DEVICES")
        self._outputs = request.output_tensors if list(devices) == [CPU] else None

    def start(self, bgr: ByteArray) -> None:
        """Start on a copy of the picture."""
        self._given.shape = (1, *bgr.shape)
        self._given.data[0] = bgr
        self._request.start_async()

    def wait(self) -> None:
        """Return when the outputs are there."""
        self._request.wait()

    def outputs(self) -> list[FloatArray]:
        """Return them, each without its batch axis, in memory that the next picture reuses."""
        tensors = self._request.output_tensors if self._outputs is None else self._outputs
        return [tensor.data[0] for tensor in tensors]


def _as_one(maps: Sequence[Any]) -> list[Any]:
    """Outputs (1, C, H, W) as one (1, cells, C)."""
    if not maps:
        return []
    from openvino import opset13 as op

    rows = []
    for each in maps:
        channels = each.get_partial_shape()[1].get_length()
        computed_by = each.get_node().input_value(0)
        last = op.transpose(computed_by, op.constant([0, 2, 3, 1]))
        rows.append(op.reshape(last, op.constant([1, -1, channels]), special_zero=False))
    return [op.concat(rows, axis=1).output(0)]


def _only_size(model: ov.Model) -> tuple[int, int] | None:
    shape = model.input().get_partial_shape()
    if shape.is_dynamic:
        return None
    return int(shape[2].get_length()), int(shape[1].get_length())


_HINTS = {"bf16": "bf16", "int8+bf16": "bf16", "f16": "f16"}


def config(
    precision: Precision, threads: int, cache_dir: Path | None = None, device: str = CPU
) -> dict[str, Any]:
    """How every network here is compiled."""
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Explicit also for f32: on some CPUs the default is bf16.
        "INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32"),
    }
    if device == CPU:
        options |= {
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Pinned threads of two processes would share one core and leave another idle.
            "ENABLE_CPU_PINNING": False,
        }
    if cache_dir is not None:
        options["CACHE_DIR"] = str(cache_dir)
    return options
