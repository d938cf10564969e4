"""Decode: open a source, a file or a camera, as an iterator of planar YUV frames.

To add a kind of source, begin with `Decode.open`. `pipeline.config.sources` decides which URLs are
cameras.
"""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING

from framegate.pipeline.contracts.source import DecoderGuard, Form, Request
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
        """Open a source and describe it. SourceFault as FileSource."""
        from framegate.stages.decode.file import probe

        return probe(request, self.options)
