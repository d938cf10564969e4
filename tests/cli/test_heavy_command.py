"""`framegate worker --heavy` as a user types it: what is wrong is said, and no password is."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.models.detector import detector
from framegate.pipeline.contracts.queries import PlaceFailed, Predictions, Query, QueryId
from framegate.pipeline.contracts.records import Position
from framegate.pipeline.contracts.source import Form
from framegate.pipeline.heavy.queue import HeavyQueue
from framegate.stages.escalate.heavy_pass import encode_question
from tests.support.commands import Command, framegate
from tests.support.own_servers import PROGRAMS, free_port, needs, own_server
from tests.support.runs import wait_until

VARIABLE = "FRAMEGATE_TEST_HEAVY"
FORM = Form(320, 240)

programs = pytest.mark.parametrize("program", [needs(program) for program in PROGRAMS])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://somewhere", "it is not the URL of a Redis"),
        ("redis://localhost:notaport", "its port, database or query is malformed"),
        ("redis://localhost?decode_responses=true", "its query has decode_responses, which"),
        ("redis://localhost?protocol=3", "its query has a protocol other than 2, which"),
        ("redis://localhost:PORT", "cannot be reached"),
        ("env:FRAMEGATE_TEST_NOWHERE", "--redis env:FRAMEGATE_TEST_NOWHERE: this environment"),
    ],
)
def test_a_wrong_url_is_said_before_the_model_loads(tmp_path: Path, url: str, words: str) -> None:
    url = url.replace("PORT", str(free_port()))
    ended = framegate(tmp_path, "worker", "--heavy", "--redis", url)
    assert words in ended.err
    assert "loading the model" not in ended.err
    assert ended.code == (2 if url.startswith("env:") else 3)


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("--batch=0", "--batch must be 1 to 64, got 0"),
        ("--batch=65", "--batch must be 1 to 64, got 65"),
        ("--threads=0", "--threads must be 1 to 1024, got 0"),
        ("--delay-ms=-1", "--delay-ms must be 0 to 1000, got -1"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, option: str, fault: str) -> None:
    ended = framegate(tmp_path, "worker", "--heavy", "--redis", "redis://localhost", option)
    assert ended.code == 2
    assert fault in ended.err


def test_a_data_folder_must_be_that_of_a_run(tmp_path: Path) -> None:
    ended = framegate(tmp_path, "worker", "--heavy", "-d", str(tmp_path / "none"))
    assert ended.code == 2
    assert "no run is active in" in ended.err


def test_it_has_to_be_heavy(tmp_path: Path) -> None:
    ended = framegate(tmp_path, "worker", "--redis", "redis://localhost")
    assert ended.code == 2
    assert "--heavy" in ended.err


@programs
def test_a_wrong_password_is_said_and_not_shown(program: str, tmp_path: Path) -> None:
    with own_server(program, tmp_path / "own") as server:
        url = f"redis://framegate:notTheWord@localhost:{server.port}"
        ended = framegate(tmp_path, "worker", "--heavy", "--redis", url)
    assert ended.code == 3
    assert "refuses the login" in ended.err
    assert "--redis: other users of this host can see a password" in ended.err
    assert "notTheWord" not in ended.err


@programs
def test_a_worker_needs_no_more_than_its_own_keys_and_answers_over_tls(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way with the real model: a grey picture has nothing in it."""
    rule = "~fg:heavy:* resetchannels +@all -@dangerous +info"
    with own_server(program, tmp_path / "own", rule=rule) as server:
        monkeypatch.setenv(
            VARIABLE, f"{server.url('rediss')}?ssl_ca_certs={server.certificates.ca}"
        )
        words = ("worker", "--heavy", "--redis", f"env:{VARIABLE}", "--threads", "1")
        with Command(tmp_path, *words) as worker:
            worker.says("answering questions; policy ")
            policy = worker.err.split("policy ")[1].split()[0]
            grey = Query(QueryId("a", Position(1, 0)), FORM, b"\x80" * FORM.nbytes)
            unknown = HeavyQueue(server.url("redis"), encode_question, policy)
            with server.admin() as client:
                wait_until("it is there", lambda: client.exists("fg:heavy:alive"))
            with pytest.raises(PlaceFailed, match=policy) as failed:
                unknown.answer([grey])  # eight digits of a hash are not the hash
            unknown.close()
            assert server.password not in str(failed.value)
            whole = detector.load("heavy").policy_id
            place = HeavyQueue(server.url("redis"), encode_question, whole)
            (found,) = place.answer([grey])
            place.close()
            assert isinstance(found, Predictions)
            assert found.boxes == ()
            assert len(found.models) == 3
            assert place.sent_bytes < FORM.nbytes / 10
            worker.interrupt()
            ended = worker.wait()
        assert ended.code == 0
        assert server.password not in ended.err
