"""Where escalate asks: what `[escalate]` may say, and what is told of what it may not."""

from __future__ import annotations

import pytest

from framegate.pipeline.errors import ConfigFaults
from framegate.pipeline.queries import absent
from framegate.stages.escalate.options import EscalateOptions
from framegate.stages.escalate.places import open_place
from tests.support.own_servers import free_port

STORE = "unix:///nowhere/valkey.sock"


@pytest.mark.parametrize(
    "url",
    ["http://u:topsecret@x", "", "x:6379", "redis://u:topsecret@x:port", "redis://u:top#secret@x"],
)
def test_workers_are_at_a_redis(url: str) -> None:
    with pytest.raises(ConfigFaults, match=r"escalate\.url: it is not the URL of a Redis") as told:
        open_place(EscalateOptions(place="workers", url=url), None, STORE)
    assert "secret" not in str(told.value)


def test_what_is_allowed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAVY", "http://u:topsecret@x")
    with pytest.raises(ConfigFaults) as told:
        open_place(EscalateOptions(place="workers", url_env="HEAVY"), None, STORE)
    assert str(told.value).endswith(
        "escalate.url_env = 'HEAVY': it is not the URL of a Redis: allowed is redis://, rediss://, "
        "unix://"
    )


@pytest.mark.parametrize("url", ["redis://:p@x:6379/0", "rediss://x", "unix:///x.sock", None])
def test_others_are_taken(url: str | None) -> None:
    place = open_place(EscalateOptions(place="workers", url=url), None, STORE)
    assert place is not None
    place.close()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there_is_absent(scheme: str) -> None:
    pytest.importorskip(f"tritonclient.{scheme}", reason="the extra kserve is not installed")
    url = f"{scheme}://127.0.0.1:{free_port()}"
    place = open_place(EscalateOptions(place="kserve", url=url), None, STORE)
    assert place is not None
    told = absent(place)
    assert told is not None
    assert told.startswith(url)
    assert told.endswith("start the server with the model, or mend escalate.url")
    place.close()
