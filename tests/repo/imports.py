"""Which folder may import which, and which do: `python -m tests.repo.imports` draws it.

The table is stated here once. Within `pipeline`, `models` and `stages` a folder may import the
files beside the folders (`""`), what its row names, and what GROUND has; `stages` may import all of
the other two.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PICTURE: Final = ROOT / "docs" / "imports.md"
ARCHITECTURE: Final = ROOT / "ARCHITECTURE.md"
PARTS: Final = ("pipeline", "models", "stages")

LAYERS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "pipeline": {
        "": (),
        "contracts": (),
        "system": ("contracts",),
        "store": (),
        "shared_memory": (),
        "promise": (),
        "recording": (),
        "config": ("store",),
        "telemetry": ("recording", "store"),
        "heavy": ("store",),
        "fleet": ("config", "recording", "store"),
        "engine": ("shared_memory", "store", "telemetry"),
        "ingest": ("engine", "promise", "recording", "shared_memory", "store"),
        "sinks": ("config", "engine", "store", "telemetry"),
        "review": ("client", "recording", "store"),
        "web": (
            "client",
            "config",
            "engine",
            "fleet",
            "recording",
            "review",
            "shared_memory",
            "store",
            "telemetry",
        ),
        "run": (
            "config",
            "engine",
            "fleet",
            "heavy",
            "ingest",
            "promise",
            "review",
            "shared_memory",
            "sinks",
            "store",
            "telemetry",
            "web",
        ),
        "client": ("store",),
        "fsck": ("recording", "review", "run", "shared_memory", "sinks", "store", "telemetry"),
    },
    "models": {
        "": (),
        "weights": (),
        "formats": (),
        "gate": (),
        "tracking": (),
        "detector": ("formats", "gate", "weights"),
        "sound": ("detector", "weights"),
        "registry": ("detector", "formats"),
        "quantisation": ("detector",),
        "learning": (),
        "training": (
            "detector",
            "formats",
            "weights",
        ),
        "conversion": ("formats", "quantisation", "registry"),
    },
    "stages": {
        "": (),
        "decode": (),
        "draw": ("decode",),
        "events": (),
        "windows": (),
        "audit": (),
        "detect": (),
        "escalate": ("audit", "detect"),
        "footage": ("decode", "draw"),
        "learning": ("audit", "decode", "detect", "draw", "escalate", "footage"),
    },
}
HEAD: Final = "| folder | content | may import |\n| --- | --- | --- |\n"
# Folders that every other folder of the part may import.
GROUND: Final[dict[str, tuple[str, ...]]] = {"pipeline": ("contracts", "system")}


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file, its module first. Each file is parsed once: all take seconds."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def modules(path: Path) -> Iterator[str]:
    """Every module, or name in one, that a file imports, anywhere in it."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> tuple[str, str] | None:
    """(part, folder) of `framegate.PART.FOLDER…`; "" for a file beside the folders."""
    words = name.split(".")
    if words[0] != "framegate" or len(words) < 2 or words[1] not in PARTS:
        return None
    folder = words[2] if len(words) > 2 else ""
    known = (ROOT / words[1] / folder / "__init__.py").is_file()
    return words[1], folder if known else ""


@functools.cache
def edges() -> dict[tuple[str, str], dict[str, set[Path]]]:
    """(part, folder) -> folder of the same part that it imports -> the files that do."""
    found: dict[tuple[str, str], dict[str, set[Path]]] = {}
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            here = layer(".".join(("framegate", *path.relative_to(ROOT).with_suffix("").parts)))
            assert here is not None
            ground = GROUND.get(part, ())
            free = ("", here[1]) if here[1] in ground else ("", here[1], *ground)
            for there in map(layer, modules(path)):
                if there is not None and there[0] == part and there[1] not in free:
                    found.setdefault(here, {}).setdefault(there[1], set()).add(path)
    return found


def picture() -> str:
    """The graph as it is, as a page with a Mermaid drawing for each part."""
    told = [
        "# Which folder imports which",
        "",
        "Drawn by `make graph` from the code as it is. A test checks that it has no cycle, and",
        "that no folder imports more than its row in `tests/repo/imports.py` allows.",
        "Every folder may import the files beside the folders, and in `pipeline` also `contracts`",
        "and `system`. That is not drawn.",
    ]
    drawn = edges()
    for part in PARTS:
        told += ["", f"## {part}", "", "```mermaid", "flowchart LR"]
        for folder in LAYERS[part]:
            reached = sorted(drawn.get((part, folder), {}))
            told += [f"  {folder} --> {other}" for other in reached]
            told += [f"  {folder}"] if folder and not reached else []
        told += ["```"]
    return "\n".join(told) + "\n"


def folder_rows() -> str:
    """Return the rows of ARCHITECTURE's table: each sub-package, its first sentences, its imports.

    The text is the first paragraph of the `__init__` docstring; the imports are those of LAYERS.
    A folder in a sub-package may import the same as the sub-package.
    """
    rows = []
    for part in PARTS:
        for init in sorted((ROOT / part).glob("*/**/__init__.py")):
            folder = init.parent.relative_to(ROOT)
            docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
            text = " ".join(docstring.split("\n\n")[0].split())
            allowed = LAYERS[part][folder.parts[1]]
            imports = ", ".join(f"`{name}`" for name in allowed) or "-"
            if len(folder.parts) > 2:
                imports = f"as `{folder.parent}`"
            rows.append(f"| `{folder}` | {text} | {imports} |")
    return "\n".join(rows) + "\n"


def with_folder_rows(text: str) -> str:
    """Return the text of ARCHITECTURE.md with the generated table of sub-packages."""
    return re.sub(
        r"(<!-- folders -->\n).*?(<!-- end -->)",
        rf"\1\n{HEAD}{folder_rows()}\n\2",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    ARCHITECTURE.write_text(
        with_folder_rows(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8"
    )
    PICTURE.write_text(picture(), encoding="utf-8")
