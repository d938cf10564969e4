"""Frame stores as one sees them who only looks: never made, and found anew when they changed."""

from __future__ import annotations

from framegate.pipeline.engine.control import ControlLine
from framegate.pipeline.engine.shared_views import SharedViews
from framegate.pipeline.errors import FrameLost, FrameStoreFull
from framegate.pipeline.shared_memory.frame_store import FrameStore
from framegate.pipeline.source import Form
from framegate.pipeline.spec import SourceSpec


class FrameViews:
    """What `LastFrames` reads from. Any thread."""

    def __init__(self, line: ControlLine) -> None:
        self._views = SharedViews([], line)

    def take_sources(self, sources: list[SourceSpec]) -> None:
        """These are the run's sources now."""
        self._views.take_sources(sources)

    def frame_store(self, source: str, form: Form) -> FrameStore:
        """FrameLost if the source has no pictures of this size, or is not there."""
        try:
            return self._views.frame_store(source, form, make=False)
        except (KeyError, FrameStoreFull) as error:
            raise FrameLost(f"source {source}: no pictures of it are kept", final=True) from error
