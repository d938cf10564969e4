"""A model at a KServe v2 server, found ready, and what it answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.kserve_address import Address
from pipeline.kserve_shared import SharedTensor
from pipeline.kserve_tensors import INPUTS, OUTPUTS, Array
from pipeline.kserve_transports import Grpc, Http, library
from pipeline.questions import PlaceFailed

log = logging.getLogger(__name__)

_SLICE_S = 1.0


class KServeClient:
    """One connection, of the thread that made it. Every fault is a PlaceFailed."""

    def __init__(self, at: Address) -> None:
        """Connect, see that server, model and version are ready and that its tensors are ours."""
        self._at = at
        self._transport = Grpc(at) if at.is_grpc else Http(at)
        self._shared: SharedTensor | None = None
        try:
            with self._faults():
                self._check()
                extensions = self._transport.call("get_server_metadata").get("extensions", ())
                if not at.is_grpc:
                    self._transport.takes_bytes = "binary_tensor_data" in extensions
                if at.is_here and "system_shared_memory" in extensions:
                    self._share()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        at, call = self._at, self._transport.call
        model = f"model {at.model}{f', version {at.version}' if at.version else ''}"
        if not call("is_server_ready"):
            raise PlaceFailed(f"{at} is not ready")
        if not call("is_model_ready", at.model, at.version):
            raise PlaceFailed(f"{model} at {at} is not ready")
        metadata = call("get_model_metadata", at.model, at.version)
        for side, wanted in (("inputs", INPUTS), ("outputs", OUTPUTS)):
            found = {one["name"]: one["datatype"] for one in metadata.get(side, ())}
            if found != wanted:
                raise PlaceFailed(f"{model} at {at} has the {side} {found}; expected are {wanted}")

    def _share(self) -> None:
        """Pictures go through shared memory, unless the server sees another than we do."""
        call = self._transport.call
        shared = SharedTensor(
            lambda *region: call("register_system_shared_memory", *region),
            lambda name: call("unregister_system_shared_memory", name),
        )
        try:
            shared.put(b"")
            self._shared = shared
        except Exception as error:
            log.info("pictures do not go through shared memory: %s", error)

    @property
    def takes_bytes(self) -> bool:
        """Whether tensors travel as they are: over HTTP a server may know JSON alone."""
        return self._transport.takes_bytes

    @property
    def shares(self) -> bool:
        """Whether pictures go through shared memory."""
        return self._shared is not None

    def infer(
        self, inputs: Mapping[str, Array], until_mono: float, closed: Callable[[], bool]
    ) -> dict[str, Array]:
        """The outputs. PlaceFailed if there are none by then, or once it is closed."""
        with self._faults():
            given = [self._input(name, array) for name, array in inputs.items()]
            wait = self._transport.begin(given, [*OUTPUTS], until_mono)
            while (left_s := until_mono - time.monotonic()) > 0 and not closed():
                result = wait(min(left_s, _SLICE_S))
                if result is not None:
                    return {name: result.as_numpy(name) for name in OUTPUTS}
        raise PlaceFailed(f"{self._at} gave no answer in time")

    def close(self) -> None:
        """Close the connection, whatever is under way. In the thread that made it."""
        if self._shared is not None:
            self._shared.close()
        self._transport.close()

    def _input(self, name: str, array: Array) -> Any:
        if name != "picture" or self._shared is None:
            return self._transport.input(name, array)
        data = library(self._at, "utils").serialize_byte_tensor(array).item()
        self._shared.put(data)
        given = library(self._at).InferInput(name, list(array.shape), INPUTS[name])
        given.set_shared_memory(self._shared.name, len(data))
        return given

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except PlaceFailed:
            raise
        except Exception as error:  # of gevent, gRPC, tritonclient: they share no root
            if "DEADLINE_EXCEEDED" in str(error):  # gRPC's own clock may be first
                raise PlaceFailed(f"{self._at} gave no answer in time") from error
            raise PlaceFailed(f"{self._at}: {str(error) or type(error).__name__}") from error
