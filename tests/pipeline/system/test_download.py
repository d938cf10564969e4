"""`framegate models add URL`: a file of a real server, with the digest that was said, or none."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from framegate.cli.main import main
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.system.download import download
from tests.support.tiny_onnx import detector
from tests.support.web_server import serving

MODEL = b"a model" * 1000
SHA256 = hashlib.sha256(MODEL).hexdigest()


def told(what: str, done: int = 0, total: int | None = None, more: str = "") -> None:
    assert (what, more) == ("MB of the model", "")
    assert total is None or done <= total


async def whole(_: Request) -> Response:
    return Response(MODEL)


async def without_length(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(MODEL), 700):
            yield MODEL[at : at + 700]

    return StreamingResponse(parts())


async def elsewhere(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    routes = [
        Route("/models/yolox.onnx", whole),
        Route("/stream/m.onnx", without_length),
        Route("/elsewhere", elsewhere),
    ]
    with serving(routes) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/yolox.onnx", "yolox.onnx"),
        ("/models/yolox.onnx?token=abc", "yolox.onnx"),
        ("/stream/m.onnx", "m.onnx"),
        ("/elsewhere?to=/models/yolox.onnx", "elsewhere"),
    ],
)
def test_a_file_comes_whole_and_has_its_digest(
    server: str, path: str, name: str, tmp_path: Path
) -> None:
    found = download(server + path, SHA256.upper(), tmp_path, told)
    assert (found.name, found.read_bytes()) == (name, MODEL)


@pytest.mark.parametrize(
    ("path", "most", "sha256", "why"),
    [
        ("/models/yolox.onnx", 1 << 20, "0" * 64, f"the sha256 is {SHA256}, expected {'0' * 64}"),
        ("/models/yolox.onnx", 6999, SHA256, "7000 bytes; at most 6999 are allowed"),
        ("/stream/m.onnx", 6999, SHA256, "more than 6999 bytes"),
        ("/models/none.onnx", 1 << 20, SHA256, "Not Found"),
        ("/elsewhere?to=ftp://127.0.0.1/m", 1 << 20, SHA256, "redirects to a URL that is ne"),
        ("/elsewhere?to=file:///etc/passwd", 1 << 20, SHA256, "is not allowed"),
    ],
)
def test_what_is_not_what_was_said_leaves_nothing(
    server: str, path: str, most: int, sha256: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigFaults, match=r"127\.0\.0\.1") as refused:
        download(server + path, sha256, tmp_path, told, most)
    assert why in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_it_takes_no_longer_than_is_allowed(server: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match="not done in time"):
        download(f"{server}/stream/m.onnx", SHA256, tmp_path, told, most_s=0.0)


def test_no_secret_of_the_url_is_told(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/models/m.onnx?token=Vf7hTq2LpX9sKd3w"
    with pytest.raises(ConfigFaults) as refused:
        download(url, SHA256, tmp_path, told)
    assert "Vf7hTq2LpX9sKd3w" not in str(refused.value)


def test_the_command_adds_what_it_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = detector()
    digest = hashlib.sha256(data).hexdigest()

    async def model(_: Request) -> Response:
        return Response(data)

    registry = str(tmp_path / "registry")
    with serving([Route("/yard.onnx", model)]) as port:
        url = f"http://127.0.0.1:{port}/yard.onnx"
        add = ["models", "add", url, "--name", "yard", "--registry", registry]
        assert main(add) == 2
        assert "a URL needs --sha256 HEX" in capsys.readouterr().err
        assert main([*add, "--sha256", "abc"]) == 2
        assert "the digest must have 64 hexadecimal digits" in capsys.readouterr().err
        assert main([*add, "--sha256", digest, "--classes", "a,b,c"]) == 0
    assert "added: yard@1" in capsys.readouterr().out
    assert main(["models", "show", "yard", "--registry", registry]) == 0
    assert f"{url} (sha256 {digest})" in capsys.readouterr().out


def test_a_file_of_ones_own_may_be_checked_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(MODEL)
    assert main(["models", "add", str(file), "--name", "m", "--sha256", "0" * 64]) == 2
    assert f"the sha256 is {SHA256}, expected {'0' * 64}" in capsys.readouterr().err
