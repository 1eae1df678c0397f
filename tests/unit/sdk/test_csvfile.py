"""Tasks as CSV: every fault with its line, every value back as it was (TASK-9)."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskman_sdk.cli._csvfile import BadRow, CsvError, Row, read, split_list, write_list, write_time
from taskman_sdk.cli._importer import _batches, read_people_map

HEAD = "title,description,project,assignee,labels,status,priority,created_at,due_at\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tasks.csv"


def rows(file: Path, text: str | bytes, project: str = "") -> list[Row | BadRow]:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read(file, project))


def test_a_row_becomes_a_task(file: Path) -> None:
    """TASK-9"""
    text = HEAD + '"a ""b""","x\r\ny",WEB,Ada@Example.org,fix; web,done,high,2024-07-17T09:32:29+02:00,2024-08-22\n'
    (row,) = rows(file, text)
    assert isinstance(row, Row)
    assert (row.title, row.description, row.project, row.state, row.priority) == (
        'a "b"',
        "x\r\ny",
        "WEB",
        "done",
        "high",
    )
    assert (row.labels, row.assignees) == (["fix", "web"], ["ada@example.org"])
    assert row.create_time == datetime(2024, 7, 17, 9, 32, 29, tzinfo=timezone(timedelta(hours=2)))
    assert row.due_time == datetime(2024, 8, 22, tzinfo=UTC)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_no_part_of_the_header(file: Path, mark: bytes) -> None:
    """TASK-9: as Excel writes it."""
    (row,) = rows(file, mark + "title,project\r\nGrüße,WEB\r\n".encode())
    assert isinstance(row, Row)
    assert row.title == "Grüße"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"title,project\nok,WEB\nGr\xfc\xdfe,WEB\n", r"line 3 is not UTF-8 \(byte 0xfc\)"),
        ("title,project\na,WEB\n".encode("utf-16"), "UTF-16"),
        (b"", "is empty"),
        (b"project,labels\n", "missing: title"),
        (b"title\nx\n", "missing: project.*--project KEY"),
        (b"title,project,colour,mood\n", "unknown: colour, mood"),
        (b"title,project,title\n", "there twice: title"),
        (b"title,project,colour,project\n", "unknown: colour; there twice: project"),
        (b"title;project\na;WEB\n", "parted by commas"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused_as_a_whole(file: Path, data: bytes, text: str) -> None:
    """TASK-9: before the first row comes out."""
    file.write_bytes(data)
    with pytest.raises(CsvError, match=text):
        read(file)


def test_every_bad_row_has_its_line_and_reason_and_the_others_come(file: Path) -> None:
    """TASK-9: the physical line, also after rows of several lines."""
    text = HEAD + (
        "good,,WEB,,,,,,\n"  # 2
        'multi,"of\nthree\nlines",WEB,,,,,,\n'  # 3-5
        ",,WEB,,,,,,\n"  # 6
        "no project,,,,,,,,\n"  # 7
        "x,,web-1,,,,,,\n"  # 8
        "x,,WEB,,,,soon,,\n"  # 9
        "x,,WEB,,,,,yesterday,\n"  # 10
        "x,,WEB,,,,,2024-01-01T00:00:00,\n"  # 11
        "x,,WEB,,,,,,2024-02-30\n"  # 12
        "x,,WEB,ada,,,,,\n"  # 13
        "too,few\n"  # 14
        "\n"  # 15: nothing
        '"a"b,,WEB,,,,,,\n'  # 16
        f"x,,WEB,,{'l' * 51},,,,\n"  # 17
        f"{'t' * 501},,WEB,,,,,,\n"  # 18
        '"two\nlines",,WEB,,,,,,\n'  # 19-20
        "last,,WEB,,,,,,\n"  # 21
    )
    found = rows(file, text)
    assert [row.title for row in found if isinstance(row, Row)] == ["good", "multi", "last"]
    bad = {row.line: row.reason for row in found if isinstance(row, BadRow)}
    assert list(bad) == [6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19]
    for line, word in {
        6: "title is empty", 7: "project", 8: "'web-1'", 9: "low, medium, high, urgent", 10: "created_at",
        11: "time zone", 19: "several lines", 12: "due_at",
        13: "assignee", 14: "2 fields", 16: "quoting", 17: "label", 18: "501 characters",
    }.items():  # fmt: skip
        assert word in bad[line]


def test_a_quote_that_is_never_closed_is_told_from_where_it_opens(file: Path) -> None:
    """TASK-9: what it swallowed is not guessed at."""
    found = rows(file, 'title,project\nok,WEB\n"open,WEB\nx,WEB\ny,WEB\n')
    assert [row.line for row in found] == [2, 3]
    assert isinstance(found[1], BadRow)
    assert "never closed" in found[1].reason


def test_a_row_has_the_same_external_id_in_every_run_and_its_twin_another(file: Path) -> None:
    """TASK-9: so a second run adds nothing, and two alike rows are two tasks; a bad row in between shifts nothing."""
    text = "title,project,external_id\na,WEB,\na,WEB,\nb,WEB,\nb,WEB,mine\n"
    first = [row.external_id for row in rows(file, text) if isinstance(row, Row)]
    assert len(set(first)) == 4
    assert first[3] == "mine"
    assert [row.external_id for row in rows(file, text) if isinstance(row, Row)] == first
    shifted = rows(file, text.replace("external_id\n", "external_id\n,WEB,\nnew,WEB,\n"))
    assert [row.external_id for row in shifted if isinstance(row, Row)][1:] == first


def test_a_project_of_the_command_line_is_the_project_of_all(file: Path) -> None:
    """TASK-9"""
    assert [row.project for row in rows(file, "title,project\na,OTHER\n", "WEB") if isinstance(row, Row)] == ["WEB"]
    assert [row.project for row in rows(file, "title\na\n", "WEB") if isinstance(row, Row)] == ["WEB"]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)
CONTROL = "".join(map(chr, [*range(32), 127]))
LINE = st.text(st.characters(codec="utf-8", exclude_characters=CONTROL), max_size=40)


@given(title=LINE.filter(str.strip), description=TEXT, labels=st.lists(LINE.filter(bool), max_size=5, unique=True))
def test_what_is_written_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, title: str, description: str, labels: list[str]
) -> None:
    """TASK-9: newlines, quotes, separators, spaces at the ends, any Unicode."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["title", "description", "project", "labels"])
    writer.writerow([title, description, "WEB", write_list(labels)])
    file = tmp_path_factory.mktemp("csv") / "t.csv"
    (row,) = rows(file, out.getvalue())
    assert isinstance(row, Row)
    assert (row.title, row.description, row.labels) == (title, description, labels)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("fix", ["fix"]),
        ("fix;web", ["fix", "web"]),
        (" a ; b;; ", ["a", "b"]),
        (r"a\;b;c\\", ["a;b", "c\\"]),
        ("x\\", ["x\\"]),
    ],
)
def test_lists_in_a_cell(text: str, parts: list[str]) -> None:
    """TASK-9"""
    assert split_list(text) == parts


def test_a_whole_day_is_written_as_a_date_and_a_moment_as_one() -> None:
    """TASK-9"""
    assert write_time(datetime(2024, 8, 22, tzinfo=UTC), day=True) == "2024-08-22"
    assert write_time(datetime(2024, 8, 22, 15, 0, 0, 5, tzinfo=UTC), day=True) == "2024-08-22T15:00:00.000005Z"
    assert write_time(None) == ""


def test_batches_are_bounded_in_rows_and_in_text_and_keep_to_one_project() -> None:
    """TASK-9: a request must fit what servers take."""
    some = [Row(n, "AB"[n % 2], f"t{n}", "x" * (250_000 if n < 8 else 0)) for n in range(60)]
    batches = list(_batches(some, 20))
    assert sorted(row.line for batch in batches for row in batch) == list(range(60))
    for batch in batches:
        assert len({row.project for row in batch}) == 1
        assert len(batch) <= 20
        assert sum(len(row.description) for row in batch) <= 600_000
    for project in "AB":
        lines = [row.line for batch in batches for row in batch if row.project == project]
        assert lines == sorted(lines)


def test_a_map_of_people_is_two_fields_a_line(tmp_path: Path) -> None:
    """TASK-9"""
    path = tmp_path / "people.csv"
    path.write_text("# old,new\nA@x.org, b@x.org\n\nc@x.org,user_1\n")
    assert read_people_map(path) == {"a@x.org": "b@x.org", "c@x.org": "user_1"}
    path.write_text("a@x.org\n")
    with pytest.raises(ValueError, match="line 1"):
        read_people_map(path)
