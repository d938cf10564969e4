"""The command that the end of a run prints continues it with the options of its start."""

from __future__ import annotations

from framegate.cli.main import parser
from framegate.cli.run import resume_options

CHOSEN = (
    "--http",
    "0.0.0.0:8686",
    "--classes",
    "person,car",
    "--min-score",
    "0.0",
    "--record",
    "--listen",
    "127.0.0.1:6390",
    "--draw",
    "gate",
    "--log-format",
    "json",
)


def test_options_that_a_data_folder_does_not_keep_are_in_the_next_command() -> None:
    first = parser().parse_args(["run", "door=rtsp://camera.example/s", "-d", "data", *CHOSEN])
    again = resume_options(first)
    assert set(CHOSEN) == set(again)
    second = parser().parse_args(["run", "--resume", "-d", "data", *again])
    for name in ("http", "classes", "min_score", "record", "detector", "save", "listen", "draw"):
        assert getattr(second, name) == getattr(first, name), name


def test_a_secret_is_not_in_the_next_command() -> None:
    parsed = parser().parse_args(["run", "-d", "data", "--store", "redis://user:hunter2@10.0.0.7"])
    assert resume_options(parsed) == ()
