"""The reference pages of `docs`, from the code: `python -m tests.repo.reference` writes them.

A part of a page between `<!-- generated: NAME -->` and `<!-- end -->` is made anew: settings from
the dataclasses that read them, a result's fields from its type, metrics from one scrape, HTTP paths
from the routes, commands from the parser. What a field means is told by the docstring of its type.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args, get_origin, get_type_hints

import msgspec
from prometheus_client import Metric

import framegate
from framegate.cli.config import SCHEMA_FILE, schema_text
from framegate.cli.main import parser
from framegate.pipeline.config.config import DEFAULTS, read_config
from framegate.pipeline.config.read_options import members
from framegate.pipeline.config.settings import (
    MISSING,
    SettingsTable,
    lead,
    meanings,
    sentence,
    tables_of,
    type_in_words,
)
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.moments import Moment
from framegate.pipeline.contracts.results import (
    GateView,
    Object,
    Output,
    Result,
    Settled,
    SoundLabel,
    Sounds,
    SoundWindow,
)
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.contracts.visits import Visit
from framegate.pipeline.system.process import ProcessUse
from framegate.pipeline.telemetry.metrics import Scrape
from framegate.pipeline.telemetry.run_status import RunStatus, StageTimes
from framegate.pipeline.web import server
from framegate.pipeline.web.api import api_routes
from framegate.pipeline.web.pictures import picture_routes
from framegate.pipeline.web.route_table import ROUTES
from tests.repo import default_file

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
SCHEMA: Final = DOCS / SCHEMA_FILE
MARKED: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Row = tuple[str, ...]


def _sentence(text: str) -> str:
    return sentence(text).replace("|", "\\|")


def table(head: Row, rows: list[Row]) -> str:
    """A table of Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


# -- Settings.


def settings() -> str:
    """All tables of pipeline.toml."""
    shipped = read_config(DEFAULTS, "").stages
    return "\n".join(_table_of(one) for one in tables_of((s.name, s.use) for s in shipped))


def schema() -> str:
    """The JSON Schema of a pipeline.toml with the shipped stages."""
    return schema_text(read_config(DEFAULTS, ""))


def _table_of(one: SettingsTable) -> str:
    rows = []
    for setting in one.settings:
        if not setting.text:
            raise ValueError(f"{one.path}.{setting.name}: no docstring tells what it is")
        default, text = _default(setting.default), _sentence(setting.text)
        rows.append((f"`{setting.name}`", _marked(type_in_words(setting)), default, text))
    said = _prose(one.text) if one.text else ""
    tables = f"Its tables: {', '.join(f'`[{t}]`' for t in one.tables)}.\n\n" if one.tables else ""
    body = (
        table(("key", "type", "default", "what it is"), rows)
        if rows
        else "It has no keys of its own.\n"
    )
    return f"### `[{one.path}]`\n\n{said}{tables}{body}"


def _marked(words: str) -> str:
    """Values of a type as code."""
    return re.sub(r'("[^"]*")', r"`\1`", words)


def _prose(text: str) -> str:
    """A paragraph, in lines of a screen."""
    return textwrap.fill(text, 116, break_long_words=False, break_on_hyphens=False) + "\n\n"


def _default(value: Any) -> str:
    if value is MISSING:
        return "must be given"
    if value in (None, {}, "", ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:.15g}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


# -- Results.


def results() -> str:
    """The fields of a result, and of what it holds."""
    kinds = (
        Result,
        Object,
        Settled,
        GateView,
        Sounds,
        SoundWindow,
        SoundLabel,
        Visit,
        Moment,
        records.End,
        Output,
        records.SideOutput,
        records.Record,
        Form,
    )
    return "\n".join(_schema(kind) for kind in kinds)


def _schema(kind: type) -> str:
    told, hints = meanings(kind), get_type_hints(kind)
    rows = []
    for field in msgspec.structs.fields(kind):
        if not told.get(field.name):
            raise ValueError(f"{kind.__qualname__}: its docstring does not tell {field.name}")
        is_required = field.default is field.default_factory is msgspec.NODEFAULT
        always = "" if is_required else "may be absent: "
        rows.append((f"`{field.encode_name}`", _json(hints[field.name]), always + told[field.name]))
    cells = [(name, kind, _sentence(text)) for name, kind, text in rows]
    said = lead(kind.__doc__ or "")
    said = _prose(said) if said else ""
    return f"### {kind.__name__}\n\n{said}{table(('field', 'type', 'what it is'), cells)}"


def _json(hint: Any) -> str:
    parts = members(hint)
    said = ", or ".join(_one_json(part) for part in parts if part is not type(None))
    return f"{said}, or null" if type(None) in parts else said


def _one_json(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"list of {len(args)}: {_json(args[0])}"
    if origin is tuple:
        return f"list of {_json(args[0])}"
    if origin is dict:
        return "map"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(hint, "bytes" if hint is bytes else "any")


# -- HTTP and metrics.


def http() -> str:
    """The paths of the HTTP port."""
    nothing = cast(Any, None)
    routes = [
        *picture_routes.picture_routes(nothing, nothing, nothing),
        *picture_routes.sensitivity_routes(nothing, nothing, nothing),
        *server.routes(nothing),
        *api_routes(nothing, nothing),
    ]
    rows = []
    for route in routes:
        text = " ".join((route.endpoint.__doc__ or "").split())
        if not text:
            raise ValueError(f"{route.path}: its function has no docstring")
        rows.append((f"`{route.path.replace('{source}', 'NAME')}`", _sentence(text)))
    return table(("path", "what it gives"), rows)


def route_rows() -> str:
    """All paths with their roles."""
    rows = []
    for key, row in ROUTES.items():
        rows.append((f"`{key.replace('{source}', 'NAME')}`", row.role, row.filter))
    return table(("path", "role", "sources"), rows)


def metrics() -> str:
    """All metrics, with their labels."""
    families = sorted(_scrape().collect(), key=lambda family: str(family.name))
    rows = [
        (
            f"`{_exposed(family)}`",
            str(family.type),
            _labels(family),
            _sentence(family.documentation),
        )
        for family in families
    ]
    return table(("metric", "type", "labels", "what it is"), rows)


def _exposed(family: Metric) -> str:
    ends = {"counter": "_total", "info": "_info"}
    return f"{family.name}{ends.get(family.type, '')}"


def _labels(family: Any) -> str:
    labels = [f"`{label}`" for label in getattr(family, "_labelnames", ())]
    if family.type == "stateset":
        labels.append(f"`{family.name}`")
    return ", ".join(labels) or "none"


def _scrape() -> Scrape:
    """A run without sources, whose store answers: it has every metric, and no value."""
    status = RunStatus("", False, [], [], [], {"detect": StageTimes()})
    store = {"used_memory": 0, "aof_current_size": 0}
    return Scrape(status, {}, [], {}, {}, {}, ProcessUse(0, 0.0), store)


# -- The Python API.


def api() -> str:
    """The public names of `framegate`, and of its modules `testing` and `errors`."""
    parts = [_names("framegate", framegate)]
    parts += [
        _names(f"framegate.{name}", getattr(framegate, name)) for name in ("testing", "errors")
    ]
    return "\n".join(parts)


def _names(title: str, module: Any) -> str:
    rows = []
    for name in sorted(module.__all__, key=str.lower):
        first = (getattr(module, name).__doc__ or "").strip().split("\n\n")[0]
        if not first:
            raise ValueError(f"{title}.{name}: it has no docstring")
        rows.append((f"`{name}`", _sentence(" ".join(first.split()))))
    return f"## {title}\n\n{table(('name', 'what it is'), rows)}"


# -- Commands.


def commands() -> str:
    """Every command, as its --help says it."""
    return "\n".join(_command(name, said) for name, said in _leaves(parser(), "framegate"))


def _leaves(
    of: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    nested = [a for a in of._actions if isinstance(a, argparse._SubParsersAction)]
    for action in nested:
        for word, child in action.choices.items():
            yield from _leaves(child, f"{name} {word}")
    if not any(action.required for action in nested):
        yield name, of


def _command(name: str, said: argparse.ArgumentParser) -> str:
    rows = [
        (_spelt(action), _sentence(action.help or ""))
        for action in said._actions
        if action.help and not isinstance(action, argparse._HelpAction)
    ]
    body = table(("argument", "what it is"), rows) if rows else ""
    typed = re.findall(r"^  (framegate .*)$", said.epilog or "", re.MULTILINE)
    examples = "```sh\n" + "".join(f"{line}\n" for line in typed) + "```\n\n" if typed else ""
    prose = _prose(" ".join((said.description or "").split()))
    return f"## {name}\n\n{prose}{examples}{body}"


def _spelt(action: argparse.Action) -> str:
    if action.choices is not None:
        value = "\\|".join(str(choice) for choice in action.choices)
    else:
        value = str(action.metavar or action.dest)
    if not action.option_strings:
        return f"`{value}`"
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} `{value}`"


PARTS: Final = {
    "api": api,
    "settings": settings,
    "results": results,
    "http": http,
    "routes": route_rows,
    "metrics": metrics,
    "commands": commands,
}


def filled(text: str) -> str:
    """The page with its parts as the code has them."""
    return MARKED.sub(lambda match: match[1] + PARTS[match[2]]() + match[3], text)


def pages() -> list[Path]:
    """The pages that have such a part."""
    return sorted(
        path for path in DOCS.glob("*.md") if MARKED.search(path.read_text(encoding="utf-8"))
    )


def parts_of(page: Path) -> list[str]:
    """Names of the parts of a page that are made."""
    return [match[2] for match in MARKED.finditer(page.read_text(encoding="utf-8"))]


def main() -> int:
    """Write all of them."""
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
    default_file.FILE.write_text(default_file.default_file(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
