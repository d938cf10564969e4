"""`framegate filters`: what it takes and what it prints is what pipeline.toml has."""

from __future__ import annotations

import tomllib

import msgspec
import pytest

from framegate.cli.control.filters import as_text, as_toml, filter_of
from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.object_filters import NamedFilter
from framegate.pipeline.review.teach import FilterOffer, FilterTrial

KEYS = ['labels = ["person"]', "area = [[0, 0], [1, 0], [1, 0.3]]", "min_height = 0.05"]


def test_a_filter_is_printed_as_a_configuration_reads_it() -> None:
    street = filter_of("street", KEYS)
    assert tomllib.loads(as_toml(street))["filters"]["street"]["labels"] == ["person"]
    assert read_config("test", as_toml(street)).filters == {"street": street.plain()}
    hidden = NamedFilter(
        name="hidden_1", box=(0.1, 0.2, 0.3, 0.4), by="verdict", episode="a/b/1-0/0"
    )
    assert as_toml(hidden) == (
        "# by the verdict about a/b/1-0/0\n[filters.hidden_1]\nbox = [0.1, 0.2, 0.3, 0.4]"
    )


def test_a_learned_filter_is_printed_as_a_configuration_reads_it() -> None:
    weights = (-0.5, 1.25, *[0.0] * 8)
    learned = NamedFilter(
        name="muted_1", sources=("door",), rule="visitor", weights=weights, by="verdict"
    )
    text = as_toml(learned)
    assert text.startswith("# learned from verdicts\n[filters.muted_1]\n")
    assert read_config("test", text).filters == {"muted_1": learned.plain()}


def test_an_offer_says_what_lacks_or_what_the_filter_would_have_done() -> None:
    refused = FilterOffer("door", "visitor", 9, 12, "there are 9 true and 12 false verdicts")
    assert as_text(refused) == (
        "rule visitor at door: no filter: there are 9 true and 12 false verdicts."
    )
    trial = FilterTrial(60, 20, [], [])
    offered = FilterOffer(
        "door", "visitor", 59, 12, None, 59, (0.5, *[0.0] * 9), "0a1b2c3d", 0.0495, 10, trial
    )
    text = as_text(offered)
    assert "it would have muted 20 of 60 stored episodes" in text
    assert "it may miss up to 5% of true episodes" in text
    assert "do not count" not in text
    later = msgspec.structs.replace(offered, right=70)
    assert "11 true verdicts do not count for this bound" in as_text(later)
    assert text.endswith("add it: framegate filters learn visitor --source door --add")


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (["labels = person"], "filter street: .*must be KEY=VALUE, with TOML's quotes"),
        (["labels"], "must be KEY=VALUE"),
        (["min_heigth = 0.1"], "filters.street.min_heigth: unknown key"),
        (["min_height = 2"], "filters.street.min_height = 2: must be a number, 0 to 1"),
        (["name = 'other'", "min_height = 0.1"], "filters.street.name: unknown key"),
    ],
)
def test_a_wrong_key_is_refused_before_the_run_is_asked(keys: list[str], fault: str) -> None:
    with pytest.raises(ConfigFaults, match=fault):
        filter_of("street", keys)
