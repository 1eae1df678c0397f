"""`up --cluster` as the parent of eight processes: what they need from it beside being started (OPS-2, OPS-7)."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from taskman_server.app import children
from taskman_server.app.process import state_of
from taskman_server.cli import supervisor
from taskman_server.cli.supervisor import Supervisor
from taskman_server.cli.up import _ensure_certificates
from taskman_server.kit.tls import Identity, TlsError, issue, make_authority, validity

CHILD = """
import os, pathlib, signal, sys
folder, name = pathlib.Path(os.environ["FOLDER"]), sys.argv[1]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
log = folder / name
with log.open("a") as file:
    file.write(f"{os.getpid()} {os.getsid(0)}\\n")
codes = os.environ.get("CODES", "").split() if name == "tasks" else []
runs = len(log.read_text().splitlines())
if runs <= len(codes):
    sys.exit(int(codes[runs - 1]))
(folder / "up").touch()
signal.pause()
"""


class Crew:
    """A supervisor of processes that do nothing."""

    def __init__(self, folder: Path, *codes: int) -> None:
        """`codes`: what the first runs of `tasks` end with."""
        self.folder = folder
        self.stop = asyncio.Event()
        environment = {**os.environ, "FOLDER": str(folder), "CODES": " ".join(map(str, codes))}
        self.supervisor = Supervisor(environment, 5)

    def runs(self, name: str = "tasks") -> list[list[int]]:
        """Process and session of each run of a process."""
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [[int(word) for word in line.split()] for line in lines]

    async def until(self, *, runs: int) -> None:
        """Waits until `tasks` has been started so many times."""
        async with asyncio.timeout(60):
            while len(self.runs()) < runs:  # noqa: ASYNC110 - a file tells no event
                await asyncio.sleep(0.02)

    async def ended(self) -> None:
        async with asyncio.timeout(30):
            await self.supervisor.run(self.stop)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(supervisor, "SERVICES", ("tasks",))
    monkeypatch.setattr(supervisor, "_COMMAND", (sys.executable, "-I", "-c", CHILD))
    return monkeypatch


async def test_an_interrupt_at_the_terminal_reaches_the_supervisor_alone(
    tmp_path: Path, command: pytest.MonkeyPatch
) -> None:
    """OPS-7: Ctrl-C goes to a whole session. The processes are told by the supervisor, once, in their order."""
    crew = Crew(tmp_path)
    running = asyncio.create_task(crew.ended())
    await crew.until(runs=1)
    crew.stop.set()
    await running
    ((process, session),) = crew.runs()
    assert session == process != os.getsid(0)


async def test_a_process_that_is_just_being_started_is_ended_too(tmp_path: Path, command: pytest.MonkeyPatch) -> None:
    """OPS-7: SIGTERM in the moment of a start leaves nothing behind, and the supervisor ends."""
    crew = Crew(tmp_path)
    start = asyncio.create_subprocess_exec
    started = []

    async def slow(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        child = await start(*arguments, **options)
        started.append(child)
        crew.stop.set()
        await asyncio.sleep(0.2)
        return child

    command.setattr(asyncio, "create_subprocess_exec", slow)
    await crew.ended()
    assert len(started) == 2
    assert all(child.returncode is not None for child in started)


async def test_wrong_settings_end_all_at_the_first_start_and_none_later(
    tmp_path: Path, command: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OPS-2: a certificate that is half written when one process starts again is no reason to stop the others."""
    for folder in ("first", "later"):
        (tmp_path / folder).mkdir()
    first = Crew(tmp_path / "first", os.EX_CONFIG)
    await first.ended()
    assert first.supervisor.failed == "tasks"
    command.setattr(children, "_SETTLED_SECONDS", 0.0)
    later = Crew(tmp_path / "later", 1, os.EX_CONFIG)
    running = asyncio.create_task(later.ended())
    await later.until(runs=3)
    later.stop.set()
    await running
    assert later.supervisor.failed == ""
    assert f"tasks ended with {os.EX_CONFIG} and starts again" in capsys.readouterr().err


async def test_a_machine_without_room_for_a_process_gets_another_try(
    tmp_path: Path, command: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OPS-2."""
    crew = Crew(tmp_path)
    start = asyncio.create_subprocess_exec
    refusals = [OSError(11, "Resource temporarily unavailable")]

    async def sometimes(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        if "tasks" in arguments and refusals:
            raise refusals.pop()
        return await start(*arguments, **options)

    command.setattr(asyncio, "create_subprocess_exec", sometimes)
    running = asyncio.create_task(crew.ended())
    await crew.until(runs=1)
    crew.stop.set()
    await running
    assert "tasks could not be started (Resource temporarily unavailable)" in capsys.readouterr().err


def test_certificates_that_are_good_serve_without_the_authoritys_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OPS-2: the key belongs on no server; it is missed when a certificate has ended, not thirty days before."""
    _ensure_certificates(tmp_path)
    issue(tmp_path, "tasks", days=10)
    (tmp_path / "ca.key").unlink()
    before = validity(tmp_path / "tasks.crt")
    _ensure_certificates(tmp_path)
    assert validity(tmp_path / "tasks.crt") == before
    said = capsys.readouterr().err
    assert "tasks.crt ends on" in said
    assert "users.crt" not in said
    (tmp_path / "users.crt").unlink()
    with pytest.raises(TlsError, match="no authority"):
        _ensure_certificates(tmp_path)


def test_readiness_says_when_nobody_takes_the_certificate(tmp_path: Path) -> None:
    """OPS-2, OPS-5: else all that an operator sees is services that do not reach each other."""
    make_authority(tmp_path)
    issue(tmp_path, "tasks", days=1)
    identity = Identity.of_folder(tmp_path, "tasks")
    now = datetime.now(UTC)
    assert state_of(identity, now) == "ok"
    assert "it ended on" in state_of(identity, now + timedelta(days=2))
    assert "clock" in state_of(identity, now - timedelta(days=2))
    (tmp_path / "tasks.crt").write_text("half")
    identity.reload()
    assert "not taken" in state_of(identity, now)
