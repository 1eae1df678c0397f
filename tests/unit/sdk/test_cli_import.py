"""What `taskman import csv --dry-run` foretells, and what an import and an export say (TASK-9)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from taskman_sdk import PermissionDeniedError, TaskMan, UnavailableError
from taskman_sdk.cli import _app
from tests.unit.sdk.test_cli import EMAIL, HEAD, PASSWORD, House, Run, house, imported, owner, run  # noqa: F401

COUNTS = ("created", "already_there", "failed", "projects_created", "people_created", "members_added")


def state_of(client: TaskMan) -> Any:
    """All that an import could change."""
    projects = [project.model_dump(mode="json") for project in client.projects.list()]
    users = [user.model_dump(mode="json") for user in client.users.list(page_size=1000)]
    return projects, users, [task.id for task in client.tasks.list(page_size=1000)]


def foretold(run: Run, owner: TaskMan, file: Path, *options: str) -> dict[str, Any]:  # noqa: F811
    """Runs dry, then for real; answers the counts, which are the same."""
    before = state_of(owner)
    code, planned, _ = imported(run, file, "--dry-run", *options)
    assert state_of(owner) == before
    real_code, real, err = imported(run, file, *options)
    assert {name: planned[name] for name in COUNTS} == {name: real[name] for name in COUNTS}, err
    assert [error["line"] for error in planned["errors"]] == [error["line"] for error in real["errors"]]
    assert code == real_code
    return real


def write(file: Path, *rows: tuple[str, ...]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("title", "project", "assignee", "status", "external_id"))
        writer.writerows(rows)
    return file


@pytest.mark.parametrize("visibility", ["private", "organization"])
@pytest.mark.parametrize("there", [True, False])
def test_a_dry_run_counts_what_the_run_will(
    run: Run,  # noqa: F811
    owner: TaskMan,  # noqa: F811
    tmp_path: Path,
    visibility: str,
    there: bool,
) -> None:
    """TASK-9: for projects that are there and that are not, people who are, are shut out, are nobody or will be."""
    key = f"D{visibility[0].upper()}{int(there)}"
    known, gone, new = (f"{who}{key.lower()}@example.org" for who in ("known", "gone", "new"))
    owner.users.create(email=known, display_name="Known")
    owner.users.deactivate(owner.users.create(email=gone, display_name="Gone").id)
    if there:
        owner.projects.create(key=key, display_name=key, visibility=visibility)
        owner.tasks.create(project=key, title="Was there", external_id="old")
    rows = write(
        tmp_path / "t.csv",
        ("Was there", key, "", "", "old"),
        ("Fine", key, "", "done", "1"),
        ("Mine", key, EMAIL, "", "2"),
        ("Hers", key, known, "", "3"),
        ("Shut out", key, gone, "", "4"),
        ("Nobody", key, "user_nobody", "", "5"),
        ("To be", key, f"{new};{known}", "", "6"),
        ("Odd state", key, "", "floating", "7"),
        ("Bell \x07", key, "", "", "8"),
        ("Fine again", key, "", "", "1"),
        ("Odd state again", key, "", "", "7"),
    )
    real = foretold(run, owner, rows, "--batch", "3", "--visibility", visibility)
    assert (real["failed"], real["people_created"], real["created"]) == (4, 1, 5 if there else 6)
    assert real["already_there"] == (2 if there else 1)
    assert real["members_added"] == (2 if visibility == "private" else 0)
    assert real["projects_created"] == ([] if there else [key])
    foretold(run, owner, rows)


def test_a_dry_run_knows_what_the_caller_may_not_do(
    run: Run,  # noqa: F811
    house: House,  # noqa: F811
    owner: TaskMan,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TASK-9, AUTHZ-1: an editor brings nobody into the project, and no new users into the house."""
    with house.client() as anonymous:
        anonymous.auth.register(email="ed@example.org", password=PASSWORD, display_name="Ed")
    editor = owner.users.batch_get(emails=["ed@example.org"]).users[0]
    other = owner.users.create(email="other@example.org", display_name="Other")
    owner.projects.create(key="EDI", display_name="EDI")
    owner.projects.add_member("EDI", user=editor.id, role="editor")
    with house.client() as client:
        client.auth.login(email="ed@example.org", password=PASSWORD)
        monkeypatch.setattr(_app.State, "client", lambda self: house.client(client.credentials.access_token))
        rows = write(tmp_path / "t.csv", ("His", "EDI", editor.id, "", ""), ("Another's", "EDI", other.id, "", ""))
        real = foretold(run, owner, rows)
        assert (real["created"], real["failed"], real["members_added"]) == (1, 1, 0)
        assert "cannot see the private project" in real["errors"][0]["reason"]
        write(tmp_path / "t.csv", ("x", "EDI", "nobody.yet@example.org", "", ""))
        for options in (("--dry-run",), ()):
            code, _, err = run("import", "csv", str(tmp_path / "t.csv"), *options)
            assert code == 1
            assert "--people skip" in err


def test_an_import_that_cannot_succeed_does_not_ask_to_be_run_again(
    run: Run,  # noqa: F811
    house: House,  # noqa: F811
    owner: TaskMan,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TASK-9: only one that was cut off does."""
    owner.projects.create(key="CUTS", display_name="CUTS")
    file = write(tmp_path / "t.csv", ("x", "CUTS", "", "", ""))
    for error, again in ((PermissionDeniedError("No."), False), (UnavailableError("Gone."), True)):
        client = house.client(owner.credentials.access_token)

        def refuse(error: Exception = error, **_: Any) -> Any:
            raise error

        monkeypatch.setattr(client.tasks, "import_", refuse)
        monkeypatch.setattr(_app.State, "client", lambda self, client=client: client)
        code, _, err = run("import", "csv", str(file))
        assert code == 1
        assert ("Run the same command again" in err) is again
        assert str(error) in err


def test_control_characters_in_a_row_are_told_with_its_line(run: Run, tmp_path: Path) -> None:  # noqa: F811
    """TASK-9"""
    file = tmp_path / "t.csv"
    file.write_text(
        HEAD + "a\tb,,CTL,,,,,,\nred \x1b[31m,,CTL,,,,,,\nx,,CTL,,fine;bell \x07,,,,\n"
        "x,nul \0,CTL,,,,,,\nx,,CTL,,del\x7f,,,,\n"
    )
    _, summary, _ = imported(run, file, "--dry-run")
    reasons = [error["reason"] for error in summary["errors"]]
    assert [error["line"] for error in summary["errors"]] == [2, 3, 4, 5, 6]
    for reason, name in zip(reasons, ("title holds a tab", "ESC", "label holds", "description", "DEL"), strict=True):
        assert name in reason


def test_an_export_for_spreadsheets_runs_nothing_there(run: Run, owner: TaskMan, tmp_path: Path) -> None:  # noqa: F811
    """TASK-9: off by default, so that what goes out comes back as it was."""
    owner.projects.create(key="XLS", display_name="XLS")
    texts = ['=HYPERLINK("http://evil")', "+1", "-1", "@SUM(A1)", "plain = text"]
    for text in texts:
        owner.tasks.create(project="XLS", title=text, description=text, labels=[text])

    def cells(*options: str) -> list[list[str]]:
        code, out, _ = run("export", "csv", "-p", "XLS", *options)
        assert code == 0
        rows = list(csv.DictReader(out.splitlines()))
        return [[row[name] for name in ("title", "description", "labels")] for row in rows]

    assert cells() == [[text] * 3 for text in texts]
    assert cells("--for-spreadsheet") == [[text if text[0] == "p" else f"'{text}"] * 3 for text in texts]
    assert json.loads(run("export", "jsonl", "-p", "XLS")[1].splitlines()[0])["title"] == texts[0]
