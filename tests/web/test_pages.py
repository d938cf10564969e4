"""What the pages share: one head, links to each other, colours that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from framegate.pipeline.review.unseen import WHY_NOT_WATCHED
from framegate.pipeline.web.pages.pages import html_of

PAGES = (
    "pictures/page.html", "review/review.html", "recordings/recordings.html", "control/rules.html",
    "review/visits.html", "review/unseen.html"
)  # fmt: skip


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("file", [*PAGES, "review/disagreements.html"])
def test_every_text_can_be_read(file: str, scheme: int) -> None:
    palettes = re.findall(r":root \{(.*?)\}", html_of(file), re.DOTALL)
    assert len(palettes) == 2, "a page has no colours of its own"
    colours = dict(re.findall(r"--(\w+): (#\w+)", palettes[scheme]))
    pairs = [(text, "card") for text in ("ink", "soft", "good", "wait", "bad", "accent")]
    pairs += [("ink", "chip"), ("soft", "chip"), ("ink", "back"), ("soft", "back")]
    for text, ground in pairs:
        bright, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


@pytest.mark.parametrize("file", PAGES)
def test_each_page_leads_to_the_others_and_says_which_it_is(file: str) -> None:
    html = html_of(file)
    assert html.count("<meta charset") == html.count("<nav") == 1
    pages = html.partition("<nav")[2].partition("</nav>")[0]
    links = re.findall(r'<a href="([^"]+)"( aria-current="page")?>([\w ]+)</a>', pages)
    assert [(to, name) for to, _, name in links] == [
        ("./", "Live"), ("review", "Review"), ("recordings", "Recordings"), ("rules", "Rules"),
        ("visits", "Visits"), ("unseen", "Not seen")
    ]  # fmt: skip
    here = "./" if file == "pictures/page.html" else Path(file).stem
    assert [to for to, current, _ in links if current] == [here]


def test_pages_name_the_reasons_of_times_that_were_not_watched_as_the_command_does() -> None:
    words = html_of("review/unseen.html").partition("const NOT_WATCHED = {")[2].partition("};")[0]
    assert dict(re.findall(r'(\w+): "([^"]+)"', words)) == WHY_NOT_WATCHED
