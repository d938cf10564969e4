"""What a zip says that it holds, held against bounds before anything of it is unpacked."""

import itertools
import zipfile
from pathlib import Path

from framegate.models.errors import ModelRefused

MOST_BYTES = 4 << 30
MOST_RATIO = 100  # of text; weights hardly shrink
MOST_MEMBERS = 100_000


def checked_members(path: Path) -> list[zipfile.ZipInfo]:
    """Its members. Raises ModelRefused for a bomb, and for a directory that makes no sense."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except OSError as fault:
        raise ModelRefused(path, f"cannot be read: {fault.strerror or fault}") from fault
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as fault:
        raise ModelRefused(path, f"a damaged or truncated zip archive ({fault})") from fault
    if len(members) > MOST_MEMBERS:
        raise ModelRefused(path, f"a zip of {len(members)} files; allowed are {MOST_MEMBERS}")
    unpacked = sum(member.file_size for member in members)
    packed = path.stat().st_size
    if unpacked > MOST_BYTES or unpacked > max(packed, 1 << 16) * MOST_RATIO:
        why = f"a zip bomb: {packed} bytes that unpack to {unpacked}"
        allowed = f"allowed are {MOST_BYTES} bytes and {MOST_RATIO} times the file"
        raise ModelRefused(path, f"{why}; {allowed}")
    # A compressed member that shares its bytes with another unpacks more than it says.
    spans = sorted((m.header_offset, m.header_offset + m.compress_size) for m in members)
    if any(end > start for (_, end), (start, _) in itertools.pairwise(spans)):
        raise ModelRefused(path, "a zip bomb: its members overlap")
    return members
