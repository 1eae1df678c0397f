"""The command line, against the real server in this process (CLI-1, CLI-2, TASK-9)."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from taskman_sdk import TaskMan, UnavailableError
from taskman_sdk.cli import _app, cli, main
from taskman_server.app import Application, embedded

PASSWORD = "a long and unusual passphrase 42"
EMAIL = "owner@example.org"
HEAD = "title,description,project,assignee,labels,status,priority,created_at,due_at\n"


class House:
    """A server on a thread of its own; the sync client reaches it by its transport."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with embedded(admin_email=EMAIL, admin_password=PASSWORD, rate_limit="off") as app:
            self.app: Application = app
            self._transport = app.transport()
            self._ready.set()
            await self._over.wait()

    def __enter__(self) -> House:
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)

    def client(self, token: Any = None) -> TaskMan:
        return TaskMan(token=token, transport=self._transport)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as running:
        yield running


@pytest.fixture(scope="module")
def owner(house: House) -> Iterator[TaskMan]:
    with house.client() as client:
        client.auth.login(email=EMAIL, password=PASSWORD)
        yield client


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    house: House, owner: TaskMan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs `taskman …` as the owner; answers exit code, stdout and stderr."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("TASKMAN_URL", "TASKMAN_TOKEN", "TASKMAN_PROFILE", "TASKMAN_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_app.State, "client", lambda self: house.client(owner.credentials.access_token))
    monkeypatch.setattr(_app.State, "anonymous", lambda self: house.client(""))

    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["taskman", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capfd.readouterr()
        return int(str(stopped.value.code or 0)), out, err

    return call


@pytest.fixture(scope="module")
def web(owner: TaskMan) -> str:
    return owner.projects.create(key="WEB", display_name="The web site").key


def test_daily_use_is_short(run: Run, web: str) -> None:
    """CLI-2"""
    code, out, _ = run("add", "Pay rent", "-p", "WEB", "--due", "friday", "-l", "home", "-a", "me")
    assert code == 0
    key = out.split()[0]
    assert run("ls", "label:home", "assignee:me", "due:friday", "-o", "quiet")[:2] == (0, f"{key}\n")
    assert run("task", "start", key)[0] == 0
    assert run("done", key)[:2] == (0, f"{key}  done  Pay rent\n")
    assert run("ls", "label:home", "state:!done", "-o", "json")[:2] == (0, "[]\n")
    code, out, _ = run("task", "show", key)
    assert code == 0
    assert ["Assignees", EMAIL] in [line.split() for line in out.splitlines()]
    assert run("task", "edit", key, "--due", "none", "--title", "Pay the rent")[0] == 0
    task = json.loads(run("task", "show", key, "-o", "json")[1])
    assert (task["title"], task["due_time"], task["state"]) == ("Pay the rent", None, "done")
    assert run("task", "rm", key)[0] == 0
    assert run("ls", "label:home", "-o", "quiet")[1] == ""
    assert run("task", "restore", key)[0] == 0
    assert run("search", "pay", "rent", "-o", "quiet")[1] == f"{key}\n"


def test_json_on_stdout_is_json_and_nothing_else(run: Run, web: str) -> None:
    """CLI-1: options may stand before and behind the command."""
    for arguments in (
        ("project", "ls"), ("user", "ls"), ("role", "ls"), ("role", "permissions"), ("policy", "ls"), ("webhook", "ls"),
        ("webhook", "deliveries"), ("audit", "ls", "-n", "3"), ("audit", "verify"), ("notification", "ls"), ("whoami",),
        ("audit", "metrics", "--by", "type"),
        ("project", "show", "WEB"), ("ls", "nothing-is-called-this"),
    ):  # fmt: skip
        for asked in ((*arguments, "-o", "json"), ("-o", "json", *arguments)):
            code, out, err = run(*asked)
            assert (code, err) == (0, ""), asked
            json.loads(out)


def test_records_are_counted_over_time(run: Run, web: str) -> None:
    """CLI-1, AUDIT-5: a line for each span in which something happened, and for each actor by name."""
    assert run("add", "Counted", "-p", "WEB")[0] == 0
    code, out, _ = run("audit", "metrics", "--since", "2h", "--bucket", "1h", "--by", "actor")
    assert code == 0
    heading, *lines = out.splitlines()
    assert heading.split() == ["TIME", "ACTOR", "COUNT", "PER", "SECOND"]
    assert any(EMAIL in line for line in lines)
    assert run("audit", "metrics", "--filter", 'type == "no.such"')[:3:2] == (0, "No records match.\n")
    for wrong in (("--bucket", "wide"), ("--since", "once"), ("--by", "colour")):
        assert run("audit", "metrics", *wrong)[0] == 2


def test_tables_are_aligned_whole_and_safe_in_a_pipe(run: Run, web: str, owner: TaskMan) -> None:
    """CLI-1: and what somebody else wrote into a title does not steer the terminal."""
    owner.tasks.create(project="WEB", title="evil \x9b31m red\u202e " + "x" * 200, labels=["table"])
    code, out, _ = run("ls", "label:table")
    assert code == 0
    assert "\x9b" not in out
    assert "\u202e" not in out
    assert "x" * 200 in out
    heading, row = out.splitlines()
    assert row.index("evil") == heading.index("TITLE")


@pytest.mark.parametrize(
    ("arguments", "expected", "words"),
    [
        (("lss",), 2, "did you mean `taskman ls`"),
        (("ls", "colour:red"), 2, "nothing to filter by"),
        (("ls", "--no-such-option"), 2, "No such option"),
        (("add", "x"), 2, "--project"),
        (("add", "x", "-p", "WEB", "--due", "someday"), 2, "no date"),
        (("task", "show", "WEB-99999"), 4, "There is no task 'WEB-99999'"),
        (("task", "assign", "WEB-1", "nobody@example.org"), 4, "taskman user ls"),
        (("ls", "--filter", "title =="), 1, "line 1"),
        (("project", "add", "WEB"), 1, "already"),
        (("import", "csv", "no-such-file.csv"), 2, "does not exist"),
        (("--profile", "none", "login"), 2, "Say who"),
    ],
)
def test_an_error_is_a_line_or_two_and_a_code(
    run: Run, web: str, arguments: tuple[str, ...], expected: int, words: str
) -> None:
    """CLI-1: never a traceback, nothing on stdout."""
    code, out, err = run(*arguments)
    assert (code, out) == (expected, "")
    assert words in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 5


def test_without_a_session_it_says_how_to_get_one(run: Run, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-1: exit code 3."""
    monkeypatch.setattr(_app.State, "client", lambda self: house.client(""))
    code, _, err = run("ls")
    assert code == 3
    assert "Run `taskman login`." in err


def test_login_keeps_a_session_and_logout_ends_it(run: Run, tmp_path: Path) -> None:
    """CLI-1, SDK-6"""
    import keyring.errors

    def none(*_: object) -> None:
        raise keyring.errors.NoKeyringError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keyring.set_password", none)
        code, out, err = run("login", "--email", EMAIL, "--password-stdin", stdin=PASSWORD + "\n")
        assert (code, "tokens.json" in err) == (0, True)
        assert f"Signed in to local as {EMAIL}." in out
        assert PASSWORD not in "".join(path.read_text() for path in (tmp_path / "config/taskman").iterdir())
        code, _, err = run("login", "--email", EMAIL, "--password-stdin", stdin="wrong\n")
        assert code == 3
        assert run("login", "--email", EMAIL, stdin=PASSWORD)[0] == 2  # no terminal to ask on


def test_a_bug_is_no_traceback_either(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI-1: but for --debug."""

    def fail(self: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(_app.State, "client", fail)
    code, _, err = run("ls")
    assert (code, "Traceback" in err, "--debug" in err) == (1, False, True)


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from commands(found, (*path, name))
    else:
        yield path, command


@pytest.mark.parametrize(
    ("path", "command"), list(commands(cli)), ids=lambda x: " ".join(x) if isinstance(x, tuple) else ""
)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...], command: click.Command) -> None:
    """CLI-1: the example begins with the command, and every option says what it does."""
    assert command.help is not None
    short = f"taskman {path[-1]}" if path[0] == "task" else ""
    assert f"taskman {' '.join(path)}" in command.help or (short and short in command.help)
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []


def test_it_starts_quickly_and_ends_quietly_in_a_broken_pipe(tmp_path: Path) -> None:
    """CLI-1"""
    command = f"{sys.executable} -c 'from taskman_sdk.cli import main; main()' --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_completion_completes(tmp_path: Path) -> None:
    """CLI-1"""
    environment = {"_TASKMAN_COMPLETE": "bash_complete", "COMP_WORDS": "taskman pro", "COMP_CWORD": "1"}
    script = "from taskman_sdk.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "plain,project"


def imported(run: Run, file: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    code, out, err = run("import", "csv", str(file), "-o", "json", *options)
    return code, json.loads(out) if out else {}, err


def test_good_rows_land_bad_ones_are_told_and_a_second_run_adds_nothing(
    run: Run, tmp_path: Path, owner: TaskMan
) -> None:
    """TASK-9"""
    file = tmp_path / "t.csv"
    file.write_text(
        HEAD + 'One,"d\nof two lines",IMP,ada@example.org,fix;web,done,high,2024-07-17T09:32:29+02:00,2024-08-22\n'
        "Bad,,IMP,,,,soon,,\n"
        "Alike,,IMP,,,,,,\nAlike,,IMP,,,,,,\n"
        "Odd state,,IMP,,,floating,,,\n",
        encoding="utf-8",
    )
    code, planned, _ = imported(run, file, "--dry-run")
    assert (code, planned["created"], planned["failed"], planned["projects_created"]) == (1, 3, 2, ["IMP"])
    assert owner.projects.list(filter='key == "IMP"').to_list() == []
    code, summary, err = imported(run, file)
    assert (code, summary["created"], summary["already_there"], summary["failed"]) == (1, 3, 0, 2)
    assert [error["line"] for error in summary["errors"]] == [4, 7]
    assert "line 4: priority 'soon'" in err
    assert "floating" in summary["errors"][1]["reason"]
    code, again, _ = imported(run, file)
    assert (again["created"], again["already_there"], again["failed"], again["people_created"]) == (0, 3, 2, 0)
    tasks = {task.title: task for task in owner.tasks.list(project="IMP")}
    assert len(owner.tasks.list(project="IMP").to_list()) == 3
    one = tasks["One"]
    assert (one.state, one.priority, one.labels, str(one.due_time)) == (
        "done",
        "high",
        ["fix", "web"],
        "2024-08-22 00:00:00+00:00",
    )
    assert str(one.create_time) == "2024-07-17 07:32:29+00:00"
    ada = owner.users.batch_get(emails=["ada@example.org"]).users[0]
    assert one.assignees == [ada.id]
    assert {member.user: member.role for member in owner.projects.get("IMP").members}[ada.id] == "editor"


def test_an_import_that_was_cut_off_is_finished_by_running_it_again(
    run: Run, house: House, owner: TaskMan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TASK-9: what landed is told, and not added twice."""
    file = tmp_path / "t.csv"
    file.write_text("title,project\n" + "".join(f"t{n},CUT\n" for n in range(50)))
    client = house.client(owner.credentials.access_token)
    take, sent = client.tasks.import_, 0

    def cut(**given: Any) -> Any:
        nonlocal sent
        sent += 1
        if sent == 3:
            raise UnavailableError("The network is gone.")
        return take(**given)

    monkeypatch.setattr(client.tasks, "import_", cut)
    with monkeypatch.context() as patch:
        patch.setattr(_app.State, "client", lambda self: client)
        code, summary, err = imported(run, file, "--batch", "10")
    assert (code, summary["created"]) == (1, 20)
    assert "Run the same command again" in err
    assert "The network is gone." in err
    code, summary, _ = imported(run, file, "--batch", "10")
    assert (code, summary["created"], summary["already_there"]) == (0, 30, 20)
    assert len(owner.tasks.list(project="CUT", page_size=1000).to_list()) == 50


def test_strangers_are_created_mapped_or_left_out(run: Run, owner: TaskMan, tmp_path: Path) -> None:
    """TASK-9"""
    file, people = tmp_path / "t.csv", tmp_path / "people.csv"
    file.write_text("title,project,assignee\na,WHO,old@example.org\nb,WHO,gone@example.org\n")
    people.write_text(f"old@example.org,{EMAIL}\n")
    code, summary, _ = imported(run, file, "--people", "map", "--people-map", str(people))
    assert (code, summary["created"], summary["failed"], summary["people_created"]) == (1, 1, 1, 0)
    assert summary["errors"][0]["line"] == 3
    code, summary, _ = imported(run, file, "--people", "skip")
    assert (code, summary["created"], summary["already_there"]) == (0, 1, 1)
    assert owner.users.batch_get(emails=["old@example.org", "gone@example.org"]).users == []
    tasks = {task.title: task.assignees for task in owner.tasks.list(project="WHO")}
    assert tasks == {"a": [owner.users.get_me().id], "b": []}


def test_a_file_that_is_wrong_as_a_whole_changes_nothing(run: Run, owner: TaskMan, tmp_path: Path) -> None:
    """TASK-9: not even the project is made."""
    file = tmp_path / "t.csv"
    file.write_bytes(b"title,project\nfine,NEW\nGr\xfc\xdfe,NEW\n")
    code, out, err = run("import", "csv", str(file))
    assert (code, out) == (1, "")
    assert "line 3 is not UTF-8" in err
    assert owner.projects.list(filter='key == "NEW"').to_list() == []


def test_an_export_imported_elsewhere_gives_the_same_tasks(
    run: Run, owner: TaskMan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TASK-9: every column comes back byte for byte from an empty server."""
    source, first, second = (tmp_path / name for name in ("in.csv", "first.csv", "second.csv"))
    with source.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([
            ["title", "description", "project", "assignee", "labels", "status", "priority", "created_at", "due_at"],
            ['quotes "x", commas', "a\r\nb\n\n\tc", "ODD", "x@example.org", r"a\;b;c d", "done", "low",
             "2024-01-01T00:00:00.5Z", "2024-02-01"],
            ["=1+1", "@SUM 🙂 \u2028 ünï", "ODD", "x@example.org;y@example.org", "", "in_progress", "urgent",
             "2024-01-02T00:00:00+05:30", "2024-02-01T10:00:00Z"],
            ["plain", "", "ODD", "", "", "", "", "2024-01-03T00:00:00Z", ""],
        ])  # fmt: skip
    assert imported(run, source)[0] == 0
    assert run("export", "csv", "-p", "ODD", "-f", str(first))[0] == 0
    code, out, _ = run("export", "csv", "-p", "ODD")
    assert (code, out.encode()) == (0, first.read_bytes())
    with House() as other, other.client() as elsewhere:
        elsewhere.auth.login(email=EMAIL, password=PASSWORD)
        with monkeypatch.context() as patch:
            patch.setattr(_app.State, "client", lambda self: other.client(elsewhere.credentials.access_token))
            assert imported(run, first)[1]["created"] == 3
            assert run("export", "csv", "-f", str(second))[0] == 0

    def cells(path: Path) -> list[dict[str, str]]:
        with path.open(encoding="utf-8", newline="") as stream:
            return [{name: cell for name, cell in row.items() if name != "id"} for row in csv.DictReader(stream)]

    assert cells(second) == cells(first)
    assert [row["labels"] for row in cells(first)] == [r"a\;b;c d", "", ""]
    lines = [json.loads(line) for line in run("export", "jsonl", "-p", "ODD")[1].splitlines()]
    assert [line["assignee_emails"] for line in lines] == [["x@example.org"], ["x@example.org", "y@example.org"], []]


def test_people_roles_policies_and_projects(run: Run, web: str) -> None:
    """CLI-1: every resource."""
    assert run("user", "add", "bob@example.org", "--name", "Bob")[0] == 0
    assert run("project", "members", "add", "WEB", "bob@example.org", "--role", "viewer")[0] == 0
    assert "bob@example.org  viewer" in run("project", "show", "WEB")[1]
    assert run("project", "members", "rm", "WEB", "bob@example.org")[0] == 0
    assert run("role", "add", "triage", "tasks.read")[0] == 0
    assert run("role", "grant", "triage", "bob@example.org")[0] == 0
    assert run("role", "show", "triage")[0] == 0
    assert run("role", "revoke", "triage", "bob@example.org")[0] == 0
    assert run("role", "revoke", "triage", "bob@example.org")[0] == 4
    assert run("role", "rm", "triage")[0] == 0
    assert run("policy", "add", "nothing", "deny", "tasks.delete", "--when", "false")[0] == 0
    assert "tasks.delete" in run("policy", "show", "nothing")[1]
    assert run("policy", "rm", "nothing")[0] == 0
    assert "deactivated" in run("user", "deactivate", "bob@example.org")[1]
    assert "active again" in run("user", "activate", "bob@example.org")[1]
