"""A Docker engine of the tests' own, in a network namespace of its own, with images made of Debian packages.

It needs root, Debian's `docker.io`, `debootstrap` and `docker-compose`, and no registry: nothing outside of the
namespace is changed, and nothing of it is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.parts import missing_part
from tests.parts.install import Part, install, locate

TOOLS = (
    Part("a Docker engine", "dockerd", "docker.io", ("usr/sbin/dockerd",)),
    Part("debootstrap", "debootstrap", "debootstrap", ("usr/sbin/debootstrap",)),
    Part("docker-compose", "docker-compose", "docker-compose", ("usr/bin/docker-compose",)),
)
DOCKER = "/usr/bin/docker"
"""Debian's, which builds with BuildKit as it is."""
ROOTFS = "TESTS_DOCKER_ROOTFS"
"""A folder in which the two file systems are kept between runs, when this names one."""


class Failed(Exception):
    """A command failed; the text is the end of what it said."""


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Runs a command.

    Raises:
        Failed: it failed.
    """
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))[:300]} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


class Engine:
    """A running engine."""

    def __init__(self, home: Path, pid: int) -> None:
        self.home = home
        self.pid = pid
        self.host = f"unix://{home}/docker.sock"

    def docker(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """A command of `docker`; what it said."""
        return run(DOCKER, "--host", self.host, *arguments, cwd=cwd, env={**os.environ, "DOCKER_BUILDKIT": "1"})

    def compose(self, folder: Path, *arguments: str) -> str:
        """A command of `docker-compose` on the project in a folder."""
        environment = {"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(self.home), "DOCKER_HOST": self.host}
        return run("/usr/bin/docker-compose", "--project-name", "taskman", *arguments, cwd=folder, env=environment)

    def inside(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Starts a command in the engine's network."""
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def fetch(self, url: str) -> tuple[int, str]:
        """Asks an address in the engine's network; status (0: no answer) and body."""
        program = (
            "import sys, urllib.request as r, urllib.error as e\n"
            "try: a = r.urlopen(sys.argv[1], timeout=10)\n"
            "except e.HTTPError as error: a = error\n"
            "except OSError: sys.exit(1)\n"
            "print(a.status); sys.stdout.write(a.read().decode())\n"
        )
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", sys.executable, "-I", "-c", program, url],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        status, _, body = done.stdout.partition("\n")
        return int(status or 0), body

    def image(self, name: str, root: Path) -> None:
        """Makes an image of a file system."""
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                [DOCKER, "--host", self.host, "import", "-", name], stdin=tar.stdout, stdout=subprocess.DEVNULL,
                check=True,
            )  # fmt: skip
        assert tar.returncode == 0


@contextmanager
def engine(home: Path) -> Iterator[Engine]:
    """Starts an engine whose files are in `home`, and ends it with all its containers."""
    if os.geteuid() != 0:
        missing_part("root", "network namespaces and a Docker engine need it")
    for tool in TOOLS:
        if locate(tool) is None and not (install(tool) and locate(tool)):
            missing_part(tool.title, tool.how)
    # Its own mounts, so that they go with it; /sys stays, as the engine needs the control groups there.
    script = (
        "ip link set lo up && exec dockerd --data-root $0/data --exec-root $0/run --pidfile $0/pid "
        "--host unix://$0/docker.sock --log-level warn"
    )
    with (home / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script, str(home)],
            env={**os.environ, "PATH": f"/usr/sbin:/sbin:{os.environ['PATH']}"}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log,
        )  # fmt: skip
    found = Engine(home, process.pid)
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(Failed):
                found.docker("version")
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed((home / "engine.log").read_text(encoding="utf-8", errors="replace")[-4000:])
            time.sleep(0.1)
        yield found
        with suppress(Failed):
            names = found.docker("ps", "--all", "--quiet").split()
            if names:
                found.docker("rm", "--force", "--volumes", *names)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(home / "data", ignore_errors=True)


def file_systems(folder: Path) -> tuple[Path, Path]:
    """Two root file systems: Debian with Python, and with PostgreSQL, Redis, RabbitMQ and Prometheus besides."""
    folder = Path(os.environ.get(ROOTFS) or folder)
    folder.mkdir(parents=True, exist_ok=True)
    base, parts = folder / "base", folder / "parts"
    done = folder / "complete"
    if done.exists():
        return base, parts
    for path in (base, parts):
        shutil.rmtree(path, ignore_errors=True)
    run("debootstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv", "bookworm", base)
    shutil.rmtree(base / "var/lib/apt/lists")
    run("cp", "-a", base, parts)
    policy = parts / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(Path("/etc") / name, parts / "etc" / name)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("chroot", parts, "apt-get", "-q", "update", env=quiet)
    wanted = (
        "postgresql", "redis-server", "rabbitmq-server", "prometheus", "prometheus-alertmanager", "wget",
        "prometheus-node-exporter", "prometheus-postgres-exporter",
    )  # fmt: skip
    run("chroot", parts, "apt-get", "-q", "install", "-y", "--no-install-recommends", *wanted, env=quiet)
    run("chroot", parts, "apt-get", "clean")
    done.touch()
    return base, parts


def wheels(lock: Path, folder: Path) -> Path:
    """All packages of a lock, from the index that this machine is set up for, to be served to the engine."""
    wanted = folder / "lock.txt"
    # Debian's Python is an older 3.11 than ours may be.
    text = lock.read_text(encoding="utf-8").replace(" ; python_full_version < '3.11.3'", "")
    wanted.write_text(text, encoding="utf-8")
    target = folder / "wheels"
    arguments = ("--require-hashes", "--only-binary", ":all:", "-r", wanted, "-d", target)
    run(sys.executable, "-m", "pip", "download", "--quiet", *arguments)
    return target
