"""/api/v1/config: the part of the configuration that can change during a run, and its changes.

Programs and pages of this server may change it; pages of other servers may not. The supervisor
writes each change into the file of the configuration, and the run uses it from its next frames on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from framegate.pipeline.config.snooze import MOST_S
from framegate.pipeline.config.switches import (
    AskConfig,
    Snoozed,
    snooze,
    switch_profile,
    unsnooze,
)
from framegate.pipeline.contracts.errors import FramegateError, RequestRefused
from framegate.pipeline.contracts.live_config import (
    ANY,
    ChangeConfig,
    ConfigChange,
    ConfigRequest,
    EditableConfig,
    GetConfig,
    ReloadConfig,
    RestoreConfig,
)
from framegate.pipeline.web.accounts.accounts import Caller
from framegate.pipeline.web.limits import JSON, NO_STORE, Refusal, posted, refused
from framegate.pipeline.web.openapi import Operation
from framegate.pipeline.web.route_table import caller_of

MAX_BYTES: Final = 256 << 10  # of the changes in a request
# Where pictures are sent, and what they hide; ANY can be both.
_OF_ADMINS: Final = ("sinks", "privacy", ANY)


class ConfigEdit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of the configuration, all or none.

    digest   digest of the file that the user saw
    changes  the changes, in their order
    """

    digest: str
    changes: Sequence[ConfigChange]


class ConfigUndo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wish to go back to an earlier text of the file.

    digest   digest of the file that the user saw
    version  digest of the earlier text, from `history`; empty: the text before the last change
    """

    digest: str
    version: str = ""


class ConfigReload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wish to use the file as it is now, after an edit by hand."""


class ProfileChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wish to switch the profile.

    profile  name of the profile; empty: by the schedules of the profiles
    """

    profile: str


class SnoozeWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wish to snooze: until a time, rules start no episode. Without names: all rules.

    rule    name of the only rule
    source  name of the only source
    for_s   seconds from now; 0: end the snooze
    """

    rule: str = ""
    source: str = ""
    for_s: Annotated[float, msgspec.Meta(ge=0, le=MOST_S)] = 1800.0


def config_routes(ask: AskConfig) -> list[Operation]:
    """Return the routes. ask: asks the supervisor; may block for some ms"""

    async def shown(request: Request) -> Response:  # noqa: ARG001
        """The tables that can change during the run, as the configuration file has them, with the
        digest that a change must name, what waits for the next start, and earlier versions.
        """
        return await _answered(ask, GetConfig())

    async def change(request: Request) -> Response:
        """Change tables or keys in the configuration file, all or none. The run uses them from its
        next frames on. 409 if the file was changed since it was shown.
        """
        try:
            edit = await posted(request, ConfigEdit, MAX_BYTES)
            _check_role(caller_of(request), [each.path for each in edit.changes])
        except Refusal as error:
            return refused(error)
        return await _answered(ask, ChangeConfig(edit.digest, edit.changes))

    async def undo(request: Request) -> Response:
        """Go back to an earlier text of the configuration file. A second undo brings the change
        back. 409 if the file was changed since it was shown.
        """
        try:
            wish = await posted(request, ConfigUndo, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        caller = caller_of(request)
        restore = RestoreConfig(wish.digest, wish.version)

        def checked(_: ConfigRequest) -> EditableConfig:
            _check_role(caller, _undone(ask, wish.version))
            return _asked(ask, restore)

        return await _answered(checked, restore)

    async def reload(request: Request) -> Response:
        """Use the configuration file as it is now, after an edit by hand."""
        try:
            await posted(request, ConfigReload, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        return await _answered(ask, ReloadConfig())

    return [
        Operation("/api/v1/config", shown, gives=EditableConfig),
        Operation("/api/v1/config/change", change, gives=EditableConfig, body=ConfigEdit),
        Operation("/api/v1/config/undo", undo, gives=EditableConfig, body=ConfigUndo),
        Operation("/api/v1/config/reload", reload, gives=EditableConfig, body=ConfigReload),
        *_switch_routes(ask),
    ]


def _switch_routes(ask: AskConfig) -> list[Operation]:
    """Return the routes that change the file without a digest."""

    async def profile(request: Request) -> Response:
        """Switch the profile: the rules that are active together, such as at night."""
        try:
            choice = await posted(request, ProfileChoice, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        return await _answered(lambda _: switch_profile(ask, choice.profile), GetConfig())

    async def quiet(request: Request) -> Response:
        """Snooze a rule, a source or all rules, or end that: no episode starts meanwhile."""
        try:
            wish = await posted(request, SnoozeWish, MAX_BYTES)
        except Refusal as error:
            return refused(error)
        return await _answered(lambda _: _snoozed(ask, wish), GetConfig())

    return [
        Operation("/api/v1/config/profile", profile, gives=EditableConfig, body=ProfileChoice),
        Operation("/api/v1/config/snooze", quiet, gives=EditableConfig, body=SnoozeWish),
    ]


def _snoozed(ask: AskConfig, wish: SnoozeWish) -> EditableConfig:
    what = Snoozed(wish.rule, wish.source)
    now = time.time()
    if not wish.for_s:
        return unsnooze(ask, what, now)
    return snooze(ask, what, now + wish.for_s, now)


def _undone(ask: AskConfig, version: str) -> Sequence[str]:
    """Return the paths that an undo changes; a version may differ in any of them."""
    if version:
        return [ANY]
    history = ask(GetConfig()).history
    if not history:
        return []
    return history[0].changes


def _check_role(caller: Caller, paths: Sequence[str]) -> None:
    """Refusal with 403 for changes that need an administrator."""
    kinds = {path.partition(".")[0] for path in paths}
    restricted = sorted(kinds.intersection(_OF_ADMINS))
    if restricted and not caller.may("admin"):
        raise Refusal(403, f"a change of {' and '.join(restricted)} needs the role admin")


async def _answered(ask: AskConfig, request: ConfigRequest) -> Response:
    try:
        content = await run_in_threadpool(_asked, ask, request)
    except (Refusal, FramegateError) as error:
        return refused(error)
    return Response(msgspec.json.encode(content), 200, NO_STORE, JSON)


def _asked(ask: AskConfig, request: ConfigRequest) -> EditableConfig:
    """Return the answer. Refusal with 409 if the user saw another text than the file has."""
    try:
        return ask(request)
    except RequestRefused as error:
        status = 400
        if isinstance(request, GetConfig | ReloadConfig):
            raise Refusal(status, str(error)) from None
        if ask(GetConfig()).digest != request.digest:
            status = 409
        raise Refusal(status, str(error)) from None
