"""From what is said of a source to what run.json and the workers are told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from framegate.pipeline.addresses import OFF
from framegate.pipeline.config.config import Config, SourceConfig, from_environment
from framegate.pipeline.config.sources import frames_of, is_live, is_remote, path_fault
from framegate.pipeline.run.run_folder import By, RunSource, fingerprint
from framegate.pipeline.shared_memory.frame_store import frame_store_bytes
from framegate.pipeline.source import Form, Request
from framegate.pipeline.spec import PaceName, SourceSpec


def run_source(name: str, said: SourceConfig, by: By) -> RunSource:
    """A source as run.json has it: with an absolute path, or a URL, or the variable of a secret."""
    place = _place(said)
    return RunSource(
        name=name,
        url=place,
        url_env=said.url_env,
        pace=said.pace,
        past=0,
        file=fingerprint(said.url),
        live=is_live(_url(name, place, said.url_env)) if said.live is None else said.live,
        transport=said.transport,
        frames=frames_of(said.frames),
        by=by,
    )


def _place(said: SourceConfig) -> str:
    if said.url_env is not None or is_remote(said.url):
        return said.url
    return str(Path(said.url).absolute())


def _url(name: str, place: str, url_env: str | None) -> str:
    return place if url_env is None else from_environment(url_env, f"sources.{name}.url_env")


def place_of(source: RunSource) -> str:
    """Its path or URL, with the secret that a variable holds. ConfigFaults if that is not set."""
    return _url(source.name, source.url, source.url_env)


def is_camera(name: str, said: SourceConfig) -> bool:
    """Whether it is live, as said or by its place. ConfigFaults if its variable is not set."""
    return is_live(_url(name, said.url, said.url_env)) if said.live is None else said.live


def credit_and_slots(config: Config, live: bool) -> tuple[int, int]:
    """How many frames the decoder of a source may be ahead, and how many its frame store holds."""
    kept = sum(max(0, stage.pixels - 1) for stage in config.stages)
    kept += config.http.listen not in OFF  # the last one published stays for who looks at it
    credit = config.credit.live if live else config.credit.file
    return credit, credit + kept


def shared_bytes(config: Config, sources: Iterable[tuple[bool, Form]]) -> int:
    """Shared memory for the pixels of sources, each live or not, with pictures of a form."""
    return sum(
        frame_store_bytes(credit_and_slots(config, live)[1], form.nbytes) for live, form in sources
    )


def file_faults(sources: Iterable[RunSource]) -> dict[str, str]:
    """What is wrong at a glance with the files among these, by source: a typing error is told
    before anything begins. What is in a file is found by who decodes it.
    """
    faults = {}
    for source in sources:
        if source.url_env is None and not is_remote(source.url):
            fault = path_fault(source.url)
            if fault is not None:
                faults[source.name] = f"source {source.name}: {fault[0]}: {source.url}: {fault[1]}"
    return faults


def spec_maker(config: Config, pace: PaceName | None) -> Callable[[RunSource], SourceSpec]:
    """How workers are told of a source. pace: of all files, whatever is said of each."""
    live = config.live

    def spec(source: RunSource) -> SourceSpec:
        credit, slots = credit_and_slots(config, source.live)
        return SourceSpec(
            name=source.name,
            request=Request(
                url=place_of(source),
                live=source.live,
                transport=source.transport,
                stall_s=live.stall_s,
                frames=source.frames,
            ),
            past=source.past,
            credit=credit,
            slots=slots,
            pace="fast" if source.live else pace or source.pace,
            retry_most_s=live.retry_most_s,
            ending=source.ending,
        )

    return spec
