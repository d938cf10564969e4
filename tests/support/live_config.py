"""The configuration of a run without a supervisor: it answers requests as the supervisor does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framegate.pipeline.config.config import Config, read_config
from framegate.pipeline.config.config_file import read_config_file
from framegate.pipeline.contracts.errors import ConfigFaults, RequestRefused
from framegate.pipeline.contracts.live_config import ConfigRequest, EditableConfig
from framegate.pipeline.run.live_config import RunConfig
from framegate.pipeline.run.plan import with_events
from framegate.pipeline.system.loading import load_builtin


class AnsweringConfig:
    """Answers as the supervisor of a run that was started with this file does."""

    def __init__(self, file: Path, sources: Sequence[str] = ("door",)) -> None:
        self.sources = sources

        def read(text: str) -> Config:
            return read_config(str(file), text)

        config = read_config_file(file, read).config
        models = load_builtin("models")(config.stages, file.parent)
        self.config = RunConfig(config, with_events(config, models), models, read)

    def ask(self, request: ConfigRequest) -> EditableConfig:
        """Return the configuration after the request. RequestRefused."""
        try:
            self.config.take(request)
            return self.config.shown(self.sources)
        except ConfigFaults as error:
            raise RequestRefused(str(error)) from None
