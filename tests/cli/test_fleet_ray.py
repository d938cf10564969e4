"""`framegate fleet head` and `join` without Ray: actors, command lines, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.cli.fleet.hosted import HostOptions, actors_of, words_of
from framegate.cli.main import parser
from framegate.pipeline.fleet.plan import FleetPlan, SlotRoom
from tests.support.commands import framegate, user_folder

AT = "127.0.0.1:6380"


def test_each_slot_is_an_actor_that_asks_for_its_cores() -> None:
    """Ray has parts of one core only; a heavy worker needs a gpu of its host instead."""
    slots = {"a": SlotRoom(0.5), "b": SlotRoom(2.0), "c": SlotRoom(2.5, drained=True)}
    assert actors_of(FleetPlan(1, slots), heavy=1) == {
        "slot/a/0.5": {"num_cpus": 0.5},
        "slot/b/2": {"num_cpus": 2},
        "slot/c/2.5": {"num_cpus": 3},
        "heavy/1": {"num_cpus": 0, "resources": {"gpu": 1}},
    }


def test_an_actor_runs_a_command_line_that_framegate_has() -> None:
    host = HostOptions("/data", "env:STORE", "/etc/secrets.env", ["--http", "off"])
    slot = parser().parse_args(words_of("slot/box1/2", host))
    assert (slot.slot, slot.store, slot.http) == ("box1", "env:STORE", "off")
    assert slot.data == Path("/data/box1")
    heavy = parser().parse_args(words_of("heavy/1", host))
    assert (heavy.heavy, heavy.redis) == (True, "env:STORE")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("head", "10.0.0.5", "--store", "redis://127.0.0.1"), "must be HOST:PORT, such as"),
        (("head", "10.0.0.5:99999", "--store", "redis://127.0.0.1"), "must be HOST:PORT, such as"),
        (("head", AT, "--store", "unix:///run/store.sock"), "must be redis:// or rediss://, else"),
        (("head", AT, "--store", "embedded"), "must be redis:// or rediss://, else"),
        (("join", AT, "--store", "redis://127.0.0.1", "-d", "data", "--env-file", "f"),
         "--store: must be env:NAME"),
        (("join", AT, "--store", "env:STORE", "-d", "data", "--env-file",
          "pipeline.toml", "--gpu", "-1"),
         "--gpu must be 0 to 64, got -1"),
        (("head", AT, "--store", "redis://127.0.0.1", "--heavy", "1001"),
         "--heavy must be 0 to 1000, got 1001"),
        (("join", AT, "--store", "env:STORE", "-d", "data", "--env-file", "absent.env"),
         "absent.env"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_refused_with_what_is_allowed(
    tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    ended = framegate(user_folder(tmp_path / "here"), "fleet", *words)
    assert ended.code == 2, ended.err
    assert why in " ".join(ended.err.split())
