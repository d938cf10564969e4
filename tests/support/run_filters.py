"""The filters of a run without a supervisor: what it answers to requests about them."""

from __future__ import annotations

from framegate.pipeline.contracts.errors import ConfigFaults, RequestRefused
from framegate.pipeline.contracts.object_filters import (
    AddFilter,
    FilterList,
    FilterRequest,
    ObjectFilter,
    RemoveFilter,
)
from framegate.pipeline.run.filters import filters_of, with_filter, without_filter
from framegate.pipeline.run.folder import RunFile, RunSource


class RunFilters:
    """Answers as the supervisor of a run with these sources does."""

    def __init__(self, *sources: str, **configured: ObjectFilter) -> None:
        known = tuple(RunSource(name=name, url=f"{name}.mp4") for name in sources)
        self.run = RunFile("a run", "", known)
        self.configured = configured
        self.rules: dict[str, str] | None = None
        """Versions of the rules that a filter can mute, by name; None: unknown."""

    def ask(self, request: FilterRequest) -> FilterList:
        """Return all filters after the request. RequestRefused."""
        try:
            if isinstance(request, AddFilter):
                self.run = with_filter(
                    self.run,
                    self.configured,
                    request.filter,
                    rules=self.rules,
                    replaces=request.replaces,
                )
            elif isinstance(request, RemoveFilter):
                self.run = without_filter(self.run, self.configured, request.name)
        except ConfigFaults as error:
            raise RequestRefused(str(error)) from None
        return FilterList(list(filters_of(self.run, self.configured)))
