"""Decode: open a source, a file or a camera, as an iterator of planar YUV frames.

To add a kind of source, begin with `Decode.open`. `pipeline.config.sources` decides which URLs are
cameras.
"""

from __future__ import annotations

import time
import weakref
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import DecoderGuard, Form, Request, Source
from framegate.pipeline.recording.segment_writer import Take
from framegate.stages.decode.options import DecodeOptions

# The modules that decode are loaded when a source is opened: PyAV takes 0.07 s of CPU time, and a
# supervisor only reads the options.
if TYPE_CHECKING:
    from framegate.stages.decode.camera import CameraSource
    from framegate.stages.decode.file import FileSource, Probe
    from framegate.stages.decode.packet_stream import PacketStream
    from framegate.stages.decode.record import PacketRecorder


class Decode:
    """The decoder of the graph: opens each source of the run with the same options."""

    Options = DecodeOptions

    def __init__(self, options: DecodeOptions) -> None:
        self.options = options
        self._recorders: weakref.WeakSet[PacketRecorder] = weakref.WeakSet()

    def open(
        self, request: Request, guard: DecoderGuard = nullcontext, take: Take | None = None
    ) -> FileSource | CameraSource:
        """Open a source. SourceFault as FileSource or CameraSource. take: records its packets."""
        from framegate.stages.decode.camera import CameraSource
        from framegate.stages.decode.file import FileSource

        source: FileSource | CameraSource
        if request.live:
            source = CameraSource(request, self.options, guard, take)
        else:
            source = FileSource(request, self.options, take)
        if source.recorder is not None:
            self._recorders.add(source.recorder)
        return source

    def open_recorded(
        self, request: Request, guard: DecoderGuard = nullcontext, take: Take | None = None
    ) -> PacketStream:
        """Open the stream at a request's `url`, which is recorded and not decoded. SourceFault as
        CameraSource.

        take: records its packets; None: they are only read
        """
        from framegate.stages.decode.packet_stream import PacketStream

        stream = PacketStream(request, self.options, guard, take)
        if stream.recorder is not None:
            self._recorders.add(stream.recorder)
        return stream

    @staticmethod
    def pixels_of(packets: bytes, pts: float | None, form: Form) -> bytearray:
        """Return the pixels of the frame at `pts` (seconds) of a held group; see held_group."""
        from framegate.stages.decode.held_group import pixels_at

        return pixels_at(packets, pts, form)

    def close(self) -> None:
        """Finish the recordings of connections that were not closed."""
        for recorder in list(self._recorders):
            recorder.close()

    def probe(self, request: Request) -> Probe:
        """Open a source and describe it. SourceFault as FileSource.

        A source that a derived class opens itself is described by its first frame.
        """
        from framegate.stages.decode.camera import CameraSource
        from framegate.stages.decode.file import FileSource, probe

        if type(self).open is not Decode.open:
            source: Source = self.open(request)
            with closing(source):
                if not isinstance(source, FileSource | CameraSource):
                    return _probe_of(source, request, self.options.open_timeout_s)
        return probe(request, self.options)


def _probe_of(source: Source, request: Request, patience_s: float) -> Probe:
    from framegate.stages.decode.file import Probe

    until = time.monotonic() + patience_s
    for frame in source:
        if frame is not None:
            form = frame.form
            return Probe(
                "your own source", form.width, form.height, None, None, None, "yuv420p", 0,
                request.live,
            )  # fmt: skip
        if time.monotonic() > until:
            break
    raise SourceFault(f"{shown(request.url, request.live)}: it has no frame", "empty")
