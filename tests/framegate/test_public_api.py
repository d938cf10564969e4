"""What a program of a user's does with Framegate: nothing else of it is imported here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import framegate
from framegate import Context, Item, NoState, Object, Result, Stage, errors, run, subscribe, testing

PUBLIC = [
    "WAITS", "Context", "End", "Form", "Frame", "Item", "LiveSource", "NoOptions",
    "NoState", "Object", "Output", "PlaneRef", "Position", "Request", "Result", "RingRef", "Run",
    "Source", "Stage", "Subscription", "errors", "from_environment", "run", "subscribe", "testing",
]  # fmt: skip
HEAVY = {"redis", "hiredis", "numpy", "cv2", "openvino", "av", "scipy"}
FRAMES = 12
LONG = 2000  # frames that keep a run busy while it is looked at
STAGE = '''
from framegate import Result, Stage

class Count(Stage):
    """Writes down each frame that it saw."""

    def each(self, item, state):
        with (self.context.folder / "seen").open("a") as file:
            print(item.position, item.output_of(self.context.before, Result).source, file=file)
        return None, state
'''


class Seen(msgspec.Struct, frozen=True):
    """People in view."""

    people: int = 0


class People(Stage[Seen]):
    """Gives how many people are in view, when that changes."""

    State = Seen

    def each(self, item: Item, state: Seen) -> tuple[dict[str, int] | None, Seen]:
        objects = item.output_of(self.context.before, Result).objects
        people = sum(found.label == "person" for found in objects)
        return None if people == state.people else {"people": people}, Seen(people)


class Brightness(Stage[NoState]):
    """Gives the mean of a frame's luma."""

    pixels = 1
    batch = 4

    def each(self, item: Item, state: NoState) -> tuple[float, NoState]:
        form = item.record.form
        with self.context.pixels(item) as pixels:
            luma = np.frombuffer(pixels, np.uint8, form.width * form.height)
            return float(luma.mean()), state


def video(path: Path, frames: int = FRAMES) -> Path:
    """Write a clip of grey frames, each a little brighter, in the simplest format there is."""
    pictures = [np.full(64 * 48 * 3 // 2, 128, np.uint8) for _ in range(frames)]
    for number, picture in enumerate(pictures):
        picture[: 64 * 48] = 50 + number % 150
    parts = [b"FRAME\n" + picture.tobytes() for picture in pictures]
    path.write_bytes(b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420mpeg2\n" + b"".join(parts))
    return path


def parents() -> dict[str, str]:
    """Map each process to its parent."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = place.read_text(encoding="utf-8").partition(" (")
            found[pid] = rest.rpartition(") ")[2].split()[1]
        except OSError:
            continue
    return found


def children() -> set[str]:
    """Name the processes that descend from this one."""
    found, more, there = {str(os.getpid())}, True, parents()
    while more:
        new = {pid for pid, parent in there.items() if parent in found} - found
        found, more = found | new, bool(new)
    return found - {str(os.getpid())}


def is_there(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video(tmp_path_factory.mktemp("clips") / "grey.y4m")


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Changes of the configuration for a quick run, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = children()
    yield {"log": {"level": "WARNING"}, "gate": {"mode": "off"}}
    assert not children() - before, "a run left processes behind"


class TestNames:
    def test_what_is_public_is_this_and_all_of_it_is_there(self) -> None:
        assert sorted(framegate.__all__) == sorted(PUBLIC)
        assert all(getattr(framegate, name).__doc__ for name in PUBLIC)
        assert set(PUBLIC) <= set(dir(framegate))

    def test_what_is_not_there_is_said_as_python_says_it(self) -> None:
        with pytest.raises(AttributeError, match="module 'framegate' has no attribute 'nothing'"):
            framegate.nothing  # type: ignore[attr-defined]  # noqa: B018

    def test_errors_are_of_one_family(self) -> None:
        kinds = [getattr(errors, name) for name in errors.__all__ if name != "Exit"]
        assert all(issubclass(kind, errors.FramegateError) for kind in kinds)

    @pytest.mark.parametrize(
        ("code", "unloaded"),
        [
            ("import framegate", {*HEAVY, "msgspec", "asyncio"}),
            ("from framegate import Stage, Item, Context, Result, Object", HEAVY),
            ("from framegate import Source, Frame, Form, Request", HEAVY),
            ("from framegate import errors", HEAVY),
            ("from framegate import subscribe, run", HEAVY - {"redis", "hiredis"}),
        ],
    )
    def test_only_what_is_needed_is_loaded(self, code: str, unloaded: set[str]) -> None:
        code = f"import sys; {code}; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert not unloaded & set(loaded.stdout.decode().split())


class TestRun:
    @pytest.mark.whole_run
    def test_results_of_a_clip_and_a_stage_of_ones_own(
        self, clip: Path, quiet: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "my_stages.py").write_text(STAGE, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path / "modules")
        count = {"use": "my_stages:Count", "input": "cache", "on_lag": "wait"}
        changes = {**quiet, "stages": {"count": count}}
        with run({"grey": clip}, changes=changes, folder="data") as running:
            assert (running.sources, running.folder) == (("grey",), tmp_path / "data")
            assert running.exit is None
            results = list(running)
            with subscribe(running.store, start="earliest", until_end=True) as again:
                assert list(again) == results
            with subscribe("data", start="earliest", until_end=True) as again:
                assert next(again) == results[0]
        assert [str(r.position) for r in results] == [f"1-{n}" for n in range(FRAMES)]
        assert all(isinstance(r, Result) and (r.width, r.height) == (64, 48) for r in results)
        assert running.ends["grey"].frames == FRAMES
        assert running.exit is errors.Exit.DONE
        seen = (tmp_path / "data" / "seen").read_text(encoding="utf-8").splitlines()
        assert seen == [f"1-{n} grey" for n in range(FRAMES)]

        with run([], folder="data", resume=True, changes=changes) as resumed:
            assert [str(r.position) for r in resumed] == [str(r.position) for r in results]

    @pytest.mark.whole_run
    def test_an_exception_in_the_block_is_the_programs_and_ends_the_run(
        self, tmp_path: Path, quiet: dict[str, Any]
    ) -> None:
        long = video(tmp_path / "long.y4m", LONG)
        running, begun = run(long, changes=quiet), set[str]()

        def fails() -> None:
            with running:
                next(running)
                begun.update(children())
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fails()
        assert len(begun) >= 3, "supervisor, store and worker"
        assert not any(is_there(pid) for pid in begun)
        assert running.exit is errors.Exit.DONE
        assert not running.folder.exists()

    @pytest.mark.whole_run
    def test_a_run_that_dies_is_an_error_of_who_reads_it(
        self, clip: Path, quiet: dict[str, Any]
    ) -> None:
        running, before = run(clip, changes=quiet), children()
        with running:
            (supervisor,) = {p for p, of in parents().items() if of == str(os.getpid())} - before
            os.kill(int(supervisor), signal.SIGKILL)
            with pytest.raises(errors.RunEnded, match="exit code 1"):
                list(running)
        assert running.exit is errors.Exit.SOURCE_FAILED

    def test_faults_of_configuration_and_sources_are_told_together_at_the_beginning(
        self, clip: Path, quiet: dict[str, Any]
    ) -> None:
        changes = {**quiet, "credit": {"file": 0}, "stages": {"cache": {"use": "nowhere:Stage"}}}
        with pytest.raises(errors.ConfigFaults) as refused, run(clip, changes=changes):
            raise AssertionError("it began")
        assert len(refused.value.faults) == 2
        assert refused.value.exit is errors.Exit.USAGE

    def test_a_change_that_is_no_table_is_refused(self, clip: Path, quiet: dict[str, Any]) -> None:
        changes = {**quiet, "gate": "off"}
        message = "^arguments: gate = 'off': must be a table$"
        with pytest.raises(errors.ConfigFaults, match=message), run(clip, changes=changes):
            raise AssertionError("it began")

    @pytest.mark.parametrize("arguments", [{}, {"folder": "empty", "resume": True}])
    def test_a_run_without_sources_is_refused(
        self, quiet: dict[str, Any], arguments: dict[str, Any]
    ) -> None:
        Path("empty").mkdir()
        with (
            pytest.raises(errors.ConfigFaults, match="no source; pass one"),
            run({}, changes=quiet, **arguments),
        ):
            raise AssertionError("it began")

    def test_faults_name_arguments_and_no_options_of_the_command_line(
        self, clip: Path, quiet: dict[str, Any]
    ) -> None:
        wrong = {**quiet, "gate": {"mode": "of"}}
        with (
            pytest.raises(errors.ConfigFaults, match=r"^arguments: gate\.mode"),
            run(clip, None, wrong),
        ):
            raise AssertionError("it began")
        with run({"grey": clip}, changes=quiet, folder="data"):
            pass
        again = run({"grey": clip}, changes=quiet, folder="data")
        refusal = (
            "the run did not start: .*: add resume=True to continue it, or select another folder$"
        )
        with pytest.raises(errors.RunEnded, match=refusal), again:
            raise AssertionError("it began")

    @pytest.mark.whole_run
    def test_the_log_names_no_keys(
        self, clip: Path, quiet: dict[str, Any], capfd: pytest.CaptureFixture[str]
    ) -> None:
        with run({"grey": clip}, changes={**quiet, "log": {"level": "INFO"}}):
            pass
        log = capfd.readouterr().err
        assert "finishing decoded frames" in log
        assert "Ctrl-C" not in log

    @pytest.mark.whole_run
    def test_a_run_whose_program_is_killed_dies_with_it(
        self, tmp_path: Path, quiet: dict[str, Any]
    ) -> None:
        long = video(tmp_path / "long.y4m", LONG)
        code = (
            "import framegate, sys\n"
            f"with framegate.run({str(long)!r}, changes={quiet!r}) as running:\n"
            "    next(running)\n"
            "    print(running.folder, flush=True)\n"
            "    sys.stdin.read()\n"
        )
        words = [sys.executable, "-c", code]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            words, stdin=pipe, stdout=pipe, text=True, encoding="utf-8"
        ) as program:
            assert program.stdout is not None
            folder = Path(program.stdout.readline().strip())
            begun = children() - {str(program.pid)}
            program.kill()
        assert len(begun) >= 3, "supervisor, store and worker"
        until(lambda: not any(is_there(pid) for pid in begun))
        until(lambda: not folder.exists())

    def test_a_wrong_pace_is_refused(self) -> None:
        with pytest.raises(ValueError, match="pace = 'slow': it must be"):
            run("clip.mp4", pace="slow")  # type: ignore[arg-type]

    def test_a_run_is_resumed_in_its_folder(self) -> None:
        with pytest.raises(ValueError, match="give the folder of the run to continue"):
            run([], resume=True)

    def test_a_run_gives_results_in_its_block_only(self, clip: Path) -> None:
        with pytest.raises(RuntimeError, match="in its `with` block only"):
            next(run(clip))


def until(holds: Any, most_s: float = 300.0) -> None:
    """Poll until it holds."""
    end = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


class TestSubscribe:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"sources": "door"}, r"sources = 'door': it must be a list of names: \['door'\]"),
            ({"start": "begin"}, 'start = \'begin\': it must be "new", "earliest"'),
            ({"start": {"door": "last"}}, "the position of source door is 'last'"),
            ({"group": "counters"}, "group and consumer go together"),
        ],
    )
    def test_wrong_arguments_are_refused_at_once(
        self, tmp_path: Path, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            subscribe(tmp_path, **arguments)

    @pytest.mark.whole_run
    def test_an_unknown_stage_is_refused(self, clip: Path, quiet: dict[str, Any]) -> None:
        with run({"grey": clip}, changes=quiet, folder="data") as running:
            for unknown in ("detekt", "cache"):  # cache publishes the results themselves
                with pytest.raises(errors.ConfigFaults, match=f"stage '{unknown}': .* detect, "):
                    subscribe(running.folder, stage=unknown)
            list(running)
        with pytest.raises(errors.ConfigFaults, match="did you mean detect"):
            subscribe("data", start="earliest", stage="detekt")
        with subscribe("data", start="earliest", stage="detect") as outputs:
            list(outputs)

    @pytest.mark.whole_run
    def test_positions_of_results_are_a_start(self, clip: Path, quiet: dict[str, Any]) -> None:
        with run({"grey": clip}, changes=quiet, folder="data") as running:
            results = list(running)
        for last in (results[4].position, str(results[4].position)):
            with subscribe("data", start={"grey": last}) as rest:
                assert list(rest) == results[5:]


class TestTesting:
    def test_a_stage_that_reads_results(self) -> None:
        labels = [["person"], ["person", "car"], [], ["person", "person"]]
        results = [
            testing.result(map(testing.detected, found), seq) for seq, found in enumerate(labels)
        ]
        with testing.Harness(People) as people:
            assert people.state() == Seen(0)
            assert people.feed(results[:3]) == [{"people": 1}, None, {"people": 0}]
            assert people.feed(results[3:]) == [{"people": 2}]
            assert people.state() == Seen(2)
            assert people.end() is None

    def test_sources_have_states_of_their_own(self) -> None:
        thing = [testing.detected("person")]
        with testing.Harness(People) as people:
            people.feed([testing.result(thing, source="a"), testing.result(source="b")])
            assert (people.state("a"), people.state("b")) == (Seen(1), Seen(0))

    @pytest.mark.parametrize("batch", [None, 1, 5])
    def test_a_stage_that_reads_the_pixels_of_a_clip(self, clip: Path, batch: int | None) -> None:
        with testing.Harness(Brightness, before="decode", batch=batch) as brightness:
            outputs = brightness.feed(testing.frames(clip))
        assert outputs == [50.0 + number for number in range(FRAMES)]

    def test_a_stage_that_reads_the_pixels_of_an_array(self) -> None:
        grey = np.stack([np.full((9, 7), level, np.uint8) for level in (0, 90, 255)])
        colour = np.repeat(grey[..., None], 3, axis=3)
        with testing.Harness(Brightness) as brightness:
            assert brightness.feed(testing.frames(grey)) == [0.0, 90.0, 255.0]
            found = brightness.feed(testing.frames(colour, epoch=2))
        assert np.allclose(found, [0, 90, 255], atol=1)

    def test_time_stamps_and_positions_of_an_array(self) -> None:
        given = list(testing.frames(np.zeros((3, 8, 8), np.uint8), "yard", epoch=4, fps=10.0))
        items = [frame.item for frame in given]
        assert [str(item.position) for item in items] == ["4-0", "4-1", "4-2"]
        assert [item.record.pts for item in items] == [0.0, 0.1, 0.2]
        assert {item.source for item in items} == {"yard"}
        assert {len(frame.pixels) for frame in given} == {8 * 8 * 3 // 2}

    def test_an_array_of_another_shape_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\(frames, height, width, 3\)"):
            list(testing.frames(np.zeros((3, 8), np.uint8)))

    def test_what_the_stage_before_gave(self) -> None:
        class Double(Stage[NoState]):
            def each(self, item: Item, state: NoState) -> tuple[int, NoState]:
                return 2 * item.output_of("count", int), state

        frames = testing.frames(np.zeros((3, 8, 8), np.uint8))
        with testing.Harness(Double, before="count") as double:
            assert double.feed(frames, before=[1, 2, 3]) == [2, 4, 6]

    def test_frames_that_wait_are_given_again_in_order(self) -> None:
        class Slow(Stage[NoState]):
            answered = False

            def each(self, item: Item, state: NoState) -> tuple[Any, NoState]:
                number = item.record.number
                return number if self.answered or number < 2 else framegate.WAITS, state

        with testing.Harness(Slow, batch=2) as slow:
            assert slow.feed(testing.frames(np.zeros((5, 8, 8), np.uint8))) == [0, 1]
            slow.stage.answered = True  # type: ignore[attr-defined]
            assert slow.feed([]) == [2, 3, 4]

    def test_what_cannot_be_stored_fails_in_the_test(self) -> None:
        class BadOutput(Stage[NoState]):
            def each(self, item: Item, state: NoState) -> tuple[Any, NoState]:  # noqa: ARG002
                return object(), state

        class BadState(Stage[NoState]):
            def each(self, item: Item, state: NoState) -> tuple[Any, Any]:  # noqa: ARG002
                return None, object()

        for kind in (BadOutput, BadState):
            with testing.Harness(kind) as bad, pytest.raises(TypeError):
                bad.feed([testing.result()])

    def test_a_state_of_another_type_is_refused(self) -> None:
        """A run would read it from the store as `State` after a restart, and not before."""

        class Plain(Stage[Seen]):
            State = Seen

            def each(self, item: Item, state: Seen) -> tuple[Any, Any]:  # noqa: ARG002
                return None, {"people": 1}

        with (
            testing.Harness(Plain) as plain,
            pytest.raises(TypeError, match=r"of source clip is {'people': 1}: it must be a Seen"),
        ):
            plain.feed([testing.result()])

    def test_states_that_are_no_mapping_are_refused(self) -> None:
        class Forgetful(Stage[Seen]):
            State = Seen

            def process(self, items: Any, states: Any) -> tuple[Any, Any]:  # noqa: ARG002
                return [None for _ in items], None

        with (
            testing.Harness(Forgetful) as forgetful,
            pytest.raises(TypeError, match="the states are None: they must be a dict by source"),
        ):
            forgetful.feed([testing.result()])

    def test_pixels_that_were_not_declared_are_not_there(self) -> None:
        class Forgets(Brightness):
            pixels = 0

        frames = testing.frames(np.zeros((1, 8, 8), np.uint8))
        with (
            testing.Harness(Forgets) as forgets,
            pytest.raises(errors.FrameLost, match="Forgets must set pixels = 1"),
        ):
            forgets.feed(frames)

    def test_options_are_checked_as_those_of_a_configuration(self) -> None:
        with pytest.raises(errors.ConfigFaults, match="unknown key"):
            testing.Harness(People, {"colour": "red"})

    def test_an_exception_of_the_stage_is_the_tests(self) -> None:
        class Raises(Stage[NoState]):
            def __init__(self, options: Any, context: Context) -> None:
                super().__init__(options, context)
                (context.folder / "opened").touch()

            def each(self, item: Item, state: NoState) -> tuple[Any, NoState]:  # noqa: ARG002
                raise RuntimeError("no answer")

        with testing.Harness(Raises) as raises:
            assert (raises.context.folder / "opened").exists()
            with pytest.raises(RuntimeError, match="no answer"):
                raises.feed([testing.result([Object(None, "cat", 15, 1.0, (0, 0, 1, 1), "moved")])])
        assert not raises.context.folder.exists()
