"""The options of decode, which a supervisor reads without what decodes.

`open_video` applies them when it opens a file or a camera.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Options of decode.

    threads         decoder threads for each source. One thread needs the least CPU per frame, has
                    the least delay, and repairs damaged streams the same way each time
    max_damaged     damaged packets in a row after which the source ends
    max_pixels      pixels of a picture; a larger picture is refused before memory is allocated
    open_timeout_s  seconds to open a URL or a playlist
    read_timeout_s  seconds to wait for the next bytes of a file over the network. For a camera,
                    [live] stall_s applies
    hold_s          seconds of the longest group of pictures that is held with decode = "lazy". A
                    source whose key frames are further apart is always decoded
    audited         share of the calm groups that are decoded to measure what the others miss, 0 to
                    1
    hwaccel         auto: decode on the graphics unit where FFmpeg finds one, otherwise on the CPU.
                    off: on the CPU
    """

    threads: int = field(default=1, metadata={"least": 1, "most": 64})
    max_damaged: int = field(default=250, metadata={"least": 0})
    max_pixels: int = field(default=1 << 26, metadata={"least": 1})
    open_timeout_s: float = field(default=10.0, metadata={"least": 0.1})
    read_timeout_s: float = field(default=30.0, metadata={"least": 0.1})
    hold_s: float = field(default=5.0, metadata={"least": 0.1, "most": 20.0})
    audited: float = field(default=0.02, metadata={"least": 0.0, "most": 1.0})
    hwaccel: Literal["auto", "off"] = "off"
