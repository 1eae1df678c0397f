"""The tutorial is run as it stands, in a checkout's layout, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.parts.install import program
from tests.serving import free_port

BLOCK = re.compile(r"```(bash(?: \{ \.server \})?|python)\n(.*?)```", re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which the tutorial's commands find the environment that runs this test as `.venv`."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a person with an empty home, and of a server on free ports."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("TASKMAN_", "XDG_"))}
    port = free_port()
    return keep | {
        "HOME": str(tmp_path / "home"),
        "TASKMAN_PORT": str(port),
        "TASKMAN_GRPC_PORT_BASE": "0",
        "TASKMAN_URL": f"http://localhost:{port}",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }


@pytest.fixture
def server(repo: Path, checkout: Path, environment: dict[str, str]) -> Iterator[None]:
    """The server, started by the tutorial's own command."""
    command = next(text for kind, text in _blocks(repo) if "server" in kind)
    client_free = {name: value for name, value in environment.items() if name != "TASKMAN_URL"}
    with (checkout / "server.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=checkout, env=client_free, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 30
            url = f"{environment['TASKMAN_URL']}/readyz"
            while not _answers(url):
                assert process.poll() is None, (checkout / "server.log").read_text()
                assert time.monotonic() < deadline, "the server did not become ready"
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            assert process.wait(20) == 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _blocks(repo: Path) -> list[tuple[str, str]]:
    return BLOCK.findall((repo / "docs" / "tutorial" / "index.md").read_text())


@pytest.mark.usefixtures("server")
def test_the_tutorial_works_as_it_is_written(repo: Path, checkout: Path, environment: dict[str, str]) -> None:
    """OPS-1, CLI-2, SDK-1: each block runs in order, in one shell, and none fails."""
    program("curl")
    script = ["set -euo pipefail"]
    for kind, text in _blocks(repo):
        if kind == "bash":
            script.append(text)
        elif kind == "python":
            script.append(f".venv/bin/python - <<'PYTHON'\n{text}PYTHON")
    whole = "\n".join(script).replace("localhost:8080", f"localhost:{environment['TASKMAN_PORT']}")
    done = subprocess.run(
        ["bash", "-c", whole], cwd=checkout, env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 created · 2 already there" in done.stdout + done.stderr, "the second import adds nothing"
    assert '"status":404' in done.stdout.replace(" ", ""), "a stranger does not learn of the task"
    assert "TASK_NOT_FOUND" in done.stdout, "the program is told the reason"
    assert re.search(r"HOME-3\s+Buy paint", done.stdout)
    assert re.search(r"^To: .*grace@example\.org", done.stdout, re.MULTILINE), "Grace was told"
