"""A range of a recording that is a source: `recording:DATA/SOURCE?from=UNIX&to=UNIX&files=N`."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, quote, unquote

PREFIX: Final = "recording:"


class RecordedRange(NamedTuple):
    """Whole files of a recording.

    data    data folder of the run that recorded
    source  name of the recorded source
    since   UNIX seconds at which the first file begins
    until   UNIX seconds at which the last file ends
    files   number of files. If another number is there, the range would give other frames
    """

    data: Path
    source: str
    since: float
    until: float
    files: int

    @property
    def place(self) -> str:
        """Return the range as the place of a source."""
        path = quote(str(self.data.absolute()))
        times = f"from={self.since!r}&to={self.until!r}"
        return f"{PREFIX}{path}/{self.source}?{times}&files={self.files}"


def is_recorded(place: str) -> bool:
    """Return whether a place is a range of a recording, and not a path."""
    return place.startswith(PREFIX)


def range_of(place: str) -> RecordedRange:
    """Read the place of a range. ValueError."""
    path, _, query = place.removeprefix(PREFIX).partition("?")
    data, _, source = path.rpartition("/")
    given = {name: values[0] for name, values in parse_qs(query).items()}
    try:
        since, until, files = float(given["from"]), float(given["to"]), int(given["files"])
    except (KeyError, ValueError):
        raise ValueError(
            f"{place}: must be recording:DATA/SOURCE?from=SECONDS&to=SECONDS&files=N; use "
            "framegate run --from-recording CAMERA"
        ) from None
    return RecordedRange(Path(unquote(data)), source, since, until, files)
