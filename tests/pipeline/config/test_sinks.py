"""`[sinks.NAME]` is checked whole before anything starts, and says no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from framegate.pipeline.config.config import Config, read_config
from framegate.pipeline.contracts.errors import ConfigFaults

EVENTS = """
[events.areas.porch]
points = [[0.1, 0.5], [0.6, 0.5], [0.6, 0.98]]
[events.rules.visitor]
when = "inside"
area = "porch"
"""
SECRET = f"whsec_{'QUJD' * 10}"


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("HOOK_SECRETS", f"{SECRET} {SECRET}")
    monkeypatch.setenv("BAD_SECRET", "Hunter2-short")
    monkeypatch.setenv("HOOK_URL", "https://viewer:Hunter2@hooks.example/in")
    monkeypatch.setenv("BAD_URL", "redis://viewer:Hunter2@hooks.example")
    monkeypatch.setenv("CUT_URL", "https://viewer:Hunter2/9@hooks.example/in")


def read(*lines: str, events: str = EVENTS) -> Config:
    return read_config("test.toml", "[sinks.office]\n" + "\n".join(lines) + "\n" + events)


def faults(*lines: str, events: str = EVENTS) -> list[str]:
    with pytest.raises(ConfigFaults) as refused:
        read(*lines, events=events)
    assert "Hunter2" not in str(refused.value)
    return [fault.removeprefix("test.toml: ") for fault in refused.value.faults]


HOME = ('kind = "mqtt"', 'url = "mqtt://broker.example"')
PHONE = ('kind = "notify"', 'url = "ntfy://topic"')
HOOK = ('kind = "webhook"', 'url_env = "HOOK_URL"', 'secret_env = "HOOK_SECRET"')


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost", "[::1]:9000"])
def test_a_receiver_on_this_host_needs_no_secret(host: str) -> None:
    assert read('kind = "webhook"', f'url = "http://{host}/in"').sinks["office"].url
    for other in ("http://127.0.0.1.example/in", "http://192.0.2.1/in"):
        with pytest.raises(ConfigFaults, match="only a receiver on this host"):
            read('kind = "webhook"', f'url = "{other}"')


def test_a_sink_is_read() -> None:
    sink = read(*HOOK, 'rules = ["visitor"]', 'severities = ["alert"]').sinks["office"]
    assert (sink.kind, sink.rules, sink.severities) == ("webhook", ("visitor",), ("alert",))
    assert sink.place("office") == "https://viewer:Hunter2@hooks.example/in"
    assert read(*HOOK[:2], 'secret_env = "HOOK_SECRETS"').sinks["office"].give_up_s is None


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((), "sinks.office.kind: missing"),
        (('kind = "webhok"', *HOOK[1:]), "sinks.office.kind = 'webhok'"),
        ((HOOK[0], *HOOK[2:]), "sinks.office.url: give either url or url_env"),
        ((*HOOK, 'url = "https://hooks.example"'), "give either url or url_env"),
        ((*HOOK[:2],), "sinks.office.secret_env: give either secret_env or secret_file"),
        ((*HOOK, "rule = 5"), "sinks.office.rule: unknown key; known keys are"),
        ((*HOOK, "rule = 5"), "did you mean rules?"),
        ((*HOOK, 'severities = ["alart"]'), "did you mean alert?"),
        ((*HOOK, 'sources = ["Front door"]'), "'Front door': not a name"),
        ((HOOK[0], 'url = "hooks.example"', HOOK[2]), "sinks.office.url: not a URL"),
        ((HOOK[0], 'url_env = "BAD_URL"', HOOK[2]), "redis:// does not fit kind webhook"),
        ((HOOK[0], 'url_env = "CUT_URL"', HOOK[2]), "In a password, write / as %2F"),
        ((HOME[0], 'url = "mqtt://broker.example:99999"'), "its port is no number up to 65535"),
        ((HOOK[0], 'url_env = "NO_URL"', HOOK[2]), "this environment variable is not set"),
        ((*HOOK[:2], 'secret_env = "BAD_SECRET"'), "24 to 64 bytes in base64"),
        ((*HOOK[:2], 'secret_file = "nowhere"'), "this file cannot be read: No such file"),
        ((*HOOK, "give_up_s = -1.0"), "a number, 0 to 31536000"),
        ((*HOOK, 'topic = "x"'), "sinks.office.topic: only for kind mqtt"),
        ((*HOOK, "picture = false"), "picture: only for kind mqtt and notify"),
        ((*HOOK, 'rules = ["visitors"]'), "no rule 'visitors'; rules are visitor; did you mean"),
        (
            (*HOOK[:1], 'url = "https://hooks.example/tür"', *HOOK[2:]),
            "such as %20, or %C3%BC for ü",
        ),
        ((*HOOK[:1], 'url = "https://hooks.example/a b"', *HOOK[2:]), "its path contains a space"),
        (('kind = "heartbeat"', 'url = "https://ping.example?ü"'), "that is not ASCII"),
        (('kind = "heartbeat"', 'url = "https://ping..example/1"'), "it has no valid host"),
        (('kind = "mqtt"', 'url = "broker.example"'), "must be mqtt://HOST"),
        ((*HOME, 'topic = "a b"'), "must be a topic without spaces, + and #"),
        ((*HOME, 'secret_env = "HOOK_SECRET"'), "secret_env: only for kind webhook"),
        ((*PHONE, 'quiet = ["22-7"]'), "quiet: '22-7': must be HH:MM-HH:MM"),
        (('kind = "notify"', 'url = "ntfy"'), "a service as Apprise writes it"),
    ],
)
def test_what_is_wrong_is_told(lines: tuple[str, ...], says: str) -> None:
    assert any(says in fault for fault in faults(*lines)), faults(*lines)


def test_spaces_around_a_url_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_URL", " https://hooks.example/in\n")
    written = 'url = " https://hooks.example/in "'
    for sink in (HOOK, (*HOOK[:1], written, *HOOK[2:])):
        assert read(*sink).sinks["office"].place("office") == "https://hooks.example/in"


def test_names_and_passwords_may_have_letters_of_any_language() -> None:
    for url in ("mqtt://ü:ß@bücher.example", "mqtt://192.0.2.1", "mqtts://[2001:db8::1]:8883"):
        assert read(HOME[0], f'url = "{url}"').sinks["office"].place("office") == url


def test_a_secret_of_a_file_is_checked_as_well(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("Hunter2-short", encoding="utf-8")
    (fault,) = faults(*HOOK[:2], f'secret_file = "{file}"')
    assert "24 to 64 bytes in base64" in fault


def test_without_rules_there_is_nothing_to_tell() -> None:
    assert "there are no rules" in faults(*HOOK, events="")[0]


def test_sinks_of_every_kind_are_read() -> None:
    assert read(*HOME, 'discovery = ""').sinks["office"].topic == "framegate"
    phone = read(*PHONE, 'quiet = ["22:00-07:00"]', "cooldown_s = 0").sinks["office"]
    assert (phone.quiet, phone.cooldown_s, phone.give_up_s) == (("22:00-07:00",), 0, None)
