"""Runs one server and ends it, and everything it started, when whoever asked for it is gone.

`python -I -S guard.py <user> <signal> <folder> <command> …` says the process id of the command on its standard output
and runs until the command ends, with the same exit code. What it reads, it hands on to the command. When there is
nothing more to read, because the other end was closed or the process that held it was killed, it sends the signal,
and SIGKILL if that does not help, and removes the folder. Should the guard itself be killed, the kernel kills the
command (Linux). `<user>`: a name, or `-` to stay who one is.

A program of its own with nothing but the standard library, so that it starts fast and shares no fate with the tests.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 5.0  # seconds between the signal and SIGKILL


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _start(user: str, command: list[str]) -> subprocess.Popen[bytes]:
    import pwd

    entry = None if user == "-" else pwd.getpwnam(user)
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=2,
        stderr=2,
        bufsize=0,
        start_new_session=True,
        user=entry and entry.pw_uid,
        group=entry and entry.pw_gid,
        extra_groups=None if entry is None else [],
        # After the change of user, which would clear it.
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )


def _reap(child: int) -> int | None:
    """Takes leave of whoever ended; the wait status of `child` if it was among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = status
    return found


def _descendants() -> list[int]:
    """The processes whose parent is this one: what the command left behind is given to its guard (Linux)."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8") as stat:
                    if int(stat.read().rpartition(")")[2].split()[1]) == os.getpid():
                        found.append(int(name))
    return found


def _sweep(session: int) -> None:
    """Kills and waits for everything that the command has left behind."""
    with contextlib.suppress(OSError):
        os.killpg(session, signal.SIGKILL)
    while left := _descendants():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def main() -> int:
    """The guard."""
    user, number, folder, *command = sys.argv[1:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    server = _start(user, command)
    assert server.stdin is not None
    os.write(1, b"%d\n" % server.pid)
    status: int | None = None
    deadline: float | None = None
    while status is None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([ended, *([] if deadline else [0])], [], [], left)
        if not ready:
            os.kill(server.pid, signal.SIGKILL)
            deadline = time.monotonic() + 3600
        if ended in ready:
            os.read(ended, 4096)
            status = _reap(server.pid)
        if 0 in ready:
            if data := os.read(0, 65536):
                with contextlib.suppress(BrokenPipeError):
                    server.stdin.write(data)
            else:
                os.kill(server.pid, int(number))
                deadline = time.monotonic() + PATIENCE
    _sweep(server.pid)
    if deadline:
        shutil.rmtree(folder, ignore_errors=True)
    return abs(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    sys.exit(main())
