"""What every command stands on: options that may stand anywhere, the client, and help in colour on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

if TYPE_CHECKING:
    from types import ModuleType

    from taskman_sdk import TaskMan
    from taskman_sdk.profiles import Profile, Profiles

__all__ = ["DEFAULT_PROFILE", "State", "group", "lazy_group", "state"]

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_PROFILE: Final = "default"


@dataclass
class State:
    """The options of this run, and what is made from them.

    Attributes:
        url: the server, where given.
        token: an access token, where given.
        profile: whose session is used.
        output: `table`, `json` or `quiet`.
        color: whether colours may be used at all.
        debug: show tracebacks.
        timeout: seconds for one call.
        signing_in: the command is the one that signs in, and needs no advice to do so.
    """

    url: str = ""
    token: str = ""
    profile: str = DEFAULT_PROFILE
    output: str = "table"
    color: bool = True
    debug: bool = False
    timeout: float = 30.0
    signing_in: bool = False
    _client: TaskMan | None = None

    @property
    def profiles(self) -> Profiles:
        """The profiles of this user."""
        from taskman_sdk.profiles import Profiles

        return Profiles()

    def current(self) -> Profile:
        """The profile in use, with the address that the options say."""
        from taskman_sdk.client import DEFAULT_URL
        from taskman_sdk.profiles import Profile

        saved = self.profiles.get(self.profile)
        if saved is None and self.profile != DEFAULT_PROFILE and not self.url:
            raise click.UsageError(
                f"There is no profile {self.profile!r}. `taskman login --profile {self.profile} --url …` makes it."
            )
        url = (self.url or (saved.url if saved is not None else DEFAULT_URL)).rstrip("/")
        if saved is not None and saved.url == url:
            return saved
        return Profile(self.profile, url)

    def client(self) -> TaskMan:
        """The client, made at the first call. A profile's tokens go to the profile's own server alone."""
        if self._client is None:
            _light_httpx()
            from taskman_sdk import TaskMan

            profile = self.current()
            try:
                token = self.token or (self.profiles.credentials(profile) if profile.store else None)
                self._client = TaskMan(profile.url, token or "", timeout=self.timeout)
            except ValueError as error:
                raise click.UsageError(str(error)) from None
        return self._client

    def anonymous(self) -> TaskMan:
        """A client without tokens, for signing in."""
        _light_httpx()
        from taskman_sdk import TaskMan

        try:
            return TaskMan(self.current().url, "", timeout=self.timeout)
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    def close(self) -> None:
        """Closes the client."""
        if self._client is not None:
            self._client.close()


def _light_httpx() -> None:
    """Loads httpx without its own command line, which takes rich with it: two thirds of its loading time."""
    if "httpx" not in sys.modules:
        sys.modules["httpx._main"] = cast("ModuleType", None)  # its import fails, for which httpx is prepared
        import httpx  # noqa: F401

        del sys.modules["httpx._main"]


def state() -> State:
    """The state of the command that runs."""
    return click.get_current_context().ensure_object(State)


def _set(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # An option of a command wins over the same one before it; not given, it changes nothing.
    if value is not None and parameter.name is not None:
        current = context.ensure_object(State)
        setattr(current, parameter.name.removeprefix("global_"), value)


def _no_color(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(State).color = False
        context.color = False


def _options(hidden: bool) -> list[click.Option]:
    def option(*names: str, **settings: Any) -> click.Option:
        return click.Option(names, expose_value=False, hidden=hidden, **{"callback": _set, **settings})

    def listed(name: str) -> dict[str, Any]:
        return {} if hidden else {"envvar": name, "show_envvar": True}

    formats = click.Choice(["table", "json", "quiet"])
    return [
        option("--url", "global_url", metavar="URL", **listed("TASKMAN_URL"),
               help="The server, http(s)://… or grpc(s)://…"),
        option("--token", "global_token", metavar="TOKEN", **listed("TASKMAN_TOKEN"),
               help="An access token, instead of the session of `taskman login`."),
        option("--profile", "global_profile", metavar="NAME", **listed("TASKMAN_PROFILE"),
               help="Which saved server and session to use.  [default: default]"),
        option("-o", "--output", "global_output", type=formats,
               help="Tables for people, JSON for programs, or ids alone.  [default: table]"),
        option("--timeout", "global_timeout", type=click.FloatRange(min=0.1), metavar="SECONDS",
               help="Time for one call with its retries.  [default: 30]"),
        option("--no-color", "global_no_color", is_flag=True, callback=_no_color,
               help="No colours; NO_COLOR does the same."),
        option("--debug", "global_debug", is_flag=True, default=None, flag_value=True,
               help="Show where an error comes from."),
    ]  # fmt: skip


class _Anywhere:
    """Takes the options of the program also behind the command, where they are not listed again."""

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        own: list[click.Parameter] = super().get_params(context)  # type: ignore[misc]
        taken = {name for each in own for name in each.opts}
        extra = [each for each in _options(hidden=True) if not taken & set(each.opts)]
        return [*own, *extra]


def _pretty() -> bool:
    """Whether help is about to be read by a person: only then is rich worth its loading time."""
    asked = len(sys.argv) <= 2 or "--help" in sys.argv
    return asked and sys.stdout.isatty() and "NO_COLOR" not in os.environ and "--no-color" not in sys.argv


def _classes() -> tuple[type[click.Command], type[click.Group]]:
    if _pretty():
        import rich_click

        return rich_click.RichCommand, rich_click.RichGroup
    return click.Command, click.Group


_COMMAND, _GROUP = _classes()
_Command = cast("type[click.Command]", type("Command", (_Anywhere, _COMMAND), {}))


class _Suggesting:
    """Says what one may have meant by a command that there is not."""

    def resolve_command(self, context: click.Context, arguments: list[str]) -> Any:
        try:
            return super().resolve_command(context, arguments)  # type: ignore[misc]
        except click.UsageError as error:
            names = cast("click.Group", self).list_commands(context)
            meant = _meant(arguments[0], names)
            hint = f"did you mean `{context.command_path} {meant}`? " if meant else ""
            raise click.UsageError(
                f"There is no command {arguments[0]!r}; {hint}`{context.command_path} --help` lists them."
            ) from error


def _meant(word: str, names: Sequence[str]) -> str:
    from difflib import get_close_matches

    if (synonym := _SYNONYMS.get(word.lower())) in names:
        return str(synonym)
    return next(iter(get_close_matches(word, names, n=1)), "")


_SYNONYMS: Final = {
    word: name
    for name, words in {
        "add": "create new make",
        "ls": "list all",
        "rm": "delete del remove",
        "show": "get view describe",
        "edit": "update change set",
        "done": "close complete finish",
        "reopen": "todo undo",
        "search": "find",
        "login": "signin",
        "logout": "signout",
        "register": "signup",
    }.items()
    for word in words.split()
}
_Group = cast(
    "type[click.Group]",
    type("Group", (_Anywhere, _Suggesting, _GROUP), {"command_class": _Command, "group_class": type}),
)


class _Lazy(_Suggesting):
    """Finds commands by name in modules that are loaded when one of their commands is used."""

    homes: Mapping[str, str]

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.homes)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        home = self.homes.get(name)
        if home is None:
            return None
        module, _, attribute = home.partition(":")
        return cast("click.Command", getattr(import_module(f"taskman_sdk.cli.{module}"), attribute))


def lazy_group(homes: Mapping[str, str], **settings: Any) -> click.Group:
    """The program: commands by name, each as `module:attribute` of `taskman_sdk.cli`."""
    kind = cast("type[click.Group]", type("LazyGroup", (_Lazy, _GROUP), {"homes": homes, "command_class": _Command}))
    params: Sequence[click.Parameter] = _options(hidden=False)
    return kind(params=[*params, *settings.pop("params", [])], **settings)


def group(name: str, **settings: Any) -> Callable[[F], click.Group]:
    """A decorator: makes a function a group of commands."""
    return cast("Callable[[F], click.Group]", click.group(name, cls=_Group, **settings))


def command(name: str, **settings: Any) -> Callable[[F], click.Command]:
    """A decorator: makes a function a command of its own."""
    return cast("Callable[[F], click.Command]", click.command(name, cls=_Command, **settings))
