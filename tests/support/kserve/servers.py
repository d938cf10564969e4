"""MLServer and Triton as they are, each in an environment of its own that is made once.

Environments lie in the user's cache; without a package index they are not made, and tests skip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from framegate.pipeline.heavy.kserve_tensors import INPUTS, OUTPUTS
from tests.support.made_once import made_once
from tests.support.own_servers import free_port
from tests.support.runs import DEADLINE_S

ROOT = Path(__file__).resolve().parents[3]
DEPLOYED = ROOT / "deploy" / "mlserver"
_TRITON_TYPES = {"BYTES": "TYPE_STRING", "INT32": "TYPE_INT32", "FP32": "TYPE_FP32"}


@dataclass
class Served:
    """A running server. http, grpc: addresses as URLs."""

    http: str
    grpc: str
    process: subprocess.Popen[bytes]


def environment_of(name: str, packages: Sequence[str]) -> Path:
    """Return a virtual environment with these packages. The test skips if it cannot be made.

    All checkouts of this user share it, so nothing but byte code is written to it later.
    """

    def make(folder: Path) -> None:
        # The pip of this environment compiles nothing: a server imports few of its packages.
        python = [sys.executable, "-m"]
        subprocess.run([*python, "venv", "--without-pip", folder], check=True)
        pip = [*python, "pip", "--python", str(folder), "install", "--no-compile"]
        pip += ["--quiet", "--disable-pip-version-check"]
        made = subprocess.run(
            [*pip, *packages], check=False, capture_output=True, text=True, encoding="utf-8"
        )
        if made.returncode:
            pytest.skip(f"{name} cannot be installed here: {made.stderr.strip()[-200:]}")

    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framegate-tests"
    return made_once(base / f"{name}-{sys.version_info.major}.{sys.version_info.minor}", make)


def _with_this_checkout(folder: Path) -> Path:
    """Return a folder for PYTHONPATH that puts this checkout, and what its Python imports, behind
    the packages of another environment: some of those are other versions.
    """
    folder.mkdir()
    behind = [str(ROOT), *filter(os.path.isdir, sys.path)]
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path += {behind!r}\n", encoding="utf-8"
    )
    return folder


@contextmanager
def mlserver(
    folder: Path,
    told: bool,
    ports: tuple[int, int] | None = None,
    before: Sequence[str] = (),
) -> Iterator[Served]:
    """deploy/mlserver on ports of its own.

    told    with the told model in the heavy pass's place
    before  what its command begins with, to run in a network namespace
    """
    environment = environment_of("mlserver-1.7.1", ["mlserver==1.7.1"])
    http, grpc = ports or (free_port(), free_port())
    shutil.copytree(DEPLOYED, folder, dirs_exist_ok=True)
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    settings |= {"http_port": http, "grpc_port": grpc, "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    model = folder / "framegate_heavy" / "model-settings.json"
    if told:
        said = json.loads(model.read_text(encoding="utf-8"))
        model.write_text(
            json.dumps(said | {"implementation": "told_runtime.ToldRuntime"}), encoding="utf-8"
        )
        shutil.copy(Path(__file__).with_name("told_runtime.py"), model.parent)
    command = [*before, str(environment / "bin" / "mlserver"), "start", str(folder)]
    variables = os.environ | {
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(_with_this_checkout(folder / "python")),
    }
    with _process(command, folder, variables) as process:
        served = Served(f"http://127.0.0.1:{http}", f"grpc://127.0.0.1:{grpc}", process)
        _wait_until_ready(served, folder, before)
        yield served


@contextmanager
def triton(folder: Path) -> Iterator[Served]:
    """Triton, as nvidia-pytriton brings it, with the told model."""
    packages = ["nvidia-pytriton==0.7.0", "numpy<2", "msgspec", "xxhash"]  # its stub is of numpy 1
    environment = environment_of("pytriton-0.7.0", packages)
    purelib = next((environment / "lib").glob("python*/site-packages"))
    bundle = purelib / "pytriton" / "tritonserver"
    python = Path(sysconfig.get_config_var("LIBDIR")) / sysconfig.get_config_var("INSTSONAME")
    if not python.exists():
        pytest.skip("Triton's Python backend needs Python as a shared library")
    shutil.copytree(bundle / "backends", folder / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = bundle / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    model = folder / "models" / "framegate_heavy"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(_triton_config(), encoding="utf-8")
    paths = f"import sys\nsys.path[:0] = {[str(ROOT), str(purelib)]!r}\n"
    text = Path(__file__).with_name("told_triton.py").read_text(encoding="utf-8")
    (model / "1" / "model.py").write_text(
        paths + text.replace("from __future__ import annotations\n", ""), encoding="utf-8"
    )
    http, grpc = free_port(), free_port()
    command = [
        str(bundle / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--allow-metrics=false",
    ]
    libraries = f"{purelib / 'nvidia_pytriton.libs'}:{python.parent}"
    with _process(command, folder, {**os.environ, "LD_LIBRARY_PATH": libraries}) as process:
        served = Served(f"http://127.0.0.1:{http}", f"grpc://127.0.0.1:{grpc}", process)
        _wait_until_ready(served, folder)
        yield served


def _triton_config() -> str:
    """Its tensors, as the protocol has them."""
    shapes = {"facts": "-1, 11", "boxes": "-1, 4"}
    lines = ['backend: "python"', "max_batch_size: 0", "instance_group [{ kind: KIND_CPU }]"]
    for side, tensors in (("input", INPUTS), ("output", OUTPUTS)):
        for name, kind in tensors.items():
            shape = shapes.get(name, "-1")
            row = f'name: "{name}", data_type: {_TRITON_TYPES[kind]}, dims: [{shape}]'
            lines.append(f"{side} [{{ {row} }}]")
    return "\n".join(lines)


@contextmanager
def _process(
    command: list[str], folder: Path, variables: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, cwd=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


_PROBE = """
import sys, time, urllib.request
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=5)
        sys.exit()
    except OSError:
        time.sleep(0.05)
sys.exit("not ready")
"""


def _wait_until_ready(served: Served, folder: Path, before: Sequence[str] = ()) -> None:
    url = f"{served.http}/v2/models/framegate_heavy/ready"
    probe = [*before, sys.executable, "-c", _PROBE, url, str(DEADLINE_S)]
    ready = subprocess.run(probe, check=False).returncode == 0
    assert ready, (folder / "server.log").read_text(encoding="utf-8")[-3000:]
