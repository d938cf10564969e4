"""Requests to change the configuration of an active run, and the reply to them.

They travel over the control socket of a run and between its processes. The file of the
configuration stays the truth: the supervisor writes a change into it before the run uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

ANY = "whole file"
"""Path of a change from one version of the file to another."""


class ConfigChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another value of a table or key of the configuration.

    path   dotted path, such as events.rules.door, events.areas.door or privacy.masks.yard
    value  the whole table with its keys, or the value of the key; null: remove it
    """

    path: str
    value: Any


class GetConfig(msgspec.Struct, frozen=True, tag=True):
    """Return the configuration of the run as an EditableConfig."""


class ChangeConfig(msgspec.Struct, frozen=True, tag=True):
    """Write these changes into the file, all or none, and use them; the reply is an EditableConfig.

    digest  of the text that the user saw; the change is refused if the file has another one
    """

    digest: str
    changes: Sequence[ConfigChange]


class RestoreConfig(msgspec.Struct, frozen=True, tag=True):
    """Write an earlier text into the file, and use it; the reply is an EditableConfig.

    digest   of the text that the user saw
    version  digest of the earlier text; "": the text before the last change, which is refused if
             the file was edited by hand, or its profile was switched, after that change
    """

    digest: str
    version: str = ""


class ReloadConfig(msgspec.Struct, frozen=True, tag=True):
    """Use the file as it is now, after an edit by hand; the reply is an EditableConfig."""


class SavedVersion(msgspec.Struct, frozen=True):
    """An earlier text of the file.

    digest   names it
    at       time of the change that replaced it, UNIX seconds
    changes  paths of that change
    """

    digest: str
    at: float
    changes: Sequence[str]


class EditableConfig(msgspec.Struct, frozen=True, tag=True):
    """The part of the configuration that can change during a run.

    file      path of the file; "": the run has none
    digest    of its text; a change names it
    tables    its tables events, filters, sinks, privacy and gate, as the file has them. Secret
              parts of values are hidden; sending a value back as it was shown keeps it
    versions  digest of each rule that the run evaluates, by name
    profile   active profile by the file; "": by the schedules
    waits     what the file has and the run uses only after its next start, with the reason
    history   earlier texts, newest first
    sources   names of the sources of the run
    """

    file: str
    digest: str = ""
    tables: dict[str, Any] = {}
    versions: dict[str, str] = {}
    profile: str = ""
    waits: Sequence[str] = ()
    history: Sequence[SavedVersion] = ()
    sources: Sequence[str] = ()


ConfigRequest = GetConfig | ChangeConfig | RestoreConfig | ReloadConfig
