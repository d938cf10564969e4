"""What is stored of a camera's connection, and what is counted of its recorded stream."""

from __future__ import annotations

from framegate.pipeline.contracts.records import VERSION, Connection
from framegate.pipeline.ingest.connection_report import ConnectionReport
from framegate.pipeline.ingest.recorded_stream import RecordedStreamState

AWAY = RecordedStreamState("closed: the camera ended the stream")


def test_a_recorded_stream_that_goes_away_leaves_the_state_of_the_other_one() -> None:
    report = ConnectionReport("door")
    report.report("connected", 5.0)
    assert report.see_recorded_stream(RecordedStreamState(), 6.0) == {"url_connects": 1}
    assert report.unsent == Connection(VERSION, "connected", 5.0)
    report.unsent = None
    assert report.see_recorded_stream(AWAY, 7.0) == {"url_lost": 1}
    assert report.unsent == Connection(VERSION, "connected", 5.0, url_fault=AWAY.fault)
    report.unsent = None
    assert report.see_recorded_stream(AWAY, 8.0) == {}  # another attempt failed
    assert report.unsent is None
    fault = "closed: look_at: gone"
    report.report("lost", 9.0, fault)
    assert report.unsent == Connection(VERSION, "lost", 9.0, fault, url_fault=AWAY.fault)
    assert report.see_recorded_stream(RecordedStreamState(), 10.0) == {"url_connects": 1}
    assert report.unsent == Connection(VERSION, "lost", 9.0, fault)
