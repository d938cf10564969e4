"""A camera's stream that is recorded and not decoded, because the network looks at another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import av
import av.error
from av.packet import Packet
from av.video.stream import VideoStream

from framegate.pipeline.contracts.errors import SourceFault
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import DecoderGuard, Request, SoundBlock
from framegate.pipeline.recording.segment_writer import Take
from framegate.stages.decode.codec_parameters import parameters
from framegate.stages.decode.frame import Orientations, form_of
from framegate.stages.decode.open_video import open_video, orientation_of
from framegate.stages.decode.options import DecodeOptions
from framegate.stages.decode.record import PacketRecorder
from framegate.stages.decode.sound import SoundTap


class PacketStream:
    """The packets of one connection (`framegate.PacketSource`). It is iterated once, in one thread.

    size    width and height of its pictures after rotation, from the last key frame that brought
            new parameters; such a key frame is the only picture that is decoded
    is_heard  whether its sound is decoded; set by the caller
    Errors  SourceFault from the constructor (see open_video) and the iteration: closed
    """

    def __init__(
        self,
        request: Request,
        options: DecodeOptions,
        guard: DecoderGuard = nullcontext,
        take: Take | None = None,
    ) -> None:
        """take, guard: as of CameraSource."""
        self._request = request
        self._options = options
        self._guard = guard
        self.is_heard = False
        hears = bool(request.sound) or take is not None
        self._opened = open_video(request, options, at_once=True, hears=hears)
        self._tap: SoundTap | None = None
        track = self._opened.sound
        if request.sound and track is not None and self._opened.has_times:
            self._tap = SoundTap(track, request.sound, guard)
            self._opened.listeners.append(self._hear)
        self._codec = self._opened.stream.codec_context.codec.canonical_name
        self._parameters: bytes | None = None
        self.size: tuple[int, int] | None = None
        self.recorder: PacketRecorder | None = None
        if take is not None:
            self.recorder = PacketRecorder(take, self._opened, live=True)

    def __iter__(self) -> Iterator[bool]:
        """Yield True for each picture that arrived, or False if nothing did (see PacketSource)."""
        while True:
            try:
                for packet in self._opened.packets():
                    if packet.size:
                        self._see(packet)
                        yield True
                fault = "the camera ended the stream"
            except (av.error.ExitError, TimeoutError):
                yield False
                continue
            except av.error.FFmpegError as error:
                fault = f"the connection was lost ({type(error).__name__})"
            raise SourceFault(f"{shown(self._request.url, camera=True)}: {fault}", "closed")

    def take_sound(self) -> Sequence[SoundBlock]:
        """Return the complete blocks of its sound, with times on its own clock."""
        if self._tap is None:
            return ()
        return self._tap.take(None)

    def _hear(self, packet: Packet[Any]) -> None:
        if self.is_heard and self._tap is not None:
            self._tap.hear(packet)

    def abandon(self) -> None:
        """End the iteration at the next packet; over HTTP and RTSP within a second. Any thread."""
        self._opened.abandon()

    def close(self) -> None:
        """Close the connection, and finish the recording."""
        self._opened.close()
        if self.recorder is not None:
            self.recorder.close()

    def _see(self, packet: Packet[VideoStream]) -> None:
        """Learn the size of the pictures from a key frame, unless its parameters are known."""
        if not packet.is_keyframe:
            return
        found = parameters(self._codec, memoryview(packet))
        if self.size is not None and found in (b"", self._parameters):
            return
        self._parameters = found
        with suppress(av.error.FFmpegError, ValueError):  # a damaged key frame: the next one counts
            self.size = self._size_of(packet) or self.size

    def _size_of(self, key: Packet[VideoStream]) -> tuple[int, int] | None:
        """Decode a key frame on its own; return its size, None if it gives no picture."""
        decoder: Any = av.CodecContext.create(self._codec, "r")
        decoder.thread_count = 1
        decoder.extradata = self._opened.stream.codec_context.extradata
        copy: Packet[Any] = Packet(memoryview(key))  # type: ignore[arg-type]  # it takes any buffer
        with self._guard():
            frames = [*decoder.decode(copy), *decoder.decode(None)]
        if not frames:
            return None
        place = self._request.url
        form = form_of(frames[0], orientation_of(place, frames[0], Orientations(), self._options))
        return form.width, form.height
