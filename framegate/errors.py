"""The errors of Framegate; all of them are a FramegateError.

The message of an error can be shown to users and contains no secret. Its `exit` is the exit code
(Exit) of a command that ends with it.
"""

from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    DataFolderRefused,
    Exit,
    FramegateError,
    FrameLost,
    PackageMissing,
    RecordTooNew,
    ResultsTrimmed,
    RunEnded,
    RunRefused,
    SourceFault,
    StageRefused,
    StoreBusy,
    StoreLost,
    StoreRefused,
)

__all__ = [
    "ConfigFaults",
    "DataFolderRefused",
    "Exit",
    "FrameLost",
    "FramegateError",
    "PackageMissing",
    "RecordTooNew",
    "ResultsTrimmed",
    "RunEnded",
    "RunRefused",
    "SourceFault",
    "StageRefused",
    "StoreBusy",
    "StoreLost",
    "StoreRefused",
]
