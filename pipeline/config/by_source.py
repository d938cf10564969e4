"""Tables that say of which sources more is wanted: `[learn]`, `[record]`, `[sound]`."""

from __future__ import annotations

from dataclasses import dataclass, field

from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.source import SOUND_RATE
from framegate.pipeline.contracts.spec import RecordSpec


@dataclass(frozen=True)
class LearnConfig:
    """`[learn]`: footage that is kept to learn from, in the run's data folder.

    collect  true: of all sources. false: of none. Or names of sources
    bytes    of disk that the footage of all sources takes at most; what is least useful goes
    days     for which it is kept
    """

    collect: bool | tuple[str, ...] = False
    bytes: int = field(default=1 << 30, metadata={"least": 1 << 20})
    days: float = field(default=30.0, metadata={"least": 0.01, "most": 3650.0})

    def faults(self) -> list[str]:
        """What is wrong with it."""
        return _not_names("collect", self.collect)


@dataclass(frozen=True)
class RecordConfig:
    """`[record]`: packets of sources as they came, in files that play, in the run's data folder.

    sources      true: all cameras. false: none. Or names of sources, files too
    bytes        of disk that the recordings of all sources take at most; who has the most gives way
    days         for which they are kept
    clip_days    for which it is kept what an episode has a clip of
    free_bytes   of the disk that are left to others: below it the oldest recordings go
    """

    sources: bool | tuple[str, ...] = False
    bytes: int = field(default=50 << 30, metadata={"least": 64 << 20})
    days: float = field(default=7.0, metadata={"least": 0.01, "most": 3650.0})
    clip_days: float = field(default=30.0, metadata={"least": 0.01, "most": 3650.0})
    free_bytes: int = field(default=1 << 30, metadata={"least": 16 << 20})

    def faults(self) -> list[str]:
        """What is wrong with it."""
        return _not_names("sources", self.sources)

    def of(self, source: str, live: bool) -> RecordSpec | None:
        """Return how a source is recorded; None if it is not."""
        named = live and self.sources if isinstance(self.sources, bool) else source in self.sources
        if not named:
            return None
        return RecordSpec(self.bytes, self.days, self.clip_days, self.free_bytes)


@dataclass(frozen=True)
class SoundConfig:
    """`[sound]`: what is heard, in windows of .975 s, each with labels of AudioSet.

    sources      true: all that have a sound track. false: none. Or names of sources
    hop_s        seconds from a window to the next
    least_score  of a label that is told, 0 to 1
    labels       that are told, as "Smoke detector, smoke alarm"; none: all
    quiet_db     a window that is nowhere louder is not looked at: decibels of full scale, in the
                 loudest tenth of a second
    most_age_s   seconds for which labels hold while nothing sounds otherwise; then the network
                 looks again. 0: it looks at each window
    """

    sources: bool | tuple[str, ...] = False
    hop_s: float = field(default=0.4875, metadata={"least": 0.1, "most": 10.0})
    least_score: float = field(default=0.3, metadata={"least": 0.01, "most": 1.0})
    labels: tuple[str, ...] = ()
    quiet_db: float = field(default=-55.0, metadata={"least": -120.0, "most": 0.0})
    most_age_s: float = field(default=10.0, metadata={"least": 0.0, "most": 3600.0})

    @property
    def block(self) -> int:
        """Samples of a hop."""
        return round(self.hop_s * SOUND_RATE)

    def block_of(self, source: str) -> int:
        """Samples of a hop of this source; 0: it is not heard."""
        named = self.sources if isinstance(self.sources, bool) else source in self.sources
        return self.block if named else 0

    def faults(self) -> list[str]:
        """What is wrong with it."""
        return _not_names("sources", self.sources)


def _not_names(key: str, sources: bool | tuple[str, ...]) -> list[str]:
    return [
        f"{key}: {name!r} cannot name a source; a name is {NAME_RULE}"
        for name in (() if isinstance(sources, bool) else sources)
        if not is_name(name)
    ]
