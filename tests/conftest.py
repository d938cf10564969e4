"""What every test must leave as it found it: no process, no socket, no shared memory."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.runs import DEADLINE_S

# A machine with much else to do takes what time it takes: how long an example takes is no fault.
settings.register_profile("framegate", deadline=None)
settings.load_profile("framegate")
# What is started with `&`, or by some builders, ignores Ctrl-C, and so would each command that a
# test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def children() -> set[int]:
    """Processes that a thread of this one started, zombies included."""
    found: set[int] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def shared_memory() -> set[str]:
    """Names in the shared-memory file system."""
    return {path.name for path in Path("/dev/shm").glob("*")}


def socket_folders() -> set[str]:
    """Private folders of embedded stores whose data folder has too long a name."""
    return {path.name for path in Path(tempfile.gettempdir()).glob(f"framegate-{os.getuid()}-*")}


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
    assert socket_folders() <= folders, "socket folders of stores are left over"


# Files go out in this order, by how long they take: one that takes minutes must not be the last.
LONGEST = (
    "test_bad_input.py", "test_user_stages.py", "test_add_remove.py", "test_init.py",
    "test_kills.py", "test_first_steps.py", "test_shadow_run.py", "test_calibrating.py",
    "test_ended_runs.py", "test_terminal.py", "test_public_api.py", "test_check.py",
    "test_take_over.py", "test_swaps.py", "test_cameras.py", "test_add_cameras.py", "test_sinks.py",
    "test_kills_told.py", "test_cluster.py", "test_failover.py", "test_listen.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
