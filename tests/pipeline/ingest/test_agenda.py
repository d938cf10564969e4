"""Which sources of an ingest worker are awake: those with something to do, and no others."""

from __future__ import annotations

import time

from framegate.pipeline.ingest.due_times import Agenda

LATER = 1000.0  # seconds


def test_a_source_sleeps_until_its_thread_notes_something() -> None:
    agenda = Agenda()
    agenda.awake.update(("one", "two"))
    agenda.rest("one", None)
    agenda.rest("two", None)
    assert agenda.due_in() is None
    agenda.note("two")
    assert agenda.wake_due(time.monotonic()) == []
    assert agenda.awake == {"two"}


def test_a_source_sleeps_until_its_frame_is_due_by_the_last_word() -> None:
    agenda = Agenda()
    now = time.monotonic()
    agenda.rest("file", now + LATER)
    agenda.rest("file", now + 2 * LATER)  # put off: the first time is void
    assert agenda.waiting() == ["file"]
    agenda.wake_due(now + LATER)
    assert agenda.awake == set()
    agenda.wake_due(now + 2 * LATER)
    assert agenda.awake == {"file"}
    assert agenda.waiting() == []


def test_a_decoder_that_could_not_be_started_is_named_once_later() -> None:
    agenda = Agenda()
    agenda.retry("camera")
    due_in = agenda.due_in()
    assert due_in is not None
    assert agenda.wake_due(time.monotonic() + LATER) == ["camera"]
    assert agenda.wake_due(time.monotonic() + LATER) == []


def test_nothing_is_expected_of_a_source_that_went() -> None:
    agenda = Agenda()
    now = time.monotonic()
    agenda.rest("file", now + LATER)
    agenda.retry("file")
    agenda.forget("file")
    assert agenda.wake_due(now + 2 * LATER) == []
    assert agenda.awake == set()
