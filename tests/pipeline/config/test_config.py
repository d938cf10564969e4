"""pipeline.toml: the packaged one is whole, and all that is wrong with another is told at once."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from framegate.pipeline.config.config import Config, find_config, read_config
from framegate.pipeline.config.read_options import from_environment
from framegate.pipeline.contracts.errors import ConfigFaults
from framegate.pipeline.contracts.stage import Stage
from framegate.pipeline.system.machine import cores

ROOT = Path(__file__).parents[3]
PACKAGED = (ROOT / "pipeline.toml").read_text(encoding="utf-8")


def read(text: str = PACKAGED, **changes: Any) -> Config:
    return read_config("test.toml", text, changes)


def faults(text: str = PACKAGED, **changes: Any) -> list[str]:
    with pytest.raises(ConfigFaults) as refused:
        read(text, **changes)
    return refused.value.faults


def test_without_a_file_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(None) == ("the defaults", "")
    Path("pipeline.toml").write_text("# mine\n", encoding="utf-8")
    assert find_config(None) == ("pipeline.toml", "# mine\n")
    Path("other.toml").write_text("# other\n", encoding="utf-8")
    assert find_config(Path("other.toml")) == ("other.toml", "# other\n")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("given.toml", "this file does not exist; did you mean gives.toml?"),
        ("else", "this file does not exist$"),
        ("bytes", "not TOML: the file is not UTF-8"),
        (".", "Is a directory"),
        ("gives.toml/inside.toml", "Not a directory"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "gives.toml").touch()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    path = tmp_path / name
    with pytest.raises(ConfigFaults, match=rf"configuration {re.escape(str(path))}: {says}"):
        find_config(path)


# -- A file lies over the defaults.


def graph(config: Config) -> dict[str, str | None]:
    return {stage.name: stage.input for stage in config.stages}


SHIPPED = {
    "decode": None, "detect": "decode", "escalate": "detect", "windows": "escalate",
    "cache": "windows",
}  # fmt: skip


def test_a_file_of_one_camera_is_enough() -> None:
    config = read("[sources.entrance]\nurl = 'rtsp://camera.example/1'\n")
    assert list(config.sources) == ["entrance"]
    assert graph(config) == SHIPPED
    whole = read()
    assert (config.placement, config.store, config.live) == (
        whole.placement, whole.store, whole.live,
    )  # fmt: skip


def test_a_file_that_names_all_means_what_it_says() -> None:
    assert [(s.name, s.use, s.input, s.on_lag) for s in read().stages] == [
        (s.name, s.use, s.input, s.on_lag) for s in read("").stages
    ]
    shipped = {
        "decode": "framegate.stages.decode:Decode",
        "window": "tests.support.user_stages:Sized",
        "detect": "framegate.stages.detect:Detect",
        "cache": "framegate.stages.publish:Publish",
    }
    text, before = "", ""
    for name, path in shipped.items():
        text += f'[stages.{name}]\nuse = "{path}"\n{before}'
        before = f'input = "{name}"\n'
    text += '[placement]\ningest = ["decode", "window"]\nall = ["detect", "cache"]\n'
    config = read(text)
    assert graph(config) == {
        "decode": None, "window": "decode", "detect": "window", "cache": "detect",
    }  # fmt: skip
    assert config.placement == {"ingest": ("decode", "window"), "all": ("detect", "cache")}


def test_keys_of_a_table_that_are_not_said_are_by_default() -> None:
    config = read("[store]\nfsync = 'always'\n[stages.detect]\ndetector = 'heavy'\n")
    assert (config.store.fsync, config.store.results_keep) == ("always", 100_000)
    detect = next(stage for stage in config.stages if stage.name == "detect")
    assert (detect.use, detect.options) == (
        "framegate.stages.detect:Detect",
        {"detector": "heavy"},
    )


OWN = "use = 'framegate.pipeline.contracts.stage:Stage'\n"
WINDOW = "use = 'tests.support.user_stages:Sized'\ninput = 'decode'\n"


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (f"[stages.people]\n{OWN}", {"people": "cache"}),
        (f"[stages.people]\n{OWN}input = 'detect'\n", {"people": "detect"}),
        (f"[stages.people]\n{OWN}[stages.more]\n{OWN}input = 'people'\n",
         {"people": "cache", "more": "people"}),
        (f"[stages.extra]\n{OWN}input = 'detect'\n[stages.escalate]\ninput = 'extra'\n",
         {"extra": "detect", "escalate": "extra"}),
        (f"[stages.detect]\n{OWN}", {}),
        (f"[stages.window]\n{WINDOW}", {"window": "decode"}),
        (f"[stages.window]\n{WINDOW}[stages.detect]\ninput = 'window'\n",
         {"window": "decode", "detect": "window"}),
        ("[stages.cache]\ninput = 'detect'\n", {"escalate": "", "windows": "", "cache": "detect"}),
        ("[stages.cache]\ninput = 'decode'\n",
         {"escalate": "", "windows": "", "detect": "", "cache": "decode"}),
        (f"[stages.cache]\ninput = 'detect'\n[stages.side]\n{OWN}input = 'escalate'\n",
         {"windows": "", "cache": "detect", "side": "escalate"}),
        ("[stages.publish]\nuse = 'framegate.stages.publish:Publish'\n",
         {"cache": "", "publish": "windows"}),
        ("[stages.publish]\nuse = 'framegate.stages.publish:Publish'\ninput = 'detect'\n"
         f"[stages.people]\n{OWN}",
         {"cache": "", "windows": "", "escalate": "", "publish": "detect", "people": "publish"}),
    ],
)  # fmt: skip
def test_stages_over_the_shipped_graph(text: str, changed: dict[str, str]) -> None:
    """changed: what a stage reads; "" where it is left out."""
    assert graph(read(text)) == {k: v for k, v in (SHIPPED | changed).items() if v != ""}


def test_a_stage_that_looks_at_pixels_reads_a_stage_that_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    looking = "from framegate import Stage\nclass Mean(Stage):\n    pixels = 1\n"
    (tmp_path / "seeing_stages.py").write_text(looking, encoding="utf-8")
    config = read("[stages.mean]\nuse = 'seeing_stages:Mean'\n")
    assert graph(config) == SHIPPED | {"mean": "windows"}


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("[workers]\nshards = 0\n", {}),
        ("[placement]\nlook = ['detect']\n", {"look": ("detect",), "infer": ()}),
        ("[placement]\ninfer = ['detect', 'people']\n", {"infer": ("detect", "people")}),
        ("[placement]\nall = ['decode', 'detect', 'escalate', 'windows', 'cache']\n",
         {"ingest": (), "infer": (), "publish": (),
          "all": ("decode", "detect", "escalate", "windows", "cache")}),
        (f"[workers]\nshards = 0\n[stages.window]\n{WINDOW}"
         "[stages.detect]\ninput = 'window'\n", {}),
        ("[workers]\nshards = 0\n[stages.cache]\ninput = 'detect'\n", {"publish": ("cache",)}),
    ],
)  # fmt: skip
def test_what_a_file_does_not_place_is_placed_by_stage_where_there_are_no_shards(
    text: str, placed: dict[str, tuple[str, ...]]
) -> None:
    """placed: stages of a worker; none where it is not there."""
    people = f"[stages.people]\n{OWN}" if "people" in text else ""
    usual = read("[workers]\nshards = 0\n").placement
    assert read(people + text).placement == {k: v for k, v in (usual | placed).items() if v}


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("", {"shard": {*SHIPPED}}),
        (f"[stages.people]\n{OWN}", {"shard": {*SHIPPED}}),  # beside it: a process of its own
        (f"[stages.extra]\n{OWN}input = 'detect'\n[stages.escalate]\ninput = 'extra'\n",
         {"shard": {*SHIPPED, "extra"}}),
        ("[stages.cache]\ninput = 'detect'\n",
         {"shard": {"decode", "detect", "cache"}}),
        ("[placement]\nlook = ['detect']\n", {"shard": {"decode"}, "look": {"detect"}}),
        ("[placement]\ningest = ['decode']\n",
         {"shard": {"detect", "escalate", "windows", "cache"}, "ingest": {"decode"}}),
        (f"[stages.window]\n{WINDOW}[stages.detect]\ninput = 'window'\n",
         {"shard": {*SHIPPED, "window"}}),
        ("[placement]\nshard = ['detect']\n", {"shard": {"detect"}}),
    ],
)  # fmt: skip
def test_shards_host_the_main_path_but_what_a_file_places(
    text: str, placed: dict[str, set[str]]
) -> None:
    placement = read(f"[workers]\nshards = 2\n{text}").placement
    assert {worker: set(names) for worker, names in placement.items()} == placed


@pytest.mark.parametrize(
    ("text", "shards", "worker"),
    [
        ("", cores(), "shard"),
        (f"[stages.people]\n{OWN}[placement]\nmine = ['people']\n", cores(), "shard"),
        ("[placement]\nlook = ['detect']\n", 0, "ingest"),
        ("[workers]\nshards = 0\n", 0, "ingest"),
        ("[workers]\nshards = 3\n", 3, "shard"),
    ],
)
def test_without_a_word_there_is_a_shard_for_each_core(text: str, shards: int, worker: str) -> None:
    """worker: that hosts decode."""
    config = read(text)
    assert config.workers.shards == shards
    assert "decode" in config.placement[worker]


def test_shards_must_have_something_to_host() -> None:
    all_placed = "[placement]\nall = ['decode', 'detect', 'escalate', 'windows', 'cache']\n"
    [fault] = faults(f"[workers]\nshards = 2\n{all_placed}")
    assert fault == (
        "test.toml: workers.shards = 2: [placement] names all stages, so none is left for the "
        "shards; remove this key, or add shard = [...] to [placement]"
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[gate]\nobject_age = 2", "gate.object_age: unknown key; known keys are changes_bytes, "),
        ("[gate]\nobject_age = 2", "; did you mean object_age_s?"),
        ("[stages.detect]\nobject_age_s = 2", "object_age_s: unknown key; it is a key of [gate]"),
        ("[gate]\nmode = 'crop'", 'must be "off", "frames" or "crops"; did you mean crops?'),
        ("[source.a]\nurl = 'x'", "source: unknown table; known tables are store, "),
        ("[source.a]\nurl = 'x'", "; did you mean sources?"),
        ("[detect]\nclasses = ['car']", "; did you mean stages.detect?"),
        ("[rules.a]\nwhen = 'inside'", "; did you mean events.rules?"),
        ("[stages.a]\nuse = '__main__:Count'", "write my_stages:Count"),
        (
            "[stages.detct]\nmin_score = 0.5",
            "stages.detct.use: missing; a stage of your own needs ",
        ),
        ("[stages.detct]\nmin_score = 0.5", "; did you mean detect?"),
        (f"[stages.a]\n{OWN}input = 'cash'", "there is no such stage; stages are a, cache, "),
        (f"[stages.a]\n{OWN}input = 'cash'", "; did you mean cache?"),
        ("[placement]\na = ['decoed']", "there is no such stage; did you mean decode?"),
        ("[stages.a]\nuse = 'framegate.stages.publish:Publis'", "; did you mean Publish?"),
        ("[stages.a]\nuse = 'framegate.stages.publis:Publish'", "; did you mean publish?"),
        ("[stages.a]\nuse = 'no.such:X'\n[gatee]", "gatee: unknown table"),
        ("[stages.detect]\nclasses = ['persn']", "; did you mean person?"),
        ("[models.sources.a]\nmodle = 'light'", "; did you mean model?"),
        ("[a]\n[b]\n[a]", "(at line 3, column 3): a file can have [a] once"),
        ("[a]\nb = 1\nb = 2", "a table can have a key once"),
        ("[sources.a]\nurl = clip.mp4", "(at line 2, column 7): a string needs quotes"),
    ],
)
def test_what_was_meant(text: str, fault: str) -> None:
    assert [found for found in faults(text) if fault in found], faults(text)


def test_every_example_in_the_default_file_is_toml() -> None:
    """An example becomes a setting when its "#" is removed."""
    lines = [line for line in PACKAGED.splitlines() if not line.startswith("# ")]
    examples = [re.sub(r"^#(?=[\[\w])", "", line) for line in lines]
    tables = tomllib.loads("\n".join(examples))
    assert tables["sources"]["entrance"]["url"] == "clips/entrance.mp4"
    assert tables["events"]["rules"]["visitor"]["after"] == {"rule": "arrival", "within_s": 10.0}


def test_the_packaged_file_is_whole() -> None:
    config = read()
    assert [stage.name for stage in config.stages] == [
        "decode", "detect", "escalate", "windows", "cache",
    ]  # fmt: skip
    assert config.placement == {"shard": tuple(stage.name for stage in config.stages)}
    assert (config.store.url, config.credit.file, config.credit.live) == ("embedded", 32, 4)


def test_changes_go_over_the_file() -> None:
    config = read(
        sources={"a": {"url": "a.mp4", "pace": "realtime"}}, stages={"detect": {"min_score": 0.5}}
    )
    assert config.sources["a"].pace == "realtime"
    detect = next(stage for stage in config.stages if stage.name == "detect")
    tables = ("gate", "cache", "models")
    own = {key: value for key, value in detect.options.items() if key not in tables}
    assert own == {"detector": "light", "device": "CPU", "min_score": 0.5}


def test_a_table_that_a_stage_owns() -> None:
    """[gate] goes to detect, with the command line's changes; its faults name its own keys."""
    config = read(gate={"mode": "off", "masks": {"a": [[[0, 0], [9, 0], [9, 9]]]}})
    detect = next(stage for stage in config.stages if stage.name == "detect")
    gate = detect.options["gate"]
    assert (gate["mode"], gate["least"]) == ("off", 10.0)
    wrong = {"mode": "on", "masks": {"a": [[[0, 0], [9, 0]]]}, "levels": 1}
    assert [fault.split(": ")[1] for fault in faults(PACKAGED, gate=wrong)] == [
        "gate.levels",
        "gate.mode = 'on'",
        "gate.masks = {'a'",
    ]
    text = PACKAGED.replace("[stages.detect]\n", "[stages.detect]\ngate = 1\n")
    assert "[gate] is a table at the top level" in faults(text)[0]


def test_where_a_fault_was_said() -> None:
    text = PACKAGED.replace('detector = "light"', 'detector = "../best"')
    assert [fault[:40] for fault in faults(text, stages={"detect": {"min_score": 7}})] == [
        "test.toml: stages.detect.detector = '../",
        "command line: stages.detect.min_score = ",
    ]


def test_all_faults_at_once() -> None:
    text = (
        PACKAGED.replace("everysec", "never", 2) + f"\n[stages.window]\n{WINDOW}size = 0\n"
        "[clouds]\n[sources.Door]\nurl = 'x'\n[sources.two]\nurl = 'x'\nurl_env = 'HOME'\n"
        "[sources.none]\n[sources.gone]\nurl_env = 'FRAMEGATE_NO_SUCH'\n"
    )
    found = faults(text.replace('input = "escalate"', 'input = "nowhere"'))
    for part in (
        "clouds: unknown table; known tables are store, ",
        'store.fsync = \'never\': must be "everysec" or "always"',
        "sources.Door: a name is a lower-case letter",
        "sources.two: must have either url or url_env",
        "sources.none: must have either url or url_env",
        "sources.gone.url_env = 'FRAMEGATE_NO_SUCH': this environment variable is not set",
        "stages.window.size = 0: must be a whole number, 1 to 512",
    ):
        assert [fault for fault in found if part in fault], (part, found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("store = 5", "store = 5: must be a table"),
        ("[sources]\na = 'a.mp4'", "sources.a = 'a.mp4': must be a table with url or url_env"),
        ("[stages]\na = 'x:Y'", "stages.a = 'x:Y': must be a table"),
        ("[placement]\na = 'decode'", "placement.a = 'decode': must be a list of stage names"),
        ("[stages.a]\ninput = 'cache'", "stages.a.use: missing; a stage of your own needs use ="),
        ("[stages.a]\nuse = 'json'", "stages.a.use = 'json': "),
        ("[stages.a]\nuse = 'json:No'", "must be package.module:Class"),
        ("[stages.a]\nuse = 'stages.detect:Detect'", "it is framegate.stages.detect:Detect now"),
        (
            "[stages.window]\ninput = ['decode', 'detect']",
            "stages.window.input = ['decode', 'detect']: must be one stage",
        ),
        ("[stages.a]\nuse = 'json:JSONDecoder'", "not a subclass of framegate.Stage"),
        ("[stages.a]\nuse = 'no.such:X'", "stages.a.use = 'no.such:X': No module named 'no'"),
        ("[store]\nurl = 'localhost:6379'", 'store.url: must be "embedded", or a URL with '),
        ("[store]\nurl_env = 'FRAMEGATE_NO_SUCH'", "store.url_env = 'FRAMEGATE_NO_SUCH': "),
        ("[promise]", "promise.measure = 'counts': with escalate.place = 'off' no model"),
        ("[http]\nlisten = '8686'", "http.listen = '8686': must be HOST:PORT, such as "),
        ("[http]\nlisten = 'a:70000'", "http.listen = 'a:70000': must be HOST:PORT"),
        ("[store\n", "not TOML: "),
    ],
)
def test_a_fault(text: str, fault: str) -> None:
    assert [found for found in faults(text) if fault in found]


def test_a_broken_module_is_a_fault_of_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_stages.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = faults(PACKAGED + '\n[stages.a]\nuse = "broken_stages:A"\ninput = "cache"\n')
    assert len(found) == 1
    assert "stages.a.use = 'broken_stages:A': ZeroDivisionError" in found[0]


def test_passwords_do_not_come_back() -> None:
    """Neither a store's nor a source's, whatever else is wrong."""
    text = "[store]\nurl = 'user:hunter2@host'\n[sources.A]\nurl = 'rtsp://u:hunter2@cam/'\n"
    assert "hunter2" not in "\n".join(faults(text))


def test_secrets_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAM_URL", "rtsp://u:p@cam/")
    assert from_environment("CAM_URL", "sources.a.url_env") == "rtsp://u:p@cam/"
    monkeypatch.delenv("CAM_URL")
    with pytest.raises(ConfigFaults, match=r"sources\.a\.url_env = 'CAM_URL'"):
        from_environment("CAM_URL", "sources.a.url_env")


def test_what_is_said_of_detection_goes_to_the_stages_that_it_is_about() -> None:
    """Whatever they are called, and whoever derived their classes."""
    text = PACKAGED.replace("[stages.detect]", "[stages.looker]").replace('"detect"', '"looker"')
    said = {"classes": ["car"], "min_score": 0.5}
    config = read_config("test.toml", text, {"log": {"level": "DEBUG"}}, said)
    options = {stage.name: stage.options for stage in config.stages}
    assert {**options["looker"], **said} == options["looker"]
    assert options["escalate"]["classes"] == ["car"]
    assert "min_score" not in options["escalate"]
    assert "classes" not in options["cache"]
    assert config.log.level == "DEBUG"
    assert [stage.name for stage in config.stages if stage.uses_models] == ["looker"]
    assert [stage.name for stage in config.stages if stage.promises] == ["escalate"]


def test_what_is_said_of_detection_needs_a_stage_that_uses_models() -> None:
    text = PACKAGED.replace(
        "framegate.stages.detect:Detect", "framegate.pipeline.contracts.stage:Stage"
    )
    with pytest.raises(ConfigFaults, match="min_score: no stage of this graph uses models"):
        read_config("test.toml", text, None, {"min_score": 0.5})


@pytest.mark.parametrize("gate", ['mode = "off"', "least = 0\nmost = 0"])
def test_lazy_decoding_needs_a_gate(gate: str) -> None:
    text = f"[gate]\n{gate}\n"
    assert faults(text, live={"decode": "lazy"}) == [
        'command line: live.decode = "lazy": the network looks at every frame (gate.mode = "off", '
        'or gate.most = 0), so each must be decoded; use decode = "always", or another gate.mode'
    ]
    read("[gate]\nleast = 4", live={"decode": "lazy"})


class Blind(Stage):
    """A detector of a user that reads pixels."""

    pixels = 1


class Patient(Blind):
    """The same, with an output for frames that have none."""

    takes_undecoded = True


@pytest.mark.parametrize(("detector", "is_refused"), [("Blind", True), ("Patient", False)])
def test_lazy_decoding_needs_a_detector_that_takes_frames_without_pixels(
    detector: str, is_refused: bool
) -> None:
    used = f"{__name__}:{detector}"
    text = f'[stages.detect]\nuse = "{used}"\n'
    read(text, live={"decode": "always"})
    if is_refused:
        assert faults(text, live={"decode": "lazy"}) == [
            'command line: live.decode = "lazy": stages.detect reads pixels, and gives nothing for '
            'frames that are not decoded; use decode = "always", or a stage with '
            "takes_undecoded = True"
        ]
    else:
        read(text, live={"decode": "lazy"})
