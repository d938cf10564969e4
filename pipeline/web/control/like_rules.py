"""/api/v1/visits/rule/on: switch a rule about marked visits on or off, in the configuration file.

Programs and pages of this server may change such rules; pages of other servers may not. The active
run takes up the change at once if it can, else with its next start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from framegate.pipeline.config.config_file import (
    ConfigFile,
    FileChanged,
    change_file,
    read_config_file,
)
from framegate.pipeline.config.events import values_of
from framegate.pipeline.config.switches import AskConfig
from framegate.pipeline.config.toml_edit import with_lines, with_value
from framegate.pipeline.contracts.errors import (
    ConfigFaults,
    FramegateError,
    NoReply,
    RequestRefused,
)
from framegate.pipeline.contracts.keys import NAME_RULE, is_name
from framegate.pipeline.contracts.likeness import Likeness, LikenessInvalid
from framegate.pipeline.contracts.live_config import EditableConfig, GetConfig, ReloadConfig
from framegate.pipeline.review.visits import rule_text
from framegate.pipeline.web.limits import JSON, NO_STORE, Refusal, posted, refused
from framegate.pipeline.web.openapi import Operation, parameter

MAX_BYTES: Final = 8 << 10  # of a rule in a request
_MARKS: Final = parameter("marks", "Name of the marks, and of the rule")
_NO_FILE: Final = (
    "This run has no configuration file. Write these lines into one, and start the run with -c FILE"
)
_WRITTEN: Final = ("when", "like")  # the keys of a rule that switching it on writes
_LATER: Final = "the rules of the run are those of its last start"


class RuleInFile(msgspec.Struct, frozen=True):
    """A rule about marked visits as the configuration file has it.

    file        path of the file; empty: the run has none
    digest      of the text of the file; a change names it
    like        likeness of the rule; empty: it is off
    is_running  whether the run evaluates it as the file has it; if it is off: whether it does not;
                null: unknown, because the run did not answer
    waits       why the run does not take it up before its next start, or why that is unknown
    fault       why it cannot be changed here; null: it can
    """

    file: str
    digest: str = ""
    like: str = ""
    is_running: bool | None = True
    waits: str = ""
    fault: str | None = None


class RuleSwitch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wish to switch a rule about marked visits on or off.

    marks   name of the marks, and of the rule
    like    likeness of the rule, as the trial gave it; null: switch it off
    digest  digest of the file that the user saw
    """

    marks: str
    like: str | None
    digest: str


def like_routes(config: str, ask: AskConfig) -> list[Route]:
    """Return the routes.

    config  path of the configuration file; "": the run has none
    ask     asks the supervisor; may block for some ms
    """

    async def rule(request: Request) -> Response:
        """The rule about visits with `?marks=NAME` in the configuration file, and its effect."""
        return await _answered(_state, config, request.query_params.get("marks", ""), ask)

    async def switch(request: Request) -> Response:
        """Write the rule into the configuration file, or remove it (`null`). The run takes it up at
        once if it has rules already. 409 if the file was changed since it was shown.
        """
        try:
            wish = await posted(request, RuleSwitch, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        return await _answered(_switch, config, wish, ask)

    return [
        Operation("/api/v1/visits/rule/file", rule, [_MARKS], gives=RuleInFile),
        Operation("/api/v1/visits/rule/on", switch, gives=RuleInFile, body=RuleSwitch),
    ]


async def _answered(answer: Callable[..., Any], *arguments: Any) -> Response:
    try:
        content = await run_in_threadpool(answer, *arguments)
    except FileChanged as error:
        return refused(Refusal(409, str(error)))
    except ConfigFaults as error:
        return refused(Refusal(400, str(error)))
    except (Refusal, FramegateError) as error:
        return refused(error)
    return Response(msgspec.json.encode(content), 200, NO_STORE, JSON)


def _state(config: str, name: str, ask: AskConfig) -> RuleInFile:
    if not config:
        return RuleInFile("", fault=_NO_FILE)
    try:
        file = read_config_file(Path(config))
    except ConfigFaults as error:
        return RuleInFile(config, fault=str(error))
    return _shown(file, name, ask(GetConfig()), _LATER)


def _switch(config: str, wish: RuleSwitch, ask: AskConfig) -> RuleInFile:
    if not config:
        raise Refusal(400, _NO_FILE)
    name = wish.marks
    if not is_name(name):
        raise Refusal(400, f"marks: {name[:40]!r} cannot name a rule; a name is {NAME_RULE}")
    lines = ""
    if wish.like is not None:
        try:
            lines = rule_text(name, Likeness.read(wish.like))
        except LikenessInvalid as error:
            raise Refusal(400, f"like: {error}") from None
    paths = [f"events.rules.{name}"]
    file = change_file(Path(config), wish.digest, lambda now: _changed(now, name, lines), paths)
    try:
        return _shown(file, name, ask(ReloadConfig()), _LATER)
    except NoReply as error:
        return _shown(file, name, None, str(error))
    except RequestRefused as error:
        return _shown(file, name, ask(GetConfig()), str(error))


def _changed(file: ConfigFile, name: str, lines: str) -> str:
    """Return the text of a file with the lines of a rule; "": without the rule. Refusal."""
    path = ("events", "rules", name)
    before = file.config.events.rules.get(name)
    if before is not None and before.when != "like":
        raise Refusal(
            400,
            f'{file.path} has a rule {name} with when = "{before.when}"; use another name of marks',
        )
    if lines:
        return with_lines(file.text, path, lines)
    if before is not None:
        others = ", ".join(key for key in values_of(before) if key not in _WRITTEN)
        if others:
            raise Refusal(
                400,
                f"rule {name}: it also has {others}, which switching it on would not bring back; "
                f"remove its lines from {file.path}, then `framegate rules reload`",
            )
    return with_value(file.text, path, None)


def _shown(file: ConfigFile, name: str, running: EditableConfig | None, waits: str) -> RuleInFile:
    """Return the rule as a page shows it. running: None if the supervisor did not answer"""
    fault = None
    version = None
    like = ""
    events = file.config.events
    if name in events.rules:
        version = events.digest(name)
        like = events.rules[name].like
        if not like:
            fault = f"{file.path} has another rule of the name {name}; use another name of marks"
    is_running = None
    if running is not None:
        is_running = running.versions.get(name) == version
    if is_running:
        waits = ""
    return RuleInFile(str(file.path), file.digest, like, is_running, waits, fault)
