"""The three that are measured, as processes: the server, the bare answer, the plain application."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from taskman_server.settings import SERVICES
from tests.bench import bare, plain
from tests.bench.cluster import ClusterServer, Parts
from tests.serving import ServerProcess

__all__ = ["bare_process", "cpu_by_process", "cpu_of_parts", "plain_process", "rest", "server_process"]

_NAMES = (*SERVICES, "gateway")
_UP = (sys.executable, "-c", "from taskman_server.cli import main; main()", "up")


def server_process(data: Path, settings: Mapping[str, str], workers: int, parts: Parts | None = None) -> ServerProcess:
    """`taskman-server up` on a data folder; with parts, eight processes on what was filled there."""
    if parts is not None:
        return ClusterServer(data, parts, settings)
    command = (*_UP, "--workers", str(workers)) if workers > 1 else _UP
    return ServerProcess(data, settings=settings, command=command)


def bare_process(folder: Path, answers: Path, workers: int) -> ServerProcess:
    """The bare application with recorded answers; the folder is for its log."""
    settings = {"answers": str(answers), "workers": str(workers)}
    return ServerProcess(folder, settings=settings, command=(sys.executable, str(Path(bare.__file__))))


def plain_process(folder: Path, workers: int) -> ServerProcess:
    """The plain application on a folder that `make_plain` made."""
    command = (sys.executable, str(Path(plain.__file__)))
    return ServerProcess(folder, settings={"workers": str(workers)}, command=command)


def cpu_by_process(server: ServerProcess) -> dict[str, float]:
    """Seconds of processor time of the process and of all below it, user and system, by process id and name."""
    return _cpu(server.pid)


def cpu_of_parts(server: ServerProcess) -> dict[str, float]:
    """The same of PostgreSQL, RabbitMQ and Redis, each with all that is below it; nothing where there are none."""
    if not isinstance(server, ClusterServer):
        return {}
    return {name: sum(_cpu(pid).values()) for name, pid in server.parts.pids().items()}


def _cpu(pid: int) -> dict[str, float]:
    found: dict[str, float] = {}
    first = psutil.Process(pid)
    for process in (first, *first.children(recursive=True)):
        try:
            times, name = process.cpu_times(), process.name()
            if (last := process.cmdline()[-1:]) and last[0] in _NAMES:
                name = last[0]
            # Of those that have ended too: PostgreSQL's connections come and go.
            ended = times.children_user + times.children_system if process.pid == pid else 0.0
            found[f"{process.pid} {name}"] = times.user + times.system + ended
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def rest(server: ServerProcess, seconds: float = 300) -> None:
    """Returns when its processes have next to nothing to do: what requests leave behind belongs to their cost.

    Raises:
        SystemExit: they are still at work after so many seconds.
    """
    deadline = time.monotonic() + seconds
    before = sum(cpu_by_process(server).values())
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = sum(cpu_by_process(server).values())
        if now - before <= 0.02:
            return
        before = now
    raise SystemExit(f"the server was still at work {seconds:.0f} s after the load:\n{server.tail(10)}")
