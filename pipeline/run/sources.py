"""The sources of a run: from what a user wrote to what workers are told; added, removed, resumed.

A source has these forms, each with a reason of its own, and all conversions are here:

SourceConfig   as a user wrote it, in a table of pipeline.toml or in words of a command
RunSource      as run.json keeps it and `framegate add` sends it: found and measured once, so that
               `--resume` goes on with the same; a secret stays the name of its variable
SourceSpec     as workers are told of it, and nobody stores it: with the secret, and with what the
               configuration decides (credit, slots); its Request is the part that opens it
ListedSource   as other commands are shown it: without any secret
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from framegate.pipeline.config.config import Config
from framegate.pipeline.config.options import from_environment
from framegate.pipeline.config.sources import (
    SourceConfig,
    frames_of,
    is_live,
    is_remote,
    path_fault,
)
from framegate.pipeline.contracts import records
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    FramegateError,
    StoreBusy,
    StoreLost,
    StoreRefused,
    TakenOver,
    did_you_mean,
)
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.records import DecodeState
from framegate.pipeline.contracts.redaction import shown
from framegate.pipeline.contracts.source import Form, Request
from framegate.pipeline.contracts.spec import PaceName, SourceSpec
from framegate.pipeline.run.folder import By, RunFile, RunFolder, RunSource, fingerprint
from framegate.pipeline.run.models import KnownModels
from framegate.pipeline.run.rpc import ListedSource
from framegate.pipeline.shared_memory.frame_store import frame_store_bytes
from framegate.pipeline.store.admin import StoreAdmin
from framegate.pipeline.system.outputs import save_faults
from framegate.pipeline.system.ports import OFF

log = logging.getLogger(__name__)

SpecOf = Callable[[RunSource], SourceSpec]

# -- From one form of a source to the next


def run_source(name: str, said: SourceConfig, by: By) -> RunSource:
    """Return the source as run.json keeps it: an absolute path, a URL, or the variable of a secret.

    by: who named it
    """
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
    """Return its path or URL, with the secret. ConfigFaults if the secret's variable is not set."""
    return _url(source.name, source.url, source.url_env)


def is_camera(name: str, said: SourceConfig) -> bool:
    """Return whether it is live, as configured or by its URL. ConfigFaults as `place_of`."""
    return is_live(_url(name, said.url, said.url_env)) if said.live is None else said.live


def credit_and_slots(config: Config, live: bool) -> tuple[int, int]:
    """Return how many frames a decoder may be ahead, and how many the frame store holds."""
    kept = sum(max(0, stage.pixels - 1) for stage in config.stages)
    kept += config.http.listen not in OFF  # the last one published stays for who looks at it
    credit = config.credit.live if live else config.credit.file
    return credit, credit + kept


def shared_bytes(config: Config, sources: Iterable[tuple[bool, Form]]) -> int:
    """Return bytes of shared memory for the pixels of sources: each live or not, and its form."""
    return sum(
        frame_store_bytes(credit_and_slots(config, live)[1], form.nbytes) for live, form in sources
    )


def listed_source(source: RunSource, has: RunSources | None = None) -> ListedSource:
    """A source as other commands are shown it. has: those of the run, while it goes on."""
    return ListedSource(
        name=source.name,
        place=shown(source.url, source.live) if source.url_env is None else f"env:{source.url_env}",
        live=source.live,
        by=source.by,
        removing=source.ending,
        lost=has is not None and source.name in has.lost(),
        parked=has is not None and source.name in has.parked(),
        model=source.model,
    )


def file_faults(sources: Iterable[RunSource]) -> dict[str, str]:
    """Return what is wrong with the paths of the files among these, by source: a typing error is
    told before anything begins. What is in a file only its decoder finds.
    """
    faults = {}
    for source in sources:
        if source.url_env is None and not is_remote(source.url):
            fault = path_fault(source.url)
            if fault is not None:
                faults[source.name] = f"source {source.name}: {fault[0]}: {source.url}: {fault[1]}"
    return faults


def spec_maker(config: Config, pace: PaceName | None) -> Callable[[RunSource], SourceSpec]:
    """Return the conversion from RunSource to SourceSpec. pace: of all files, whatever each has."""
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
                sound=config.sound.block_of(source.name),
            ),
            past=source.past,
            credit=credit,
            slots=slots,
            pace="fast" if source.live else pace or source.pace,
            retry_most_s=live.retry_most_s,
            ending=source.ending,
            record=config.record.of(source.name, source.live),
            masks=config.privacy.of(source.name),
        )

    return spec


# -- What a run has now


class RunSources:
    """The sources that a run has now: owned in the store, written to run.json, told to workers.

    Methods that change sources may block, and are called by one thread at a time; any thread
    reads.
    """

    def __init__(
        self,
        run: RunFile,
        folder: RunFolder,
        store: StoreAdmin,
        owner: str,
        spec_of: SpecOf,
        models: KnownModels,
        saves: Path | None = None,
    ) -> None:
        """owner: the name that other runs are told; spec_of: what workers are told of a source;
        saves: folder of its videos, which must not be written over a source.
        """
        self._run = run
        self._folder, self._store, self._owner, self._spec_of = folder, store, owner, spec_of
        self._models, self._saves = models, saves
        self._lost: frozenset[str] = frozenset()
        self._parked: frozenset[str] = frozenset()
        self._specs: dict[str, SourceSpec] = {}
        self._generation = 0  # the last that was given

    @property
    def stays(self) -> bool:
        """Return whether it goes on without sources: it had a camera once, or began with none."""
        return self._run.stays

    def listed(self) -> tuple[RunSource, ...]:
        """Return all sources, in the order in which they came."""
        return self._run.sources

    def names(self) -> list[str]:
        """Names of all sources."""
        return [source.name for source in self._run.sources]

    def lost(self) -> Collection[str]:
        """Names of sources that another run took over."""
        return self._lost

    def parked(self) -> Collection[str]:
        """Names of sources that are this run's, and that nobody serves: their worker cannot."""
        return self._parked

    def all_lost(self) -> bool:
        """Return whether other runs took over all that there was."""
        return bool(self._lost) and self._lost.issuperset(self.names())

    def specs(self) -> list[SourceSpec]:
        """Return what workers are told of this run's sources. A source that was changed, or came
        again, has another generation than before.
        """
        return list(self._specs.values())

    def claim(self, take_over: bool) -> None:
        """Own what an earlier process of this run had, and let go what it had beside that.

        What was taken over is lost; SourceOwned if another run has one of the others.
        """
        for source in self._run.sources:
            try:
                self._store.claim(source.name, self._run.run, self._owner, take_over)
            except TakenOver as error:
                log.error("%s", error)
                self._lost |= {source.name}
                continue
            if source.live and not source.ending and self._has_ended(source.name):
                self._store.begin_anew(source.name)  # a camera that failed is tried again
        others = sorted(set(self._store.sources()) - set(self.names()))
        self._store.release_all(others, self._run.run)
        self._take(self._run.sources)

    def _has_ended(self, name: str) -> bool:
        _, state = self._store.standings([name], [])[name]
        return state is not None and records.decode(state, DecodeState).done

    def add(self, sources: Sequence[RunSource], take_over: bool, by_hand: bool = False) -> None:
        """Own these sources as well, all or none. They go on in the epoch after their last.

        by_hand  somebody asks for them now: also for those that were taken from this run
        ConfigFaults for names that are taken or none; SourceOwned if another run has one, TakenOver
        if it was taken from this one.
        """
        self._check_new(sources)
        try:
            if not self._run.begun:
                # Its id first: a kill must not leave a source to a run that nobody knows.
                self._folder.write(replace(self._run, sources=tuple(sources)))
            added = [self._began(source, take_over, by_hand) for source in sources]
            self._write((*self._run.sources, *added))
        except FramegateError:
            self.release([source.name for source in sources])
            raise
        self._announce_if_it_can()

    def models_of(self, sources: Sequence[RunSource]) -> dict[str, str]:
        """Models of a registry that these had where they are now, and keep as they are taken over.

        ConfigFaults for names that are taken or none; ModelNotTaken if this host lacks one.
        """
        self._check_new(sources)
        models = {source.name: self._announced(source.name) for source in sources}
        return {name: model for name, model in models.items() if model}

    def _announced(self, name: str) -> str:
        return self._models.taken_over(name, *self._store.announced_model(name))

    def _check_new(self, sources: Sequence[RunSource]) -> None:
        if faults := self._name_faults(sources):
            raise ConfigFaults(faults)
        new = {source.name: self._spec_of(source).request.url for source in sources}
        if self._saves is not None:
            here = {spec.name: spec.request.url for spec in self.specs()}
            if faults := save_faults(self._saves, here | new, overwrite=True):
                raise ConfigFaults(faults)

    def _name_faults(self, sources: Sequence[RunSource]) -> list[str]:
        taken = {source.name: source for source in self._run.sources}
        faults = []
        for source in sources:
            name = source.name
            if not is_name(name):
                faults.append(f"{name!r} cannot name a source; a name is {NAME_RULE}")
            elif name in taken and taken[name].ending:
                faults.append(f"source {name}: it is being removed; add it again after that")
            elif name in taken:
                faults.append(
                    f"source {name}: the run has one of that name; give this one another, or "
                    "remove that one before"
                )
            taken[name] = source
        return faults

    def _began(self, source: RunSource, take_over: bool, by_hand: bool) -> RunSource:
        model = self._announced(source.name) if take_over else ""
        self._store.claim(source.name, self._run.run, self._owner, take_over, by_hand)
        self._store.begin_anew(source.name)
        # Read once it is ours: from then on no other run can begin an epoch.
        return replace(source, past=self._store.epoch(source.name), model=model)

    def models(self) -> dict[str, str]:
        """Models that were chosen, by source."""
        return {source.name: source.model for source in self._run.sources if source.model}

    def model_of(self, name: str) -> str:
        """The model of a registry that looks at a source, chosen or configured; "": none does."""
        settled = self._models.settled
        return self.models().get(name) or settled.get(name, settled.get("", ""))

    def forget_models(self) -> None:
        """Of the run's copies of models keep those that are named, and some that were used last."""
        self._models.forget_unused(
            {model for source in self._run.sources for model in (source.model, source.before)}
        )

    def announce(self) -> None:
        """Tell other hosts, through the store, which models of a registry look at the sources."""
        ours = [name for name in self.names() if name not in self._lost]
        models = {name: self.model_of(name) for name in ours}
        self._store.announce_models(models, self._run.run, self._models.where)

    def use(self, models: Mapping[str, str]) -> None:
        """Give these sources another model from now on; a `--resume` goes on with it. A source that
        is gone is passed over.
        """
        self._write(
            replace(source, model=models[source.name], before=source.model)
            if models.get(source.name, source.model) != source.model
            else source
            for source in self._run.sources
        )
        self._announce_if_it_can()

    def _announce_if_it_can(self) -> None:
        try:
            self.announce()
        except (StoreLost, StoreBusy, StoreRefused) as error:  # it only tells other hosts
            log.warning("other hosts cannot be informed of models now: %s", error)

    def before(self, names: Collection[str]) -> dict[str, str]:
        """The model that each of these had before its last one.

        ConfigFaults if there is no such source, or it had no other.
        """
        self.check_known(names)
        before = {s.name: s.before for s in self._run.sources if s.name in names}
        if never := [name for name, model in before.items() if model is None]:
            raise ConfigFaults([f"source {name}: it had no other model" for name in never])
        return {name: model for name, model in before.items() if model is not None}

    def end(self, names: Collection[str]) -> None:
        """Mark them as being removed. ConfigFaults if there is no such source."""
        self.check_known(names)
        self._write(
            replace(source, ending=True) if source.name in names else source
            for source in self._run.sources
        )

    def check_known(self, names: Collection[str]) -> None:
        """ConfigFaults if one of them is no source of the run."""
        if strange := [name for name in names if name not in self.names()]:
            has = ", ".join(self.names()) or "none"
            raise ConfigFaults([
                f"source {name}: the run has no such source; it has: {has}"
                f"{did_you_mean(name, self.names())}"
                for name in strange
            ])  # fmt: skip

    def drop(self, names: Collection[str]) -> None:
        """Serve these sources no more; they are to be released after that."""
        self._lost -= frozenset(names)
        self._parked -= frozenset(names)
        self._write(source for source in self._run.sources if source.name not in names)

    def lose(self, name: str) -> None:
        """Take note that another run took a source over."""
        self._lost |= {name}
        self._take(self._run.sources)

    def park(self, names: Collection[str]) -> None:
        """Have workers told of these no more; a `--resume` goes on with them."""
        if not self._parked.issuperset(names):
            self._parked |= frozenset(names).intersection(self.names())
            self._take(self._run.sources)

    def release(self, names: Collection[str] | None = None, removed: bool = False) -> None:
        """End ownership of these, or of all, those included that an addition which failed left
        behind; a store that is away is no error. A run that never began is forgotten with that.
        """
        with contextlib.suppress(StoreLost, StoreBusy, StoreRefused):
            names = self._store.sources() if names is None else names
            self._store.release_all(names, self._run.run, removed)
            if not self._run.begun:
                self._folder.forget()

    def _write(self, sources: Iterable[RunSource]) -> None:
        sources = tuple(sources)
        stays = self._run.stays or any(source.live for source in sources)
        run = replace(self._run, sources=sources, stays=stays, begun=True)
        self._folder.write(run)
        self._run = run
        self._take(sources)

    def _take(self, sources: Sequence[RunSource]) -> None:
        specs = {}
        for source in sources:
            if source.name in self._lost or source.name in self._parked:
                continue
            spec, before = self._spec_of(source), self._specs.get(source.name)
            if before is None or before != replace(spec, generation=before.generation):
                self._generation += 1
                before = replace(spec, generation=self._generation)
            specs[source.name] = before
        self._specs = specs
