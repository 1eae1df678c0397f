"""What the command line says when something is not as it should be, and several things at once (CLI-1, CLI-2)."""

from __future__ import annotations

import json

import pytest

from taskman_sdk import TaskMan
from taskman_sdk.cli import _app
from tests.unit.sdk.test_cli import EMAIL, House, Run, house, owner, run  # noqa: F401


@pytest.fixture(scope="module")
def keys(owner: TaskMan) -> tuple[str, str]:  # noqa: F811
    owner.projects.create(key="SEV", display_name="Several")
    one, two = (owner.tasks.create(project="SEV", title=title).key for title in ("one", "two"))
    return one, two


def test_a_wrong_password_is_called_one(run: Run) -> None:  # noqa: F811
    """CLI-1: and nobody who just tried to sign in is told to sign in."""
    code, out, err = run("login", "--email", EMAIL, "--password-stdin", stdin="wrong\n")
    assert (code, out) == (3, "")
    assert "password is wrong" in err
    assert "taskman login" not in err
    assert "Not signed in" not in err


@pytest.mark.parametrize("given", [(), ("--token", "ey.no.good")])
def test_a_token_that_is_not_good_is_called_one(
    run: Run,  # noqa: F811
    house: House,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
) -> None:
    """CLI-1: in the server's words; signing in is of use only where the token is not the caller's own."""
    monkeypatch.setattr(_app.State, "client", lambda self: house.client("ey.no.good"))
    code, _, err = run("ls", *given)
    assert code == 3
    assert "oken" in err.splitlines()[0]
    assert ("Run `taskman login`." in err) is not bool(given)
    assert "client.auth" not in err


def test_several_tasks_are_moved_whatever_becomes_of_one(run: Run, keys: tuple[str, str]) -> None:  # noqa: F811
    """CLI-2: each is told of, the exit code is the worst."""
    one, two = keys
    code, out, err = run("done", one, "SEV-999", two)
    assert code == 4
    assert out.splitlines() == [f"{one}  done  one", f"{two}  done  two"]
    assert "SEV-999" in err
    code, out, err = run("reopen", one, "SEV-999", two, "-o", "json")
    assert (code, [task["state"] for task in json.loads(out)]) == (4, ["todo", "todo"])
    code, out, err = run("start", one, two, "--state", "floating")
    assert (code, out) == (1, "")
    assert f"Error: {one}: " in err
    assert f"Error: {two}: " in err
    assert run("task", "rm", "SEV-998", one)[:2] == (4, f"{one}  moved to the trash\n")
    assert run("task", "restore", "SEV-998", one)[:2] == (4, f"{one}  restored\n")


@pytest.mark.parametrize("words", [("task", "reopen"), ("reopen",)])
def test_what_is_done_can_be_taken_up_again(run: Run, keys: tuple[str, str], words: tuple[str, ...]) -> None:  # noqa: F811
    """CLI-2, TASK-3"""
    assert run("done", keys[0])[0] == 0
    assert run(*words, keys[0])[:2] == (0, f"{keys[0]}  todo  one\n")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("project", "create"), "taskman project add"),
        (("project", "list"), "taskman project ls"),
        (("project", "members", "delete"), "taskman project members rm"),
        (("task", "get"), "taskman task show"),
        (("task", "shwo"), "taskman task show"),
        (("list",), "taskman ls"),
        (("create",), "taskman add"),
    ],
)
def test_a_command_that_there_is_not_leads_to_the_one_meant(
    run: Run,  # noqa: F811
    arguments: tuple[str, ...],
    meant: str,
) -> None:
    """CLI-1: on every level, also for the words that other tools use."""
    code, out, err = run(*arguments, "x")
    assert (code, out) == (2, "")
    assert f"did you mean `{meant}`?" in err
