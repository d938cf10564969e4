"""Each example does what its line in examples/README.md says, against real services.

One run has the line, the stage and a second host; what it leaves is then loaded into DuckDB.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from framegate import subscribe
from framegate.cli.main import parser
from framegate.pipeline.config.config import read_config
from tests.support import brokers, footage
from tests.support.commands import Command
from tests.support.own_servers import free_port
from tests.support.phones import Phone
from tests.support.runs import DEADLINE_S, environment, wait_until

pytestmark = pytest.mark.whole_run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DEMO = ROOT / "framegate" / "cli" / "demo.mp4"


def start(name: str, *words: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """Start an example as its README says."""
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    interpreter = "sh" if name.endswith(".sh") else sys.executable
    return subprocess.Popen(
        [interpreter, str(EXAMPLES / name), *words],
        cwd=cwd,
        env={**environment(), "PATH": commands, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """Return what an example printed, once it has ended."""
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return out


@dataclass(frozen=True)
class Left:
    """What the shared run left.

    folder       its data folder
    messages     titles and texts that came to the phone
    second_host  lines that the second host printed
    """

    folder: Path
    messages: list[tuple[str, str]]
    second_host: list[str]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = tmp_path_factory.mktemp("run")
    opening = footage.opening(DEMO, folder / "opening.mp4", 60)
    # Ten minutes at real time: the run lasts until it is interrupted below.
    footage.repeat(opening, folder / "street.mp4", 125)
    configurations = [EXAMPLES / "line_to_phone.toml", EXAMPLES / "longest_stay.toml"]
    (folder / "pipeline.toml").write_text(
        "\n".join(path.read_text(encoding="utf-8") for path in configurations), encoding="utf-8"
    )
    shutil.copy(EXAMPLES / "longest_stay.py", folder)
    password, address = secrets.token_hex(16), f"127.0.0.1:{free_port()}"
    (folder / "password").write_text(password, encoding="utf-8")
    (folder / "password").chmod(0o600)
    phone = Phone()
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("PHONE_URL", phone.url())
        words = ("street.mp4", "-d", "data", "--pace", "realtime", "--listen", address)
        run = Command(folder, "run", *words, "--listen-password-file", "password")
    try:
        run.says("running")
        url = f"redis://viewer:{password}@{address}"
        reader = start("second_host.py", cwd=folder, STORE_URL=url)
        assert reader.stdout is not None
        lines = [reader.stdout.readline() for _ in range(50)]
        reader.kill()
        reader.communicate()
        wait_until("the phone has a message", phone.titles)
        stays = subscribe(folder / "data", start="earliest", stage="longest_stay")
        with stays:
            next(stays)
        run.interrupt()
        run.wait()
    finally:
        run.kill()
        phone.shutdown()
        phone.server_close()
    messages = [(message["title"], message["message"]) for message in phone.came]
    return Left(folder / "data", messages, lines)


def test_a_line_sends_a_message_to_a_phone(left: Left) -> None:
    title, text = left.messages[0]
    assert title == "arrival at street"
    assert text.startswith("car")


def test_a_second_host_reads_every_result(left: Left) -> None:
    assert [line.split()[1] for line in left.second_host] == [f"1-{n}" for n in range(50)]
    assert all(line.split()[2:].count("car") >= 2 for line in left.second_host)


def test_the_stage_reports_each_long_stay_once(left: Left) -> None:
    with subscribe(left.folder, start="earliest", stage="longest_stay", until_end=True) as outputs:
        reports = [report for output in outputs for report in output.output]
    tracks = [report["track"] for report in reports]
    assert len(tracks) == len(set(tracks)) >= 1
    assert all(report["label"] == "car" for report in reports)
    assert all(report["seconds"] > 2.0 for report in reports)


def test_duckdb_has_a_row_for_each_object(left: Left, tmp_path: Path) -> None:
    import duckdb  # slow to load

    shown = output_of(
        start("results_to_duckdb.py", str(left.folder), "objects.duckdb", cwd=tmp_path)
    )
    assert re.search(r"│ street\s+│ car ", shown)
    with subscribe(left.folder, start="earliest", until_end=True) as results:
        count = sum(len(result.objects) for result in results)
    with duckdb.connect(str(tmp_path / "objects.duckdb")) as database:
        assert database.sql("select count(*) from objects").fetchall() == [(count,)]


@pytest.mark.skipif(brokers.ABSENT, reason="needs Debian's mosquitto")
def test_counts_are_published_when_they_change(tmp_path: Path) -> None:
    clip = footage.opening(DEMO, tmp_path / "street.mp4", 30)
    broker = brokers.Broker(tmp_path / "broker")
    broker.start()
    try:
        with broker.reader("cameras/#") as reader:
            words = (str(clip), "127.0.0.1", "--port", str(broker.port), "--label", "car")
            user = ("--user", brokers.USER)
            password = {"MQTT_PASSWORD": brokers.PASSWORD}
            output_of(start("count_people_to_mqtt.py", *words, *user, cwd=tmp_path, **password))
            wait_until("the last count came", lambda: reader.last)
            came = list(reader.came.queue)
    finally:
        broker.stop()
    assert {topic for topic, _ in came} == {"cameras/entrance/car"}
    counts = [int(payload) for _, payload in came]
    assert max(counts) >= 2, "two cars are parked"
    assert all(before != after for before, after in itertools.pairwise(counts))


def test_your_own_model_finds_cars(tmp_path: Path) -> None:
    clip = footage.opening(DEMO, tmp_path / "street.mp4", 5)
    weights = ROOT / "models" / "weights" / "nanodet-plus.xml"
    options = re.search(
        r"--classes coco.*?(?=\n```)", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.S
    )
    assert options is not None
    words = options[0].replace("\\\n", " ").split()
    registry = {"XDG_DATA_HOME": str(tmp_path / "share")}
    out = output_of(
        start("custom_model.sh", str(weights), str(clip), *words, cwd=tmp_path, **registry)
    )
    lines = [line for line in out.splitlines() if line.startswith("{")]
    results: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert len(results) == 5
    assert all(result["models"][0].startswith("mine") for result in results)
    labels = [[item["label"] for item in result["objects"]] for result in results]
    assert all(found.count("car") >= 2 for found in labels), "two cars are parked"
    assert (tmp_path / "look.png").stat().st_size > 0


def test_the_commands_of_the_table_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHONE_URL", "ntfy://my-own-topic")
    monkeypatch.chdir(ROOT)
    commands = re.findall(
        r"\| `(.*)` \|$", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(commands) == 6
    for command in commands:
        words = shlex.split(command)
        while "=" in words[0]:
            name, value = words.pop(0).split("=", 1)
            if name == "PYTHONPATH":
                monkeypatch.syspath_prepend(value)
        if words[0] == "framegate":
            options = parser().parse_args(words[1:])
            read_config(str(options.config), Path(options.config).read_text(encoding="utf-8"))
        else:
            assert words[0] in ("python", "sh")
            assert (ROOT / words[1]).is_file()


def test_each_example_is_in_the_table_and_short() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in filter(Path.is_file, EXAMPLES.iterdir()):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path
        assert path.name == "README.md" or f"({path.name})" in table
