"""What a run tells of its sources: another generation for whatever is not what it was."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from framegate.pipeline.contracts.spec import SourceSpec
from framegate.pipeline.run.folder import RunFile, RunFolder, RunSource
from framegate.pipeline.run.sources import RunSources
from framegate.pipeline.store.admin import StoreAdmin
from framegate.stages.escalate.configured_models import ConfiguredModels
from tests.support.servers import server


def source(name: str) -> RunSource:
    return RunSource(f"{name}.mp4", name=name)


def spec_of(source: RunSource) -> SourceSpec:
    return SourceSpec(
        source.url, name=source.name, past=0, credit=4, slots=5, pace="fast", ending=source.ending
    )


def test_a_source_that_changed_or_came_again_has_another_generation(tmp_path: Path) -> None:
    with server(tmp_path / "store") as told, closing(StoreAdmin(told.url)) as store:
        run = RunFile("r1", store.prepare(), (), stays=True)
        folder = RunFolder(tmp_path / "data", made_by_us=True)
        models = ConfiguredModels((), folder.path)
        sources = RunSources(run, folder, store, "r1 (here)", spec_of, models)

        def generations() -> tuple[int, ...]:
            return tuple(spec.generation for spec in sources.specs())

        sources.add([source("a"), source("b")], take_over=False)
        a, b = generations()
        assert a != b
        sources.use({"a": ""})  # nothing that workers are told of has changed
        assert generations() == (a, b)
        sources.end(["a"])
        ending, same = generations()
        assert (same, ending not in (a, b)) == (b, True)
        sources.drop(["a"])
        sources.release(["a"], removed=True)
        assert generations() == (b,)
        sources.add([source("a")], take_over=False)  # said the same as at first
        same, again = generations()
        assert same == b
        assert again not in (a, b, ending)
        folder.close(keep=False)
