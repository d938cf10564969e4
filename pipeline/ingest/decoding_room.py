"""Room for decoders: one that is far ahead of the readers of its frames waits until they follow."""

from __future__ import annotations

from framegate.pipeline.contracts.records import START, Position
from framegate.pipeline.engine.runner import CommitsOfSource, Runner
from framegate.pipeline.ingest.feed import Feed
from framegate.pipeline.ingest.store_waits import RoomMade, StoreWaits, trail_of


class DecodingRoom:
    """The positions up to which the readers of each source have read. One thread.

    Readers in this process are asked directly, those in other processes through the store.
    """

    def __init__(self, runner: Runner, waits: StoreWaits) -> None:
        """waits: asks the store, and reports its answer to the loop, which gives it to `hear`."""
        self._runner = runner
        self._waits = waits
        self._last_readers = {
            live: runner.hosted_if_all(runner.spec.last_readers(live)) for live in (False, True)
        }
        self._trailing = runner.spec.trailing()
        self._trailed: dict[str, Position] = {}  # the last known position of the trailing readers
        self._is_passed_on = "decode" in runner.spec.passed_on()

    def ask(self, feed: Feed) -> None:
        """Release a decoder that waits once all reliable readers are where it waits for them, and
        trailing ones not too far behind. The store need not be asked if the former are in this
        process, and rarely about the latter.
        """
        until = feed.waits_for()
        if until is None:
            return
        source = feed.spec.name
        trailed = trail_of(until)
        if self._trailing and self._trailed.get(source, START) < trailed:
            self._waits.for_room(source, self._trailing, trailed)
            return
        read = self._read_to(feed)
        if read is None:
            self._waits.for_room(source, self._runner.spec.last_readers(feed.spec.live), until)
        elif read >= until and feed.thread is not None:
            feed.thread.release(read)

    def hear(self, feed: Feed, made: RoomMade) -> None:
        """Take the store's answer about a source's readers."""
        if made.readers == self._trailing:
            self._trailed[made.source] = made.read
        elif feed.thread is not None:
            feed.thread.release(made.read)

    def is_made(self, feed: Feed, pending: CommitsOfSource = ()) -> bool:
        """Return whether a decoder waits for room and has it after the pending commits."""
        until = feed.waits_for()
        if until is None:
            return False
        read = self._read_to(feed, pending)
        return read is not None and read >= until

    def passed(self, feed: Feed, pending: CommitsOfSource) -> Position:
        """Return the position up to which a commit of decode may leave its entries out, because
        all their readers are in this process and pass them in the same hop.
        """
        if self._is_passed_on and self._last_readers[feed.spec.live]:
            return self._runner.common_position(feed.spec.name, pending)
        return START  # a restarted decoder needs the entries: they name the frames in flight

    def forget(self, source: str) -> None:
        """Forget a source that this process no longer serves."""
        self._trailed.pop(source, None)

    def _read_to(self, feed: Feed, pending: CommitsOfSource = ()) -> Position | None:
        """Return the position of a source's last readers after the pending commits; None if some
        readers are in another process.
        """
        readers = self._last_readers[feed.spec.live]
        if not readers:
            return None
        return self._runner.common_position(feed.spec.name, pending, readers)
