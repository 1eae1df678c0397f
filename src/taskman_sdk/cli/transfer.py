"""`taskman import csv` and `taskman export csv|jsonl`."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from taskman_sdk.cli._app import group, state
from taskman_sdk.cli._output import clean, dump, note

if TYPE_CHECKING:
    from taskman_sdk.cli._importer import Summary
    from taskman_sdk.cli._people import People
    from taskman_sdk.models import Task

# An export looks people up for so many tasks at a time.
CHUNK = 200


@group("import", short_help="Take tasks over from a file.")
def import_group() -> None:
    """Take tasks over from a file."""


@group("export", short_help="Write tasks to a file.")
def export_group() -> None:
    """Write tasks to a file."""


@import_group.command("csv", short_help="Take tasks over from a CSV file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-p", "--project", default="", help="The project of all tasks, whatever the file says.")
@click.option(
    "--people",
    type=click.Choice(["create", "map", "skip"]),
    default="create",
    show_default=True,
    help="Assignees whom the server does not know: create them, map them by a file, or leave them out.",
)
@click.option(
    "--people-map",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lines `address in FILE,address or id on the server`.",
)
@click.option("--batch", type=click.IntRange(1, 500), default=200, show_default=True, help="Rows in one request.")
@click.option(
    "--create-projects/--no-create-projects", default=True, show_default=True, help="Make projects that are not there."
)
@click.option(
    "--visibility",
    type=click.Choice(["private", "organization"]),
    default="private",
    show_default=True,
    help="Of projects that are made.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
def import_csv(
    file: Path, project: str, people: str, people_map: Path | None, batch: int, create_projects: bool,
    visibility: str, dry_run: bool,
) -> None:  # fmt: skip
    """Take tasks over from a CSV file in UTF-8.

    Columns: title, description, project, assignee, labels (parted by `;`), status, priority, created_at (RFC 3339
    with an offset), due_at (a date, or RFC 3339); also key and id (passed over) and external_id. Of these, title and
    project must be there. A bad row is reported with its line, the others land. Running it again adds nothing twice,
    also when the first run was cut off. Exits with 1 when any row failed.

    With --dry-run the server judges every row as it would be judged, and nothing is written.

    \b
    Examples:
      taskman import csv tasks.csv --dry-run
      taskman import csv tasks.csv --people skip
      taskman import csv tasks.csv -p WEB --people map --people-map people.csv -o json
    """
    from taskman_sdk.cli._csvfile import CsvError, read
    from taskman_sdk.cli._importer import Importer, Options, read_people_map
    from taskman_sdk.errors import TaskManError

    if people == "map" and people_map is None:
        raise click.UsageError("--people map needs --people-map FILE.")
    try:
        mapping = read_people_map(people_map) if people_map is not None else {}
        rows = list(read(file, project))
    except CsvError as error:
        raise click.ClickException(f"{file} is not imported: {error}") from None
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    options = Options(people, mapping, batch, create_projects, visibility, dry_run)
    with _progress(len(rows)) as advance:
        importer = Importer(state().client(), options, advance)
        try:
            importer.run(rows)
        except (TaskManError, KeyboardInterrupt) as error:
            if not dry_run:
                again = "Run the same command again: what has landed is not added twice."
                note(f"Not finished. {again}" if _passes(error) else "Stopped by an error. What has landed stays.")
            _report(importer.summary)
            raise
    _report(importer.summary)
    if importer.summary.failed:
        click.get_current_context().exit(1)


def _passes(error: BaseException) -> bool:
    """Whether the same command may well succeed later, with nothing changed."""
    from taskman_sdk import errors

    lasting = (
        errors.InvalidArgumentError, errors.PermissionDeniedError, errors.NotFoundError, errors.AlreadyExistsError,
        errors.FailedPreconditionError, errors.UnauthenticatedError, errors.UnimplementedError, errors.OutOfRangeError,
    )  # fmt: skip
    return not isinstance(error, lasting)


def _report(summary: Summary) -> None:
    value = summary.value()
    for error in value["errors"]:
        click.echo(f"line {error['line']}: {clean(error['reason'])}", err=True)
    if state().output == "json":
        dump(value)
        return
    would = "would be " if summary.dry_run else ""
    parts = [f"{summary.created} {would}created", f"{summary.already_there} already there", f"{summary.failed} failed"]
    if summary.projects_created:
        parts.append(f"projects {would}made: {', '.join(summary.projects_created)}")
    if summary.people_created:
        parts.append(f"{summary.people_created} people {would}made")
    click.echo(" · ".join(parts))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, when that is a terminal."""
    if not sys.stderr.isatty() or state().output == "quiet":
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, no_color=not state().color or "NO_COLOR" in os.environ)
    with Progress(console=console, transient=True) as bar:
        job = bar.add_task("Importing", total=total)
        yield lambda count: bar.update(job, advance=count)


_FILE = click.option("-f", "--file", "target", type=click.Path(dir_okay=False, path_type=Path),
                     help="Where to; stdout when not given. It is written whole or not at all.")  # fmt: skip
_PROJECT = click.option("-p", "--project", default="", help="Only tasks of this project.")
_FILTER = click.option("--filter", "expression", default="", help="A CEL expression over the fields of a task.")


@export_group.command("csv", short_help="Write tasks as CSV.")
@_PROJECT
@_FILTER
@_FILE
@click.option("--for-spreadsheet", is_flag=True, help="Keep spreadsheets from running cells as formulas; see above.")
def export_csv(project: str, expression: str, target: Path | None, for_spreadsheet: bool) -> None:
    """Write the tasks that you may see as CSV, oldest first, in the columns that `taskman import csv` reads.

    Cells are written as they are. A spreadsheet runs those that begin with = + - or @ as formulas, whoever wrote them:
    with --for-spreadsheet they get an apostrophe before them. Such a file is for reading; an import would take the
    apostrophes over.

    \b
    Examples:
      taskman export csv -f tasks.csv
      taskman export csv -p WEB --filter 'state != "done"' > open.csv
    """
    from taskman_sdk.cli import _csvfile
    from taskman_sdk.cli._csvfile import EXPORT_COLUMNS, write_list, write_time

    with _output(target) as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(EXPORT_COLUMNS)
        count = 0
        for task, emails in _tasks(project, expression):
            cells = [
                task.title, task.description, task.key.rpartition("-")[0], write_list(emails), write_list(task.labels),
                task.state, task.priority, write_time(task.create_time), write_time(task.due_time, day=True),
                task.key, task.id, task.external_id,
            ]  # fmt: skip
            writer.writerow([_csvfile.for_spreadsheet(cell) for cell in cells] if for_spreadsheet else cells)
            count += 1
    _written(count, target)


@export_group.command("jsonl", short_help="Write tasks as one JSON object a line.")
@_PROJECT
@_FILTER
@_FILE
def export_jsonl(project: str, expression: str, target: Path | None) -> None:
    """Write the tasks that you may see, oldest first, each as the API has it and with `assignee_emails`.

    \b
    Examples:
      taskman export jsonl -p WEB | jq .title
    """
    with _output(target) as file:
        count = 0
        for task, emails in _tasks(project, expression):
            value = {**task.model_dump(mode="json"), "assignee_emails": list(emails)}
            file.write(_line(value))
            count += 1
    _written(count, target)


def _line(value: Any) -> str:
    """One line of JSON, also for readers that take U+0085, U+2028 and U+2029 for line ends."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[\x85\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", text) + "\n"


def _tasks(project: str, expression: str) -> Iterator[tuple[Task, Sequence[str]]]:
    from taskman_sdk.cli._people import People

    people: People = People(state().client())
    given: dict[str, Any] = {"project": project, "filter": expression}
    answers = iter(state().client().tasks.export(**given))
    while chunk := list(islice(answers, CHUNK)):
        tasks = [answer.task for answer in chunk if answer.task is not None]
        emails = people.emails(each for task in tasks for each in task.assignees)
        for task in tasks:
            yield task, [emails[each] for each in task.assignees]


def _written(count: int, target: Path | None) -> None:
    if target is not None:
        note(f"{count} tasks written to {target}.")


@contextmanager
def _output(target: Path | None) -> Iterator[TextIO]:
    """UTF-8 with line ends as they are: stdout, or a file that takes its place when it is complete."""
    if target is None:
        stream = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="", write_through=True)
        try:
            yield stream
        finally:
            stream.detach()
        return
    handle, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
