"""Whether the process of this container lives: its own `/healthz`, on whichever port its role answers.

The image serves all eight processes, and each has its own port for operations. Which one this is stands in the command
line of process 1. Ends with 0 when the answer is 200, else with 1 and a sentence.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SERVICES = ("authentication", "authorization", "users", "iam", "tasks", "audit", "notifications")


def port_of(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """The port that answers `/healthz` for a process started as `command`.

    `run <service>` has a port of operations; `run gateway` and `up` answer on the gateway's own.

    Raises:
        ValueError: a port in the environment is no number.
    """
    words = list(command)
    role = words[words.index("run") + 1] if "run" in words[:-1] else "gateway"
    if role in SERVICES:
        return int(environ.get("TASKMAN_OPS_PORT_BASE") or 9051) + SERVICES.index(role)
    return int(environ.get("TASKMAN_PORT") or 8080)


def main() -> int:
    """Asks, and says by the exit code what came of it."""
    command = Path("/proc/1/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    port = port_of(command, os.environ)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except OSError as error:
        sys.stdout.write(f"127.0.0.1:{port}/healthz does not answer: {error}\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(f"127.0.0.1:{port}/healthz answered {status}\n")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
