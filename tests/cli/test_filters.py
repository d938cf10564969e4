"""`framegate filters`: what it takes and what it prints is what pipeline.toml has."""

from __future__ import annotations

import tomllib

import pytest

from framegate.cli.filters import as_toml, filter_of
from framegate.pipeline.config.config import read_config
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.object_filters import NamedFilter

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
