"""`framegate diff`: compare the results and episodes of two runs over the same footage."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from framegate.cli.console.terminal import counted, say
from framegate.cli.help import ending
from framegate.cli.review.results import PATIENCE_S, entries_of
from framegate.pipeline.client import Subscription
from framegate.pipeline.client.follower import RESULTS, Follower
from framegate.pipeline.client.reader import Reader
from framegate.pipeline.contracts.errors import ConfigFaults, Exit, did_you_mean
from framegate.pipeline.contracts.results import Object, Result
from framegate.pipeline.review.event_database import FILE, opened
from framegate.pipeline.review.search import Episode, EpisodeFilter, every
from framegate.pipeline.run.ended import open_store
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.system.logs import to_user
from framegate.stages.run_difference import (
    EpisodeDifference,
    FrameDifference,
    SourceComparison,
    TrackDifference,
)

_MOST: Final = 20  # frames of a source that are printed as text
RunDifference: TypeAlias = FrameDifference | TrackDifference | EpisodeDifference


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "diff",
        description="Compare two runs over the same footage, such as one before and one after a "
        "change of the configuration or of a model. Print which frames, tracks and "
        "episodes differ. Frames belong together by their time in the file, objects "
        "by label and overlap, and episodes by their rule and a beginning within half "
        "a second. Exit code 0 if the runs are equal, 1 if they differ.",
        epilog=ending(
            "framegate diff before after",
            "framegate diff before after --source entrance --json",
            page="results",
        ),
    )
    command.set_defaults(command=_diff)
    command.add_argument("before", type=Path, metavar="BEFORE", help="data folder of a run")
    command.add_argument("after", type=Path, metavar="AFTER", help="data folder of the other run")
    command.add_argument(
        "--source",
        dest="names",
        action="append",
        metavar="NAME",
        help="only this source (default: all); may be repeated",
    )
    command.add_argument(
        "--json", action="store_true", help="print one difference per line as JSON"
    )


def _diff(parsed: argparse.Namespace) -> Exit:
    folders = (parsed.before, parsed.after)
    report = _DifferenceReport(folders, parsed.json)
    with ExitStack() as stack:
        before, after = [stack.enter_context(_opened(folder)) for folder in folders]
        for source in _sources((before, after), parsed.names):
            _compare(source, before, after, report)
    return report.end()


class _Run:
    """A run that is compared."""

    def __init__(self, folder: Path, url: str) -> None:
        """url: of its store"""
        self._folder = folder
        self._url = url
        self.sources = StoreAdmin(url).sources()

    def results(self, source: str) -> Iterator[Result]:
        """Yield all stored results of a source, the oldest first; report removed ones."""
        if source not in self.sources:
            return
        follower = Follower([source], "earliest", False, RESULTS, once=True)
        with Subscription[Result](Reader(self._url, follower, PATIENCE_S)) as stored:
            yield from entries_of(stored)

    def episodes(self, source: str) -> list[Episode]:
        """Return all episodes of a source; none if the run had no rules."""
        file = self._folder / FILE
        if not file.is_file():
            return []
        with opened(file) as database:
            return list(every(database, EpisodeFilter(sources=(source,))))


@contextmanager
def _opened(folder: Path) -> Iterator[_Run]:
    with open_store(folder) as stored:
        if not stored.ended:
            to_user.warning("the run in %s is active: its newest frames are missing", folder)
        yield _Run(folder, stored.url)


def _sources(runs: Sequence[_Run], names: Sequence[str] | None) -> list[str]:
    """Return the sources to compare. ConfigFaults if a name is in neither run."""
    known = sorted(set().union(*(run.sources for run in runs)))
    if names is None:
        return known
    faults = [
        f"--source {name}: neither run has this source{did_you_mean(name, known)}"
        for name in names
        if name not in known
    ]
    if faults:
        raise ConfigFaults(faults)
    return list(dict.fromkeys(names))


def _compare(source: str, before: _Run, after: _Run, report: _DifferenceReport) -> None:
    comparison = SourceComparison(source, before.results(source))
    report.begin(source)
    for frame in comparison.frames(after.results(source)):
        report.add(frame)
    episodes = comparison.episodes(before.episodes(source), after.episodes(source))
    for track in comparison.tracks():
        report.add(track)
    for episode in episodes:
        report.add(episode)
    report.end_source(comparison)


class _DifferenceReport:
    """Prints differences as they are found, and counts them."""

    def __init__(self, folders: Sequence[Path], as_json: bool) -> None:
        self._before, self._after = map(str, folders)
        self._as_json = as_json
        self._source = ""
        self._found: Counter[type[RunDifference]] = Counter()  # of the source
        self._other_objects = 0  # frames of the source with objects that only one run has
        self._differs = False

    def begin(self, source: str) -> None:
        """Begin a source."""
        self._source = source
        self._found.clear()
        self._other_objects = 0

    def add(self, difference: RunDifference) -> None:
        """Print a difference; as text, only the first frames with other objects."""
        self._differs = True
        self._found[type(difference)] += 1
        if self._as_json:
            print(msgspec.json.encode(difference).decode())
        elif isinstance(difference, FrameDifference):
            if difference.lost or difference.new or None in (difference.before, difference.after):
                self._other_objects += 1
                if self._other_objects <= _MOST:
                    self._say(self._of_frame(difference))
        elif isinstance(difference, TrackDifference):
            self._say(self._of_track(difference))
        else:
            self._say(self._of_episode(difference))

    def end_source(self, comparison: SourceComparison) -> None:
        """Print the sums of a source."""
        if self._as_json:
            return
        hidden = self._other_objects - _MOST
        if hidden > 0:
            self._say(f"{counted(hidden, 'more frame')} (--json prints all)")
        text = f"{counted(comparison.both, 'frame')} in both runs"
        if comparison.only_before:
            text += f", {comparison.only_before} {self._only(True)}"
        if comparison.only_after:
            text += f", {comparison.only_after} {self._only(False)}"
        frames = counted(self._found[FrameDifference], "frame")
        tracks = counted(self._found[TrackDifference], "track")
        episodes = counted(self._found[EpisodeDifference], "episode")
        self._say(
            f"{text}. Different: {frames}, {self._other_objects} of them with other objects; "
            f"{tracks}; {episodes}"
        )
        if not comparison.both and comparison.only_before and comparison.only_after:
            self._say("no frame has the same time in both: were they runs over the same footage?")

    def end(self) -> Exit:
        """Return the exit code."""
        if self._differs:
            return Exit.SOURCE_FAILED
        return Exit.DONE

    def _say(self, text: str) -> None:
        say(text, f"{self._source}  ")

    def _only(self, is_before: bool) -> str:
        if is_before:
            return f"only in {self._before}"
        return f"only in {self._after}"

    def _of_frame(self, difference: FrameDifference) -> str:
        at = difference.before or difference.after
        text = f"frame {at}"
        if difference.pts is not None:
            text += f" ({difference.pts:.2f} s)"
        if difference.before is None or difference.after is None:
            return f"{text} {self._only(difference.after is None)}"
        sides = []
        for is_before, objects in ((True, difference.lost), (False, difference.new)):
            if objects:
                sides.append(f"{self._only(is_before)}: {', '.join(map(_described, objects))}")
        return f"{text}: {'; '.join(sides)}"

    def _of_track(self, difference: TrackDifference) -> str:
        before = _numbers(difference.before)
        after = _numbers(difference.after)
        if not (before and after):
            return f"{difference.label} {before or after} {self._only(bool(before))}"
        return f"{difference.label} {before} of {self._before}: {after} in {self._after}"

    def _of_episode(self, difference: EpisodeDifference) -> str:
        before, after = difference.before, difference.after
        episode = before or after
        assert episode is not None
        text = f"{difference.rule} at {episode.began.media_s:.2f} s"
        if before is None or after is None:
            return f"{text} {self._only(after is None)}"
        changes = [_field(name, before, after) for name in difference.fields]
        return f"{text}: {', '.join(changes)}"


def _described(each: Object) -> str:
    number = ""
    if each.track is not None:
        number = f" #{each.track}"
    return f"{each.label}{number} {each.score:.2f}"


def _numbers(tracks: Sequence[int]) -> str:
    return " and ".join(f"#{number}" for number in tracks)


def _field(name: str, before: Episode, after: Episode) -> str:
    values = [getattr(before, name), getattr(after, name)]
    if name == "began":
        values = [episode.began.media_s for episode in (before, after)]
    ours, theirs = map(_value, values)
    return f"{name} {ours} is {theirs}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if value is None:
        return "none"
    return str(value)
