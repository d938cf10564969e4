"""A benchmark in parts: what was measured in one sitting need not be in the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Part = dict[str, Any]


class KeptParts:
    """Parts by name, each a JSON file of a folder, there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def __contains__(self, name: str) -> bool:
        return self._file(name).exists()

    def of(self, name: str, make: Callable[[], Part]) -> Part:
        """What is kept under this name, or made now and kept."""
        file = self._file(name)
        if not file.exists():
            made = make()
            new = file.with_suffix(".new")
            new.write_text(json.dumps(made))
            new.replace(file)
            print(f"{self._folder.name} {name}", flush=True)
        found: Part = json.loads(file.read_text())
        return found

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"
