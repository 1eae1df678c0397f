"""The three that are measured, as processes: the server, the bare answer, the plain application."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.bench import bare, plain
from tests.serving import ServerProcess

__all__ = ["bare_process", "cpu_by_process", "plain_process", "rest", "server_process"]

_UP = (sys.executable, "-c", "from taskman_server.cli import main; main()", "up")


def server_process(data: Path, settings: Mapping[str, str], workers: int) -> ServerProcess:
    """`taskman-server up` on a data folder."""
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
    found: dict[str, float] = {}
    first = psutil.Process(server.pid)
    for process in (first, *first.children(recursive=True)):
        try:
            times = process.cpu_times()
            found[f"{process.pid} {process.name()}"] = times.user + times.system
        except psutil.NoSuchProcess:
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
