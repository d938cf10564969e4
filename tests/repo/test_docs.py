"""Documents say what is so: paths exist, figures are those of the results, pages are short."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from benchmarks.figures import DOCUMENTS, filled
from tests.repo import default_file, reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))
DECISIONS = tuple(f"docs/decisions/{path.name}" for path in (ROOT / "docs/decisions").glob("*.md"))
NAMES = (
    "README.md",
    "ARCHITECTURE.md",
    *DECISIONS,
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/MISSED.md",
    "examples/README.md",
    *PAGES,
)
TOP = {path.name for path in ROOT.iterdir()}
CODE = re.compile(r"`([^`\n]+)`")
LINKS = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")

each = pytest.mark.parametrize("name", NAMES)


def text_of(name: str) -> str:
    """A document without its fenced blocks."""
    return re.sub(
        r"^```.*?^```",
        "",
        (ROOT / name).read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )


@each
def test_every_path_that_is_named_exists(name: str) -> None:
    text = text_of(name)
    named = {word for word in CODE.findall(text) if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", word)}
    paths = {word for word in named if "/" in word or word.endswith((".py", ".md", ".toml"))}
    made = (
        "demo/",
        "build/",
        "data/",
        "videos/",
        "stages.",
        "my_stages",
        "my_source",
        "models.py",
        "pipeline.toml",
        "fleet.toml",
    )
    absent = [path for path in paths if not path.startswith(made) and not (ROOT / path).exists()]
    assert absent == []


def anchors(text: str) -> set[str]:
    """The headings of a page, as links name them."""
    heads = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@each
def test_every_link_leads_somewhere(name: str) -> None:
    for path, anchor in LINKS.findall(text_of(name)):
        if path.startswith(("http://", "https://")):
            continue
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), (
            f"{path}#{anchor}"
        )


def test_every_page_is_in_the_index() -> None:
    decisions = (ROOT / "docs" / "decisions" / "index.md").read_text(encoding="utf-8")
    assert [page for page in DECISIONS if f"({Path(page).name})" not in decisions] == [
        "docs/decisions/index.md"
    ]
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if f"({Path(page).name})" not in index] == ["docs/index.md"]
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in PAGES if not re.search(rf"[-:] {Path(page).name}$", site, re.M)] == []


@each
def test_every_test_that_is_named_exists(name: str) -> None:
    for path, test in TEST.findall(text_of(name)):
        assert re.search(
            rf"^(async )?def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
        ), test


@each
def test_no_lines_are_named_and_a_line_is_no_longer_than_a_screen(name: str) -> None:
    text = text_of(name)
    assert not re.search(r"\.(py|lua|toml):\d+", text)
    prose = [line for line in text.splitlines() if not line.startswith(("|", "!["))]
    assert max(map(len, prose)) <= 120


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_one_page_each(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_figures_are_those_of_the_results(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert filled(text) == text, "python -m benchmarks.figures writes them"


@pytest.mark.parametrize("page", reference.pages(), ids=lambda path: str(path.name))
def test_what_is_made_from_the_code_is_what_the_code_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert reference.filled(text) == text, "make pages writes them"


def test_the_schema_is_that_of_the_code() -> None:
    assert reference.SCHEMA.read_text(encoding="utf-8") == reference.schema(), (
        "make pages writes it"
    )


def test_the_default_configuration_is_that_of_the_code() -> None:
    assert default_file.FILE.read_text(encoding="utf-8") == default_file.default_file(), (
        "make pages writes it"
    )


def test_every_part_that_is_made_has_a_page() -> None:
    there = {name for page in reference.pages() for name in reference.parts_of(page)}
    assert there == set(reference.PARTS)


def test_only_these_documents_have_figures() -> None:
    having = {
        name for name in NAMES if "<!-- figures: " in (ROOT / name).read_text(encoding="utf-8")
    }
    assert having == {str(document.relative_to(ROOT)) for document in DOCUMENTS}


GLOSSARY = re.compile(r"^\| (?!term|---)([\w ,]+) \|", re.MULTILINE)


def test_the_glossary_is_short() -> None:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    assert 0 < len(GLOSSARY.findall(text)) <= 25
    assert 0 < len(GLOSSARY.findall(text.partition("Words of this project")[2])) <= 12


@pytest.mark.parametrize(
    "name", ["README.md", "docs/first-steps.md", "docs/cameras.md", "docs/events.md"]
)
def test_a_newcomer_reads_no_word_of_this_project_before_it_is_explained(name: str) -> None:
    own = GLOSSARY.findall(
        (ROOT / "docs/glossary.md").read_text(encoding="utf-8").partition("Words of this")[2]
    )
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text_of(name))
    unexplained = []
    for term in own:
        before_its_explanation = prose.partition(f"*{term}*")[0]  # a page explains it in italics
        is_used = re.search(rf"\b{term}s?\b", before_its_explanation, re.IGNORECASE)
        if is_used and term != "look":  # also a plain verb
            unexplained.append(term)
    assert unexplained == []


def test_the_change_log_begins_with_this_version_or_what_comes_after_it() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    heads = [line for line in lines if line.startswith("## ")]
    if ".dev" in version:  # of what comes after the last one
        assert heads[0] == "## Unreleased"
    else:
        assert next(head for head in heads if head != "## Unreleased").startswith(f"## {version}")


def test_no_registry_and_no_path_of_a_machine() -> None:
    locks = [str(path.relative_to(ROOT)) for path in (ROOT / "locks").glob("*.txt")]
    for name in (*NAMES, "Makefile", "mkdocs.yml", ".ci/run", *locks):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|/home/|/root/|https?://[\w.]*(pypi|pythonhosted)", text)
