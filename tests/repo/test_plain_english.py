"""Public text is plain technical English: see CONTRIBUTING.md, Language.

A scope is a named collection of texts. `SCOPES` lists them; adding one takes one line. The rules
look at prose only: code, names in backticks and addresses are removed first.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest

import framegate
from framegate import errors, testing
from framegate.cli.main import parser

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("framegate", "pipeline", "stages", "models")

Text = tuple[str, str]
"""Place of a text, and the text."""

# Each pattern with the wording to use instead. Patterns match whole words and ignore case.
WORDS = {
    r"whoever|whosoever": "name the person or the program",
    r"whatever|whichever": "any, every, or the cases",
    r"somebody|anybody": "a person, a user, a program, or someone",
    r"nobody": "no user, no program, no stage",
    r"anew": "again, or from the beginning",
    r"thereof|therein|thereby|hereby|hereof|whereof|wherein": "name the noun",
    r"told|untold": "reported, stated, shown",
    r"tells?(?! you\b)": "reports, states, shows",
    r"said": "stated, configured, or the name of the value",
    r"says|say so": "states, shows, prints",
    r"(goes|go|going|went|gone) on": "continues",
    r"(comes|come|coming|came) to (?!a stop)": "is, amounts to",
    r"stands?(?! (still|for|in for)\b|-)": "is",
    r"as soon as may be": "promptly",
    r"so many|so much(?! (that|as)\b)": "the number, the amount",
    r"for people": "for users, or name the reader",
    r"(lets|let|letting) go of": "releases",
    r"what holds|still holds|it holds|no longer holds": "is valid, is true",
    r"(of|like) (ours|yours|theirs|hers|his)": "our, your",
    r"(has|have|had) (it|them) (be|do|go|read|look|say|make|take|wait)\b": "makes, lets",
    r"is none to|is there none": "is not",
    r"the (other|first|last|next|new|old|same) ones": "name the noun",
    r"beforehand": "before",
    r"nothing of the kind": "no such data",
    r"by itself alone|all the same": "anyway, nevertheless",
    r"besides": "also",
    r"what(ever)? came of|what comes of": "the result",
    r"ere|lest|hence|thence|whence|albeit": "before, so that, therefore",
}

CLAUSE = re.compile(r"(What|Of|Whether|Where|Who|Whose)\b")
"""The first word of a text that starts with a noun clause instead of its subject."""

WORD_RULES = [
    (re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), instead)
    for pattern, instead in WORDS.items()
]


def faults(text: str) -> Iterator[str]:
    """Yield the words and the opening of a text that plain English does not need."""
    opening = text.lstrip("*_ \n")
    is_question = "?" in opening[:120]
    if CLAUSE.match(opening) and not is_question:
        yield f"it starts with {opening.split()[0]!r}: start with the subject, or with a verb"
    for pattern, instead in WORD_RULES:
        for match in pattern.finditer(text):
            yield f"{match[0]!r}: write {instead}"


# -- Texts.


def prose(text: str) -> str:
    """Return a text without code, targets of links, and markup of comments."""
    text = re.sub(r"``.+?``|`[^`]*`", "`", text, flags=re.DOTALL)
    text = re.sub(r"^ *\w+ {2,}", "", text, flags=re.MULTILINE)  # the name of a field
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"https?://\S+", "", text)


def pages(*patterns: str) -> Iterator[Text]:
    """Yield the paragraphs, items, table cells and headings of Markdown files."""
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    for path in sorted(paths):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"<!-- made by .*?<!-- end -->", "", text, flags=re.DOTALL)
        text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
        for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.) ?)", text):
            is_row = block.lstrip().startswith("|")
            cells = block.strip().strip("|").split(" | ") if is_row else [block]
            for cell in cells:
                content = re.sub(r"^\s*(?:[-*#]+|\d+\.)\s+", "", cell)
                yield str(path.relative_to(ROOT)), prose(content)


def docstrings(module: object) -> Iterator[Text]:
    """Yield the docstrings of a module's public names and of their public methods."""
    for name in module.__all__:  # type: ignore[attr-defined]
        value = getattr(module, name)
        yield name, prose(value.__doc__ or "")
        members = vars(value).items() if inspect.isclass(value) else ()
        for member, function in members:
            is_method = inspect.isfunction(function) or isinstance(function, property)
            if is_method and not member.startswith("_"):
                yield f"{name}.{member}", prose(function.__doc__ or "")


def helps() -> Iterator[Text]:
    """Yield all texts of `framegate --help` and of the help of each command."""
    yield from _helps_of(parser(), "framegate")


def _helps_of(command: argparse.ArgumentParser, name: str) -> Iterator[Text]:
    yield name, prose(command.description or "")
    yield name, prose(command.epilog or "")
    for action in command._actions:
        yield f"{name} {action.dest}", prose(action.help or "")
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield f"{name} {choice.dest}", prose(choice.help or "")
            for word, child in action.choices.items():
                yield from _helps_of(child, f"{name} {word}")


def messages(folder: str) -> Iterator[Text]:
    """Yield the string literals below a folder that have three words or more, without docstrings.

    These are messages of errors, log lines, and output of commands.
    """
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr):
                skipped.add(id(node.value))  # a docstring
            elif isinstance(node, ast.JoinedStr):
                skipped.update(map(id, node.values))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in skipped:
                literal = _literal(node)
                if len(literal.split()) >= 3:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", prose(literal)


def all_docstrings(folder: str) -> Iterator[Text]:
    """Yield the docstrings of all modules, classes and functions below a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = getattr(node, "name", "module")
                text = ast.get_docstring(node) or ""
                yield f"{path.relative_to(ROOT)}: {name}", prose(text)


def _literal(node: ast.expr) -> str:
    """Return the constant text of an expression, with `X` for each inserted value."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
        return "".join(str(part) for part in parts)
    return ""


SCOPES: dict[str, Callable[[], Iterator[Text]]] = {
    "README": lambda: pages("README.md"),
    "pages": lambda: pages(
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "*/MISSED.md",
        "examples/*.md",
        "docs/**/*.md",
    ),
    "help": helps,
    "public API": lambda: chain(*map(docstrings, (framegate, errors, testing))),
    "messages": lambda: chain.from_iterable(map(messages, PACKAGES)),
    "docstrings": lambda: chain.from_iterable(map(all_docstrings, PACKAGES)),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_public_text_is_plain_english(scope: str) -> None:
    found = [
        f"{where}: {fault}\n    {' '.join(text.split())[:200]}"
        for where, text in SCOPES[scope]()
        for fault in faults(text)
    ]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "What the network found.",
        "Whether it is on.",
        "Whoever reads it waits.",
        "It is told anew.",
        "The run goes on.",
    ],
)
def test_dialect_is_found(text: str) -> None:
    assert list(faults(text))


@pytest.mark.parametrize(
    "text",
    [
        "What do I change?",
        "The object stands still.",
        "FFmpeg stands for several tools.",
        "This tells you which file failed.",
        "So much that the disk is full.",
    ],
)
def test_honest_uses_are_no_faults(text: str) -> None:
    assert not list(faults(text))
