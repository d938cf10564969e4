"""Decode: opens a source, a file or a camera, as an iterator of planar YUV frames.

A new kind of source begins in `Decode.open`; which URLs are cameras says `pipeline.config.sources`.
"""

from __future__ import annotations

from contextlib import nullcontext

from framegate.pipeline.source import DecoderGuard, Request
from framegate.stages.decode.camera import CameraSource
from framegate.stages.decode.container import DecodeOptions
from framegate.stages.decode.file import FileSource, Probe, probe

__all__ = ["Decode", "DecodeOptions", "FileSource", "Probe", "probe"]


class Decode:
    """The decoder of the graph: opens each source of the run with the same options."""

    Options = DecodeOptions

    def __init__(self, options: DecodeOptions) -> None:
        self.options = options

    def open(
        self, request: Request, guard: DecoderGuard = nullcontext
    ) -> FileSource | CameraSource:
        """Open one source; SourceFault as FileSource or CameraSource."""
        if request.live:
            return CameraSource(request, self.options, guard)
        return FileSource(request, self.options)

    def probe(self, request: Request) -> Probe:
        """Open one source and say what it is; SourceFault as FileSource."""
        return probe(request, self.options)
