"""What every test must leave as it found it: no process, no socket, no shared memory."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from framegate.pipeline.system.process import is_unlocked
from tests.support.runs import DEADLINE_S

# A machine with much else to do takes what time it takes: how long an example takes is no fault.
settings.register_profile("framegate", deadline=None)
settings.load_profile("framegate")
# The path of a socket has at most 107 bytes, and tests have theirs in folders of their own. Pytest
# makes these in the temporary folder, whose path is long on some machines.
if len(tempfile.gettempdir()) > len("/var/tmp") and os.access("/tmp", os.W_OK | os.X_OK):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/tmp")
# Each process that a test starts would compile all its modules again: 0.3 s of CPU time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What is started with `&`, or by some builders, ignores Ctrl-C, and so would each command that a
# test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def children() -> set[int]:
    """Processes that a thread of this one started, zombies included."""
    found: set[int] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended
            found |= {int(pid) for pid in (task / "children").read_text(encoding="utf-8").split()}
    return found


def shared_memory() -> set[str]:
    """Names in the shared-memory file system."""
    return {path.name for path in Path("/dev/shm").glob("*")}


def socket_folders() -> set[str]:
    """Private folders of embedded stores whose data folder has too long a name."""
    return {path.name for path in Path(tempfile.gettempdir()).glob(f"framegate-{os.getuid()}-*")}


def remove_killed(names: set[str]) -> None:
    """Remove the private folders of killed runs, which otherwise the start of a run removes."""
    for name in names:
        folder = Path(tempfile.gettempdir(), name)
        if is_unlocked(Path(os.readlink(folder / "store")).parent):
            shutil.rmtree(folder)


def soon(holds: Callable[[], bool]) -> bool:
    """Return whether it holds before long: what was ended may take a moment to be gone."""
    until = time.monotonic() + DEADLINE_S
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


@pytest.fixture(scope="session", autouse=True)
def folders_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs keep their traces here, apart from the user's and from another session's."""
    before = {name: os.environ.get(name) for name in ("XDG_STATE_HOME", "TMPDIR")}
    for name in before:
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))
    tempfile.tempdir = None
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    tempfile.tempdir = None


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Compare after each test file, so that the culprit is named."""
    before = children()
    folders, memory = socket_folders(), shared_memory()
    yield
    assert soon(lambda: children() <= before), [
        Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children() - before
    ]
    assert {name for name in shared_memory() - memory if "framegate" in name} == set()
    remove_killed(socket_folders() - folders)
    assert socket_folders() <= folders, "socket folders of stores are left over"


# A worker takes a whole file at a time, in this order. A file of minutes that begins last keeps one
# worker busy while the others are idle, so files begin by the CPU time that they take.
LONGEST = (
    "runs/test_bad_input.py", "stages/learning/test_camera_tuning.py", "runs/test_kills.py",
    "runs/test_add_remove.py", "runs/test_shards.py", "cli/test_init.py",
    "stages/learning/test_later_footage.py", "repo/test_wheel.py", "runs/test_fleet.py",
    "cameras/test_cameras.py", "runs/test_interrupt.py", "stages/detect/test_swaps.py",
    "runs/test_privacy_runs.py", "runs/test_user_stages.py", "web/test_http.py",
    "examples/test_examples.py", "runs/test_events_runs.py", "framegate/test_public_api.py",
    "web/test_roles_in_pages.py", "runs/test_sinks.py", "cli/test_check.py",
    "runs/test_live_rules.py", "stages/detect/test_detect.py", "stages/decode/test_decode.py",
    "runs/test_swaps.py", "runs/test_faults.py", "models/conversion/test_refused_models.py",
    "runs/test_killed_starts.py", "pipeline/recording/test_failed_writes.py",
    "pipeline/test_wall_clocks.py", "models/detector/test_devices.py", "runs/test_kills_told.py",
    "stores/test_listen.py", "stores/test_failover.py", "cli/test_models_add.py",
    "repo/test_architecture.py", "stages/decode/test_record.py", "stores/test_cluster.py",
    "fuzz/test_fuzz_doors.py", "runs/test_fsck.py", "runs/test_refused_models.py",
    "runs/test_epochs.py", "runs/test_ended_runs.py", "kserve/test_kserve.py",
    "runs/test_results_command.py", "web/test_page.py", "runs/test_take_over.py",
    "cameras/test_add_cameras.py", "contracts/test_places.py", "repo/test_plain_code.py",
    "runs/test_sizes.py", "stages/detect/test_detect_cache.py", "runs/test_review_run.py",
    "runs/test_events_command.py", "models/registry/test_open_model.py", "runs/test_other_hosts.py",
    "runs/test_first_steps.py", "runs/test_sound_run.py", "runs/test_footage_runs.py",
    "runs/test_recording_runs.py", "runs/test_accounting.py", "runs/test_lost_replies.py",
    "runs/test_terminal.py", "runs/test_many_sources.py", "runs/test_what_is_off.py",
    "cameras/test_two_streams.py", "runs/test_lazy_runs.py", "pipeline/store/test_retention.py",
    "web/test_login.py", "web/test_rules_page.py", "pipeline/heavy/test_heavy_queue.py",
    "repo/test_readme.py", "web/test_auth.py", "pipeline/sinks/test_mqtt.py",
    "models/detector/test_detector.py", "web/test_recordings_page.py",
    "models/detector/test_shipped_networks.py", "pipeline/sinks/test_webhook.py",
    "web/test_review_page.py", "models/detector/test_network.py", "stages/draw/test_video.py",
    "web/test_api.py", "web/test_disagreements_page.py", "cli/test_heavy_command.py",
    "models/detector/test_answer_cache.py", "pipeline/promise/test_promise_statistics.py",
    "stages/decode/test_rtp.py", "web/test_recordings.py", "stages/decode/test_camera_events.py",
    "repo/test_plain_english.py", "cli/test_help.py", "cli/test_mcp.py",
    "pipeline/engine/test_stage_loop.py", "cli/test_recordings.py",
    "models/tracking/test_bytetrack.py", "stages/escalate/test_heavy_pass.py",
    "web/test_visits_page.py",
)  # fmt: skip
OF_PROCESSES = ("runs", "cameras", "stores", "releases")  # folders whose files all start some
TESTS = Path(__file__).parent


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collect the tests without the garbage collector, which takes a quarter of that CPU time.

    It would look again and again at what was imported, and later after each few tests: all of that
    stays to the end, so it is taken out of its sight.
    """
    gc.disable()
    try:
        import_a_share(session.config)
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def import_a_share(config: pytest.Config) -> None:
    """Import a share of the test files, so that the workers rewrite no file twice.

    Each worker imports all files, and in a fresh clone it would also rewrite their assertions, in
    the same order as the others and at the same time: 10 s of CPU time for each worker.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not worker or config.args != config.getini("testpaths"):
        return
    files = sorted(TESTS.rglob("test_*.py"))
    for file in files[int(worker) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
        module = ".".join(file.relative_to(TESTS.parent).with_suffix("").parts)
        with contextlib.suppress(Exception, pytest.skip.Exception):  # the collection will report it
            importlib.import_module(module)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, then with others that start processes."""
    place = {name: number for number, name in enumerate(LONGEST)}

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(TESTS)
        return place.get(str(name), len(place) + (name.parts[0] not in OF_PROCESSES))

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name files that take long and are not in LONGEST."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0].removeprefix("tests/")] += report.duration
    listed = [seconds[name] for name in LONGEST if name in seconds]
    if len(listed) < len(LONGEST) / 4:
        return  # neither `make test` nor `make test-runs`
    for name in sorted(seconds.keys() - set(LONGEST)):
        if seconds[name] > max(listed) / 4:
            terminalreporter.line(f"{name} takes {seconds[name]:.0f} s: LONGEST should have it")
