"""Reference pages made from the code when the site is built: nobody writes the same fact twice.

A mkdocs hook: calls from the contract, errors from the table, settings from the tree, commands from click.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from taskman_sdk import contract
from taskman_sdk.comments import comment
from taskman_server.settings import CLIENT_VARIABLES, Settings, variable_of

_CLIENT = {
    "TASKMAN_URL": "The server that the command `taskman` and the client library talk to.",
    "TASKMAN_TOKEN": "The access token they show it.",
    "TASKMAN_PROFILE": "The saved profile that the command takes both from when they are not set.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages to the site."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content="\n".join(make()) + "\n"))
    return files


def calls() -> Iterator[str]:
    """Every call: route, permission, events, fields."""
    yield "# Calls"
    yield ""
    yield "Made from the contract. The same calls go over REST, gRPC and in process; `/openapi.json` is for tools."
    for service in contract.services().values():
        yield f"\n## {service.name}\n\n{comment(service.full_name)}"
        for method in service.methods.values():
            if method.route is None:
                continue
            yield f"\n### {method.operation_id}\n\n`{method.route.verb} {method.route.template}`\n"
            yield comment(method.path[1:].replace("/", ".")) + "\n"
            yield f"Needs: {_needs(method)}."
            if method.events:
                yield f"Emits: {', '.join(f'`{name}`' for name in method.events)}."
            yield from _fields(method)


def _needs(method: contract.Method) -> str:
    if method.permission:
        return f"the permission `{method.permission}`"
    return {"public": "nothing", "authenticated": "a token"}[method.access]


def _fields(method: contract.Method) -> Iterator[str]:
    desc = method.input.desc()
    if desc.fields:
        yield "\n| field of the request | meaning |\n| --- | --- |"
        for field in desc.fields:
            yield f"| `{field.name}` | {_cell(comment(f'{desc.type_name}.{field.name}'))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def events() -> Iterator[str]:
    """Every event with its payload."""
    yield "# Events\n"
    yield "CloudEvents 1.0 with the type `taskman.<name>.v1`. Webhooks and the audit trail use the name alone.\n"
    yield "| event | from | payload | meaning of the payload |\n| --- | --- | --- | --- |"
    for event in sorted(contract.events().values(), key=lambda each: each.name):
        desc = event.payload.desc()
        yield f"| `{event.name}` | {event.area} | `{desc.name}` | {_cell(comment(desc.type_name))} |"


def permissions() -> Iterator[str]:
    """The permission catalogue and what policies can look at."""
    yield "# Permissions\n"
    yield "Each call names the permission it needs (IAM-3). Roles hold permissions; policies grant or refuse them under"
    yield "a condition in CEL over `principal`, `resource` and `now`.\n"
    yield "| permission | calls |\n| --- | --- |"
    for name, methods in contract.permissions().items():
        yield f"| `{name}` | {', '.join(f'`{method.operation_id}`' for method in methods)} |"
    yield "\n## What a condition can look at\n"
    by_message: dict[Any, list[str]] = {}
    for prefix, message in contract.resources().items():
        by_message.setdefault(message, []).append(prefix)
    for message, prefixes in by_message.items():
        desc = message.desc()
        yield f"### {', '.join(f'`{prefix}.*`' for prefix in prefixes)}\n\n{comment(desc.type_name)}\n"
        yield "| attribute | meaning |\n| --- | --- |"
        for field in desc.fields:
            yield f"| `resource.{field.name}` | {_cell(comment(f'{desc.type_name}.{field.name}'))} |"
        yield ""


def settings() -> Iterator[str]:
    """Every setting."""
    yield "# Settings\n"
    yield "A setting has one name in three places: a flag, an environment variable, a line of `taskman.toml`. A flag"
    yield "wins over the environment, and that over the file. A name that is no setting stops the start and is named;"
    yield "`taskman-server settings` shows what holds here and now.\n\n## The server"
    for name, field in Settings.model_fields.items():
        yield f"\n### {variable_of(name)}\n\n{field.description}"
        default = field.get_default()
        shown = f"{default.requests}/{default.seconds}s" if name == "rate_limit" else str(default)
        if shown and not hasattr(default, "get_secret_value") and shown not in ("()", "PydanticUndefined"):
            yield f"\nDefault: `{shown}`."
    yield "\n## The client"
    for name in sorted(CLIENT_VARIABLES & set(_CLIENT)):
        yield f"\n### {name}\n\n{_CLIENT[name]}"


def commands(title: str, group: Callable[[], click.Group], name: str) -> Callable[[], Iterator[str]]:
    """Every command of a command line."""

    def make() -> Iterator[str]:
        yield f"# {title}\n"
        yield from _command(group(), name, 2)

    return make


def _command(command: click.Command, name: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"{'#' * level} {name}\n\n```text\n{context.get_help()}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from _command(found, f"{name} {child}", min(level + 1, 4))


def _client_group() -> click.Group:
    from taskman_sdk.cli import cli

    return cli


def _server_group() -> click.Group:
    from taskman_server.cli import group

    return group


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "reference/calls.md": calls,
    "reference/events.md": events,
    "reference/permissions.md": permissions,
    "reference/settings.md": settings,
    "reference/taskman.md": commands("The command taskman", _client_group, "taskman"),
    "reference/taskman-server.md": commands("The command taskman-server", _server_group, "taskman-server"),
}
