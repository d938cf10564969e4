"""A benchmark in parts: what was measured in one sitting need not be in the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

KeptPart = dict[str, Any]


class KeptParts:
    """Parts by name, each a JSON file, there whole or not at all.

    place   a folder for them, and for what other code makes
    code    digest of the code that makes them (`code_behind.digest_of`)
    folder  of what this code made, for whatever else is to be kept with the parts

    What other code made stays where it is, and nothing of it is read.
    """

    def __init__(self, place: Path, code: str) -> None:
        self.folder = place / code
        if not self.folder.exists() and place.exists() and any(place.iterdir()):
            print(f"{place.name}: its part is of other code, so it is measured again", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._name = place.name

    def __contains__(self, name: str) -> bool:
        return self._file(name).exists()

    def of(self, name: str, make: Callable[[], KeptPart]) -> KeptPart:
        """What is kept under this name, or made now and kept."""
        file = self._file(name)
        if not file.exists():
            made = make()
            new = file.with_suffix(".new")
            new.write_text(json.dumps(made), encoding="utf-8")
            new.replace(file)
            print(f"{self._name} {name}", flush=True)
        found: KeptPart = json.loads(file.read_text(encoding="utf-8"))
        return found

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"
