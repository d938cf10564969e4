"""What the cameras of the tests show: `footage.scene`, encoded once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support import footage

FPS = 10
SIZE = (160, 120)
SMALL = (96, 64)
_SETTINGS = {
    "h264": ("libx264", {"bf": "0", "g": str(FPS), "preset": "ultrafast"}),
    "hevc": (
        "libx265",
        {"preset": "ultrafast", "x265-params": f"log-level=none:bframes=0:keyint={FPS}"},
    ),
    "mpeg4": ("mpeg4", {"g": str(FPS)}),
    "mjpeg": ("mjpeg", {}),
}


@dataclass(frozen=True)
class Clips:
    """A folder that a server serves; asked twice for a clip, it is made once."""

    folder: Path

    def clip(
        self,
        codec: str = "h264",
        size: footage.Size = SIZE,
        seconds: float = 60.0,
        name: str | None = None,
    ) -> Path:
        """A Matroska file at FPS with a key frame a second, without B-frames."""
        chosen = name or f"{codec}_{size[0]}x{size[1]}_{seconds:g}.mkv"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / chosen
        if not path.exists():
            encoder, options = _SETTINGS[codec]
            stamps = footage.steady(round(seconds * FPS), FPS)
            footage.write_scene(path, stamps, size, encoder, options)
        return path

    def sound(self) -> Path:
        """A file with sound only."""
        path = self.folder / "sound.mp4"
        return path if path.exists() else footage.write_tone(path, 5.0)
