"""What an operator is told when something is wrong: one sentence, what to do, no traceback (OPS-1)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import PASSWORD, ServerProcess

_MAIN = "from taskman_server.cli import main; main()"


def _run(*arguments: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKMAN_")}
    command = [sys.executable, "-c", _MAIN, *arguments]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=timeout)


def _refused(folder: Path, *arguments: str, **environment: str) -> str:
    """The complaint of a server that does not start."""
    done = _run("up", "--data", str(folder), "--port", "0", "--grpc-port-base", "-1", *arguments, **environment)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that a server has run on and left."""
    folder = tmp_path_factory.mktemp("ran") / "data"
    with ServerProcess(folder) as server:
        server.wait_ready()
    return folder


def _copy(ran: Path, to: Path) -> Path:
    to.mkdir(mode=0o700)
    for file in ran.iterdir():
        if file.is_file():
            (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("name", ["users.db", "broker.db", "paging.key"])
def test_a_folder_that_lost_a_file_is_refused_and_the_doctor_names_it(ran: Path, tmp_path: Path, name: str) -> None:
    """OPS-1: an empty database in the place of a lost one would contradict the others."""
    folder = _copy(ran, tmp_path / "data")
    (folder / name).unlink()
    assert f"{name} is missing" in _refused(folder)
    doctor = _run("doctor", "--data", str(folder), "--port", "0", "--grpc-port-base", "-1")
    assert doctor.returncode == 1
    assert f"WRONG {name}: missing" in doctor.stdout
    assert not (folder / name).exists(), "nobody made an empty one"


@pytest.mark.parametrize("name", ["tasks.db", "broker.db"])
def test_a_damaged_file_is_named_with_what_to_do(ran: Path, tmp_path: Path, name: str) -> None:
    """OPS-1: no traceback, and the way to the doctor."""
    folder = _copy(ran, tmp_path / "data")
    (folder / name).write_bytes(b"this is no database" * 500)
    for rest in ("-wal", "-shm"):
        (folder / f"{name}{rest}").unlink(missing_ok=True)
    assert "doctor" in _refused(folder)
    doctor = _run("doctor", "--data", str(folder), "--port", "0", "--grpc-port-base", "-1")
    assert f"WRONG {name}" in doctor.stdout


def test_a_healthy_folder_has_nothing_wrong(ran: Path) -> None:
    """OPS-1: also while a server is running on it."""
    quiet = _run("doctor", "--data", str(ran), "--port", "0", "--grpc-port-base", "-1")
    assert (quiet.returncode, "WRONG" in quiet.stdout) == (0, False), quiet.stdout
    with ServerProcess(ran) as server:
        server.wait_ready()
        running = _run("doctor", "--data", str(ran))
        assert running.returncode == 0, running.stdout
        assert "a server is running" in running.stdout
        assert "another TaskMan server is using" in _refused(ran)


def test_what_stands_in_the_way_is_said(tmp_path: Path) -> None:
    """OPS-1: folder, port, address, administrator, settings."""
    file = tmp_path / "file"
    file.write_text("")
    assert "name another with --data" in _refused(file)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another --port" in _refused(tmp_path / "a", "--port", port)
        assert "choose another --grpc-port-base" in _refused(tmp_path / "b", "--grpc-port-base", port)
    assert "no address of this machine" in _refused(tmp_path / "c", "--host", "203.0.113.9")
    assert "administrator cannot be created" in _refused(
        tmp_path / "d", "--admin-email", "nobody", "--admin-password", PASSWORD
    )
    assert "TASKMAN_SMTP_URL" in _refused(tmp_path / "e", TASKMAN_SMTP_URL="http://mail")
    assert "cluster shape" in _refused(tmp_path / "f", TASKMAN_DATABASE_URL="postgresql://db/tasks")


def test_the_list_of_settings_shows_no_password(tmp_path: Path) -> None:
    """No secret on a screen that somebody may share."""
    done = _run(
        "settings",
        TASKMAN_SMTP_URL="smtp://user:sekrit@mail.example.org:25",
        TASKMAN_ADMIN_EMAIL="a@example.org",
        TASKMAN_ADMIN_PASSWORD=PASSWORD,
    )
    assert done.returncode == 0
    assert "TASKMAN_SMTP_URL=smtp://***@mail.example.org:25" in done.stdout
    assert "sekrit" not in done.stdout
    assert PASSWORD not in done.stdout
