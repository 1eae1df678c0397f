"""`taskman task …`, and the short forms `add`, `ls`, `start`, `done`, `reopen`, `search`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import note, result, show, stamp, table

if TYPE_CHECKING:
    from taskman_sdk.cli._people import People
    from taskman_sdk.models import Task

PRIORITIES = click.Choice(["low", "medium", "high", "urgent"])


@group("task", short_help="Add, find and change tasks.")
def task() -> None:
    """Add, find and change tasks. A TASK is a key such as WEB-42, or an id."""


def _people() -> People:
    from taskman_sdk.cli._people import People

    return People(state().client())


def _due(text: str) -> datetime | None:
    from taskman_sdk.cli._dates import end_of_day, moment

    if text == "none":
        return None
    try:
        when, whole = moment(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--due") from None
    return end_of_day(when) if whole else when


def _table(tasks: Iterable[Task], *, empty: str = "") -> None:
    found = list(tasks)
    names: dict[str, str] = {}
    if state().output == "table":
        names = _people().shown(each for one in found for each in one.assignees)
    table(
        found,
        [
            ("KEY", lambda t: t.key),
            ("STATE", lambda t: t.state),
            ("PRIORITY", lambda t: t.priority),
            ("DUE", lambda t: stamp(t.due_time, day=True)),
            ("TITLE", lambda t: t.title),
            ("LABELS", lambda t: " ".join(t.labels)),
            ("ASSIGNEES", lambda t: " ".join(names.get(each, each) for each in t.assignees)),
        ],
        lambda t: str(t.key),
        empty=empty,
    )


@task.command("add", short_help="Add a task.")
@click.argument("title")
@click.option("-p", "--project", required=True, envvar="TASKMAN_PROJECT", show_envvar=True, help="Its project's key.")
@click.option("-d", "--description", default="", help="Details, in Markdown.")
@click.option("--due", help="When it is due: friday, tomorrow, +3d, 2024-09-01 …")
@click.option("-l", "--label", "labels", multiple=True, help="A label; may be given several times.")
@click.option("-a", "--assignee", "assignees", multiple=True, help="Who is to do it: me, an address or an id.")
@click.option("--priority", type=PRIORITIES, help="How urgent it is.")
def add(
    title: str, project: str, description: str, due: str | None, labels: Sequence[str], assignees: Sequence[str],
    priority: str | None,
) -> None:  # fmt: skip
    """Add a task.

    \b
    Examples:
      taskman add "Pay rent" -p HOME --due friday
      taskman add "Fix the login page" -p WEB -l fix -a me --priority high
    """
    due_time = _due(due) if due else None
    people = _people()
    given: dict[str, Any] = {"priority": priority} if priority else {}
    made = state().client().tasks.create(
        project=project, title=title, description=description, labels=list(dict.fromkeys(labels)),
        assignees=[people.id(each) for each in assignees], due_time=due_time, **given,
    )  # fmt: skip
    result(made, f"{made.key}  {made.title}", lambda t: str(t.key))


@task.command("ls", short_help="List tasks.")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@click.option("-p", "--project", default="", help="Only tasks of this project.")
@click.option("--filter", "expression", default="", help="A CEL expression, for example '\"fix\" in labels'.")
@click.option("--sort", default="", help="create_time, update_time, due_time, priority or title; `-due_time` reverses.")
@click.option("-n", "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="How many; 0 for all.")
@click.option("--deleted", is_flag=True, help="Also those in the trash.")
def ls(words: Sequence[str], project: str, expression: str, sort: str, limit: int, deleted: bool) -> None:
    """List tasks that match every FILTER.

    A FILTER is name:value, with label, state, priority, assignee, creator, key, project, or due, start, created,
    updated with a date; or a word of the title. `a,b` means any of them, `!a` anything else, `none` nothing.

    \b
    Examples:
      taskman ls
      taskman ls label:fix state:todo assignee:me "due:<2024-09-01"
      taskman ls project:WEB state:!done due:overdue login
      taskman ls --filter '"fix" in labels && priority == "high"' -o json
    """
    from taskman_sdk.cli._filters import FilterError, read

    try:
        query = read(words, _people().id)
    except FilterError as error:
        raise click.BadParameter(str(error), param_hint="FILTER") from None
    if expression:
        query.terms.append(expression)
    order = f"{sort.removeprefix('-')} desc" if sort.startswith("-") else sort
    # One more than shown: only so one knows whether there are more.
    size = min(limit + 1, 1000) if limit else 1000
    pages = state().client().tasks.list(
        filter=query.cel, project=project or query.project, order_by=order, show_deleted=deleted, page_size=size
    )  # fmt: skip
    found = pages.to_list(limit + 1 if limit else None)
    _table(found[:limit] if limit else found, empty="No tasks match.")
    if limit and len(found) > limit:
        note(f"There are more; -n 0 shows all, -n {limit * 2} twice as many.")


@task.command("search", short_help="Find tasks by words.")
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
def search(words: Sequence[str], limit: int) -> None:
    """Find tasks by words in title, description, labels and key, best match first.

    \b
    Examples:
      taskman search login page
      taskman search kanban -n 5 -o json
    """
    pages = state().client().tasks.search(query=" ".join(words), page_size=min(limit, 1000))
    _table(pages.to_list(limit), empty="Nothing found.")


@task.command("show", short_help="Show one task.")
@click.argument("key", metavar="TASK")
def show_task(key: str) -> None:
    """Show one task with everything about it.

    \b
    Examples:
      taskman task show WEB-42
      taskman task show WEB-42 -o json
    """
    found = state().client().tasks.get(key)
    names: dict[str, str] = {}
    if state().output == "table":
        names = _people().shown([*found.assignees, *([found.creator] if found.creator else [])])
    show(
        found,
        [
            ("Key", lambda t: t.key),
            ("Title", lambda t: t.title),
            ("State", lambda t: t.state),
            ("Priority", lambda t: t.priority),
            ("Labels", lambda t: ", ".join(t.labels)),
            ("Assignees", lambda t: ", ".join(names.get(each, each) for each in t.assignees)),
            ("Start", lambda t: stamp(t.start_time)),
            ("Due", lambda t: stamp(t.due_time)),
            ("Creator", lambda t: names.get(t.creator, t.creator)),
            ("Created", lambda t: stamp(t.create_time)),
            ("Changed", lambda t: stamp(t.update_time)),
            ("Completed", lambda t: stamp(t.complete_time)),
            ("Deleted", lambda t: stamp(t.delete_time)),
            ("Id", lambda t: t.id),
            ("Description", lambda t: f"{t.description}\n" if t.description else ""),
        ],
        lambda t: str(t.key),
    )


@task.command("edit", short_help="Change a task.")
@click.argument("key", metavar="TASK")
@click.option("--title", help="A new title.")
@click.option("-d", "--description", help="New details, in Markdown.")
@click.option("--due", help="When it is due: friday, +3d, 2024-09-01 …, or none.")
@click.option("-l", "--label", "labels", multiple=True, help="All labels it is to have; several times, or '' for none.")
@click.option("--priority", type=PRIORITIES, help="How urgent it is.")
def edit(
    key: str, title: str | None, description: str | None, due: str | None, labels: Sequence[str], priority: str | None
) -> None:
    """Change fields of a task; those not given stay.

    \b
    Examples:
      taskman task edit WEB-42 --title "Fix the login page" --due none
      taskman task edit WEB-42 -l fix -l login
    """
    given = {"title": title, "description": description, "priority": priority}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if due is not None:
        changes["due_time"] = _due(due)
    if labels:
        changes["labels"] = [each for each in dict.fromkeys(labels) if each]
    if not changes:
        raise click.UsageError("Say what to change: --title, --description, --due, --label or --priority.")
    changed = state().client().tasks.update(key, **changes)
    result(changed, f"{changed.key}  {changed.title}", lambda t: str(t.key))


def _move(keys: Sequence[str], target: str) -> None:
    _each(
        keys,
        lambda key: state().client().tasks.transition(key, state=target),
        lambda t: f"{t.key}  {t.state}  {t.title}",
    )


def _each(keys: Sequence[str], change: Callable[[str], Task], sentence: Callable[[Task], str]) -> None:
    """Changes tasks one after the other, each told of at once; in JSON, several are one array at the end.

    A failure is told of and the others still have their turn; the highest of the exit codes is that of the whole.
    """
    from taskman_sdk.cli._errors import explain
    from taskman_sdk.errors import TaskManError, UnauthenticatedError

    several, worst = len(keys) > 1, 0
    changed: list[Task] = []
    try:
        for key in keys:
            try:
                one = change(key)
            except TaskManError as error:
                if isinstance(error, UnauthenticatedError) or state().debug:
                    raise
                worst = max(worst, explain(error, state(), about=key if several else ""))
                continue
            changed.append(one)
            if not several or state().output != "json":
                result(one, sentence(one), lambda t: str(t.key))
    finally:
        if several and state().output == "json":
            table(changed, [], lambda t: str(t.key))
    if worst:
        click.get_current_context().exit(worst)


@task.command("done", short_help="Mark tasks as done.")
@click.argument("keys", metavar="TASK...", nargs=-1, required=True)
def done(keys: Sequence[str]) -> None:
    """Move tasks to the state `done`. One that cannot be moved is told of, the others are.

    \b
    Examples:
      taskman done WEB-42
      taskman done WEB-42 WEB-43
    """
    _move(keys, "done")


@task.command("start", short_help="Begin work on tasks.")
@click.argument("keys", metavar="TASK...", nargs=-1, required=True)
@click.option("--state", "target", default="in_progress", show_default=True, help="The state to move to.")
def start(keys: Sequence[str], target: str) -> None:
    """Move tasks to the state `in_progress`, or another one.

    \b
    Examples:
      taskman start WEB-42
      taskman start WEB-42 WEB-43 --state review
    """
    _move(keys, target)


@task.command("reopen", short_help="Move tasks back.")
@click.argument("keys", metavar="TASK...", nargs=-1, required=True)
@click.option("--state", "target", default="todo", show_default=True, help="The state to move to.")
def reopen(keys: Sequence[str], target: str) -> None:
    """Move tasks back to the state `todo`, or another one that the workflow lets them return to.

    \b
    Examples:
      taskman reopen WEB-42
      taskman reopen WEB-42 WEB-43 --state backlog
    """
    _move(keys, target)


@task.command("assign", short_help="Add people to a task.")
@click.argument("key", metavar="TASK")
@click.argument("who", nargs=-1, required=True)
def assign(key: str, who: Sequence[str]) -> None:
    """Add people who are to do a task. WHO is `me`, an address or an id.

    \b
    Examples:
      taskman task assign WEB-42 me
      taskman task assign WEB-42 ada@example.org bob@example.org
    """
    people = _people()
    changed = state().client().tasks.assign(key, assignees=[people.id(each) for each in who])
    result(changed, f"{changed.key}  assigned to {' '.join(who)}", lambda t: str(t.key))


@task.command("unassign", short_help="Take people off a task.")
@click.argument("key", metavar="TASK")
@click.argument("who", nargs=-1, required=True)
def unassign(key: str, who: Sequence[str]) -> None:
    """Take people off a task. WHO is `me`, an address or an id.

    \b
    Examples:
      taskman task unassign WEB-42 me
    """
    people = _people()
    changed = state().client().tasks.unassign(key, assignees=[people.id(each) for each in who])
    result(changed, f"{changed.key}  no longer assigned to {' '.join(who)}", lambda t: str(t.key))


@task.command("rm", short_help="Move tasks to the trash.")
@click.argument("keys", metavar="TASK...", nargs=-1, required=True)
def rm(keys: Sequence[str]) -> None:
    """Move tasks to the trash, from which `taskman task restore` brings them back.

    \b
    Examples:
      taskman task rm WEB-42
    """
    _each(keys, lambda key: state().client().tasks.delete(key), lambda t: f"{t.key}  moved to the trash")


@task.command("restore", short_help="Take tasks out of the trash.")
@click.argument("keys", metavar="TASK...", nargs=-1, required=True)
def restore(keys: Sequence[str]) -> None:
    """Take tasks out of the trash.

    \b
    Examples:
      taskman task restore WEB-42
    """
    _each(keys, lambda key: state().client().tasks.restore(key), lambda t: f"{t.key}  restored")
