"""The errors that Framegate raises on purpose, all of them FramegateError.

An error's message is for people and carries no secret; its `exit` is the exit code (Exit) of a
command that ends with it.
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
