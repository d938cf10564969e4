"""The reference pages of `docs`, from the code: `python -m tests.repo.reference` writes them.

A part of a page between `<!-- generated: NAME -->` and `<!-- end -->` is made anew: settings from
the dataclasses that read them, a result's fields from its type, metrics from one scrape, HTTP paths
from the routes, commands from the parser. What a field means is told by the docstring of its type:
a line `name  text`, or `name, name  text`, and the lines that are indented further than its name.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from prometheus_client import Metric

import framegate
from framegate.pipeline import records
from framegate.pipeline.cli.main import parser
from framegate.pipeline.config import config
from framegate.pipeline.config.config import DEFAULTS, read_config
from framegate.pipeline.config.graph import StageTable, own_tables
from framegate.pipeline.loading import load
from framegate.pipeline.process import ProcessUse
from framegate.pipeline.source import Frames
from framegate.pipeline.telemetry.counters import RunStatus, StageTimes
from framegate.pipeline.telemetry.metrics import Scrape
from framegate.pipeline.web import pictures, server

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
MARKED: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ENTRY: Final = re.compile(r"( *)(\w+(?:, \w+)*)  +(\S.*)")
Row = tuple[str, ...]


# -- What a docstring tells of each field.


def meanings(kind: type) -> dict[str, str]:
    """What the docstring of a type, and of those that it extends, tells of its fields."""
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        told |= _entries(base.__doc__ or "")
    return told


def _entries(text: str) -> dict[str, str]:
    told: dict[str, list[str]] = {}
    open_at: int | None = None
    names: list[str] = []
    for line in text.expandtabs().splitlines():
        indent = len(line) - len(line.lstrip())
        entry = _ENTRY.fullmatch(line)
        if open_at is not None and line.strip() and indent > open_at:
            for name in names:
                told[name].append(line.strip())
        elif entry is not None:
            open_at, names = indent, entry[2].split(", ")
            told |= {name: [entry[3].strip()] for name in names}
        else:
            open_at = None
    return {name: " ".join(lines) for name, lines in told.items()}


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".;")
    begins = text.partition(" ")[0]
    if begins.isalpha():  # else it names a value, and stays as it is
        text = f"{text[:1].upper()}{text[1:]}"
    return text.replace("|", "\\|")


def table(head: Row, rows: list[Row]) -> str:
    """A table of Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


# -- Settings.


def settings() -> str:
    """All tables of pipeline.toml."""
    parts = [
        _table_of("[store]", config.StoreConfig),
        _table_of("[credit]", config.CreditConfig),
        _table_of("[live]", config.LiveConfig),
        _table_of("[workers]", config.WorkersConfig),
        _table_of("[log]", config.LogConfig),
        _table_of("[http]", config.HttpConfig),
        _table_of("[save]", config.SaveConfig),
        _table_of("[sources.NAME]", config.SourceConfig),
        _table_of("frames of a source", Frames),
    ]
    shipped = read_config(DEFAULTS, "")
    for stage in shipped.stages:
        options = load(stage.use).Options
        parts.append(_table_of(f"[stages.{stage.name}]", options))
        parts += [_table_of(f"[{name}]", kind) for name, kind in own_tables(options).items()]
    parts.append(_table_of("[stages.NAME]", StageTable))
    return "\n".join(parts)


def _table_of(name: str, kind: type) -> str:
    told, hints = meanings(kind), get_type_hints(kind)
    text = kind.__doc__ or ""
    rows = []
    for key, default, limits in _fields(kind):
        if limits.get("table") or limits.get("hidden"):
            continue
        if not told.get(key):
            raise ValueError(f"{kind.__qualname__}: its docstring does not tell what {key} is")
        rows.append((f"`{key}`", _type(hints[key], limits), default, _sentence(told[key])))
    said = _lead(text)
    title = f"### `{name}`" if name.startswith("[") else f"### {name}"
    own = list(own_tables(kind)) if dataclasses.is_dataclass(kind) else []
    tables = f"Its tables: {', '.join(f'`[{t}]`' for t in own)}.\n\n" if own else ""
    body = (
        table(("key", "type", "default", "what it is"), rows)
        if rows
        else "It has no keys of its own.\n"
    )
    return f"{title}\n\n{said}{tables}{body}"


def _lead(text: str) -> str:
    """The first paragraph of a docstring, without the name of the table."""
    lines = text.strip().split("\n\n")[0].splitlines()
    if not lines or _ENTRY.fullmatch(lines[0]):
        return ""
    lead = re.sub(r"^(The table )?`\[[\w.]+\]`[.:]? *", "", " ".join(x.strip() for x in lines))
    if not lead or lead.startswith("Options of"):
        return ""
    return _prose(f"{lead[0].upper()}{lead[1:]}")


def _prose(text: str) -> str:
    """A paragraph, in lines of a screen."""
    return textwrap.fill(text, 116, break_long_words=False, break_on_hyphens=False) + "\n\n"


def _fields(kind: type) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, default as TOML has it, and limits of each field."""
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            value = field.default
            if field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            yield field.name, _default(value), dict(field.metadata)
        return
    for struct_field in msgspec.structs.fields(kind):
        yield struct_field.name, _default(struct_field.default), {}


def _default(value: Any) -> str:
    if value is dataclasses.MISSING or value is msgspec.NODEFAULT:
        return "must be given"
    if value is None or value == {} or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:.15g}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _type(hint: Any, limits: dict[str, Any]) -> str:
    parts = [part for part in _parts(hint) if part is not type(None)]
    said = ", or ".join(_one_type(part) for part in parts)
    least, most = limits.get("least"), limits.get("most")
    if least is not None and most is not None:
        return f"{said}, {least:.15g} to {most:.15g}"
    return said if least is None else f"{said}, {least:.15g} or more"


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _one_type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f'`"{value}"`' for value in get_args(hint))
    if get_origin(hint) is tuple:
        return "list of texts"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names.get(hint, "table")


# -- Results.


def results() -> str:
    """The fields of a result, and of what it holds."""
    kinds = (records.Result, records.Object, records.GateView, records.End)
    return "\n".join(_schema(kind) for kind in kinds)


def _schema(kind: type) -> str:
    told, hints = meanings(kind), get_type_hints(kind)
    rows = []
    for field in msgspec.structs.fields(kind):
        if not told.get(field.name):
            raise ValueError(f"{kind.__qualname__}: its docstring does not tell {field.name}")
        always = "" if field.default is msgspec.NODEFAULT else "may be absent: "
        rows.append((f"`{field.name}`", _json(hints[field.name]), always + told[field.name]))
    cells = [(name, kind, _sentence(text)) for name, kind, text in rows]
    lead = _lead(kind.__doc__ or "")
    return f"### {kind.__name__}\n\n{lead}{table(('field', 'type', 'what it is'), cells)}"


def _json(hint: Any) -> str:
    parts = _parts(hint)
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
        *pictures.picture_routes(nothing, nothing, nothing),
        *pictures.sensitivity_routes(nothing, nothing, nothing),
        *server.routes(nothing),
    ]
    rows = []
    for route in routes:
        text = " ".join((route.endpoint.__doc__ or "").split())
        if not text:
            raise ValueError(f"{route.path}: its function has no docstring")
        rows.append((f"`{route.path.replace('{source}', 'NAME')}`", _sentence(text)))
    return table(("path", "what it gives"), rows)


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
    return Scrape(status, {}, [], {}, {}, ProcessUse(0, 0.0), store)


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
    if not nested:
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
    "metrics": metrics,
    "commands": commands,
}


def filled(text: str) -> str:
    """The page with its parts as the code has them."""
    return MARKED.sub(lambda match: match[1] + PARTS[match[2]]() + match[3], text)


def pages() -> list[Path]:
    """The pages that have such a part."""
    return sorted(path for path in DOCS.glob("*.md") if MARKED.search(path.read_text()))


def parts_of(page: Path) -> list[str]:
    """Names of the parts of a page that are made."""
    return [match[2] for match in MARKED.finditer(page.read_text())]


def main() -> int:
    """Write all of them."""
    for page in pages():
        page.write_text(filled(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
